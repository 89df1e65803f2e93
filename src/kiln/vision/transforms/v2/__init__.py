"""The second edition of the transforms: of pictures alone, or of samples that hold one.

https://docs.pytorch.org/vision/stable/transforms.html#v2-api-reference-recommended
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from ....dtypes import dtype as dtype_class
from ....errors import KilnValueError, describe
from ....nn import Module
from ....random import default_generator
from ....tensor import Tensor
from ...tv_tensors import BoundingBoxes, BoundingBoxFormat, Image, Mask, TVTensor, Video, wrap
from .. import classes
from ..classes import RandomChoice as RandomChoice
from ..functional import InterpolationMode, pil_to_tensor
from . import functional


def _is_pil(x: Any) -> bool:
    return type(x).__module__.startswith("PIL.")


def _is_picture(x: Any) -> bool:
    return _is_pil(x) or isinstance(x, Image | Video) or (isinstance(x, Tensor) and x.ndim >= 3)


def _sample(inputs: tuple[Any, ...]) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs


def _leaves(x: Any, out: list[Any]) -> Any:
    """What a sample of nested containers holds, into `out`; its structure, with numbers for them."""
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_leaves(v, out) for v in x))
    if isinstance(x, tuple | list):
        return type(x)(_leaves(v, out) for v in x)
    if isinstance(x, dict):
        return type(x)((k, _leaves(v, out)) for k, v in x.items())
    out.append(x)
    return _At(len(out) - 1)


class _At(int):
    """The number of a leaf."""


def _rebuilt(structure: Any, leaves: list[Any]) -> Any:
    if isinstance(structure, _At):
        return leaves[structure]
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(_rebuilt(v, leaves) for v in structure))
    if isinstance(structure, dict):
        return type(structure)((k, _rebuilt(v, leaves)) for k, v in structure.items())
    return type(structure)(_rebuilt(v, leaves) for v in structure)


def _parts(leaves: list[Any]) -> list[int]:
    """Which parts of a sample are changed, pictures first: those that say what they are, else the first plain tensor too."""
    pictures = [i for i, x in enumerate(leaves) if _is_pil(x) or isinstance(x, Image | Video)]
    if not pictures:
        plain = [i for i, x in enumerate(leaves) if _is_picture(x) and not isinstance(x, TVTensor)]
        pictures = plain[:1]
    return pictures + [i for i, x in enumerate(leaves) if isinstance(x, Mask | BoundingBoxes)]


def _in_sample(sample: Any, change: Callable[[Any], Any], pictures_only: bool = False) -> Any:
    """A sample with its parts changed, all by what was drawn for the first: each begins where the generators stood then."""
    leaves: list[Any] = []
    structure = _leaves(sample, leaves)
    parts = [0] if len(leaves) == 1 and not isinstance(leaves[0], TVTensor) else _parts(leaves)
    if pictures_only:
        parts = [i for i in parts if not isinstance(leaves[i], Mask | BoundingBoxes)]
    if not parts:
        return sample
    start = None if len(parts) == 1 else (default_generator.get_state(), random.getstate())
    end = None
    for i in parts:
        if end is not None and start is not None:
            default_generator.set_state(start[0])
            random.setstate(start[1])
        leaves[i] = _changed(leaves[i], change)
        if end is None and start is not None:
            end = default_generator.get_state(), random.getstate()
    if end is not None:
        default_generator.set_state(end[0])
        random.setstate(end[1])
    return _rebuilt(structure, leaves)


def _changed(x: Any, change: Callable[[Any], Any]) -> Any:
    out = change(x)
    if isinstance(x, TVTensor) and type(out) is Tensor:
        return wrap(out, like=x)
    return out


class Transform(Module):
    """A transform of samples; subclasses change each part of one in `transform`.

    Parts are PIL pictures and `tv_tensors`; where no picture says that it is one, the first plain tensor is one as well.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn once for all parts of a sample."""
        return {}

    def _get_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return self.make_params(flat_inputs)

    def _transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        raise NotImplementedError

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One part of a sample, changed."""
        return self._transform(inpt, params)

    def forward(self, *inputs: Any) -> Any:
        sample = _sample(inputs)
        leaves: list[Any] = []
        _leaves(sample, leaves)
        params = self._get_params([leaves[i] for i in _parts(leaves)] or leaves)
        return _in_sample(sample, lambda x: self.transform(x, params))


