"""The second edition of the transforms: of pictures alone, or of samples that hold one.

https://docs.pytorch.org/vision/stable/transforms.html#v2-api-reference-recommended
"""

from __future__ import annotations

from typing import Any

from ....dtypes import dtype as dtype_class
from ....errors import KilnValueError, describe
from ....nn import Module
from ....tensor import Tensor
from ...tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask, TVTensor, wrap
from .. import augment, classes, distortions
from ..augment import AutoAugmentPolicy as AutoAugmentPolicy
from ..classes import RandomChoice as RandomChoice
from ..functional import InterpolationMode, pil_to_tensor
from . import functional
from .drawn import (
    GaussianNoise,
    RandomChannelPermutation,
    RandomIoUCrop,
    RandomPhotometricDistort,
    RandomResize,
    RandomShortestSize,
    RandomZoomOut,
    ScaleJitter,
    query_size,
)
from .mixing import CutMix, MixUp
from .samples import Transform, in_sample, leaves_of, rebuilt, sample_of


class Compose(classes.Compose):
    """One transform after the other."""

    def __call__(self, *inputs: Any) -> Any:
        sample = sample_of(inputs)
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
    "AugMix", "AutoAugment", "RandAugment", "RandomAdjustSharpness", "RandomAutocontrast", "RandomEqualize",
    "TrivialAugmentWide", "ColorJitter", "ConvertImageDtype", "GaussianBlur", "Grayscale", "Normalize", "RandomErasing", "RandomGrayscale",
    "RandomInvert", "RandomPosterize", "RandomSolarize", "ToPILImage", "ToTensor",
)  # fmt: skip


def _of_samples(name: str) -> Any:
    """A transform of the first edition that also takes samples."""
    first = next(getattr(m, name) for m in (classes, augment, distortions) if hasattr(m, name))

    class Second(first):
        _second = True

        def __call__(self, *inputs: Any) -> Any:
            sample = sample_of(inputs)
            return in_sample(sample, super().__call__, name in _PICTURES_ONLY)

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
RandomOrder, LinearTransformation = map(_of_samples, ("RandomOrder", "LinearTransformation"))
RandomPerspective, ElasticTransform = map(_of_samples, ("RandomPerspective", "ElasticTransform"))
RandomAutocontrast, RandomEqualize = map(_of_samples, ("RandomAutocontrast", "RandomEqualize"))
AutoAugment, RandAugment, AugMix = map(_of_samples, ("AutoAugment", "RandAugment", "AugMix"))
RandomAdjustSharpness = _of_samples("RandomAdjustSharpness")
TrivialAugmentWide = _of_samples("TrivialAugmentWide")
ConvertDtype = ConvertImageDtype


class Identity(Transform):
    """Nothing changed."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt


class ToPureTensor(Module):
    """Pictures, masks and boxes as plain tensors."""

    def forward(self, *inputs: Any) -> Any:
        leaves: list[Any] = []
        structure = leaves_of(sample_of(inputs), leaves)
        return rebuilt(
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
        sample = sample_of(inputs)
        labels = self._labels(sample)
        labels = labels if isinstance(labels, tuple | list) else [labels]
        leaves: list[Any] = []
        structure = leaves_of(sample, leaves)
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
        return rebuilt(structure, leaves)


__all__ = [
    "AugMix",
    "AutoAugment",
    "AutoAugmentPolicy",
    "CenterCrop",
    "ClampBoundingBoxes",
    "ColorJitter",
    "Compose",
    "ConvertBoundingBoxFormat",
    "ConvertDtype",
    "ConvertImageDtype",
    "CutMix",
    "ElasticTransform",
    "FiveCrop",
    "GaussianBlur",
    "GaussianNoise",
    "Grayscale",
    "Identity",
    "InterpolationMode",
    "Lambda",
    "LinearTransformation",
    "MixUp",
    "Normalize",
    "PILToTensor",
    "Pad",
    "RandAugment",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomApply",
    "RandomAutocontrast",
    "RandomChannelPermutation",
    "RandomChoice",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomIoUCrop",
    "RandomOrder",
    "RandomPerspective",
    "RandomPhotometricDistort",
    "RandomPosterize",
    "RandomResize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomShortestSize",
    "RandomSolarize",
    "RandomVerticalFlip",
    "RandomZoomOut",
    "Resize",
    "SanitizeBoundingBoxes",
    "ScaleJitter",
    "TenCrop",
    "ToDtype",
    "ToImage",
    "ToPILImage",
    "ToPureTensor",
    "ToTensor",
    "Transform",
    "TrivialAugmentWide",
    "functional",
    "query_size",
]  # fmt: skip
