"""Scans: sums, products and extremes of everything up to each element, and differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import mode
from ..errors import KilnError, KilnNotImplementedError, describe
from ..shape import index_int, norm_dim
from ..tensor import Tensor
from .indexing import assign
from .joining import cat
from .registry import Sample, composition, method, op
from .samples import draw, rng, strided
from .selection import where_op
from .storing import store_out

_F32 = dt.float32.np


def _rule(name: str) -> Callable:
    def infer(input: Any, dim: int) -> tuple:
        norm_dim(dim, len(input.shape), name)
        return input.shape, dt.int64 if input.dtype.category < dt.FLOAT else input.dtype

    return infer


def _samples(low: float = -2.0, *, integers: bool = True) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        r = rng(50)
        yield Sample((draw(r, (3, 4), low), 0))
        yield Sample((draw(r, (2, 3, 4), low), -1))
        yield Sample((draw(r, (), low), 0))
        yield Sample((draw(r, (0, 2)), 0))
        yield Sample((strided(draw(r, (4, 3), low)), 1))
        if integers:
            yield Sample((r.integers(-3, 4, (3, 4)), 1), grad=False)
            yield Sample((r.integers(0, 2, (3, 4)) > 0, 0), grad=False)
        yield Sample((draw(r, (3, 4)), 2), error=IndexError)

    return samples


def _from_end(x: Tensor, dim: int) -> Tensor:
    """The sum of each element and those after it."""
    if not x._a.ndim:
        return x
    return cumsum_op(x.flip(dim), dim).flip(dim)


@op(name="cumsum", private=True, family="scan", check=False, infer=_rule("cumsum"),
    grad={"input": lambda g, dim: _from_end(g, dim)}, samples=_samples())  # fmt: skip
def cumsum_op(input: Tensor, dim: int) -> Tensor:
    """The sum of all elements up to each one; float32 adds up in float64, integers in int64."""
    if not input.ndim:
        return input.astype(np.int64) if input.dtype.kind in "iub" else input.copy()
    if input.dtype.kind in "iub":
        return np.add.accumulate(input, dim, np.int64)
    total = np.add.accumulate(input, dim, np.float64 if input.dtype == _F32 else None)
    total += 0  # which the sum begins with: -0 comes out as 0
    return total.astype(input.dtype, copy=False)


def _cumprod_grad(g: Tensor, input: Tensor, out: Tensor, dim: int) -> Tensor:
    conj = out.is_complex()
    return _others(g, input.conj() if conj else input, out.conj() if conj else out, dim, mode.grad)


def _others(g: Tensor, x: Tensor, out: Tensor, dim: int, again: bool) -> Tensor:
    # Up to the first 0 the products of the others are out / x; at it they are the products with a 1 in
    # its place; after it they are 0, as they have it as a factor: what it multiplies is the same once
    # more, for the second 0, and only matters to a second derivative (`again`).
    zero = x == 0
    seen = cumsum_op(zero, dim)
    first = zero & (seen == 1)
    before = _from_end(g * out, dim) / where_op(zero, 1, x)
    without = where_op(first, 1, x)
    products = cumprod_op(without, dim)
    at = _from_end(g * products, dim)
    after: Any = 0
    if again and x.ndim:
        factor = where_op(first, x, 0).sum(dim, True)
        after = factor * _others(g, without, products, dim, False)
    return where_op(seen == 0, before, where_op(first, at, after))


def _with_zeros() -> Iterator[Sample]:
    yield from _samples(0.5)()
    yield Sample((np.array([[1.0, 0.0, 2.0, 0.0], [3.0, 2.0, 0.0, 1.0]]), 1))
    yield Sample((np.array([0.0, 0.0, 2.0, 0.0, 3.0]), 0))


@op(name="cumprod", private=True, family="scan", check=False, infer=_rule("cumprod"),
    grad={"input": _cumprod_grad}, samples=_with_zeros)  # fmt: skip
def cumprod_op(input: Tensor, dim: int) -> Tensor:
    """The product of all elements up to each one; integers multiply in int64."""
    if not input.ndim:
        return input.astype(np.int64) if input.dtype.kind in "iub" else input.copy()
    return np.cumprod(input, dim, np.int64 if input.dtype.kind in "iub" else None)


def _public(name: str, run: Any, doc: str) -> Any:
    def scan(
        input: Tensor,
        dim: int,
        *,
        dtype: Any = None,
        out: Tensor | None = None,
    ) -> Tensor:
        dim = index_int(dim, name, "dim")
        if dtype is None and out is not None:
            dtype = out.dtype
        if dtype is dt.bool_ and input.numel() and len(input.shape):
            raise KilnNotImplementedError(
                name, "not implemented for bool results", describe(input), "any(), all()"
            )
        r = run(input if dtype is None else input.to(dt.as_dtype(dtype)), dim)
        r = r if dtype is None else r.to(dtype)
        return store_out(run.op, r, out, (input,))

    scan.__name__, scan.__doc__ = name, doc
    fn = composition(samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), 1)), Sample((draw(rng(), (3, 4)), 0), {"dtype": dt.float64}),
        Sample((rng().integers(0, 9, (3, 4)), 0), {"dtype": dt.int32}), Sample((draw(rng(), (3, 4)), -3), error=IndexError),
    ]))(scan)  # fmt: skip

    def of_copy(input: Tensor, dim: int, dtype: Any) -> Tensor:  # gradients may need what self was
        return fn(input.clone(), dim, dtype=dtype)

    def into(self: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
        if dtype is not None and dt.as_dtype(dtype) is not self.dtype:
            raise KilnError(into.__name__, "bad in-place call: the tensor's dtype and the output's should match",
                            f"{describe(self)}, dtype={dt.as_dtype(dtype).name}", "leave dtype out, or use the out-of-place form")  # fmt: skip
        return assign(self, of_copy, dim, self.dtype)

    of_copy.__name__ = name
    into.__name__, into.__doc__ = name + "_", f"In-place form of `{name}`."
    method(into.__name__)(into)
    return fn


cumsum = _public("cumsum", cumsum_op, "The sum of all elements along `dim` up to each one.")
cumprod = _public("cumprod", cumprod_op, "The product of all elements along `dim` up to each one.")


# ---------------------------------------------------------------- running extremes


def _extreme_infer(input: Any, dim: int) -> list:
    norm_dim(dim, len(input.shape), "cummax")
    return [(input.shape, input.dtype), (input.shape, dt.int64)]


def _to_source(gs: Any, picks: Any, in_shape: Any, dim: int) -> Tensor | None:
    if gs[0] is None or not len(in_shape):
        return gs[0]
    return gs[0].new_zeros(in_shape).scatter_add(dim, picks, gs[0])


def _running(name: str, ufunc: Any, doc: str) -> Any:
    def reference(input: Tensor, dim: int) -> Tensor:
        if not input.ndim:
            return input.copy(), np.zeros((), np.int64)
        if input.shape[dim] * 64 < input.size:  # each step for all sequences at once
            steps = np.ascontiguousarray(np.moveaxis(input, dim, 0))
            values, place = np.empty_like(steps), np.zeros(steps.shape, np.int64)
            values[:1] = steps[:1]
            for i in range(1, len(steps)):
                x, best = steps[i], values[i]
                ufunc(values[i - 1], x, out=best)
                place[i] = place[i - 1]
                np.putmask(place[i], (x == best) | (x != x), i)
            return np.moveaxis(values, 0, dim), np.moveaxis(place, 0, dim)
        values = ufunc.accumulate(input, dim)
        attained = (input == values) | (input != input)
        shape = [1] * input.ndim
        shape[dim] = -1
        place = np.where(attained, np.arange(input.shape[dim]).reshape(shape), 0)
        return values, np.maximum.accumulate(place, dim)

    reference.__name__, reference.__doc__ = name, doc
    return op(family="scan", result_names="values indices", nondiff_outputs=(1,), infer=_extreme_infer, out=True,
              grad={"input": _to_source}, samples=_running_samples)(reference)  # fmt: skip


def _running_samples() -> Iterator[Sample]:
    yield from _samples(integers=False)()
    yield Sample((np.array([1, 1, 2, 2, 1]), 0), grad=False)
    yield Sample((np.array([1.0, np.nan, 0.0, np.nan]), 0), grad=False)


cummax = _running(
    "cummax",
    np.maximum,
    "(values, indices) of the largest element up to each one; the last of equals.",
)
cummin = _running(
    "cummin",
    np.minimum,
    "(values, indices) of the smallest element up to each one; the last of equals.",
)


# ---------------------------------------------------------------- sums of exponentials, differences


def log_add_exp(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log(exp(a) + exp(b)) of complex arrays, which NumPy has for real ones only."""
    more = a.real >= b.real
    high, low = np.where(more, a, b), np.where(more, b, a)
    return np.where(high.real == -np.inf, high, high + np.log1p(np.exp(low - high)))