class Compose(classes.Compose):
    """One transform after the other."""

    def __call__(self, *inputs: Any) -> Any:
        sample = _sample(inputs)
        for t in self.transforms:
            sample = t(sample)
        return sample


class ToImage(Transform):
    """A PIL picture or an array [H, W, C] as a picture [C, H, W], values as they are."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt if isinstance(inpt, Mask | BoundingBoxes) else functional.to_image(inpt)


class PILToTensor(Transform):
    """The pixels [C, H, W] of a PIL picture."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt if isinstance(inpt, Tensor) else pil_to_tensor(inpt)


class ToDtype(Transform):
    """Tensors in another dtype, with `scale` in its range.

    One dtype is that of pictures; a dict has one for each kind, "others" for all that it doesn't name, None for none.
    """

    def __init__(self, dtype: Any, scale: bool = False) -> None:
        super().__init__()
        self.dtype, self.scale = dtype, scale

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, Tensor):
            return inpt
        if isinstance(self.dtype, dtype_class):
            wanted = None if isinstance(inpt, Mask | BoundingBoxes) else self.dtype
        else:
            wanted = self.dtype.get(type(inpt), self.dtype.get("others"))
        scale = self.scale and not isinstance(inpt, Mask | BoundingBoxes)
        return inpt if wanted is None else functional.to_dtype(inpt, wanted, scale)


_PICTURES_ONLY = (
    "ColorJitter", "ConvertImageDtype", "GaussianBlur", "Grayscale", "Normalize", "RandomErasing", "RandomGrayscale",
    "RandomInvert", "RandomPosterize", "RandomSolarize", "ToPILImage", "ToTensor",
)  # fmt: skip


def _of_samples(name: str) -> Any:
    """A transform of the first edition that also takes samples."""
    first = getattr(classes, name)

    class Second(first):
        def __call__(self, *inputs: Any) -> Any:
            sample = _sample(inputs)
            return _in_sample(sample, super().__call__, name in _PICTURES_ONLY)

    Second.__name__ = Second.__qualname__ = name
    Second.__module__, Second.__doc__ = __name__, first.__doc__
    return Second


CenterCrop, ColorJitter, FiveCrop = map(_of_samples, ("CenterCrop", "ColorJitter", "FiveCrop"))
GaussianBlur, Grayscale, Lambda = map(_of_samples, ("GaussianBlur", "Grayscale", "Lambda"))
Normalize, Pad, RandomAffine = map(_of_samples, ("Normalize", "Pad", "RandomAffine"))
RandomApply, RandomCrop, RandomErasing = map(
    _of_samples, ("RandomApply", "RandomCrop", "RandomErasing")
)
RandomGrayscale, RandomInvert = map(_of_samples, ("RandomGrayscale", "RandomInvert"))
RandomHorizontalFlip, RandomVerticalFlip = map(
    _of_samples, ("RandomHorizontalFlip", "RandomVerticalFlip")
)
RandomPosterize, RandomSolarize = map(_of_samples, ("RandomPosterize", "RandomSolarize"))
RandomResizedCrop, RandomRotation = map(_of_samples, ("RandomResizedCrop", "RandomRotation"))
Resize, TenCrop, ToPILImage = map(_of_samples, ("Resize", "TenCrop", "ToPILImage"))
ToTensor, ConvertImageDtype = map(_of_samples, ("ToTensor", "ConvertImageDtype"))
RandomOrder = _of_samples("RandomOrder")
ConvertDtype = ConvertImageDtype


