"""Order statistics and what is computed along a line: quantiles, modes, medians, covariances, trapezoids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, describe
from ..shape import Size, norm_dim
from ..tensor import CAPTURING, Tensor, active_capture
from .extremes import select, select_grad, select_rule, select_samples, share
from .joining import cat
from .reduction import sum_op
from .registry import Sample, composition, op
from .samples import draw, rng
from .selection import where_op
from .sorting import kth_place
from .storing import store_out

# ---------------------------------------------------------------- quantiles and modes


def _quantile_samples() -> Iterator[Sample]:
    r = rng(51)
    x = draw(r, (3, 5))
    for how in ("linear", "lower", "higher", "nearest", "midpoint"):
        yield Sample((x, 0.3, 1), {"interpolation": how})
    yield Sample((x, np.array([0.1, 0.6, 0.9]), 0, True))
    yield Sample((x, np.array([0.0, 0.5, 1.0]), 0), grad=False)
    yield Sample((x, np.array([0.5, 1.5])), error=RuntimeError)
    yield Sample((x, 0.75))
    yield Sample((np.array(1.5), np.array([0.1, 0.9]), 0, True))
    yield Sample((x, np.array([0.1, 0.9])))
    yield Sample((np.array([[1.0, np.nan, 2.0], [1.0, 2.0, 3.0]]), 0.5, 1), grad=False)
    yield Sample((x, 2.0), error=RuntimeError)
    yield Sample((np.arange(4), 0.5), error=RuntimeError)


def _quantile(
    name: str, input: Tensor, q: Any, dim: int | None, keepdim: bool, interpolation: str, skip: bool
) -> Tensor:
    if input.dtype not in (dt.float32, dt.float64):
        raise KilnError(
            name, "input tensor must be either float or double dtype", describe(input), "x.float()"
        )
    if interpolation not in ("linear", "lower", "higher", "nearest", "midpoint"):
        raise KilnError(name, "interpolation must be one of linear, lower, higher, midpoint or nearest",
                        repr(interpolation), "")  # fmt: skip
    if isinstance(q, Tensor):
        if q.ndim > 1 or q.dtype is not input.dtype:
            raise KilnError(
                name, "q must be a scalar or 1D tensor of the input's dtype", describe(q), ""
            )
        if not CAPTURING and ((q._a < 0) | (q._a > 1)).any():
            raise KilnError(name, "q values must be in the range [0, 1]", describe(q), "")
    elif not 0 <= q <= 1:
        raise KilnError(name, f"q must be in the range [0, 1] but got {q}", q, "")
    n = input.ndim
    x = input.flatten() if dim is None else input.movedim(norm_dim(dim, n, name), -1)
    if not x.ndim:
        x = x.reshape(1)
    if not x.shape[-1]:
        raise KilnError(name, "input tensor must be non-empty", describe(input), "")
    x = x.sort(-1)[0]
    bad = x.isnan()
    count = (
        (x.shape[-1] - bad.sum(-1, True)).to(x.dtype)
        if skip
        else x.new_full((*x.shape[:-1], 1), x.shape[-1])
    )
    rank = (count - 1).clamp(min=0) * q
    if not skip:
        rank = where_op(bad.any(-1, True), x.shape[-1] - 1, rank)
    if interpolation == "lower":
        rank = rank.floor()
    elif interpolation == "higher":
        rank = rank.ceil()
    elif interpolation == "nearest":
        rank = rank.round()
    low = rank.floor()
    out = x.gather(-1, low.long())
    if interpolation in ("linear", "midpoint"):
        weight = (
            rank - low
            if interpolation == "linear"
            else where_op(rank == low, 0.0, rank.new_full((), 0.5))
        )
        out = out.lerp(x.gather(-1, rank.ceil().long()), weight.to(x.dtype))
    if keepdim and n:
        out = (
            out.reshape(*(1,) * n, out.shape[-1])
            if dim is None
            else out.unsqueeze(norm_dim(dim, n, name))
        )
    out = out.movedim(-1, 0)
    return out if isinstance(q, Tensor) and q.ndim else out.squeeze(0)


@composition(out=True, samples=_quantile_samples)
def quantile(input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *,
             interpolation: str = "linear") -> Tensor:  # fmt: skip
    """The q-th quantiles of all elements or along `dim`; NaN where there is one. Several q come first."""
    return _quantile("quantile", input, q, dim, keepdim, interpolation, False)


@composition(out=True, samples=_quantile_samples)
def nanquantile(input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *,
                interpolation: str = "linear") -> Tensor:  # fmt: skip
    """`quantile` of the elements that are not NaN."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, True)


