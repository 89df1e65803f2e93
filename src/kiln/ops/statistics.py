"""Statistics: means, variances, norms and log-sum-exp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import record, record_unary
from ..errors import KilnError, KilnIndexError, KilnTypeError, describe
from ..shape import numel
from ..tensor import CAPTURING, PLAIN, Tensor, wrap
from .arithmetic import conjugate
from .dispatch import LARGE
from .extremes import amax, amin
from .reduction import (
    INT64,
    Dims,
    accurate_sum,
    add_reduce,
    alias_dims,
    converted,
    lined,
    nan_is_zero,
    numpy_axis,
    reduced_axes,
    reduced_count,
    reduced_shape,
    reductions,
    spread,
    spread_array,
    store_nan_free,
    sum_op,
)
from .registry import FUNCTIONS, Op, Sample, composition, op
from .samples import draw, rng, strided
from .selection import where_op
from .storing import store_out

# ---------------------------------------------------------------- means and variances


_F32, _F64 = dt.float32.np, dt.float64.np


def _mean_infer(input: Any, dim: Dims = None, keepdim: bool = False) -> tuple:
    if input.dtype.category < dt.FLOAT:
        raise KilnError(
            "mean", "could not infer output dtype: only floating and complex tensors have a mean",
            describe(input), "convert first (x.float()) or pass dtype=",
        )  # fmt: skip
    return reduced_shape(
        input.shape, reduced_axes(dim, len(input.shape), "mean"), keepdim
    ), input.dtype


def _quick_mean(g: np.ndarray, in_shape: tuple, dim: Dims, keepdim: bool) -> np.ndarray:
    n = prod(in_shape) if dim is None else reduced_count(in_shape, dim)
    exact = not g.ndim and 0 < n < 1 << 24  # then a quotient in float64 rounds to that in float32
    share = np.array(g.item() / n, g.dtype) if exact else g / n
    return spread_array(share, in_shape, dim, keepdim)


@op(
    node=("MeanBackward0", lambda node: f"MeanBackward{int(node.args[1] is not None)}"), name="mean", private=True, family="composite", check=False, infer=_mean_infer,
    grad={"input": lambda g, in_shape, dim, keepdim: spread(g / reduced_count(in_shape, dim), in_shape, dim, keepdim)},
    quick={"input": _quick_mean},
    body=lambda input, dim, keepdim: sum_op(input, dim, keepdim) / reduced_count(input.shape, dim),
    samples=reductions(bad=lambda: iter([Sample((np.arange(3), None, False), error=RuntimeError)])),
)  # fmt: skip
def mean_op(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The mean over dimensions."""
    if input.dtype.kind in "iub":
        raise TypeError("mean of integers")
    s = accurate_sum(input, numpy_axis(dim, input.ndim), keepdim)
    return s / s.dtype.type(input.size / s.size if s.size else reduced_count(input.shape, dim))


_mean = mean_op.op  # type: ignore[attr-defined]


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (3, 4)), -1), {"dtype": dt.float64}),
    Sample((np.arange(3),), {"dtype": dt.float64}, grad=False), Sample((np.arange(3),), error=RuntimeError),
]))  # fmt: skip
def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None, out: Tensor | None = None,
         **names: Any) -> Tensor:  # fmt: skip
    """The mean of all elements, or over `dim`. Integers need `dtype`."""
    if (
        dim is dtype is out is None
        and not keepdim
        and not names
        and not CAPTURING
        and isinstance(input, Tensor)
    ):
        a = input._a
        d = a.dtype
        if (d is _F32 or d is _F64) and 0 < a.size < LARGE and a.flags.c_contiguous:
            t = wrap(np.asarray(add_reduce(a, None) / d.type(a.size)))
            if input._rg or input._base is not None:
                record_unary(_mean, input, t)
            return t
    if names:
        dim, keepdim = alias_dims(dim, keepdim, names, "mean")
    r = mean_op(input if dtype is None else converted(input, dtype), dim, keepdim)
    return store_out(_mean, r, out, cast=True)


