"""The second edition of the transforms: of pictures alone, or of samples that hold one.

https://docs.pytorch.org/vision/stable/transforms.html#v2-api-reference-recommended
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....dtypes import dtype as dtype_class
from ....nn import Module
from ....tensor import Tensor
from .. import classes
from ..classes import RandomChoice as RandomChoice
from ..functional import InterpolationMode, pil_to_tensor
from . import functional


def _is_picture(x: Any) -> bool:
    return type(x).__module__.startswith("PIL.") or (isinstance(x, Tensor) and x.ndim >= 3)


def _sample(inputs: tuple[Any, ...]) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs


class Transform(Module):
    """A transform; subclasses change one picture in `transform`."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn once for all parts of a sample."""
        return {}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One part of a sample, changed."""
        raise NotImplementedError

    def forward(self, *inputs: Any) -> Any:
        sample = _sample(inputs)
        params = self.make_params([sample])
        return _in_sample(sample, lambda x: self.transform(x, params))


def _in_sample(sample: Any, change: Callable[[Any], Any]) -> Any:
    """A sample with its picture changed: the first one of a tuple, a list or a dict."""
    if isinstance(sample, tuple | list) and not hasattr(sample, "_fields"):
        parts, done = [], False
        for x in sample:
            if not done and _is_picture(x):
                x, done = change(x), True
            parts.append(x)
        return type(sample)(parts)
    if isinstance(sample, dict):
        for k, x in sample.items():
            if _is_picture(x):
                return {**sample, k: change(x)}
        return sample
    return change(sample)


class Compose(classes.Compose):
    """One transform after the other."""

    def __call__(self, *inputs: Any) -> Any:
        sample = _sample(inputs)
        for t in self.transforms:
            sample = t(sample)
        return sample


class ToImage(Transform):
    """A PIL picture or an array [H, W, C] as a tensor [C, H, W], values as they are."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return functional.to_image(inpt)


class PILToTensor(Transform):
    """The pixels [C, H, W] of a PIL picture."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt if isinstance(inpt, Tensor) else pil_to_tensor(inpt)


class ToDtype(Transform):
    """Tensors in another dtype, with `scale` in its range."""

    def __init__(self, dtype: Any, scale: bool = False) -> None:
        super().__init__()
        self.dtype = dtype if isinstance(dtype, dtype_class) else next(iter(dtype.values()))
        self.scale = scale

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return (
            functional.to_dtype(inpt, self.dtype, self.scale) if isinstance(inpt, Tensor) else inpt
        )


def _of_samples(name: str) -> Any:
    """A transform of the first edition that also takes samples."""
    first = getattr(classes, name)

    class Second(first):
        def __call__(self, *inputs: Any) -> Any:
            sample = _sample(inputs)
            return _in_sample(sample, super().__call__)

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


class ToPureTensor(Identity):
    """Nothing changed: Kiln's pictures are plain tensors."""


def query_size(sample: Sequence[Any]) -> tuple[int, int]:
    """Height and width of the picture in a sample."""
    (picture,) = [x for x in sample if _is_picture(x)][:1]
    return tuple(functional.get_dimensions(picture)[1:])  # type: ignore[return-value]


__all__ = [
    "CenterCrop", "ColorJitter", "Compose", "ConvertDtype", "ConvertImageDtype", "FiveCrop", "GaussianBlur",
    "Grayscale", "Identity", "InterpolationMode", "Lambda", "Normalize", "PILToTensor", "Pad", "RandomAffine",
    "RandomApply", "RandomChoice", "RandomCrop", "RandomErasing", "RandomGrayscale", "RandomHorizontalFlip",
    "RandomInvert", "RandomOrder", "RandomPosterize", "RandomResizedCrop", "RandomRotation", "RandomSolarize",
    "RandomVerticalFlip", "Resize", "TenCrop", "ToDtype", "ToImage", "ToPILImage", "ToPureTensor", "ToTensor",
    "Transform", "functional", "query_size",
]  # fmt: skip
