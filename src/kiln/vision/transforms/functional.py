"""Transforms as functions, of PIL pictures and of tensors [..., C, H, W]: here those that move pixels.

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

from ...errors import KilnValueError
from ...extras import need
from ...tensor import Tensor
from .colors import (  # noqa: F401
    adjust_brightness,
    adjust_contrast,
    adjust_gamma,
    adjust_hue,
    adjust_saturation,
    adjust_sharpness,
    autocontrast,
    equalize,
    invert,
    normalize,
    posterize,
    rgb_to_grayscale,
    solarize,
    to_grayscale,
)
from .kinds import of_kinds
from .pictures import (  # noqa: F401
    _is_pil,
    _need_image,
    convert_image_dtype,
    get_dimensions,
    get_image_num_channels,
    get_image_size,
    pil_to_tensor,
    to_pil_image,
    to_tensor,
)


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


def _pair(size: Any) -> tuple[int, int]:
    """A size as height and width."""
    if isinstance(size, numbers.Number):
        return int(size), int(size)  # type: ignore[arg-type]
    if len(size) == 1:
        return int(size[0]), int(size[0])
    return int(size[0]), int(size[1])


@of_kinds
def hflip(img: Any) -> Any:
    """Left and right exchanged."""
    _need_image("hflip", img)
    return img.transpose(0) if _is_pil(img) else img.flip(-1)


@of_kinds
def vflip(img: Any) -> Any:
    """Top and bottom exchanged."""
    _need_image("vflip", img)
    return img.transpose(1) if _is_pil(img) else img.flip(-2)


@of_kinds
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


@of_kinds
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


@of_kinds
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


@of_kinds
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


@of_kinds
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
    return _at(img, grid, mode, fill)


def _at(img: Tensor, grid: Tensor, mode: str, fill: Any) -> Tensor:
    """The picture's pixels at the places of a grid [1, H, W, 2], from -1 to 1."""
    h, w = img.shape[-2:]
    height, width = grid.shape[1:3]
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


def _homography(startpoints: Any, endpoints: Any) -> list[float]:
    """The eight numbers that take places in the result to places in the picture, from four points in each."""
    rows, values = [], []
    for (x, y), (u, v) in zip(endpoints, startpoints, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    found = np.linalg.lstsq(np.array(rows, np.float64), np.array(values, np.float64), rcond=None)
    return found[0].astype(np.float32).tolist()


@of_kinds
def perspective(
    img: Any, startpoints: Sequence[Sequence[int]], endpoints: Sequence[Sequence[int]],
    interpolation: Any = InterpolationMode.BILINEAR, fill: Any = None,
) -> Any:  # fmt: skip
    """A picture as seen from elsewhere, so that four points of it come to lie at four others."""
    _need_image("perspective", img)
    m = _homography(startpoints, endpoints)
    if _is_pil(img):
        return img.transform(img.size, 2, m, _PIL[_mode(interpolation)], fillcolor=_fill(img, fill))
    h, w = img.shape[-2:]
    xs = kiln.linspace(0.5, w - 0.5, w).expand(h, w)
    ys = kiln.linspace(0.5, h - 0.5, h)[:, None].expand(h, w)
    at = kiln.stack([xs, ys, kiln.ones(h, w)], -1).reshape(-1, 3)
    top = kiln.tensor([m[:3], m[3:6]]).T / kiln.tensor([0.5 * w, 0.5 * h])
    below = kiln.tensor([[*m[6:], 1.0]]).T
    grid = ((at @ top) / (at @ below) - 1.0).reshape(1, h, w, 2)
    return _at(img, grid, _mode(interpolation), fill)


@of_kinds
def elastic_transform(
    img: Any, displacement: Tensor, interpolation: Any = InterpolationMode.BILINEAR, fill: Any = None
) -> Any:  # fmt: skip
    """A picture whose pixels are moved by `displacement` [1, H, W, 2], in halves of its size."""
    _need_image("elastic_transform", img)
    x = pil_to_tensor(img) if _is_pil(img) else img
    h, w = x.shape[-2:]
    if tuple(displacement.shape) != (1, h, w, 2):
        raise KilnValueError("elastic_transform", f"Argument displacement shape should be {(1, h, w, 2)}, but given {tuple(displacement.shape)}", list(displacement.shape), "")  # fmt: skip
    xs = kiln.linspace((-w + 1) / w, (w - 1) / w, w).expand(h, w)
    ys = kiln.linspace((-h + 1) / h, (h - 1) / h, h)[:, None].expand(h, w)
    out = _at(x, kiln.stack([xs, ys], -1)[None] + displacement, _mode(interpolation), fill)
    return to_pil_image(out, img.mode) if _is_pil(img) else out