@composition(samples=lambda: iter([
    Sample((np.array([[1.0, np.nan], [2.0, 3.0]]), 0)), Sample((np.arange(3),), error=RuntimeError),
]))  # fmt: skip
def nanmean(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None, out: Tensor | None = None,
    **names: Any,
) -> Tensor:  # fmt: skip
    """The mean of the elements that are not NaN."""
    dim, keepdim = alias_dims(dim, keepdim, names, "nanmean")
    if input.dtype.category < dt.FLOAT:
        _mean_infer(input)
    x = converted(input, dtype)
    r = sum_op(nan_is_zero(x), dim, keepdim) / sum_op(~x.isnan(), dim, keepdim)
    return store_nan_free("nanmean", input, r, out)


def _variance_rule(name: str) -> Callable:
    def infer(input: Any, dim: Dims, correction: Any, keepdim: bool) -> tuple:
        if input.dtype.category < dt.FLOAT:
            raise KilnError(
                name, "only floating and complex tensors have a variance", describe(input),
                "convert first: x.float()",
            )  # fmt: skip
        shape = reduced_shape(input.shape, reduced_axes(dim, len(input.shape), name), keepdim)
        return shape, input.dtype.to_real()

    return infer


def _divisor(n: int, correction: Any) -> float:
    return float(n - correction) if n > correction else 0.0


def _deviation(input: Tensor, dim: Dims) -> Tensor:
    return input - mean_op(input, dim, True)


def _inverse(n: float) -> float:
    return 1.0 / n if n else float("inf")


def _var_grad(g: Tensor, input: Tensor, dim: Dims, correction: Any, keepdim: bool) -> Tensor:
    scale = 2.0 * _inverse(_divisor(reduced_count(input.shape, dim), correction))
    return lined(g, input.shape, dim, keepdim) * (_deviation(input, dim) * scale)


def _quick_var(
    g: np.ndarray, input: np.ndarray, dim: Dims, correction: Any, keepdim: bool
) -> np.ndarray:
    if input.dtype.kind != "f":
        raise NotImplementedError
    n = reduced_count(input.shape, dim)
    d = input - accurate_sum(input, numpy_axis(dim, input.ndim), True) / input.dtype.type(n)
    d *= d.dtype.type(2.0 * _inverse(_divisor(n, correction)))
    d *= lined(g, input.shape, dim, keepdim)
    return d


def _quick_std(
    g: np.ndarray, input: np.ndarray, out: np.ndarray, dim: Dims, correction: Any, keepdim: bool
) -> np.ndarray:
    if not out.all():
        raise NotImplementedError
    return _quick_var(g / (out * 2), input, dim, correction, keepdim)


def _var_body(input: Tensor, dim: Dims, correction: Any, keepdim: bool) -> Tensor:
    d = _deviation(input, dim)
    square = d * d if not d.is_complex() else d.real * d.real + d.imag * d.imag
    n = _divisor(reduced_count(input.shape, dim), correction)
    total = sum_op(square, dim, keepdim)
    return total / n if n else total / total.new_zeros(())


def _positive(out: Tensor) -> bool:
    """Whether no number of a result that is there to be looked at is zero."""
    a = out._a
    return not CAPTURING and a.__class__ is np.ndarray and bool(a.all())


def _std_grad(
    g: Tensor, input: Tensor, out: Tensor, dim: Dims, correction: Any, keepdim: bool
) -> Tensor:
    if _positive(out):
        half = g / (out * 2)
    else:
        zero = out == 0
        half = where_op(zero, 0, g / (where_op(zero, 1, out) * 2))
    return _var_grad(half, input, dim, correction, keepdim)


def _variance(input: np.ndarray, dim: Dims, correction: Any, keepdim: bool) -> Any:
    if input.dtype.kind in "iub":
        raise TypeError("variance of integers")
    axis = numpy_axis(dim, input.ndim)
    n = reduced_count(input.shape, dim)
    m = accurate_sum(input, axis, True) / input.dtype.type(n)
    d = input - m
    square = d * d if d.dtype.kind == "f" else d.real * d.real + d.imag * d.imag
    return np.true_divide(
        accurate_sum(square, axis, keepdim), square.dtype.type(_divisor(n, correction))
    )