def _mode_samples() -> Iterator[Sample]:
    for s in select_samples():
        if s.error is None and s.args[0].size and s.grad:
            yield Sample(s.args)
    yield Sample((np.array([[1.0, 2.0, 2.0, 1.0], [3.0, 3.0, 1.0, 0.0]]), 1, False), grad=False)
    yield Sample((np.array([[1, 2, 2], [0, 0, 5]]), 0, True), grad=False)
    yield Sample((np.array([[np.nan, np.nan], [np.nan, 2.0]]), 1, False), grad=False)


@op(name="mode_dim", private=True, infer=select_rule("mode"), result_names="values indices", nondiff_outputs=(1,),
    grad={"input": select_grad}, exact=True, samples=_mode_samples)  # fmt: skip
def mode_dim(input: Tensor, dim: int, keepdim: bool) -> Tensor:
    """The most frequent element along a dimension, the smallest of several, and its last index."""
    if not input.ndim:
        return input.copy(), np.zeros((), np.int64)
    x = np.moveaxis(input, dim, -1)
    index = np.empty(x.shape[:-1], np.int64)
    for at in np.ndindex(x.shape[:-1]):
        values, counts = np.unique(x[at], return_counts=True, equal_nan=False)
        best = values[counts.argmax()]
        index[at] = 0 if best != best else np.flatnonzero(x[at] == best)[-1]  # 0: all are NaN
    values = np.take_along_axis(x, index[..., None], -1)[..., 0]
    if keepdim:
        return np.expand_dims(values, dim), np.expand_dims(index, dim)
    return values, index


@composition(
    out=True,
    samples=lambda: iter(
        [Sample((draw(rng(), (3, 4)),)), Sample((np.array([[1, 2, 2, 1]]), 1, True), grad=False)]
    ),
)
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """(values, indices) of the most frequent element along `dim`, the smallest of several."""
    return mode_dim(input, dim, keepdim)


# ---------------------------------------------------------------- covariance


def _covariances() -> Iterator[Sample]:
    r = rng(52)
    yield Sample((draw(r, (3, 5)),))
    yield Sample((draw(r, (4,)),))
    yield Sample((draw(r, (2, 4)) + 1j * draw(r, (2, 4)),))
    yield Sample((draw(r, (2, 2, 2)),), error=RuntimeError)


def _check_weights(name: str, weights: Tensor, n: Any) -> None:
    """Refuse weights that are not one for each of n observations, of their kind, and not negative."""
    right = weights.dtype.category == (dt.INT if name == "fweights" else dt.FLOAT)
    if weights.ndim > 1 or weights.numel() != n or not right:
        kind = "integer" if name == "fweights" else "floating"
        raise KilnError(
            "cov",
            f"{name} must be {n} {kind} numbers, one for each observation",
            describe(weights),
            "",
        )
    if not active_capture() and bool((weights < 0).any()):
        raise KilnError("cov", f"{name} can't be negative", describe(weights), "")


@composition(samples=lambda: iter([
    *_covariances(), Sample((draw(rng(), (3, 5)),), {"correction": 0}),
    Sample((draw(rng(), (5,)),), {"fweights": np.ones((5, 5), np.int64)}, error=RuntimeError),
    Sample((draw(rng(), (3,)),), {"aweights": np.array([0.5, -1.0, 0.5])}, error=RuntimeError),
    Sample((draw(rng(), (3, 4)),), {"fweights": np.array([1, 2, 3, 1]), "aweights": draw(rng(1), (4,), 0.1, 1)}, fixed=("aweights",)),
]))  # fmt: skip
def cov(
    input: Tensor,
    *,
    correction: int = 1,
    fweights: Tensor | None = None,
    aweights: Tensor | None = None,
) -> Tensor:
    """The covariance matrix of variables (rows) from their observations (columns)."""
    if input.ndim > 2:
        raise KilnError(
            "cov", "expected input to have two or fewer dimensions", describe(input), ""
        )
    x = input.reshape(1, -1) if input.ndim < 2 else input
    if x.dtype.category < dt.FLOAT:
        x = x.to(dt.get_default_dtype())
    for name, weights in (("fweights", fweights), ("aweights", aweights)):
        if weights is not None:
            _check_weights(name, weights, x.shape[1])
    w: Any = fweights
    if aweights is not None:
        w = aweights if w is None else fweights * aweights  # type: ignore[operator]
    n: Any = x.shape[1]
    if w is None:
        mean, total = x.mean(1, True), n
    else:
        total = w.sum()
        mean = (x * w).sum(1, True) / total
    left = total - correction
    if aweights is not None and correction:
        left = total - correction * (w * aweights).sum() / total
    left = left.clamp(min=0) if isinstance(left, Tensor) else max(left, 0)
    x = x - mean
    out = (x if w is None else x * w) @ (x.mH if x.is_complex() else x.mT)
    out = out / left
    return out.squeeze()


