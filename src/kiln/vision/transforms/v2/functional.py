"""The second edition's functions: the first one's, and pictures as tensors with their values as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

import kiln

from ....errors import KilnTypeError, KilnValueError, describe
from ....tensor import Tensor
from ...ops import box_convert
from ...tv_tensors import BoundingBoxes, BoundingBoxFormat, Image, TVTensor, wrap
from ..functional import (
    InterpolationMode,
    adjust_brightness,
    adjust_contrast,
    adjust_gamma,
    adjust_hue,
    adjust_saturation,
    adjust_sharpness,
    affine,
    autocontrast,
    center_crop,
    convert_image_dtype,
    crop,
    elastic_transform,
    equalize,
    erase,
    five_crop,
    gaussian_blur,
    get_dimensions,
    get_image_size,
    hflip,
    invert,
    normalize,
    pad,
    perspective,
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
from ..kinds import clamped

horizontal_flip, vertical_flip = hflip, vflip


def get_size(inpt: Any) -> list[int]:
    """The height and width of a picture, or of the one that boxes lie in; `get_image_size` has the width first."""
    return get_image_size(inpt)[::-1]


__all__ = [
    "InterpolationMode",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_gamma",
    "adjust_hue",
    "adjust_saturation",
    "adjust_sharpness",
    "affine",
    "autocontrast",
    "center_crop",
    "clamp_bounding_boxes",
    "convert_bounding_box_format",
    "convert_image_dtype",
    "crop",
    "elastic_transform",
    "equalize",
    "erase",
    "five_crop",
    "gaussian_blur",
    "gaussian_noise",
    "get_dimensions",
    "get_image_size",
    "get_size",
    "hflip",
    "horizontal_flip",
    "invert",
    "normalize",
    "pad",
    "permute_channels",
    "perspective",
    "pil_to_tensor",
    "posterize",
    "resize",
    "resized_crop",
    "rgb_to_grayscale",
    "rotate",
    "sanitize_bounding_boxes",
    "solarize",
    "ten_crop",
    "to_dtype",
    "to_grayscale",
    "to_image",
    "to_pil_image",
    "to_tensor",
    "vertical_flip",
    "vflip",
]  # fmt: skip


def to_image(inpt: Any) -> Image:
    """A PIL picture or an array [H, W, C] as a picture [C, H, W]; tensors as pictures."""
    if isinstance(inpt, np.ndarray):
        a = inpt[:, :, None] if inpt.ndim == 2 else inpt
        return Image(kiln.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1))))
    return (
        inpt
        if isinstance(inpt, Image)
        else Image(inpt if isinstance(inpt, Tensor) else pil_to_tensor(inpt))
    )


def to_dtype(inpt: Tensor, dtype: Any = None, scale: bool = False) -> Tensor:
    """A tensor in another dtype, with `scale` in its range."""
    dtype = kiln.float32 if dtype is None else dtype
    if not scale:
        return inpt.to(dtype)
    out = convert_image_dtype(
        inpt.as_subclass(Tensor) if isinstance(inpt, TVTensor) else inpt, dtype
    )
    return wrap(out, like=inpt) if isinstance(inpt, TVTensor) else out


def convert_bounding_box_format(
    inpt: Tensor, old_format: Any = None, new_format: Any = None, inplace: bool = False
) -> Tensor:
    """Boxes in another format; plain tensors need the old one said."""
    new = BoundingBoxFormat[new_format.upper()] if isinstance(new_format, str) else new_format
    old = inpt.format if isinstance(inpt, BoundingBoxes) else old_format
    old = BoundingBoxFormat[old.upper()] if isinstance(old, str) else old
    if old is None or new is None:
        raise KilnTypeError("convert_bounding_box_format", "both formats must be known", describe((old_format, new_format)), "new_format='XYXY'")  # fmt: skip
    out = box_convert(inpt.as_subclass(Tensor), old.value.lower(), new.value.lower())
    return wrap(out, like=inpt, format=new) if isinstance(inpt, BoundingBoxes) else out


def clamp_bounding_boxes(inpt: Tensor, format: Any = None, canvas_size: Any = None) -> Tensor:
    """Boxes within their canvas; plain tensors need format and canvas said."""
    if not isinstance(inpt, BoundingBoxes):
        return clamp_bounding_boxes(
            BoundingBoxes(inpt, format=format, canvas_size=canvas_size)
        ).as_subclass(Tensor)
    name = inpt.format.value.lower()
    corners = box_convert(inpt.as_subclass(Tensor).double(), name, "xyxy")
    out = box_convert(clamped(corners, inpt.canvas_size), "xyxy", name).to(inpt.dtype)
    return wrap(out, like=inpt)


def sanitize_bounding_boxes(
    bounding_boxes: Tensor,
    format: Any = None,
    canvas_size: Any = None,
    min_size: float = 1.0,
    min_area: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The boxes that are large enough and within their canvas, and which they are."""
    boxes: Any = bounding_boxes
    if not isinstance(boxes, BoundingBoxes):
        boxes = BoundingBoxes(boxes, format=format, canvas_size=canvas_size)
    keep = _valid(boxes, min_size, min_area)
    part = boxes.as_subclass(Tensor)[keep]
    return (wrap(part, like=boxes) if boxes is bounding_boxes else part), keep


