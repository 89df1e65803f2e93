"""Tensors that say what they hold: pictures, videos, masks, boxes. Transforms of the second edition go by it.

https://docs.pytorch.org/vision/stable/tv_tensors.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Self

from ..errors import KilnValueError, describe
from ..ops.creation import as_tensor
from ..tensor import Tensor, _disabled_torch_function_impl


class TVTensor(Tensor):
    """A tensor of one of these kinds. What ops give of it is a plain tensor; `to`, `clone` and `detach` keep the kind."""

    __torch_function__ = _disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(
        cls, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool | None = None
    ) -> Self:
        if not isinstance(data, Tensor) and type(data).__module__.startswith("PIL."):
            from .transforms.functional import pil_to_tensor

            data = pil_to_tensor(data)
        rg = bool(getattr(data, "requires_grad", False)) if requires_grad is None else requires_grad
        return cls._of(as_tensor(data, dtype=dtype).detach()).requires_grad_(rg)

    @classmethod
    def _of(cls, t: Tensor) -> Any:
        out = t if type(t) is Tensor else t.view_as(t)
        out.__class__ = cls
        return out

    def _like(self, t: Tensor) -> Any:
        """A tensor as one of this kind."""
        return type(self)._of(t)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """See `Tensor.to`; of the same kind."""
        return self._like(super().to(*args, **kwargs))

    def clone(self, **kwargs: Any) -> Any:
        """See `Tensor.clone`; of the same kind."""
        return self._like(super().clone(**kwargs))

    def detach(self) -> Any:
        """See `Tensor.detach`; of the same kind."""
        return self._like(super().detach())

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        text = self.as_subclass(Tensor).__repr__()
        return type(self).__name__ + text[text.index("(") :]


class Image(TVTensor):
    """A picture [..., C, H, W]."""

    def __new__(cls, data: Any, **options: Any) -> Self:
        out = super().__new__(cls, data, **options)
        if out.ndim < 2:
            raise KilnValueError(
                "tv_tensors.Image", "a picture has two dimensions or more", describe(out), ""
            )
        return cls._of(out.as_subclass(Tensor).unsqueeze(0)) if out.ndim == 2 else out


class Video(TVTensor):
    """Pictures [..., T, C, H, W] one after the other."""

    def __new__(cls, data: Any, **options: Any) -> Self:
        out = super().__new__(cls, data, **options)
        if out.ndim < 4:
            raise KilnValueError("tv_tensors.Video", f"Expected a tensor with at least 4 dimensions but got {out.ndim}", describe(out), "")  # fmt: skip
        return out


class Mask(TVTensor):
    """Segmentation or detection masks [..., H, W]."""


class BoundingBoxFormat(Enum):
    """What the four numbers of a box are."""

    XYXY = "XYXY"
    XYWH = "XYWH"
    CXCYWH = "CXCYWH"


class BoundingBoxes(TVTensor):
    """Boxes [N, 4] in a `format`, of a picture whose height and width are `canvas_size`."""

    format: BoundingBoxFormat
    canvas_size: tuple[int, int]
    clamping_mode: str | None

    def __new__(
        cls, data: Any, *, format: BoundingBoxFormat | str, canvas_size: tuple[int, int], clamping_mode: str | None = "soft",
        **options: Any,
    ) -> Self:  # fmt: skip
        out = super().__new__(cls, data, **options)
        if out.ndim not in (1, 2) or out.shape[-1] != 4:
            raise KilnValueError("tv_tensors.BoundingBoxes", "boxes are rows of four numbers", describe(out), "[[x1, y1, x2, y2]]")  # fmt: skip
        out = cls._of(out.as_subclass(Tensor).unsqueeze(0)) if out.ndim == 1 else out
        out._tell(
            BoundingBoxFormat[format.upper()] if isinstance(format, str) else format,
            canvas_size,
            clamping_mode,
        )
        return out

    def _tell(self, format: BoundingBoxFormat, canvas_size: Any, clamping_mode: str | None) -> None:
        self.format, self.canvas_size, self.clamping_mode = (
            format,
            tuple(canvas_size),
            clamping_mode,
        )

    def _like(self, t: Tensor) -> Any:
        out = super()._like(t)
        out._tell(self.format, self.canvas_size, self.clamping_mode)
        return out

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{super().__repr__()[:-1]}, format={self.format}, canvas_size={self.canvas_size})"


def wrap(wrappee: Tensor, *, like: Any, **changes: Any) -> Any:
    """A plain tensor as one of the kind of `like`; of boxes, `format` and `canvas_size` may be others."""
    out = like._like(wrappee)
    for name, value in changes.items():
        setattr(out, name, value)
    return out


@contextmanager
def _kept() -> Iterator[None]:
    yield


def set_return_type(return_type: str) -> Any:
    """What ops on these tensors give: "Tensor"; "TVTensor" is refused, as ops give plain tensors here."""
    if return_type != "Tensor":
        raise KilnValueError(
            "tv_tensors",
            "ops give plain tensors",
            return_type,
            "wrap(result, like=x) makes it one of the kind again",
        )
    return _kept()


__all__ = [
    "BoundingBoxFormat",
    "BoundingBoxes",
    "Image",
    "Mask",
    "TVTensor",
    "Video",
    "set_return_type",
    "wrap",
]