def _variance_samples() -> Iterator[Sample]:
    r = rng(9)
    x = draw(r, (3, 4, 2))
    for dim in (None, 0, -1, (0, 2), [1]):
        for correction, keepdim in ((1, False), (0, True), (2, False)):
            yield Sample((x, dim, correction, keepdim))
    yield Sample((draw(r, ()), None, 0, False), grad=False)
    yield Sample((draw(r, (1,)), None, 1, False), grad=False)
    yield Sample((draw(r, (0, 2)), 1, 1, False))
    yield Sample((strided(draw(r, (4, 3))), 0, 1, False))
    yield Sample((np.arange(3), None, 1, False), error=RuntimeError)
    yield Sample((x, 3, 1, False), error=IndexError)


@op(name="var", private=True, check=False, infer=_variance_rule("var"), grad={"input": _var_grad}, body=_var_body,
    quick={"input": _quick_var}, samples=_variance_samples)  # fmt: skip
def var_op(input: Tensor, dim: Dims, correction: Any, keepdim: bool) -> Tensor:
    """The variance over dimensions, the sum of squares divided by n - correction."""
    return _variance(input, dim, correction, keepdim)


@op(name="std", private=True, check=False, infer=_variance_rule("std"), grad={"input": _std_grad}, quick={"input": _quick_std},
    body=lambda input, dim, correction, keepdim: var_op(input, dim, correction, keepdim).sqrt(),
    samples=_variance_samples)  # fmt: skip
def std_op(input: Tensor, dim: Dims, correction: Any, keepdim: bool) -> Tensor:
    """The standard deviation over dimensions."""
    return np.sqrt(_variance(input, dim, correction, keepdim))


def _variance_args(name: str, args: tuple, given: dict[str, Any]) -> tuple[Any, Any, bool]:
    """dim, correction, keepdim from any of PyTorch's forms: (unbiased), (dim, unbiased, keepdim), keywords."""
    names = ("unbiased",) if args and isinstance(args[0], bool) else ("dim", "unbiased", "keepdim")
    given = dict(zip(names, args, strict=False)) | given
    if len(args) > len(names) or ("correction" in given and "unbiased" in given):
        raise KilnTypeError(
            name,
            "an invalid combination of arguments",
            describe(args),
            f"{name}(x, dim, correction=1)",
        )
    dim, keepdim = alias_dims(given.pop("dim", None), given.pop("keepdim", False), {
        k: given.pop(k) for k in ("axis", "keepdims") if k in given
    }, name)  # fmt: skip
    unbiased, correction = given.pop("unbiased", True), given.pop("correction", None)
    if given or not isinstance(unbiased, bool):
        raise KilnTypeError(
            name,
            "an invalid argument",
            describe(given or unbiased),
            f"{name}(x, dim, correction=1)",
        )
    return dim, int(unbiased) if correction is None else correction, keepdim


def _spread_samples() -> Iterator[Sample]:
    x = draw(rng(), (3, 4))
    for args, kw in (((), {}), ((False,), {}), ((0,), {"correction": 0, "keepdim": True}), ((1, False), {}),
                     (((0, 1), True, True), {}), ((), {"axis": 0, "unbiased": False})):  # fmt: skip
        yield Sample((x, *args), kw)
    yield Sample((x, 0, 2), error=TypeError)


def _of_all(op: Op, input: Tensor) -> Tensor | None:
    """The variance, or the deviation, of all elements with its defaults: the common case, kept short."""
    if CAPTURING or input.__class__ not in PLAIN:
        return None
    a = input._a
    if a.dtype is not _F32 or not 1 < a.size < LARGE or not a.flags.c_contiguous:
        return None
    n = a.size
    d = a - add_reduce(a, None) / _F32.type(n)
    d *= d
    r = add_reduce(d, None) / _F32.type(n - 1)
    t = wrap(np.asarray(np.sqrt(r) if op is _std else r))
    if input._rg or input._base is not None:
        record(op, (input, None, 1, False), (t,))
    return t