def _valid(boxes: BoundingBoxes, min_size: float, min_area: float) -> Tensor:
    h, w = boxes.canvas_size
    x1, y1, x2, y2 = box_convert(
        boxes.as_subclass(Tensor).double(), boxes.format.value.lower(), "xyxy"
    ).unbind(1)
    large = (x2 - x1 >= min_size) & (y2 - y1 >= min_size) & ((x2 - x1) * (y2 - y1) >= min_area)
    return large & (x1 >= 0) & (x2 <= w) & (y1 >= 0) & (y2 <= h)


def permute_channels(inpt: Any, permutation: Any) -> Any:
    """The channels of a picture in another order."""
    if not isinstance(inpt, Tensor):
        return to_pil_image(permute_channels(pil_to_tensor(inpt), permutation))
    if inpt.shape[-3] != len(permutation):
        raise KilnValueError("permute_channels", f"Length of permutation does not match number of channels: {len(permutation)} != {inpt.shape[-3]}", describe(inpt), "")  # fmt: skip
    out = inpt.as_subclass(Tensor)[..., list(permutation), :, :]
    return wrap(out, like=inpt) if isinstance(inpt, TVTensor) else out


def gaussian_noise(inpt: Tensor, mean: float = 0.0, sigma: float = 0.1, clip: bool = True) -> Any:
    """Noise on top of a picture of floats in [0, 1], or of bytes."""
    if not isinstance(inpt, Tensor):
        raise KilnTypeError("gaussian_noise", "not defined for PIL pictures", describe(inpt), "pil_to_tensor first")  # fmt: skip
    if sigma < 0:
        raise KilnValueError("gaussian_noise", f"sigma shouldn't be negative. Got {sigma}", sigma, "")  # fmt: skip
    x = inpt.as_subclass(Tensor)
    if x.is_floating_point():
        noisy = x + mean + kiln.randn_like(x) * sigma
        out = noisy.clamp(0, 1) if clip else noisy
    elif x.dtype == kiln.uint8:
        noisy = x + (mean * 255 + kiln.randn_like(x, dtype=kiln.float32) * sigma * 255)
        out = (noisy.clamp(0, 255) if clip else noisy).to(kiln.uint8)
    else:
        raise KilnValueError("gaussian_noise", f"Input tensor is expected to be in uint8 or float dtype, got dtype={x.dtype}", describe(x), "")  # fmt: skip
    return wrap(out, like=inpt) if isinstance(inpt, TVTensor) else out
