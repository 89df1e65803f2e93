"""Transforms as functions, of PIL pictures and of tensors [..., C, H, W].

https://docs.pytorch.org/vision/stable/transforms.html#functional-transforms
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

import kiln
import kiln.nn.functional as F

from ...errors import KilnTypeError, KilnValueError, describe
from ...extras import need
from ...tensor import Tensor


class InterpolationMode(Enum):
    """How pixels between pixels are made."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


_PIL = {
    "nearest": 0,
    "nearest-exact": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
}
_OF_NUMBER = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def _mode(interpolation: Any) -> str:
    """The name of a way to interpolate, which may be PIL's number."""
    return _OF_NUMBER[interpolation] if isinstance(interpolation, int) else interpolation.value


def _is_pil(img: Any) -> bool:
    return type(img).__module__.startswith("PIL.")


def _need_image(op: str, img: Any) -> None:
    if not isinstance(img, Tensor) and not _is_pil(img):
        raise KilnTypeError(
            op,
            f"img should be PIL Image or Tensor. Got {type(img)}",
            describe(img),
            "to_pil_image(img)",
        )


# ---------------------------------------------------------------- between pictures and tensors


def pil_to_tensor(pic: Any) -> Tensor:
    """The pixels [C, H, W] of a PIL picture, as they are."""
    a = np.array(pic, copy=True)
    return kiln.from_numpy(
        np.ascontiguousarray((a[:, :, None] if a.ndim == 2 else a).transpose(2, 0, 1))
    )


def to_tensor(pic: Any) -> Tensor:
    """A PIL picture or an array [H, W, C] as a tensor [C, H, W]; bytes become floats in [0, 1]."""
    if isinstance(pic, np.ndarray):
        a = pic[:, :, None] if pic.ndim == 2 else pic
        if a.ndim != 3:
            raise KilnValueError(
                "to_tensor",
                f"pic should be 2/3 dimensional. Got {pic.ndim} dimensions.",
                describe(pic),
                "",
            )
    elif _is_pil(pic):
        mode = {"I": np.int32, "I;16": np.int16, "F": np.float32}.get(pic.mode, np.uint8)
        a = np.array(pic, mode, copy=True)
        a = a * np.uint8(255) if pic.mode == "1" else a
        a = a[:, :, None] if a.ndim == 2 else a
    else:
        raise KilnTypeError(
            "to_tensor", f"pic should be PIL Image or ndarray. Got {type(pic)}", describe(pic), ""
        )
    t = kiln.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1)))
    return t.to(kiln.get_default_dtype()) / 255 if a.dtype == np.uint8 else t


def to_pil_image(pic: Any, mode: str | None = None) -> Any:
    """A tensor [C, H, W] or an array [H, W, C] as a PIL picture; floats in [0, 1] become bytes."""
    if isinstance(pic, Tensor):
        t = pic.unsqueeze(0) if pic.ndim == 2 else pic
        if t.ndim != 3:
            raise KilnValueError(
                "to_pil_image",
                f"pic should be 2/3 dimensional. Got {pic.ndim} dimensions.",
                describe(pic),
                "",
            )
        if t.is_floating_point() and mode != "F":
            t = t.mul(255).byte()
        a = t.detach().numpy().transpose(1, 2, 0)
    elif isinstance(pic, np.ndarray):
        a = pic[:, :, None] if pic.ndim == 2 else pic
    else:
        raise KilnTypeError(
            "to_pil_image", f"pic should be Tensor or ndarray. Got {type(pic)}.", describe(pic), ""
        )
    if a.ndim != 3 or a.shape[2] not in (1, 2, 3, 4):
        raise KilnValueError(
            "to_pil_image", "pic should not have > 4 channels.", describe(pic), "give [C, H, W]"
        )
    Image = need("PIL.Image", "vision", "to_pil_image")
    if a.shape[2] == 1:
        known = {"uint8": "L", "int16": "I;16", "int32": "I", "float32": "F"}.get(a.dtype.name)
        a = a[:, :, 0]
    else:
        known = {2: "LA", 3: "RGB", 4: "RGBA"}[a.shape[2]] if a.dtype == np.uint8 else None
    if known is None:
        raise KilnTypeError(
            "to_pil_image", f"Input type {a.dtype} is not supported", describe(pic), ""
        )
    image = Image.fromarray(np.ascontiguousarray(a))
    return image if mode in (None, image.mode) else image.convert(mode)


