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


class VideoClassification(Module):
    """Pictures of a video [..., T, 3, H, W] resized, cut to their middle and normalised: [..., 3, T, H, W]."""

    def __init__(
        self, *, crop_size: tuple[int, int], resize_size: tuple[int, int], mean: Any = (0.43216, 0.394666, 0.37645),
        std: Any = (0.22803, 0.22145, 0.216989), interpolation: Any = InterpolationMode.BILINEAR,
    ) -> None:  # fmt: skip
        super().__init__()
        self.crop_size, self.resize_size = list(crop_size), list(resize_size)
        self.mean, self.std, self.interpolation = list(mean), list(std), interpolation

    def forward(self, vid: Tensor) -> Tensor:
        flat = vid.flatten(0, -4) if vid.ndim > 4 else vid
        flat = F.resize(flat, self.resize_size, self.interpolation, antialias=False)
        flat = F.normalize(_floating(F.center_crop(flat, self.crop_size)), self.mean, self.std)
        return flat.reshape((*vid.shape[:-3], *flat.shape[-3:])).transpose(-4, -3)
