"""Counting in bins: `histogram` and `histogramdd`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, describe
from ..shape import Size
from ..tensor import Tensor
from .registry import EACH, Sample, composition, named, op
from .samples import draw, rng
from .storing import store_out

# ---------------------------------------------------------------- the two ops


def _edges_infer(
    input: Any, column: int, bins: int, low: float | None, high: float | None
) -> tuple:
    return Size((bins + 1,)), input.dtype


@op(private=True, exact=True, batch=EACH, infer=_edges_infer, samples=lambda: iter([
    Sample((draw(rng(), (5, 2)), 1, 4, None, None), grad=False), Sample((draw(rng(), (5, 2)), 1, 4, 0.5, 2.0), grad=False),
    Sample((np.zeros((0, 2)), 0, 3, None, None), grad=False), Sample((np.ones((2, 2)), 0, 3, None, None), grad=False),
]))  # fmt: skip
def bin_edges(
    input: Tensor, column: int, bins: int, low: float | None, high: float | None
) -> Tensor:
    """The edges of equal bins from low to high, or over the values of one column of (n, columns)."""
    if low is None or high is None:
        values = input[:, column]
        low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise KilnError(
                "histogram",
                f"range of [{low}, {high}] is not finite",
                f"{low}, {high}",
                "pass range=",
            )
    if low == high:
        low, high = low - 0.5, high + 0.5
    i = np.arange(bins + 1)
    step = (float(high) - float(low)) / bins
    return np.where(i <= bins // 2, low + step * i, high - step * (bins - i)).astype(input.dtype)


def _counts_infer(input: Any, edges: Any, weight: Any, density: bool) -> tuple:
    return Size(e.shape[0] - 1 for e in edges), input.dtype


def _counts_samples() -> Iterator[Sample]:
    x, e = draw(rng(), (20, 2)), [np.array([-1.0, 0, 0.5, 2]), np.array([-2.0, 0, 2])]
    yield Sample((x, e, None, False), grad=False)
    yield Sample((x, e, draw(rng(1), (20,), 0.1, 1), True), grad=False)


@op(private=True, exact=True, infer=_counts_infer, samples=_counts_samples)
def bin_counts(
    input: Tensor, edges: Sequence[Tensor], weight: Tensor | None, density: bool
) -> Tensor:
    """The number (or weight) of rows of (n, columns) in each cell of a grid; the last bins have both ends."""
    shape = tuple(len(e) - 1 for e in edges)
    inside = np.ones(len(input), bool)
    places = []
    for column, e in zip(input.T, edges, strict=True):
        at = np.searchsorted(e, column, "right") - 1
        at[column == e[-1]] = len(e) - 2
        inside &= (at >= 0) & (at < len(e) - 1)
        places.append(at)
    flat = np.ravel_multi_index([p[inside] for p in places], shape)
    weights = None if weight is None else weight[inside]
    out = np.bincount(flat, weights, int(np.prod(shape))).reshape(shape).astype(np.float64)
    if density:
        total = out.sum()
        for i, e in enumerate(edges):
            out = out / np.diff(e.astype(np.float64)).reshape(
                [-1 if j == i else 1 for j in range(len(edges))]
            )
        out = out / total
    return out.astype(input.dtype)


# ---------------------------------------------------------------- the two functions


def _checked(name: str, input: Tensor, weight: Tensor | None, points: tuple) -> None:
    if input.dtype not in (dt.float32, dt.float64):
        raise KilnNotImplementedError(
            name, f'"{name}" not implemented for {input.dtype.name}', describe(input), "x.float()"
        )
    if weight is None:
        return
    if weight.dtype is not input.dtype:
        raise KilnError(name, "if weight tensor is provided, input tensor and weight tensor should have the same dtype",
                        describe((input, weight)), "")  # fmt: skip
    if tuple(weight.shape) != points:
        raise KilnError(name, "if weight tensor is provided it should have the same shape as the input tensor excluding "
                        "its innermost dimension", describe((input, weight)), "")  # fmt: skip


def _edges(name: str, x: Tensor, bins: Sequence[Any], range: Any) -> list[Tensor]:
    """The edges in each dimension, given as numbers of bins or as tensors."""
    if len(bins) != x.shape[1]:
        raise KilnError(name, f"expected {x.shape[1]} sequences of bin edges or numbers of bins, got {len(bins)}",
                        describe(bins), "")  # fmt: skip
    if isinstance(bins[0], Tensor):
        if range is not None:
            raise KilnError(name, "range is not supported when bins are tensors", repr(range), "")
        for e in bins:
            if e.dtype is not x.dtype:
                raise KilnError(
                    name,
                    "input tensor and bins tensors should have the same dtype",
                    describe((x, e)),
                    "",
                )
            if e.ndim != 1 or not e.numel():
                raise KilnError(
                    name,
                    "bins tensor should have one dimension and at least one element",
                    describe(e),
                    "",
                )
        return list(bins)
    for i, n in enumerate(bins):
        if n <= 0:
            raise KilnError(
                name, f"bins must be > 0, but got {n} for dimension {i}", describe(bins), ""
            )
    if range is None:
        return [bin_edges(x, i, int(n), None, None) for i, n in enumerate(bins)]
    if len(range) != 2 * len(bins):
        raise KilnError(name, f"for a {len(bins)}-dimensional histogram range should have {2 * len(bins)} elements",
                        repr(range), "")  # fmt: skip
    ends = [(float(a), float(b)) for a, b in zip(range[::2], range[1::2], strict=True)]
    for a, b in ends:
        if not (a <= b and abs(a) < float("inf") and abs(b) < float("inf")):
            raise KilnError(
                name, "min should not exceed max, and both should be finite", f"[{a}, {b}]", ""
            )
    return [bin_edges(x, i, int(n), *ends[i]) for i, n in enumerate(bins)]


def _histogram_samples() -> Iterator[Sample]:
    x = draw(rng(), (3, 4))
    yield Sample((x, 5), grad=False)
    yield Sample((x, 4), {"range": (-1.0, 1.5), "density": True}, grad=False)
    yield Sample((x, 4), {"weight": draw(rng(1), (3, 4))}, grad=False)
    yield Sample((x, np.array([-1.0, 0, 0.5, 2])), {"density": True}, grad=False)
    yield Sample((np.ones(3), 3), grad=False)
    yield Sample((x, 0), error=RuntimeError)
    yield Sample((x, 4), {"weight": np.ones(3)}, error=RuntimeError)
    yield Sample((x, 4), {"range": (2.0, 1.0)}, error=RuntimeError)
    yield Sample((x, np.ones(3, np.float32)), error=RuntimeError)
    yield Sample((np.arange(3), 3), error=NotImplementedError)


@composition(samples=_histogram_samples)
def histogram(input: Tensor, bins: Any, *, range: Sequence[float] | None = None, weight: Tensor | None = None,
              density: bool = False, out: Any = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(hist, bin_edges): how many elements lie in each bin, given by number or edges; the last has both ends."""
    _checked("histogram", input, weight, tuple(input.shape))
    x = input.detach().reshape(-1, 1)
    edges = _edges("histogram", x, [bins], range)
    counts = bin_counts(x, edges, None if weight is None else weight.detach().reshape(-1), density)
    return store_out(bin_counts.op, named("histogram", "hist bin_edges")(counts, edges[0]), out)