def _log_samples() -> Iterator[Sample]:
    yield from _samples(integers=False)()
    yield Sample((draw(rng(), (3, 4)) + 1j * draw(rng(1), (3, 4)), 1))


def _lcse_infer(input: Any, dim: int) -> tuple:
    norm_dim(dim, len(input.shape), "logcumsumexp")
    if input.dtype.category < dt.FLOAT:
        raise KilnNotImplementedError(
            "logcumsumexp",
            f"not implemented for {input.dtype.name}",
            describe(input),
            "convert with .float()",
        )
    return input.shape, input.dtype


def _lcse_grad(g: Tensor, input: Tensor, out: Tensor, dim: int) -> Tensor:
    # sum over j >= i of g[j] * exp(x[i] - out[j]), in logarithms and for each sign of g, so that
    # nothing overflows
    if g.is_complex():
        log = g.conj().log() - out
        tail = logcumsumexp(log.flip(dim), dim).flip(dim) if log._a.ndim else log
        return (tail + input).exp().conj()

    def part(size: Tensor, here: Tensor) -> Tensor:
        log = where_op(here, where_op(here, size, 1).log() - out, float("-inf"))
        tail = logcumsumexp(log.flip(dim), dim).flip(dim) if log._a.ndim else log
        return (tail + input).exp()

    return part(g, g > 0) - part(-g, g < 0)


