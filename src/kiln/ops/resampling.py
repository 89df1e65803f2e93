"""Maps of another size or order: unfold and fold, interpolation, pixel shuffling."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, KilnValueError, describe
from ..shape import index_int, numel
from ..tensor import Tensor
from ._windows import as_tuple, out_size
from .pooling import adaptive_avg, constant
from .registry import FUNCTIONS, Sample, composition
from .samples import draw, rng
from .windows import crop, pad_around, windows, windows_grad

# ---------------------------------------------------------------- unfold and fold


def _fold_geometry(name: str, kernel: Any, dilation: Any, padding: Any, stride: Any) -> tuple:
    k, d, p, t = (
        as_tuple(v, 2, name, what)
        for v, what in (
            (kernel, "kernel_size"),
            (dilation, "dilation"),
            (padding, "padding"),
            (stride, "stride"),
        )
    )
    for what, values in (("kernel_size", k), ("dilation", d), ("stride", t)):
        if any(v <= 0 for v in values):
            raise KilnError(name, f"{what} should be greater than zero", f"{what}={values}", "")
    if any(v < 0 for v in p):
        raise KilnError(name, "padding should be non-negative", f"padding={p}", "")
    return k, d, p, t


def _blocks(sizes: Sequence[Any], k: tuple, d: tuple, p: tuple, t: tuple) -> tuple:
    return tuple(
        out_size(s + 2 * c, a, e, b) for s, a, b, c, e in zip(sizes, k, d, p, t, strict=True)
    )


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (2, 3, 5, 6)), 2)), Sample((draw(rng(), (2, 3, 5, 6)), (2, 3), 1, 1, 2)),
    Sample((draw(rng(), (2, 3, 7, 6)), 2, 2, (1, 0), (2, 1))), Sample((draw(rng(), (3, 5, 6)), 2)),
    Sample((draw(rng(), (2, 3, 5, 6)), 7), error=RuntimeError), Sample((draw(rng(), (2, 3, 5, 6)), 0), error=RuntimeError),
]))  # fmt: skip
def unfold(
    input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """The sliding blocks of (N, C, H, W) as columns: (N, C * prod(kernel_size), blocks)."""
    k, d, p, t = _fold_geometry("unfold", kernel_size, dilation, padding, stride)
    if input.ndim not in (3, 4):
        raise KilnError(
            "unfold",
            "Expected 3D or 4D (batch mode) tensor for input",
            describe(input),
            "(N, C, H, W)",
        )
    x = input if input.ndim == 4 else input.unsqueeze(0)
    blocks = _blocks(x.shape[-2:], k, d, p, t)
    if any(isinstance(b, int) and b < 1 for b in blocks):
        raise KilnError(
            "unfold", "the shape of the array of sliding blocks must be at least one in each dimension",
            f"input={describe(input)}, kernel_size={k}: {blocks}", "",
        )  # fmt: skip
    w = windows(pad_around(x, p, (0, 0), 0), k, t, d)
    n, c = x.shape[:2]
    out = w.permute(0, 1, 4, 5, 2, 3).reshape(n, c * numel(k), numel(blocks))
    return out if input.ndim == 4 else out.squeeze(0)


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (2, 12, 20)), (5, 6), 2)), Sample((draw(rng(), (2, 18, 9)), (5, 6), (2, 3), 1, 1, 2)),
    Sample((draw(rng(), (12, 20)), (5, 6), 2)), Sample((draw(rng(), (2, 12, 19)), (5, 6), 2), error=RuntimeError),
    Sample((draw(rng(), (2, 13, 20)), (5, 6), 2), error=RuntimeError),
]))  # fmt: skip
def fold(
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    """Columns (N, C * prod(kernel_size), blocks) added up as sliding blocks of (N, C, *output_size)."""
    k, d, p, t = _fold_geometry("fold", kernel_size, dilation, padding, stride)
    sizes = as_tuple(output_size, 2, "fold", "output_size")
    if input.ndim not in (2, 3):
        raise KilnError(
            "fold", "Expected 2D or 3D (batch mode) tensor for input", describe(input), ""
        )
    x = input if input.ndim == 3 else input.unsqueeze(0)
    n, columns, count = x.shape
    blocks = _blocks(sizes, k, d, p, t)
    if columns % numel(k):
        raise KilnError(
            "fold", "Expected size of input's dimension 1 to be divisible by the product of kernel_size",
            f"input={describe(input)}, kernel_size={k}", "",
        )  # fmt: skip
    if count != numel(blocks) or any(b < 1 for b in blocks):
        raise KilnError(
            "fold", f"expected size of input's last dimension to match the number of sliding blocks {blocks}",
            f"input={describe(input)}", "",
        )  # fmt: skip
    w = x.reshape(n, columns // numel(k), *k, *blocks).permute(0, 1, 4, 5, 2, 3)
    padded = tuple(s + 2 * a for s, a in zip(sizes, p, strict=True))
    out = crop(windows_grad(w, padded, k, t, d), p, sizes).contiguous()
    return out if input.ndim == 3 else out.squeeze(0)


# ---------------------------------------------------------------- interpolation


def _scale(size: int, out: int, given: float | None, align: bool) -> float:
    """Input elements for each output element, as PyTorch counts them."""
    if align:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1 / given if given is not None and given > 0 else size / out


def _nearest(x: Tensor, dim: int, out: int, given: float | None, exact: bool) -> Tensor:
    size = x.shape[dim]
    step = np.float32(_scale(size, out, given, False))
    at = np.arange(out, dtype=np.float32) + np.float32(0.5 if exact else 0)
    return x.index_select(dim, constant(np.minimum((at * step).astype(np.int64), size - 1)))


def _positions(
    x: Tensor, dim: int, out: int, given: float | None, align: bool, low: float | None
) -> np.ndarray:
    kind = np.float64 if x.dtype is dt.float64 else np.float32
    step = kind(_scale(x.shape[dim], out, given, align))
    at = np.arange(out, dtype=kind)
    at = at * step if align else (at + kind(0.5)) * step - kind(0.5)
    return at if low is None else np.maximum(at, kind(low))


def _along(weight: np.ndarray, x: Tensor, dim: int) -> Tensor:
    return constant(weight.reshape((-1,) + (1,) * (-1 - dim)), x)


def _linear(x: Tensor, dim: int, out: int, given: float | None, align: bool) -> Tensor:
    size = x.shape[dim]
    if size == out and (align or given is None or given == 1):
        return x
    at = _positions(x, dim, out, given, align, 0)
    first = np.minimum(at.astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    w = at - first
    a, b = (x.index_select(dim, constant(i)) for i in (first, second))
    return a * _along(1 - w, x, dim) + b * _along(w, x, dim)


def cubic_weights(t: Any) -> tuple:
    """Weights of the four elements around a position, `t` after the second of them."""
    a = -0.75  # Keys' parameter, https://doi.org/10.1109/TASSP.1981.1163711

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)


def _cubic(x: Tensor, dim: int, out: int, given: float | None, align: bool) -> Tensor:
    size = x.shape[dim]
    at = _positions(x, dim, out, given, align, None)
    first = np.floor(at)
    total: Any = None
    for k, w in enumerate(cubic_weights(at - first)):
        index = np.clip(first.astype(np.int64) + k - 1, 0, size - 1)
        part = x.index_select(dim, constant(index)) * _along(w, x, dim)
        total = part if total is None else total + part
    return total


_SPATIAL = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}


def _target_sizes(
    x: Any, size: Any, scale_factor: Any, recompute: Any, n: int
) -> tuple[list[int], list[float | None]]:
    """The output's sizes and the scales to count with."""
    if size is not None and scale_factor is not None:
        raise KilnValueError(
            "interpolate",
            "only one of size or scale_factor should be defined",
            (size, scale_factor),
            "",
        )
    if size is None and scale_factor is None:
        raise KilnValueError(
            "interpolate", "either size or scale_factor should be defined", "neither", ""
        )
    what = "output size" if size is not None else "scale_factor"
    given = size if size is not None else scale_factor
    values = list(given) if isinstance(given, list | tuple) else [given] * n
    if len(values) != n:
        raise KilnValueError(
            "interpolate", f"Input and {what} must have the same number of spatial dimensions",
            f"{describe(x)}, {what} {given}", f"{n} values",
        )  # fmt: skip
    if size is not None:
        if recompute:
            raise KilnValueError(
                "interpolate",
                "recompute_scale_factor is not meaningful with an explicit size.",
                size,
                "",
            )
        sizes = [index_int(v, "interpolate", "size") for v in values]
        scales: list[float | None] = [None] * n
    else:
        sizes = [math.floor(float(s) * float(f)) for s, f in zip(x.shape[2:], values, strict=True)]
        scales = [None] * n if recompute else [float(f) for f in values]
    if any(s <= 0 for s in sizes):
        raise KilnError(
            "interpolate",
            "Input and output sizes should be greater than 0",
            f"output size {sizes}",
            "",
        )
    return sizes, scales


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, None)