def convert_image_dtype(image: Tensor, dtype: Any = None) -> Tensor:
    """A picture's values in another dtype's range: [0, 1] of floats, all of integers."""
    dtype = kiln.float32 if dtype is None else dtype
    if image.dtype is dtype:
        return image
    if image.is_floating_point():
        if dtype.is_floating_point:
            return image.to(dtype)
        largest = kiln.iinfo(dtype).max
        return image.mul(largest + 1.0 - 1e-3).to(dtype)
    own = kiln.iinfo(image.dtype).max
    if dtype.is_floating_point:
        return image.to(dtype) / own
    largest = kiln.iinfo(dtype).max
    if own > largest:
        return kiln.div(image, (own + 1) // (largest + 1), rounding_mode="floor").to(dtype)
    return image.to(dtype) * ((largest + 1) // (own + 1))


def get_dimensions(img: Any) -> list[int]:
    """Channels, height and width."""
    _need_image("get_dimensions", img)
    if isinstance(img, Tensor):
        return [1 if img.ndim == 2 else img.shape[-3], *img.shape[-2:]]
    return [len(img.getbands()), img.height, img.width]


def get_image_size(img: Any) -> list[int]:
    """Width and height."""
    _, height, width = get_dimensions(img)
    return [width, height]


def get_image_num_channels(img: Any) -> int:
    """How many channels a picture has."""
    return get_dimensions(img)[0]


# ---------------------------------------------------------------- values


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


# ---------------------------------------------------------------- places


def _pair(size: Any) -> tuple[int, int]:
    """A size as height and width."""
    if isinstance(size, numbers.Number):
        return int(size), int(size)  # type: ignore[arg-type]
    if len(size) == 1:
        return int(size[0]), int(size[0])
    return int(size[0]), int(size[1])


def hflip(img: Any) -> Any:
    """Left and right exchanged."""
    _need_image("hflip", img)
    return img.transpose(0) if _is_pil(img) else img.flip(-1)


def vflip(img: Any) -> Any:
    """Top and bottom exchanged."""
    _need_image("vflip", img)
    return img.transpose(1) if _is_pil(img) else img.flip(-2)


def crop(img: Any, top: int, left: int, height: int, width: int) -> Any:
    """A part of a picture; what lies outside of it is 0."""
    _need_image("crop", img)
    if _is_pil(img):
        return img.crop((left, top, left + width, top + height))
    h, w = img.shape[-2:]
    part = img[..., max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    if top < 0 or left < 0 or top + height > h or left + width > w:
        below, right = max(min(top + height - h, height), 0), max(min(left + width - w, width), 0)
        part = F.pad(part, (max(-left, 0), right, max(-top, 0), below))
    return part


def center_crop(img: Any, output_size: Any) -> Any:
    """The middle of a picture, with a border of 0 where it is too small."""
    height, width = _pair(output_size)
    _, h, w = get_dimensions(img)
    if width > w or height > h:
        left, top = max((width - w) // 2, 0), max((height - h) // 2, 0)
        img = pad(img, [left, top, max((width - w + 1) // 2, 0), max((height - h + 1) // 2, 0)])
        _, h, w = get_dimensions(img)
        if (w, h) == (width, height):
            return img
    return crop(img, round((h - height) / 2.0), round((w - width) / 2.0), height, width)


def pad(img: Any, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> Any:
    """A border: one number, two (left and right, top and bottom) or four (left, top, right, bottom)."""
    _need_image("pad", img)
    if padding_mode not in ("constant", "edge", "reflect", "symmetric"):
        raise KilnValueError(
            "pad",
            "Padding mode should be either constant, edge, reflect or symmetric",
            padding_mode,
            "",
        )
    if isinstance(padding, int):
        padding = [padding] * 4
    padding = list(padding) * (4 // len(padding)) if len(padding) in (1, 2) else list(padding)
    if len(padding) != 4:
        raise KilnValueError(
            "pad", "Padding must be an int or a 1, 2, or 4 element tuple", padding, ""
        )
    left, top, right, bottom = padding
    mode: Any = padding_mode
    if _is_pil(img):
        if padding_mode == "constant":
            ImageOps = need("PIL.ImageOps", "vision", "pad")
            bands = len(img.getbands())
            fill = (fill,) * bands if isinstance(fill, int) and bands > 1 else fill
            return ImageOps.expand(img, (left, top, right, bottom), fill)
        a = np.asarray(img)
        widths = [(top, bottom), (left, right), (0, 0)][: a.ndim]
        return need("PIL.Image", "vision", "pad").fromarray(np.pad(a, widths, mode))
    if padding_mode == "constant":
        return F.pad(
            img,
            (left, right, top, bottom),
            value=fill[0] if isinstance(fill, list | tuple) else fill,
        )
    h, w = img.shape[-2:]
    rows = np.pad(np.arange(h), (top, bottom), mode)
    columns = np.pad(np.arange(w), (left, right), mode)
    return img[..., kiln.from_numpy(rows)[:, None], kiln.from_numpy(columns)]


def _output_size(h: int, w: int, size: Any, max_size: int | None) -> tuple[int, int]:
    """The size that `resize` makes: a single number is that of the shorter side."""
    if not isinstance(size, int) and len(size) == 2:
        return int(size[0]), int(size[1])
    wanted = size if isinstance(size, int) else size[0]
    short, long = (w, h) if w <= h else (h, w)
    new_short, new_long = wanted, int(wanted * long / short)
    if max_size is not None:
        if max_size <= wanted:
            raise KilnValueError(
                "resize", f"max_size = {max_size} must be strictly greater than the requested size for the "
                f"smaller edge size = {size}", max_size, "",
            )  # fmt: skip
        if new_long > max_size:
            new_short, new_long = int(max_size * new_short / new_long), max_size
    return (new_long, new_short) if w <= h else (new_short, new_long)


def resize(
    img: Any, size: Any, interpolation: Any = InterpolationMode.BILINEAR, max_size: int | None = None,
    antialias: bool | None = True,
) -> Any:  # fmt: skip
    """A picture of another size: height and width, or one number for its shorter side."""
    _need_image("resize", img)
    _, h, w = get_dimensions(img)
    height, width = _output_size(h, w, size, max_size)
    mode = _mode(interpolation)
    if _is_pil(img):
        return img.resize((width, height), _PIL[mode])
    if (height, width) == (h, w):
        return img
    if mode not in ("nearest", "nearest-exact", "bilinear", "bicubic"):
        raise KilnValueError(
            "resize", "This Interpolation mode is unsupported with Tensor input", mode, "bilinear"
        )
    smooth = mode in ("bilinear", "bicubic")
    x = img.reshape(-1, *img.shape[-3:]) if img.ndim != 4 else img
    x = x if x.is_floating_point() else x.float()
    out = F.interpolate(
        x, (height, width), mode=mode, align_corners=False if smooth else None,
        antialias=bool(antialias) and smooth,
    )  # fmt: skip
    if not img.is_floating_point():
        out = out.clamp(0, kiln.iinfo(img.dtype).max) if mode == "bicubic" else out
        out = out.round().to(img.dtype)
    return out.reshape(*img.shape[:-2], height, width)


def resized_crop(
    img: Any, top: int, left: int, height: int, width: int, size: Any,
    interpolation: Any = InterpolationMode.BILINEAR, antialias: bool | None = True,
) -> Any:  # fmt: skip
    """A part of a picture in another size."""
    return resize(crop(img, top, left, height, width), size, interpolation, antialias=antialias)


def five_crop(img: Any, size: Any) -> tuple[Any, ...]:
    """The four corners and the middle."""
    height, width = _pair(size)
    _, h, w = get_dimensions(img)
    if width > w or height > h:
        raise KilnValueError(
            "five_crop", f"Requested crop size {size} is bigger than input size {(h, w)}", size, ""
        )
    corners = [(0, 0), (0, w - width), (h - height, 0), (h - height, w - width)]
    return (
        *(crop(img, t, x, height, width) for t, x in corners),
        center_crop(img, (height, width)),
    )


def ten_crop(img: Any, size: Any, vertical_flip: bool = False) -> tuple[Any, ...]:
    """`five_crop` of a picture and of its mirror image."""
    return five_crop(img, size) + five_crop(vflip(img) if vertical_flip else hflip(img), size)


def erase(img: Tensor, i: int, j: int, h: int, w: int, v: Any, inplace: bool = False) -> Tensor:
    """A picture with a part of it replaced."""
    out = img if inplace else img.clone()
    out[..., i : i + h, j : j + w] = v
    return out


def gaussian_blur(img: Any, kernel_size: Any, sigma: Any = None) -> Any:
    """A picture smoothed by a Gaussian window of odd sizes."""
    _need_image("gaussian_blur", img)
    sizes = [kernel_size] * 2 if isinstance(kernel_size, int) else list(kernel_size)
    if any(k % 2 == 0 or k <= 0 for k in sizes):
        raise KilnValueError(
            "gaussian_blur", "kernel_size should have odd and positive integers.", sizes, ""
        )
    if sigma is None:
        spreads = [0.3 * ((k - 1) * 0.5 - 1) + 0.8 for k in sizes]
    else:
        spreads = [float(sigma)] * 2 if isinstance(sigma, int | float) else list(sigma)
    if _is_pil(img):
        return to_pil_image(gaussian_blur(pil_to_tensor(img), sizes, spreads), img.mode)
    x = img.reshape(-1, 1, *img.shape[-2:]).float()
    windows = []
    for k, s in zip(sizes, spreads, strict=True):
        at = kiln.linspace(-(k - 1) * 0.5, (k - 1) * 0.5, k)
        w = (-0.5 * (at / s) ** 2).exp()
        windows.append(w / w.sum())
    kx, ky = sizes
    x = F.pad(x, (kx // 2, kx // 2, ky // 2, ky // 2), mode="reflect")
    x = F.conv2d(x, (windows[1][:, None] * windows[0])[None, None])
    x = x.reshape(img.shape)
    return x.to(img.dtype) if img.is_floating_point() else x.round().to(img.dtype)


def rotate(
    img: Any, angle: float, interpolation: Any = InterpolationMode.NEAREST, expand: bool = False,
    center: Sequence[float] | None = None, fill: Any = None,
) -> Any:  # fmt: skip
    """A picture turned counter-clockwise by degrees around its centre."""
    _need_image("rotate", img)
    if _is_pil(img):
        return img.rotate(
            angle, _PIL[_mode(interpolation)], expand, center, fillcolor=_fill(img, fill)
        )
    h, w = img.shape[-2:]
    middle = (0.0, 0.0) if center is None else (center[0] - w * 0.5, center[1] - h * 0.5)
    matrix = _inverse_affine(middle, -angle, (0.0, 0.0), 1.0, (0.0, 0.0))
    size = (h, w)
    if expand:
        corners = np.array([[-w / 2, -h / 2], [w / 2, -h / 2], [w / 2, h / 2], [-w / 2, h / 2]])
        turned = corners @ np.array(matrix).reshape(2, 3)[:, :2]
        spread = np.ceil(turned.max(0) - 1e-3) - np.floor(turned.min(0) + 1e-3)
        size = int(spread[1]), int(spread[0])
    return _sample(img, matrix, size, _mode(interpolation), fill)


def affine(
    img: Any, angle: float, translate: Sequence[float], scale: float, shear: Any,
    interpolation: Any = InterpolationMode.NEAREST, fill: Any = None, center: Sequence[float] | None = None,
) -> Any:  # fmt: skip
    """A picture turned, moved, scaled and slanted around its centre."""
    _need_image("affine", img)
    slant = (float(shear), 0.0) if isinstance(shear, int | float) else tuple(map(float, shear))
    slant = (slant[0], 0.0) if len(slant) == 1 else slant
    _, h, w = get_dimensions(img)
    if _is_pil(img):
        middle = (w * 0.5, h * 0.5) if center is None else tuple(center)
        matrix = _inverse_affine(middle, angle, translate, scale, slant)
        return img.transform(
            (w, h), 0, matrix, _PIL[_mode(interpolation)], fillcolor=_fill(img, fill)
        )
    middle = (0.0, 0.0) if center is None else (center[0] - w * 0.5, center[1] - h * 0.5)
    matrix = _inverse_affine(middle, angle, translate, scale, slant)
    return _sample(img, matrix, (h, w), _mode(interpolation), fill)


def _fill(img: Any, fill: Any) -> Any:
    bands = len(img.getbands())
    if fill is None:
        return 0 if bands == 1 else (0,) * bands
    if isinstance(fill, int | float):
        return int(fill) if bands == 1 else (int(fill),) * bands
    return tuple(int(x) for x in fill) if len(fill) == bands else (int(fill[0]),) * bands


def _inverse_affine(
    center: Sequence[float],
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: Sequence[float],
) -> list[float]:
    """The matrix that takes places in the result to places in the picture."""
    rot, sx, sy = (math.radians(x) for x in (angle, *shear))
    cx, cy = center
    tx, ty = translate
    a = math.cos(rot - sy) / math.cos(sy)
    b = -math.cos(rot - sy) * math.tan(sx) / math.cos(sy) - math.sin(rot)
    c = math.sin(rot - sy) / math.cos(sy)
    d = -math.sin(rot - sy) * math.tan(sx) / math.cos(sy) + math.cos(rot)
    m = [d / scale, -b / scale, 0.0, -c / scale, a / scale, 0.0]
    m[2] = m[0] * (-cx - tx) + m[1] * (-cy - ty) + cx
    m[5] = m[3] * (-cx - tx) + m[4] * (-cy - ty) + cy
    return m


def _sample(
    img: Tensor, matrix: list[float], size: tuple[int, int], mode: str, fill: Any
) -> Tensor:
    """The picture's pixels where a matrix takes those of the result."""
    h, w = img.shape[-2:]
    height, width = size
    theta = kiln.tensor(matrix, dtype=kiln.float32).reshape(1, 2, 3)
    xs = kiln.linspace(-width * 0.5 + 0.5, width * 0.5 - 0.5, width)
    ys = kiln.linspace(-height * 0.5 + 0.5, height * 0.5 - 0.5, height)
    at = kiln.stack(
        [xs.expand(height, width), ys[:, None].expand(height, width), kiln.ones(height, width)], -1
    )
    half = kiln.tensor([0.5 * w, 0.5 * h])
    grid = (at.reshape(1, -1, 3) @ (theta.transpose(1, 2) / half)).reshape(1, height, width, 2)
    x = img.reshape(1, -1, h, w).float()
    if fill is not None:  # what was outside is told by a channel of ones
        x = kiln.cat([x, kiln.ones(1, 1, h, w)], 1)
    out = F.grid_sample(x, grid, mode=mode, padding_mode="zeros", align_corners=False)
    if fill is not None:
        inside, out = out[:, -1:], out[:, :-1]
        values = [fill] if isinstance(fill, int | float) else list(fill)
        ground = kiln.tensor(values, dtype=kiln.float32).reshape(1, -1, 1, 1).expand(out.shape)
        if mode == "nearest":
            out = kiln.where(inside < 0.5, ground, out)
        else:
            out = out * inside + (1.0 - inside) * ground
    out = out.reshape(*img.shape[:-2], height, width)
    return out.to(img.dtype) if img.is_floating_point() else out.round().to(img.dtype)


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