_std = std_op.op  # type: ignore[attr-defined]


@composition(samples=_spread_samples)
def var(input: Tensor, *args: Any, out: Tensor | None = None, **given: Any) -> Tensor:
    """The variance: `var(x, dim=None, *, correction=1, keepdim=False)`, also with `unbiased`."""
    if out is None and not args and not given and (r := _of_all(var_op.op, input)) is not None:
        return r
    return store_out(var_op.op, var_op(input, *_variance_args("var", args, given)), out, cast=True)


@composition(samples=_spread_samples)
def std(input: Tensor, *args: Any, out: Tensor | None = None, **given: Any) -> Tensor:
    """The standard deviation: `std(x, dim=None, *, correction=1, keepdim=False)`, also with `unbiased`."""
    if out is None and not args and not given and (r := _of_all(_std, input)) is not None:
        return r
    return store_out(std_op.op, std_op(input, *_variance_args("std", args, given)), out, cast=True)


@composition(samples=_spread_samples, method=False)
def var_mean(input: Tensor, *args: Any, **given: Any) -> tuple[Tensor, Tensor]:
    """The variance and the mean, with the arguments of `var`."""
    dim, correction, keepdim = _variance_args("var_mean", args, given)
    return var_op(input, dim, correction, keepdim), mean_op(input, dim, keepdim)


@composition(samples=_spread_samples, method=False)
def std_mean(input: Tensor, *args: Any, **given: Any) -> tuple[Tensor, Tensor]:
    """The standard deviation and the mean, with the arguments of `std`."""
    dim, correction, keepdim = _variance_args("std_mean", args, given)
    return std_op(input, dim, correction, keepdim), mean_op(input, dim, keepdim)


# ---------------------------------------------------------------- log-sum-exp and norms


def _lse_infer(input: Any, dim: Dims, keepdim: bool = False) -> tuple:
    d = input.dtype if input.dtype.category >= dt.FLOAT else dt.get_default_dtype()
    return reduced_shape(input.shape, reduced_axes(dim, len(input.shape), "logsumexp"), keepdim), d


def _finite_or_zero(m: Tensor) -> Tensor:
    return where_op(m.isfinite(), m, 0)