@composition(samples=_covariances)
def corrcoef(input: Tensor) -> Tensor:
    """The correlation coefficients of variables (rows) from their observations (columns)."""
    if input.ndim > 2:
        raise KilnError(
            "corrcoef", "expected input to have two or fewer dimensions", describe(input), ""
        )
    c = cov(input)
    if not c.ndim:
        return c / c
    d = c.diagonal()
    scale = (d.real if c.is_complex() else d).sqrt()
    c = c / scale.unsqueeze(1) / scale.unsqueeze(0)
    return c if c.is_complex() else c.clamp(-1, 1)


# ---------------------------------------------------------------- distances, norms of slices


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)), p)) for p in (2, 1, 3.0, float("inf"), 0)
]))  # fmt: skip
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of input - other."""
    return (input - other).norm(p)


@composition(fused="rounded", out=True, inplace=True, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), 2, 0, 1.5)), Sample((draw(rng(), (2, 3, 4)), 1, 1, 2.0)), Sample((draw(rng(), (3,)), 2, 0, 1.0), error=RuntimeError),
]))  # fmt: skip
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Each slice along `dim` scaled down to a p-norm of at most `maxnorm`."""
    if input.ndim < 2:
        raise KilnError(
            "renorm",
            f"input needs at least 2 dimensions, got {input.ndim} dimensions",
            describe(input),
            "",
        )
    d = norm_dim(dim, input.ndim, "renorm")
    others = tuple(i for i in range(input.ndim) if i != d)
    size = input.norm(p, others, True)
    return (input * where_op(size > maxnorm, maxnorm / (size + 1e-7), 1.0)).contiguous()


# ---------------------------------------------------------------- trapezoids


def _trapezoids() -> Iterator[Sample]:
    r = rng(53)
    y = draw(r, (3, 4))
    yield Sample((y,))
    yield Sample((y,), {"dx": 2.0, "dim": 0})
    yield Sample((y, draw(r, (4,))))
    yield Sample((y, draw(r, (3, 4))), {"dim": 0})
    yield Sample((y, draw(r, (3,))), error=RuntimeError)


def _areas(name: str, y: Tensor, x: Tensor | None, dim: int) -> Tensor:
    """Twice the area between neighbouring points, which are 1 apart where there is no x."""
    d = norm_dim(dim, y.ndim, name)
    n = y.shape[d]
    pairs = y.narrow(d, 0, n - 1) + y.narrow(d, 1, n - 1) if n else y
    if x is None:
        return pairs
    if x.ndim == 1:
        if x.shape[0] != n:
            raise KilnError(
                name, "There must be one `x` value for each sample point", describe((y, x)), ""
            )
        x = x.reshape([n if i == d else 1 for i in range(y.ndim)])
    e = d - y.ndim + x.ndim
    width = x.narrow(e, 1, x.shape[e] - 1) - x.narrow(e, 0, x.shape[e] - 1)
    return pairs * width


@composition(fused="rounded", method=False, aliases=("trapz",), samples=_trapezoids)
def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """The integral along `dim` by the trapezoidal rule, at points `x` or `dx` apart."""
    d = norm_dim(dim, y.ndim, "trapezoid")
    if x is None and y.shape[d]:  # integers are summed as integers, but for the ends
        ends = y.select(d, 0) + y.select(d, -1)
        return (sum_op(y, d, False) - ends * 0.5) * (1 if dx is None else dx)
    return sum_op(_areas("trapezoid", y, x, d), d, False) * 0.5


@composition(method=False, samples=_trapezoids)
def cumulative_trapezoid(
    y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1
) -> Tensor:
    """The integrals up to each point along `dim` by the trapezoidal rule."""
    areas = _areas("cumulative_trapezoid", y, x, dim)
    if x is None:
        return (areas * (0.5 if dx is None else dx / 2.0)).cumsum(dim)
    return areas.cumsum(dim) * 0.5


