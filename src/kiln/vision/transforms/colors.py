"""The values of pictures: normalised, inverted, their brightness and colours changed; each pixel by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

import kiln

from ...errors import KilnTypeError, KilnValueError, describe
from ...extras import need
from ...tensor import Tensor
from .pictures import _is_pil, _need_image, convert_image_dtype, pil_to_tensor, to_pil_image


def normalize(tensor: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:
    """(tensor - mean) / std of each channel."""
    if not isinstance(tensor, Tensor):
        raise KilnTypeError(
            "normalize", f"img should be Tensor Image. Got {type(tensor)}", describe(tensor), ""
        )
    if not tensor.is_floating_point():
        raise KilnTypeError(
            "normalize",
            f"Input tensor should be a float tensor. Got {tensor.dtype}.",
            describe(tensor),
            "",
        )
    if tensor.ndim < 3:
        raise KilnValueError(
            "normalize",
            "Expected tensor to be a tensor image of size (..., C, H, W).",
            describe(tensor),
            "",
        )
    m, s = (kiln.as_tensor(x, dtype=tensor.dtype) for x in (mean, std))
    if (s == 0).any():
        raise KilnValueError(
            "normalize", "std evaluated to zero, leading to division by zero.", std, "a std above 0"
        )
    m, s = (x.view(-1, 1, 1) if x.ndim == 1 else x for x in (m, s))
    return tensor.sub_(m).div_(s) if inplace else (tensor - m) / s


def invert(img: Any) -> Any:
    """The negative."""
    if _is_pil(img):
        return need("PIL.ImageOps", "vision", "invert").invert(img)
    return _bound(img) - img


def _bound(img: Tensor) -> float | int:
    return 1.0 if img.is_floating_point() else kiln.iinfo(img.dtype).max


def _blend(img: Tensor, other: Tensor, ratio: float) -> Tensor:
    mixed = ratio * img + (1.0 - ratio) * other
    return mixed.clamp(0, _bound(img)).to(img.dtype)


def rgb_to_grayscale(img: Any, num_output_channels: int = 1) -> Any:
    """A picture without its colours."""
    if _is_pil(img):
        gray = img.convert("L")
        if num_output_channels == 1:
            return gray
        a = np.array(gray, np.uint8)
        return need("PIL.Image", "vision", "grayscale").fromarray(np.dstack([a, a, a]))
    if img.shape[-3] == 1:
        gray = img.clone()
    else:
        r, g, b = img.unbind(-3)
        gray = (0.2989 * r + 0.587 * g + 0.114 * b).to(img.dtype).unsqueeze(-3)
    return gray.expand(*img.shape[:-3], 3, *img.shape[-2:]) if num_output_channels == 3 else gray


to_grayscale = rgb_to_grayscale


def _enhance(name: str, img: Any, factor: float) -> Any:
    return getattr(need("PIL.ImageEnhance", "vision", name.lower()), name)(img).enhance(factor)


def adjust_brightness(img: Any, brightness_factor: float) -> Any:
    """0 is black, 1 the picture, 2 twice as bright."""
    _need_image("adjust_brightness", img)
    if _is_pil(img):
        return _enhance("Brightness", img, brightness_factor)
    return _blend(img, kiln.zeros_like(img), brightness_factor)


def adjust_contrast(img: Any, contrast_factor: float) -> Any:
    """0 is gray, 1 the picture."""
    _need_image("adjust_contrast", img)
    if _is_pil(img):
        return _enhance("Contrast", img, contrast_factor)
    dtype = img.dtype if img.is_floating_point() else kiln.float32
    gray = rgb_to_grayscale(img) if img.shape[-3] == 3 else img
    return _blend(img, gray.to(dtype).mean((-3, -2, -1), keepdim=True), contrast_factor)


def adjust_saturation(img: Any, saturation_factor: float) -> Any:
    """0 is without colours, 1 the picture."""
    _need_image("adjust_saturation", img)
    if _is_pil(img):
        return _enhance("Color", img, saturation_factor)
    return img if img.shape[-3] == 1 else _blend(img, rgb_to_grayscale(img), saturation_factor)


def adjust_hue(img: Any, hue_factor: float) -> Any:
    """Colours turned by a share of the circle, from -0.5 to 0.5."""
    _need_image("adjust_hue", img)
    if not -0.5 <= hue_factor <= 0.5:
        raise KilnValueError(
            "adjust_hue", f"hue_factor ({hue_factor}) is not in [-0.5, 0.5].", hue_factor, ""
        )
    if _is_pil(img):
        if img.mode in ("L", "1", "I", "F"):
            return img
        h, s, v = img.convert("HSV").split()
        turned = (np.array(h, np.int16) + int(hue_factor * 255)).astype(np.uint8)
        Image = need("PIL.Image", "vision", "adjust_hue")
        return Image.merge("HSV", (Image.fromarray(turned), s, v)).convert(img.mode)
    if img.shape[-3] == 1:
        return img
    rgb = convert_image_dtype(img, kiln.float32)
    high, low = rgb.amax(-3), rgb.amin(-3)
    r, g, b = rgb.unbind(-3)
    spread = high - low
    gray = spread == 0
    part = kiln.where(gray, kiln.ones_like(spread), spread)
    red, green, blue = ((high - c) / part for c in (r, g, b))
    hue = kiln.where(
        high == r, blue - green, kiln.where(high == g, 2.0 + red - blue, 4.0 + green - red)
    )
    hue = (hue / 6.0 + 1.0 + hue_factor) % 1.0
    saturation = spread / kiln.where(gray, kiln.ones_like(high), high)
    sixth = (hue * 6.0).floor()
    f = hue * 6.0 - sixth
    p = (high * (1.0 - saturation)).clamp(0.0, 1.0)
    q = (high * (1.0 - saturation * f)).clamp(0.0, 1.0)
    t = (high * (1.0 - saturation * (1.0 - f))).clamp(0.0, 1.0)
    which = sixth.to(kiln.int64) % 6
    channels = [
        kiln.stack(choice).gather(0, which.unsqueeze(0)).squeeze(0)
        for choice in ((high, q, p, p, t, high), (t, high, high, q, p, p), (p, p, t, high, high, q))
    ]
    return convert_image_dtype(kiln.stack(channels, -3), img.dtype)


def solarize(img: Any, threshold: float) -> Any:
    """Values from a threshold on inverted."""
    if _is_pil(img):
        return need("PIL.ImageOps", "vision", "solarize").solarize(img, threshold)
    return kiln.where(img >= threshold, invert(img), img)


def posterize(img: Any, bits: int) -> Any:
    """Only the highest bits of each byte kept."""
    if _is_pil(img):
        return need("PIL.ImageOps", "vision", "posterize").posterize(img, bits)
    return img & (-int(2 ** (8 - bits)) & 255)


def adjust_gamma(img: Any, gamma: float, gain: float = 1) -> Any:
    """gain * img ** gamma, of values in [0, 1]."""
    if _is_pil(img):
        return to_pil_image(adjust_gamma(pil_to_tensor(img), gamma, gain), img.mode)
    x = convert_image_dtype(img, kiln.float32)
    return convert_image_dtype((gain * x**gamma).clamp(0, 1), img.dtype)


def adjust_sharpness(img: Any, sharpness_factor: float) -> Any:
    """0 is blurred, 1 the picture, 2 twice as sharp."""
    _need_image("adjust_sharpness", img)
    if _is_pil(img):
        return _enhance("Sharpness", img, sharpness_factor)
    if sharpness_factor < 0:
        raise KilnValueError("adjust_sharpness", f"sharpness_factor ({sharpness_factor}) is not non-negative.", sharpness_factor, "")  # fmt: skip
    if min(img.shape[-2:]) <= 2:
        return img
    kernel = kiln.ones(3, 3)
    kernel[1, 1] = 5.0
    x = img.reshape(-1, 1, *img.shape[-2:]).float()
    blurred = kiln.nn.functional.conv2d(x, (kernel / kernel.sum())[None, None])
    blurred = blurred if img.is_floating_point() else blurred.round()
    other = img.clone()
    other[..., 1:-1, 1:-1] = blurred.reshape(*img.shape[:-2], *blurred.shape[-2:]).to(img.dtype)
    return _blend(img, other, sharpness_factor)


def autocontrast(img: Any) -> Any:
    """The values of each channel spread over the whole range."""
    _need_image("autocontrast", img)
    if _is_pil(img):
        return need("PIL.ImageOps", "vision", "autocontrast").autocontrast(img)
    x = img if img.is_floating_point() else img.float()
    low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    scale = _bound(img) / (high - low)
    flat = ~scale.isfinite()
    low, scale = low.masked_fill(flat, 0), scale.masked_fill(flat, 1)
    return ((x - low) * scale).clamp(0, _bound(img)).to(img.dtype)


def equalize(img: Any) -> Any:
    """The bytes of each channel spread so that each comes up about as often."""
    _need_image("equalize", img)
    if _is_pil(img):
        return need("PIL.ImageOps", "vision", "equalize").equalize(img)
    if img.dtype != kiln.uint8:
        raise KilnTypeError("equalize", f"Only kiln.uint8 image tensors are supported, but found {img.dtype}", describe(img), "x.to(kiln.uint8)")  # fmt: skip
    if img.numel() == 0:
        return img

    def spread(channel: np.ndarray) -> np.ndarray:
        counts = np.bincount(channel.ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        if step == 0:
            return channel
        table = (np.cumsum(counts) + step // 2) // step
        return np.concatenate([[0], table[:-1]]).clip(0, 255).astype(np.uint8)[channel]

    channels = img.numpy().reshape(-1, *img.shape[-2:])
    return kiln.from_numpy(np.stack([spread(c) for c in channels])).reshape(img.shape)