@op(
    family="scan",
    infer=_lcse_infer,
    out=True,
    grad={"input": _lcse_grad},
    samples=_log_samples,
)
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """log of the sum of exponentials of all elements along `dim` up to each one, without overflow."""
    if not input.ndim:
        return input.copy()
    if input.dtype.kind == "c":
        out = input.copy()
        rows = np.moveaxis(out, dim, 0)
        for i in range(1, len(rows)):
            rows[i] = log_add_exp(rows[i - 1], rows[i])
        return out
    wide = np.float64 if input.dtype == _F32 else None
    total = np.logaddexp.accumulate(input, dim, wide)
    total += 0  # as for cumsum
    return total.astype(input.dtype, copy=False)


def _diff_samples() -> Iterator[Sample]:
    x = draw(rng(), (3, 4))
    yield Sample((x,))
    yield Sample((x, 2, 0))
    yield Sample((x, 0))
    yield Sample((x, 6))
    yield Sample((x, 0), {"prepend": np.zeros((3, 1))})
    yield Sample((x,), {"prepend": np.zeros((3, 1)), "append": np.ones((3, 2))})
    yield Sample((np.array([True, False, False]),), grad=False)
    yield Sample((draw(rng(), ()),), error=RuntimeError)
    yield Sample((x, -1), error=RuntimeError)


@composition(fused="rounded", out="cast", samples=_diff_samples)
def diff(
    input: Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:
    """The n-th differences of neighbours along `dim`; of bools whether they differ."""
    if not len(input.shape):
        raise KilnError(
            "diff",
            "diff expects input to be at least one-dimensional",
            describe(input),
            "unsqueeze it",
        )
    if n < 0:
        raise KilnError("diff", f"order must be non-negative but got {n}", n, "")
    d = norm_dim(dim, len(input.shape), "diff")
    if n == 0:
        return input.clone()
    parts = [x for x in (prepend, input, append) if x is not None]
    x = cat(parts, d) if len(parts) > 1 else input
    for _ in range(n):
        size = x.shape[d]
        if size == 0:
            break
        after, before = x.narrow(d, 1, size - 1), x.narrow(d, 0, size - 1)
        x = after != before if x.dtype is dt.bool_ else after - before
    return x.clone() if x is input else x  # of no elements