# ---------------------------------------------------------------- derivatives


def _gradient_samples() -> Iterator[Sample]:
    r = rng(55)
    y = draw(r, (4, 5))
    x = np.cumsum(draw(r, (5,), 0.2, 1.0))
    yield Sample((y,))
    yield Sample((y,), {"spacing": 2.0, "edge_order": 2})
    yield Sample((y,), {"spacing": (0.5, 2.0)})
    yield Sample((y,), {"spacing": (x,), "dim": 1})
    yield Sample((y,), {"spacing": (x[:4], x), "dim": (0, 1), "edge_order": 2})
    yield Sample((y,), {"dim": (-1,)})
    yield Sample((y,), {"dim": (0, 0)}, error=RuntimeError)
    yield Sample((y,), {"edge_order": 3}, error=RuntimeError)
    yield Sample((y[:1],), error=RuntimeError)
    yield Sample((y,), {"spacing": (1.0,), "dim": (0, 1)}, error=RuntimeError)


def _slope(y: Tensor, x: Tensor | float, d: int, order: int) -> Tensor:
    """The derivative along d: central differences inside, those of the parabola or line at the ends."""
    n = y.shape[d]
    f = [y.narrow(d, a, n - 2) for a in range(3)]
    ends = [
        [y.narrow(d, i, 1) for i in range(order + 1)],
        [y.narrow(d, n - 1 - i, 1) for i in range(order + 1)],
    ]
    if isinstance(x, Tensor):
        shape = [-1 if i == d else 1 for i in range(y.ndim)]
        h = x[1:] - x[:-1]
        a, b = h[:-1].reshape(shape), h[1:].reshape(shape)
        middle = (f[2] - f[1]) * (a / (b * (a + b))) + (f[1] - f[0]) * (b / (a * (a + b)))
        steps = [(h[0], h[1] if n > 2 else h[0]), (-h[-1], -h[-2] if n > 2 else -h[-1])]
    else:
        middle = (f[2] - f[0]) / (2 * x)
        steps = [(x, x), (-x, -x)]
    out = []
    for points, (a, b) in zip(ends, steps, strict=True):
        slope = (points[1] - points[0]) / a
        if order == 2:
            slope = slope * ((2 * a + b) / (a + b)) - (points[2] - points[1]) / b * (a / (a + b))
        out.append(slope)
    return cat([out[0], middle, out[1]], d)


