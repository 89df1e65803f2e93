"""How pictures are prepared for models with published weights."""

from __future__ import annotations

from typing import Any

from ...nn import Module
from ...tensor import Tensor
from . import functional as F
from .functional import InterpolationMode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _floating(img: Any) -> Tensor:
    """A picture or a tensor of whole numbers as floats from 0 to 1."""
    return F.convert_image_dtype(img if isinstance(img, Tensor) else F.pil_to_tensor(img))


class ObjectDetection(Module):
    """A picture as floats from 0 to 1: detectors do the rest."""

    def forward(self, img: Any) -> Tensor:
        return _floating(img)


class ImageClassification(Module):
    """A picture resized, cut to its middle and normalised."""

    def __init__(
        self, *, crop_size: int, resize_size: int = 256, mean: Any = MEAN, std: Any = STD,
        interpolation: Any = InterpolationMode.BILINEAR, antialias: bool | None = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.crop_size, self.resize_size = [crop_size], [resize_size]
        self.mean, self.std = list(mean), list(std)
        self.interpolation, self.antialias = interpolation, antialias

    def forward(self, img: Any) -> Tensor:
        img = F.resize(img, self.resize_size, self.interpolation, antialias=self.antialias)
        return F.normalize(_floating(F.center_crop(img, self.crop_size)), self.mean, self.std)


class SemanticSegmentation(Module):
    """A picture resized and normalised."""

    def __init__(
        self, *, resize_size: int | None, mean: Any = MEAN, std: Any = STD,
        interpolation: Any = InterpolationMode.BILINEAR, antialias: bool | None = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.resize_size = None if resize_size is None else [resize_size]
        self.mean, self.std = list(mean), list(std)
        self.interpolation, self.antialias = interpolation, antialias

    def forward(self, img: Any) -> Tensor:
        if self.resize_size is not None:
            img = F.resize(img, self.resize_size, self.interpolation, antialias=self.antialias)
        return F.normalize(_floating(img), self.mean, self.std)
