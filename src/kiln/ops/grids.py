"""Maps sampled at positions: affine grids and grid sampling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import KilnError, KilnValueError, describe
from ..shape import numel
from ..tensor import Tensor
from .creation import spaced
from .pooling import constant
from .registry import Sample, composition
from .resampling import cubic_weights
from .rules import tied
from .samples import draw, rng
from .selection import where_op


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (2, 2, 3)), (2, 3, 4, 5)), {"align_corners": a}) for a in (True, False)
] + [Sample((draw(rng(), (2, 3, 4)), (2, 3, 4, 5, 3)), {"align_corners": a}) for a in (True, False)]))  # fmt: skip
def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The sampling grid (N, *size, k) of affine maps theta (N, k, k + 1), for `grid_sample`; k is 2 or 3."""
    sizes = tuple(size)[2:]
    k = len(sizes)
    if k not in (2, 3) or tuple(theta.shape[1:]) != (k, k + 1):
        raise KilnValueError(
            "affine_grid", "Expected a batch of 2D affine matrices of shape Nx2x3 for a 4D size, or of 3D ones of "
            "shape Nx3x4 for a 5D size", f"theta={describe(theta)}, size={tuple(size)}", "",
        )  # fmt: skip
    axes, d = [], theta.dtype
    for s in sizes:
        # rounded as in PyTorch: points of the identity lie on or beside kinks of what samples there
        a = spaced(-1, 1, s, d, d.np) if s > 1 else np.zeros(1)
        axes.append(a if align_corners else a * a.dtype.type(s - 1) / a.dtype.type(s))
    mesh = np.meshgrid(*axes, indexing="ij")[::-1]  # x varies along the last dimension
    base = np.stack([*mesh, np.ones(sizes)], -1).reshape(numel(sizes), k + 1)
    return (constant(base, theta) @ theta.transpose(1, 2)).reshape(theta.shape[0], *sizes, k)


def _unnormalize(c: Tensor, size: int, align: bool) -> Tensor:
    return (c + 1) * ((size - 1) / 2) if align else ((c + 1) * size - 1) * 0.5


def _reflect(c: Tensor, low2: float, high2: float) -> Tensor:
    """Positions reflected into [low, high], given as twice their values."""
    if low2 == high2:
        return c * 0
    low, span = low2 / 2, (high2 - low2) / 2
    c = where_op(c < low, low - c, c - low)
    extra = c % span
    flips = ((c - extra) / span).round() % 2
    return where_op(flips == 0, extra + low, span - extra + low)


def _into_range(c: Tensor, size: int, padding_mode: str, align: bool) -> Tensor:
    if padding_mode == "zeros":
        return c
    if padding_mode == "reflection":
        c = _reflect(c, 0, 2 * (size - 1)) if align else _reflect(c, -1, 2 * size - 1)
    # the borders count as outside: no gradient there, as in PyTorch
    return where_op((c > 0) & (c < size - 1), c, c.detach().clamp(0, size - 1))


def _taps(p: Tensor, size: int, mode: str, padding_mode: str, align: bool) -> list[tuple]:
    """The elements of a dimension from which samples at positions p are taken, and their weights."""
    if mode == "bicubic":
        low = p.detach().floor()
        at = [_into_range(low + j, size, padding_mode, align) for j in (-1, 0, 1, 2)]
        return list(zip(at, cubic_weights(p - low), strict=True))
    p = _into_range(p, size, padding_mode, align)
    if mode == "nearest":
        return [(p.detach().round(), None)]
    low = p.detach().floor()
    rest = p - low  # whose slope is 1 on an element too
    return [(low, 1 - rest), (low + 1, rest)]


def _grid_samples() -> Any:
    r = rng(64)
    x, g = draw(r, (2, 3, 4, 5)), draw(r, (2, 3, 4, 2), -1.3, 1.3)
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding_mode in ("zeros", "border", "reflection"):
            for align in (True, False):
                yield Sample((x, g, mode, padding_mode, align))
    yield Sample(
        (draw(r, (2, 3, 4, 5, 3)), draw(r, (2, 3, 2, 4, 3), -1.3, 1.3)), {"align_corners": False}
    )
    yield Sample((x, g, "linear"), error=ValueError)
    yield Sample((x, g[:1]), error=RuntimeError)
    yield Sample((x[:, :, None], np.zeros((2, 1, 2, 2, 3)), "bicubic"), error=RuntimeError)


@composition(fused="rounded", namespace="F", samples=_grid_samples)
def grid_sample(input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros",
                align_corners: bool | None = None) -> Tensor:  # fmt: skip
    """(N, C, *size) sampled at grid (N, *out, k) of positions in [-1, 1], x first: (N, C, *out); k is 2 or 3.

    `mode` is "bilinear", "nearest" or, of images, "bicubic"; `padding_mode` "zeros", "border" or "reflection" says what lies outside.
    """
    name = "grid_sample"
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise KilnValueError(
            name, "expected mode to be 'bilinear', 'nearest' or 'bicubic'", repr(mode), ""
        )
    if padding_mode not in ("zeros", "border", "reflection"):
        raise KilnValueError(
            name,
            "expected padding_mode to be 'zeros', 'border' or 'reflection'",
            repr(padding_mode),
            "",
        )
    k = input.ndim - 2
    if (
        k not in (2, 3)
        or grid.ndim != input.ndim
        or grid.shape[0] != input.shape[0]
        or grid.shape[-1] != k
    ):
        raise KilnError(
            name, "expected grid (N, *out, k) and input (N, C, *size) with the same batch size",
            f"input={describe(input)}, grid={describe(grid)}", "",
        )  # fmt: skip
    if mode == "bicubic" and k == 3:
        raise KilnError(name, "bicubic interpolation is of images", describe(input), "'bilinear'")
    align, sizes = bool(align_corners), tuple(input.shape[2:])
    n, c = input.shape[:2]
    out = tuple(grid.shape[1:-1])
    taps = [
        _taps(_unnormalize(p, s, align), s, mode, padding_mode, align)
        for p, s in zip(grid.unbind(-1)[::-1], sizes, strict=True)
    ]
    flat = input.reshape(n, c, numel(sizes))
    total: Any = None
    for corner in itertools.product(*taps):
        index: Any = 0
        weight = inside = None
        for (i, w), s in zip(corner, sizes, strict=True):
            ok = (i >= 0) & (i <= s - 1)
            inside = ok if inside is None else inside & ok
            index = index * s + i.clamp(0, s - 1).long()
            if w is not None:
                weight = w if weight is None else weight * w
        picked = flat.gather(2, index.reshape(n, 1, numel(out)).expand(n, c, numel(out))).reshape(
            n, c, *out
        )
        part = picked if weight is None else picked * weight.unsqueeze(1)
        part = where_op(inside.unsqueeze(1), part, 0)
        total = part if total is None else total + part
    return tied(total, f"GridSampler{k}D", input, grid, zeros=mode == "nearest")