class Identity(Transform):
    """Nothing changed."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt


class ToPureTensor(Module):
    """Pictures, masks and boxes as plain tensors."""

    def forward(self, *inputs: Any) -> Any:
        leaves: list[Any] = []
        structure = _leaves(_sample(inputs), leaves)
        return _rebuilt(
            structure, [x.as_subclass(Tensor) if isinstance(x, TVTensor) else x for x in leaves]
        )


class ConvertBoundingBoxFormat(Transform):
    """Boxes in another format."""

    def __init__(self, format: BoundingBoxFormat | str) -> None:
        super().__init__()
        self.format = format

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, BoundingBoxes):
            return inpt
        return functional.convert_bounding_box_format(inpt, new_format=self.format)


class ClampBoundingBoxes(Transform):
    """Boxes within their canvas."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return functional.clamp_bounding_boxes(inpt) if isinstance(inpt, BoundingBoxes) else inpt


class SanitizeBoundingBoxes(Module):
    """Boxes without those that are too small or out of their canvas, and the labels and masks that belong to them.

    Labels are found in a dict under a name with "label" in it, or by `labels_getter(sample)`; None: there are none.
    """

    def __init__(
        self, min_size: float = 1.0, min_area: float = 1.0, labels_getter: Any = "default"
    ) -> None:
        super().__init__()
        self.min_size, self.min_area, self.labels_getter = min_size, min_area, labels_getter

    def _labels(self, sample: Any) -> Any:
        if callable(self.labels_getter):
            return self.labels_getter(sample)
        if self.labels_getter is None:
            return None
        dicts = [sample] if isinstance(sample, dict) else [x for x in sample if isinstance(x, dict)]
        found = [
            v
            for d in dicts
            for k, v in d.items()
            if "label" in str(k).lower() and isinstance(v, Tensor)
        ]
        if not found:
            raise KilnValueError("SanitizeBoundingBoxes", "Could not infer where the labels are in the sample.",
                                 describe(sample), "pass labels_getter=None where there are none")  # fmt: skip
        return found[0]

    def forward(self, *inputs: Any) -> Any:
        sample = _sample(inputs)
        labels = self._labels(sample)
        labels = labels if isinstance(labels, tuple | list) else [labels]
        leaves: list[Any] = []
        structure = _leaves(sample, leaves)
        boxes = next((x for x in leaves if isinstance(x, BoundingBoxes)), None)
        if boxes is None:
            raise KilnValueError(
                "SanitizeBoundingBoxes",
                "No bounding boxes were found in the sample",
                describe(sample),
                "",
            )
        keep = functional._valid(boxes, self.min_size, self.min_area)
        for i, x in enumerate(leaves):
            if x is boxes or isinstance(x, Mask) or any(x is y for y in labels if y is not None):
                part = x.as_subclass(Tensor)[keep]
                leaves[i] = wrap(part, like=x) if isinstance(x, TVTensor) else part
        return _rebuilt(structure, leaves)


def query_size(sample: Sequence[Any]) -> tuple[int, int]:
    """Height and width of the picture in a sample."""
    (picture,) = [x for x in sample if _is_picture(x)][:1]
    return tuple(functional.get_dimensions(picture)[1:])  # type: ignore[return-value]


__all__ = [
    "CenterCrop", "ClampBoundingBoxes", "ColorJitter", "Compose", "ConvertBoundingBoxFormat", "ConvertDtype", "ConvertImageDtype", "FiveCrop", "GaussianBlur",
    "Grayscale", "Identity", "InterpolationMode", "Lambda", "Normalize", "PILToTensor", "Pad", "RandomAffine",
    "RandomApply", "RandomChoice", "RandomCrop", "RandomErasing", "RandomGrayscale", "RandomHorizontalFlip",
    "RandomInvert", "RandomOrder", "RandomPosterize", "RandomResizedCrop", "RandomRotation", "RandomSolarize",
    "RandomVerticalFlip", "Resize", "SanitizeBoundingBoxes", "TenCrop", "ToDtype", "ToImage", "ToPILImage", "ToPureTensor", "ToTensor",
    "Transform", "functional", "query_size",
]  # fmt: skip