def _lse_body(input: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    if input.dtype.category < dt.FLOAT:
        input = input.to(dt.get_default_dtype())
    if numel(input.shape[i] for i in reduced_axes(dim, len(input.shape))) == 0:
        return sum_op(input, dim, keepdim).log()
    x = input.detach()
    m = _finite_or_zero(amax(x.real if x.is_complex() else x, dim, True))
    r = sum_op((input - m).exp(), dim, True).log() + m
    return (
        r
        if keepdim
        else r.reshape(reduced_shape(input.shape, reduced_axes(dim, len(input.shape)), False))
    )


def _quick_lse(
    g: np.ndarray, input: np.ndarray, out: np.ndarray, dim: Dims, keepdim: bool
) -> np.ndarray:
    if input.dtype is not out.dtype or input.dtype.kind != "f":
        raise NotImplementedError
    r = np.exp(input - lined(out, input.shape, dim, keepdim))
    r *= lined(g, input.shape, dim, keepdim)
    return r


@op(
    name="logsumexp", check=False, infer=_lse_infer, body=_lse_body, out="cast across",
    grad={"input": lambda g, input, out, dim, keepdim: (
        lined(g, input.shape, dim, keepdim) * conjugate((input - lined(out, input.shape, dim, keepdim)).exp())
    )},
    quick={"input": _quick_lse},
    samples=lambda: (s for s in (*reductions(integers=True)(), Sample((draw(rng(), (3, 4)) * (1 + 9j), 1))) if s.args[1] is not None),
)  # fmt: skip
def logsumexp(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) over `dim`, computed without overflow."""
    if input.dtype.kind in "iub":
        input = input.astype(dt.get_default_dtype().np)
    axis = numpy_axis(dim, input.ndim)
    if reduced_count(input.shape, dim) == 0:
        return np.log(add_reduce(input, axis, None, None, keepdim))
    m = np.maximum.reduce(input.real, axis, None, None, True)
    m = np.where(np.isfinite(m), m, m.dtype.type(0))
    return np.log(accurate_sum(np.exp(input - m), axis, keepdim)) + (
        m if keepdim else np.squeeze(m, axis)
    )


def _no_integers(input: Any) -> None:
    if input.dtype.category < dt.FLOAT:
        raise KilnError(
            "norm",
            "expected a floating or complex tensor",
            describe(input),
            "convert first: x.float()",
        )


def _norm_infer(input: Any, ord: Any, dim: Dims, keepdim: bool) -> tuple:
    _no_integers(input)
    axes = reduced_axes(dim, len(input.shape), "norm")
    if (
        (ord == float("inf") or ord < 0)
        and numel(input.shape[i] for i in axes) == 0
        and len(input.shape)
    ):
        kind = KilnError if dim is None or numel(input.shape) == 0 else KilnIndexError
        raise kind(
            "norm",
            f"the {ord} norm of no elements is not defined",
            describe(input),
            "use another norm",
        )
    return reduced_shape(input.shape, axes, keepdim), input.dtype.to_real()


def _norm_body(input: Tensor, ord: Any, dim: Dims, keepdim: bool) -> Tensor:
    if ord == 0:
        return sum_op((input != 0).to(input.dtype.to_real()), dim, keepdim)
    x = input.abs() if input.is_complex() or ord != 2 else input
    if ord == 2:
        return sum_op(x * x, dim, keepdim).sqrt()
    if ord == 1:
        return sum_op(x, dim, keepdim)
    if ord in (float("inf"), float("-inf")):
        return (amax if ord > 0 else amin)(x, () if dim is None else dim, keepdim)
    return sum_op(x**ord, dim, keepdim) ** (1.0 / ord)


def _norm_grad(g: Tensor, input: Tensor, out: Tensor, ord: Any, dim: Dims, keepdim: bool) -> Tensor:
    shape = input.shape
    if ord == 0:
        return g.new_zeros(shape)
    if ord == 2 and _positive(out):
        return lined(g, shape, dim, keepdim) * (input / lined(out, shape, dim, keepdim))
    g, norm = spread(g, shape, dim, keepdim), spread(out, shape, dim, keepdim)
    if ord == 1:
        return input.sgn() * g
    if ord == 2:
        zero = norm == 0
        return g * where_op(zero, 0, input / where_op(zero, 1, norm))
    size = input.abs()
    if ord in (float("inf"), float("-inf")):
        mask = size == norm
        return input.sgn() * (g * mask / sum_op(mask, dim, True))
    zero = (size == 0) | (norm == 0)
    power = (where_op(zero, 1, size) / where_op(zero, 1, norm)) ** (ord - 1)
    return where_op(zero, 0, input.sgn() * (g * power))


def _quick_norm(
    g: np.ndarray, input: np.ndarray, out: np.ndarray, ord: Any, dim: Dims, keepdim: bool
) -> np.ndarray:
    if ord != 2 or input.dtype.kind != "f" or not out.all():
        raise NotImplementedError
    r = input / lined(out, input.shape, dim, keepdim)
    r *= lined(g, input.shape, dim, keepdim)
    return r


def apart(r: np.random.Generator, shape: tuple) -> np.ndarray:
    """Values of either sign whose sizes differ by 0.1: no step of a gradient check changes which is largest."""
    n = int(np.prod(shape))
    return ((r.permutation(n) / 10.0 + 0.5) * r.choice((-1.0, 1.0), n)).reshape(shape)


def _norm_samples() -> Iterator[Sample]:
    r = rng(12)
    for ord in (2, 1, 0, 3, 1.5, float("inf"), float("-inf")):
        yield Sample((apart(r, (3, 4)), ord, None, False))
        yield Sample((apart(r, (3, 4, 2)), ord, (0, -1), True))
        yield Sample((draw(r, (), 0.5), ord, None, False))
    yield Sample((draw(r, (0, 3)), 2, 0, False))
    yield Sample((np.zeros((2, 2)), 2, 1, False), grad=False)
    yield Sample((strided(draw(r, (4, 3))), 2, 1, False))
    yield Sample((np.arange(3), 2, None, False), error=RuntimeError)
    yield Sample((np.zeros((0, 3)), float("inf"), None, False), error=RuntimeError)
    yield Sample((draw(r, (3, 4)), 2, 2, False), error=IndexError)


@op(name="norm", node="LinalgVectorNormBackward0", private=True, infer=_norm_infer, body=_norm_body, grad={"input": _norm_grad},
    quick={"input": _quick_norm}, samples=_norm_samples)  # fmt: skip
def norm_op(input: Tensor, ord: Any, dim: Dims, keepdim: bool) -> Tensor:
    """The `ord`-norm of the elements over dimensions."""
    axis = numpy_axis(dim, input.ndim)
    if ord == 0:
        return add_reduce(input != 0, axis, INT64, None, keepdim).astype(input.real.dtype)
    if ord == 2:
        x = (
            input.real * input.real + input.imag * input.imag
            if input.dtype.kind == "c"
            else input * input
        )
        return np.sqrt(accurate_sum(x, axis, keepdim))
    x = np.absolute(input)
    if ord in (float("inf"), float("-inf")):
        return (np.maximum if ord > 0 else np.minimum).reduce(x, axis, None, None, keepdim)
    return (
        accurate_sum(x, axis, keepdim)
        if ord == 1
        else accurate_sum(x**ord, axis, keepdim) ** (1.0 / ord)
    )


def _some_norms() -> Iterator[Sample]:
    x = draw(rng(13), (3, 4), away=2.0)
    yield Sample((x,))
    yield Sample((x, 3), {"dim": 0, "keepdim": True})
    yield Sample((x, 2, (0, 1)), {"dtype": dt.float64})
    yield Sample((x[None], 2, (0, 1, 2)))
    yield Sample((x, 2, 5), error=IndexError)


def _method_norms() -> Iterator[Sample]:
    yield from _some_norms()
    yield Sample((draw(rng(), (2, 3, 2)), "fro", (0, 2)))
    yield Sample((draw(rng(), (2, 3, 2)), "fro", (0, 1, 2)), error=RuntimeError)


@composition(samples=_method_norms)
def norm(input: Tensor, p: Any = "fro", dim: Dims = None, keepdim: bool = False, out: Tensor | None = None,
         dtype: Any = None) -> Tensor:  # fmt: skip
    """The p-norm of the elements, over `dim` where given; "fro" is p = 2, "nuc" sums singular values."""
    many = p == "fro" and isinstance(dim, list | tuple) and len(dim) > 2
    if p == "nuc" or many:  # a norm of matrices, which refuses other than two dims
        dims = tuple(range(input.ndim)) if dim is None else dim
        return FUNCTIONS["linalg.matrix_norm"](input, p, dims, keepdim, dtype=dtype, out=out)
    if isinstance(p, str) and p != "fro":
        raise KilnError("norm", "a norm is a number, 'fro' or 'nuc'", repr(p), "use p=2, 1, inf, …")
    _no_integers(input)
    r = norm_op(converted(input, dtype), 2 if p in (None, "fro") else p, dim, keepdim)
    return store_out(norm_op.op, r, out)


@composition(namespace="linalg", method=False, samples=_some_norms)
def vector_norm(input: Tensor, ord: Any = 2, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None,
                out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The `ord`-norm of the elements seen as a vector, over `dim` where given."""
    return norm(input, ord, dim, keepdim, out, dtype)
