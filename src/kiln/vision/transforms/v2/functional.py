"""The second edition's functions: the first one's, and pictures as tensors with their values as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

import kiln

from ....tensor import Tensor
from ..functional import (
    InterpolationMode,
    adjust_brightness,
    adjust_contrast,
    adjust_gamma,
    adjust_hue,
    adjust_saturation,
    affine,
    center_crop,
    convert_image_dtype,
    crop,
    erase,
    five_crop,
    gaussian_blur,
    get_dimensions,
    get_image_size,
    hflip,
    invert,
    normalize,
    pad,
    pil_to_tensor,
    posterize,
    resize,
    resized_crop,
    rgb_to_grayscale,
    rotate,
    solarize,
    ten_crop,
    to_grayscale,
    to_pil_image,
    to_tensor,
    vflip,
)

horizontal_flip, vertical_flip, get_size = hflip, vflip, get_image_size

__all__ = [
    "InterpolationMode", "adjust_brightness", "adjust_contrast", "adjust_gamma", "adjust_hue", "adjust_saturation",
    "affine", "center_crop", "convert_image_dtype", "crop", "erase", "five_crop", "gaussian_blur", "get_dimensions",
    "get_image_size", "get_size", "hflip", "horizontal_flip", "invert", "normalize", "pad", "pil_to_tensor",
    "posterize", "resize", "resized_crop", "rgb_to_grayscale", "rotate", "solarize", "ten_crop", "to_dtype",
    "to_grayscale", "to_image", "to_pil_image", "to_tensor", "vertical_flip", "vflip",
]  # fmt: skip


def to_image(inpt: Any) -> Tensor:
    """A PIL picture or an array [H, W, C] as a tensor [C, H, W]."""
    if isinstance(inpt, np.ndarray):
        a = inpt[:, :, None] if inpt.ndim == 2 else inpt
        return kiln.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1)))
    return inpt if isinstance(inpt, Tensor) else pil_to_tensor(inpt)


def to_dtype(inpt: Tensor, dtype: Any = None, scale: bool = False) -> Tensor:
    """A tensor in another dtype, with `scale` in its range."""
    dtype = kiln.float32 if dtype is None else dtype
    return convert_image_dtype(inpt, dtype) if scale else inpt.to(dtype)