def _grid_samples() -> Iterator[Sample]:
    x = draw(rng(), (3, 4, 2))
    yield Sample((x, [3, 2]), grad=False)
    yield Sample(
        (x, [3, 2]), {"range": (-1.0, 1.0, 0.0, 2.0), "weight": draw(rng(1), (3, 4))}, grad=False
    )
    yield Sample((x, (np.array([-1.0, 0, 1]), np.array([0.0, 2]))), {"density": True}, grad=False)
    yield Sample((x, 3), grad=False)
    yield Sample((x, [3]), error=RuntimeError)
    yield Sample((x, [3, 0]), error=RuntimeError)


@composition(method=False, samples=_grid_samples)
def histogramdd(input: Tensor, bins: Any, *, range: Sequence[float] | None = None, weight: Tensor | None = None,
                density: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """(hist, bin_edges) of points (…, n) in n dimensions, in a grid of bins given by numbers or edges."""
    if input.ndim < 2:
        raise KilnError(
            "histogramdd", "input tensor should have at least 2 dimensions", describe(input), ""
        )
    _checked("histogramdd", input, weight, tuple(input.shape[:-1]))
    n = input.shape[-1]
    x = input.detach().reshape(-1, n)
    edges = _edges("histogramdd", x, [bins] * n if isinstance(bins, int) else list(bins), range)
    counts = bin_counts(x, edges, None if weight is None else weight.detach().reshape(-1), density)
    return named("histogramdd", "hist bin_edges")(counts, tuple(edges))