@composition(method=False, samples=_gradient_samples)
def gradient(
    input: Tensor, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1
) -> tuple[Tensor, ...]:
    """Estimates of the derivatives along dimensions, of samples `spacing` apart (or at the coordinates it gives).

    Inside central differences of second order; at the ends one-sided ones of order `edge_order`, 1 or 2.
    """
    name = "gradient"
    if edge_order not in (1, 2):
        raise KilnError(
            name, "torch.gradient only supports edge_order=1 and edge_order=2.", edge_order, ""
        )
    spacing = 1 if spacing is None else spacing
    given = range(input.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    dims = [norm_dim(d, input.ndim, name) for d in given]
    if len(set(dims)) < len(dims):
        raise KilnError(name, "a dim appears multiple times in the list of dims", repr(dim), "")
    several = isinstance(spacing, list | tuple)
    steps = list(spacing) if several else [spacing] * len(dims)
    if len(steps) != len(dims):
        raise KilnError(name, "expected spacing to be unspecified, a scalar or a list of length equal to that of dim",
                        f"{len(steps)} steps for {len(dims)} dims", "")  # fmt: skip
    for d, step in zip(dims, steps, strict=True):
        if isinstance(step, Tensor) and step.device != input.device:
            raise KilnError(
                name,
                "expected each tensor to be on the same device",
                f"{input.device} and {step.device}",
                "move one of them with .to(device)",
            )
        if input.shape[d] < edge_order + 1:
            raise KilnError(
                name,
                "expected each dimension size to be at least edge_order+1",
                describe(input),
                "",
            )
        if several and isinstance(step, Tensor) and tuple(step.shape) != (input.shape[d],):
            raise KilnError(name, "expected each tensor of coordinates to have one value for each sample",
                            describe((input, step)), "")  # fmt: skip
    return tuple(_slope(input, step, d, edge_order) for d, step in zip(dims, steps, strict=True))


# ---------------------------------------------------------------- medians


def _middle(input: np.ndarray) -> np.ndarray:
    """Where the lower median is along the last axis; a NaN where there is one."""
    index = kth_place(input, (input.shape[-1] - 1) // 2)
    if input.dtype.kind == "f":
        bad = np.isnan(input)
        index = np.where(bad.any(-1, keepdims=True), bad.argmax(-1, keepdims=True), index)
    return index


def _median_infer(input: Any, dim: int, keepdim: bool) -> list:
    if input.dtype.category in (dt.BOOL, dt.COMPLEX):
        raise KilnNotImplementedError(
            "median", f"not implemented for {input.dtype.name}", describe(input), "convert it"
        )
    return select_rule("median")(input, dim, keepdim)


def _find_median(input: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    return np.moveaxis(_middle(np.moveaxis(input, axis, -1)), -1, axis)


@op(name="median_dim", private=True, exact=True, result_names="values indices", nondiff_outputs=(1,),
    infer=_median_infer, grad={"input": select_grad}, samples=select_samples)  # fmt: skip
def median_dim(input: Tensor, dim: int, keepdim: bool) -> Tensor:
    """The lower median along a dimension and its index."""
    return select(input, dim, keepdim, _find_median)


def _median_samples() -> Iterator[Sample]:
    yield Sample((draw(rng(), (3, 4)),))
    yield Sample((draw(rng(), ()),))
    yield Sample((np.array([1.0, np.nan, 2.0]),), grad=False)
    yield Sample((np.zeros((0,)),), grad=False)


@op(node="MedianBackward0", name="median_all", private=True, exact=True, infer=lambda input: (Size(()), input.dtype),
    grad={"input": lambda g, input, out: share(g, (input == out) | (input.isnan() & out.isnan()), None, False)}, samples=_median_samples)  # fmt: skip
def median_all(input: Tensor) -> Tensor:
    """The lower median of all elements; NaN for none."""
    flat = input.reshape(-1)
    return flat[_middle(flat)[0]] if flat.size else np.asarray(np.nan).astype(input.dtype)


@composition(out=True, samples=lambda: iter([
    *_median_samples(), Sample((draw(rng(), (3, 4)), 1, True)), Sample((draw(rng(), (3, 4)), 2), error=IndexError),
]))  # fmt: skip
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median, the lower one of two; with `dim` (values, indices) along it."""
    return median_all(input) if dim is None else median_dim(input, dim, keepdim)


def _nan_middle(input: np.ndarray, axis: int, keepdims: bool) -> np.ndarray:
    """Where the lower median of the numbers is: NaNs are sorted to the end and not counted."""
    input = input.astype(np.float32) if input.dtype == dt.bfloat16.np else input
    if input.dtype.kind != "f" or not np.isnan(input).any():
        return _find_median(input, axis, keepdims)
    order = np.argsort(input, axis, kind="stable")
    count = np.sum(~np.isnan(input), axis, keepdims=True)
    return np.take_along_axis(order, np.maximum(count - 1, 0) // 2, axis)


@op(name="nanmedian_dim", private=True, exact=True, result_names="values indices", nondiff_outputs=(1,),
    infer=_median_infer, grad={"input": select_grad}, samples=select_samples)  # fmt: skip
def nanmedian_dim(input: Tensor, dim: int, keepdim: bool) -> Tensor:
    """The lower median of the numbers along a dimension and its index."""
    return select(input, dim, keepdim, _nan_middle)


@op(name="nanmedian_all", private=True, exact=True, infer=lambda input: (Size(()), input.dtype),
    grad={"input": lambda g, input, out: share(g, (input == out) | (input.isnan() & out.isnan()), None, False)}, samples=_median_samples)  # fmt: skip
def nanmedian_all(input: Tensor) -> Tensor:
    """The lower median of all numbers; NaN for none."""
    flat = input.reshape(-1)
    return (
        flat[_nan_middle(flat, 0, True)[0]] if flat.size else np.asarray(np.nan).astype(input.dtype)
    )


@composition(samples=lambda: iter([
    *_median_samples(), Sample((draw(rng(), (3, 4)), 1, True)), Sample((draw(rng(), (3, 4)), 2), error=IndexError),
    Sample((np.array([[1.0, np.nan, 2.0, 3.0]]), -1), grad=False),
]))  # fmt: skip
def nanmedian(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, out: Any = None
) -> Any:
    """`median` of the elements that are not NaN."""
    r = nanmedian_all(input) if dim is None else nanmedian_dim(input, dim, keepdim)
    return store_out(nanmedian_dim.op, r, out)