def _cubic_window(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1  # Keys' cubic with -1/2
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


_WINDOWS = {"bilinear": (_triangle, 1), "bicubic": (_cubic_window, 2), "lanczos": (_lanczos, 3)}
"""Windows of antialiased modes, and how far they reach."""


def _smoothed(x: Tensor, dim: int, out: int, given: float | None, align: bool, mode: str) -> Tensor:
    """Resampling along one dimension by a window that is as wide as an element of the result."""
    size, (window, reach) = x.shape[dim], _WINDOWS[mode]
    if align:
        scale = (size - 1) / (out - 1) if out > 1 else 0.0
    else:
        scale = 1 / given if given else size / out
    width = max(scale, 1.0)
    weights = np.zeros((size, out))
    for i in range(out):
        center = scale * (i + 0.5)
        first = max(int(center - reach * width + 0.5), 0)
        last = min(int(center + reach * width + 0.5), size)
        w = window((np.arange(first, last) - center + 0.5) / width)
        weights[first:last, i] = w / w.sum()
    return x @ constant(weights, x) if dim == -1 else constant(weights.T, x) @ x


def _interpolate_samples() -> Any:
    r = rng(63)
    wide = draw(r, (1, 2, 7, 5))
    for mode in ("bilinear", "bicubic"):
        for kw in (
            {"size": (3, 9)},
            {"scale_factor": 0.4},
            {"size": (4, 2), "align_corners": True},
        ):
            yield Sample((wide,), {"mode": mode, "antialias": True, **kw})
    yield Sample((wide, 3), {"antialias": True}, error=ValueError)
    for n, modes in ((1, ("linear",)), (2, ("bilinear", "bicubic")), (3, ("trilinear",))):
        x = draw(r, (2, 2, 5, 4, 3)[: n + 2])
        for mode in ("nearest", "nearest-exact", "area", *modes):
            for kw in ({"size": (7, 4, 5)[:n]}, {"size": 2}, {"scale_factor": 1.7}, {"scale_factor": 2},
                       {"scale_factor": 0.6, "recompute_scale_factor": True}):  # fmt: skip
                yield Sample((x,), {"mode": mode, **kw})
            if mode in modes:
                yield Sample((x,), {"mode": mode, "size": 6, "align_corners": True})
                yield Sample((x,), {"mode": mode, "scale_factor": 1.5, "align_corners": False})
    pixels = r.integers(0, 256, (1, 3, 6, 5)).astype(np.uint8)
    yield Sample((pixels, (4, 9)), {"mode": "bilinear"}, grad=False)
    yield Sample((pixels.astype(np.int64), 4), {"mode": "bilinear"}, error=NotImplementedError)
    x = draw(r, (2, 3, 4, 4))
    yield Sample((x,), error=ValueError)
    yield Sample((x, 4, 2), error=ValueError)
    yield Sample((x, (4, 4, 4)), error=ValueError)
    yield Sample((x, 4), {"align_corners": True}, error=ValueError)
    yield Sample((x, 4), {"mode": "linear"}, error=NotImplementedError)
    yield Sample((x, 4), {"mode": "smooth"}, error=NotImplementedError)


@composition(namespace="F", samples=_interpolate_samples, lies="channels")
def interpolate(input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
                antialias: bool = False) -> Tensor:  # fmt: skip
    """(N, C, *size) resampled to another size, or by a factor.

    `mode` is "nearest", "nearest-exact", "area", "linear" (3-d input), "bilinear" or "bicubic" (4-d),
    "trilinear" (5-d); `align_corners` makes the corner elements meet rather than the corners. With
    `antialias` "bilinear", "bicubic" and "lanczos" are means over all that an element of the result covers.
    """
    if antialias and (mode not in _WINDOWS or input.ndim != 4):
        raise KilnValueError(
            "interpolate", "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and "
            "requires a 4-D tensor as input", f"mode={mode!r}, {describe(input)}", "",
        )  # fmt: skip
    if mode == "lanczos" and antialias:
        pass
    elif mode in ("nearest", "area", "nearest-exact"):
        if align_corners is not None:
            raise KilnValueError(
                "interpolate", "align_corners option can only be set with the interpolating modes: "
                "linear | bilinear | bicubic | trilinear", f"mode={mode!r}", "",
            )  # fmt: skip
    elif mode not in _SPATIAL or input.ndim != _SPATIAL[mode] + 2:
        need = (
            f"{mode} mode needs {_SPATIAL[mode] + 2}D input"
            if mode in _SPATIAL
            else f"no mode {mode!r}"
        )
        raise KilnNotImplementedError(
            "interpolate", f"Got {input.ndim}D input, but {need}", describe(input), ""
        )
    if input.ndim not in (3, 4, 5):
        raise KilnNotImplementedError(
            "interpolate", "Only 3D, 4D and 5D input Tensors supported", describe(input), ""
        )
    n = input.ndim - 2
    sizes, scales = _target_sizes(input, size, scale_factor, recompute_scale_factor, n)
    if mode == "area":
        return adaptive_avg(n, input, sizes)
    x, nearest = input, mode.startswith("nearest")
    if not nearest and x.dtype.category < dt.FLOAT:
        if x.dtype is not dt.uint8 or n != 2:
            raise KilnNotImplementedError("interpolate", f"{mode} is not implemented for {x.dtype.name}",
                                          describe(x), "convert first: x.float()")  # fmt: skip
        x = x.float()
    for i in reversed(range(n)):
        out, given = sizes[i], scales[i]
        if antialias:
            x = _smoothed(x, i - n, out, given, bool(align_corners), mode)
            if input.dtype is dt.uint8:
                x = (x + 0.5).floor().clamp(0, 255)
        elif nearest:
            x = _nearest(x, i - n, out, given, mode.endswith("exact"))
        else:
            x = (_cubic if mode == "bicubic" else _linear)(
                x, i - n, out, given, bool(align_corners)
            )
            if input.dtype is dt.uint8:  # pixels between the two passes, too
                x = (x + 0.5).floor().clamp(0, 255)
    return x.to(input.dtype)


@composition(namespace="F")
def upsample(input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
             align_corners: bool | None = None) -> Tensor:  # fmt: skip
    """Deprecated name of `interpolate`."""
    warnings.warn(
        "`nn.functional.upsample` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor, mode, align_corners)


@composition(namespace="F")
def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """Deprecated: `interpolate` with mode "nearest"."""
    warnings.warn(
        "`nn.functional.upsample_nearest` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor, "nearest")


@composition(namespace="F")
def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """Deprecated: `interpolate` with mode "bilinear" and aligned corners."""
    warnings.warn(
        "`nn.functional.upsample_bilinear` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor, "bilinear", True)


# ---------------------------------------------------------------- shuffles


def _shuffle_check(name: str, input: Any, factor: int) -> None:
    if input.ndim < 3:
        raise KilnError(
            name,
            f"{name} expects input to have at least 3 dimensions",
            describe(input),
            "(*, C, H, W)",
        )
    if factor <= 0:
        raise KilnError(name, f"{name} expects a positive factor", factor, "")


@composition(method=False, lies="images", samples=lambda: iter([
    Sample((draw(rng(), (2, 8, 3, 2)), 2)), Sample((draw(rng(), (9, 3, 2)), 3)),
    Sample((draw(rng(), (2, 7, 3, 2)), 2), error=RuntimeError),
]))  # fmt: skip
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C * r * r, H, W) to (*, C, H * r, W * r), https://arxiv.org/abs/1609.05158."""
    r = upscale_factor
    _shuffle_check("pixel_shuffle", input, r)
    *lead, c, h, w = input.shape
    if c % (r * r):
        raise KilnError(
            "pixel_shuffle", "expects its input's 'channel' dimension to be divisible by the square of upscale_factor",
            f"{describe(input)}, upscale_factor={r}", "",
        )  # fmt: skip
    n = len(lead)
    x = input.reshape(*lead, c // (r * r), r, r, h, w)
    x = x.permute(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*lead, c // (r * r), h * r, w * r)


@composition(method=False, lies="images", samples=lambda: iter([
    Sample((draw(rng(), (2, 3, 4, 6)), 2)), Sample((draw(rng(), (3, 3, 6)), 3)),
    Sample((draw(rng(), (2, 3, 4, 5)), 2), error=RuntimeError),
]))  # fmt: skip
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H * r, W * r) to (*, C * r * r, H, W)."""
    r = downscale_factor
    _shuffle_check("pixel_unshuffle", input, r)
    *lead, c, h, w = input.shape
    if h % r or w % r:
        raise KilnError(
            "pixel_unshuffle", "expects height and width to be divisible by downscale_factor",
            f"{describe(input)}, downscale_factor={r}", "",
        )  # fmt: skip
    n = len(lead)
    x = input.reshape(*lead, c, h // r, r, w // r, r)
    x = x.permute(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return x.reshape(*lead, c * r * r, h // r, w // r)


@composition(method=False, lies="images", samples=lambda: iter([
    Sample((draw(rng(), (2, 6, 3)), 2)), Sample((draw(rng(), (2, 6, 3, 2)), 3)),
    Sample((draw(rng(), (2, 5, 3)), 2), error=RuntimeError),
]))  # fmt: skip
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """(N, groups * C, *) with channels taken from each group in turn, https://arxiv.org/abs/1707.01083."""
    if input.ndim < 3 or groups <= 0 or input.shape[1] % groups:
        raise KilnError(
            "channel_shuffle",
            "Number of channels must be divisible by groups",
            f"{describe(input)}, groups={groups}",
            "",
        )
    n, c, *rest = input.shape
    return input.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(n, c, *rest)


for _fn in (pixel_shuffle, pixel_unshuffle, channel_shuffle):
    FUNCTIONS[f"nn.functional.{_fn.__name__}"] = _fn
