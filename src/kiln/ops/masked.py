"""Reductions and normalisations of the elements that a mask selects: `kiln.masked`.

An element that is masked out counts as the value that changes nothing: 0 in a sum, -inf in a maximum.
Defined when `kiln.masked` is first imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnIndexError, KilnNotImplementedError, KilnValueError, describe
from ..shape import norm_dim
from ..tensor import Tensor
from .registry import FUNCTIONS, Sample, composition
from .samples import draw, rng
from .selection import where_op

Dims = int | tuple[int, ...] | list[int] | None

# ---------------------------------------------------------------- masks, dimensions and what changes nothing


def _canonical(input: Tensor, mask: Tensor) -> Tensor:
    if mask.ndim > input.ndim:
        raise KilnIndexError("masked", "expected a broadcastable mask (got mask dimensionality higher than of the input)",
                             describe((input, mask)), "")  # fmt: skip
    mask = mask.to(dt.bool_)
    return mask if mask.shape == input.shape else mask.expand(input.shape)


def _extreme(d: dt.dtype, sign: int) -> Any:
    """The largest (or smallest) number of a dtype."""
    if d.is_floating_point:
        return sign * float("inf")
    if d.category != dt.INT:
        raise KilnNotImplementedError(
            "masked", f"there is no largest {d.name}", d.name, "convert first"
        )
    return dt.iinfo(d).max if sign > 0 else dt.iinfo(d).min


def _filled(input: Tensor, mask: Tensor | None, value: Any) -> Tensor:
    """input with the masked-out elements replaced."""
    return (
        input
        if mask is None
        else where_op(_canonical(input, mask), input, input.new_full((), value))
    )


def _dims(dim: Dims, ndim: int) -> tuple[int, ...]:
    if dim is None or (isinstance(dim, tuple | list) and not dim):
        return tuple(range(ndim))
    dims = [norm_dim(d, ndim, "masked") for d in ((dim,) if isinstance(dim, int) else dim)]
    for d in dims:
        if dims.count(d) > 1:
            raise KilnError(
                "masked", f"dim={d} appears multiple times in the list of dims", dim, ""
            )
    return tuple(sorted(dims))


def _wide(input: Tensor, dtype: Any) -> dt.dtype:
    """The dtype of a sum or product: asked for, or int64 for integers."""
    if dtype is not None:
        return dt.as_dtype(dtype)
    return dt.int64 if input.dtype.category <= dt.INT else input.dtype


def _same(input: Tensor, dtype: Any) -> dt.dtype:
    return input.dtype if dtype is None else dt.as_dtype(dtype)


# ---------------------------------------------------------------- samples


def _samples(*rest: tuple, integers: bool = False) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        r = rng(31)
        x, mask = draw(r, (3, 4, 2)), r.random((3, 4, 2)) > 0.4
        mask[:, 0, 0] = True
        for args in rest or ((),):
            yield Sample((x, *args))
            yield Sample((x, *args), {"mask": mask}, fixed=("mask",))
            yield Sample((x, *args), {"mask": mask[:, :1, :1]}, fixed=("mask",))
        yield Sample(
            (x, *(rest[0] if rest else ())), {"mask": np.ones((2, 3, 4, 2), bool)}, error=IndexError
        )
        if integers:
            yield Sample(
                (np.arange(6).reshape(2, 3), *rest[0]),
                {"mask": np.array([True, False, True])},
                grad=False,
            )

    return samples


_REDUCED = _samples((), (1,), ((0, 2),), integers=True)


def _export(name: str, doc: str, samples: Callable) -> Callable:
    def register(fn: Callable) -> Callable:
        fn.__name__, fn.__doc__ = name, doc
        return composition(
            namespace="masked", method=False, samples=samples, torch_name=f"masked.{name}"
        )(fn)

    return register


# ---------------------------------------------------------------- reductions


def _reduction(
    name: str, value: Callable[[Tensor], Any], run: Callable, doc: str, samples: Callable = _REDUCED
) -> Callable:
    def fn(
        input: Tensor,
        dim: Dims = None,
        *,
        keepdim: bool = False,
        dtype: Any = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        x = input if mask is None else _filled(input, mask, value(input))
        return run(x, dim, bool(keepdim), dtype)

    return _export(name, doc, samples)(fn)


def _product(x: Tensor, dim: Dims, keepdim: bool, dtype: Any) -> Tensor:
    x = x.to(_wide(x, dtype))
    for d in reversed(_dims(dim, x.ndim)):
        x = x.prod(d, keepdim)
    return x


def _place(name: str) -> Callable:
    def run(x: Tensor, dim: Dims, keepdim: bool, dtype: Any) -> Tensor:
        return FUNCTIONS[name](x, dim, keepdim).to(_same(x, dtype))

    return run


def _largest(name: str) -> Callable:
    def run(x: Tensor, dim: Dims, keepdim: bool, dtype: Any) -> Tensor:
        return FUNCTIONS[name](x, _dims(dim, x.ndim), keepdim).to(_same(x, dtype))

    return run


total = _reduction("sum", lambda x: 0, lambda x, dim, keepdim, dtype: x.sum(_dims(dim, x.ndim), keepdim, dtype=_wide(x, dtype)),
                   "The sum of the unmasked elements over `dim`.")  # fmt: skip
_reduction("prod", lambda x: 1, _product, "The product of the unmasked elements over `dim`.")
_reduction(
    "amax",
    lambda x: _extreme(x.dtype, -1),
    _largest("amax"),
    "The largest unmasked element over `dim`.",
)
_reduction(
    "amin",
    lambda x: _extreme(x.dtype, 1),
    _largest("amin"),
    "The smallest unmasked element over `dim`.",
)
_ARGS = _samples((), (1,), integers=True)
_reduction(
    "argmax",
    lambda x: _extreme(x.dtype, -1),
    _place("argmax"),
    "Where the largest unmasked element is along `dim`.",
    _ARGS,
)
_reduction(
    "argmin",
    lambda x: _extreme(x.dtype, 1),
    _place("argmin"),
    "Where the smallest unmasked element is along `dim`.",
    _ARGS,
)
_reduction("logsumexp", lambda x: complex(float("-inf")) if x.is_complex() else _extreme(x.dtype, -1), _largest("logsumexp"),
           "log(sum(exp(x))) of the unmasked elements over `dim`.", _samples((), (1,), ((0, 2),)))  # fmt: skip


def _count(input: Tensor, dim: Dims, keepdim: bool, mask: Tensor | None) -> Tensor:
    ones = input.new_ones(input.shape, dtype=dt.bool_) if mask is None else _canonical(input, mask)
    return ones.sum(_dims(dim, input.ndim), keepdim)


@_export(
    "mean",
    "The mean of the unmasked elements over `dim`; NaN where there are none.",
    _samples((), (1,), ((0, 2),)),
)
def mean(
    input: Tensor,
    dim: Dims = None,
    *,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Tensor | None = None,
) -> Tensor:
    d = _same(input, dtype)
    if d.category < dt.FLOAT:
        raise KilnValueError("mean", "could not infer output dtype: it must be either a floating point or complex dtype",
                             d.name, "pass dtype=kiln.float32")  # fmt: skip
    return total(input, dim, keepdim=keepdim, dtype=d, mask=mask) / _count(
        input, dim, keepdim, mask
    )


@_export(
    "median",
    "The lower median of the unmasked elements along `dim`; NaN where there are none.",
    _samples((), (1,)),
)
def median(
    input: Tensor,
    dim: int = -1,
    *,
    keepdim: bool = False,
    dtype: Any = None,
    mask: Tensor | None = None,
) -> Tensor:
    floating = input.is_floating_point()
    x = _filled(input if floating else input.float(), mask, float("nan"))
    out = x.nanmedian(_dims(dim, x.ndim)[0], keepdim)[0]
    if floating:
        return out
    if out.isnan().any():
        raise KilnValueError("median", "masked median expects no fully masked out rows if dtype is not floating point",
                             describe(input), "convert first: x.float()")  # fmt: skip
    return out.to(_same(input, dtype))


@_export(
    "norm",
    "The `ord`-norm of the unmasked elements over `dim`.",
    _samples((), (3.0, 1), (float("-inf"), (0, 2))),
)
def norm(input: Tensor, ord: float = 2.0, dim: Dims = None, *, keepdim: bool = False, dtype: Any = None,
         mask: Tensor | None = None) -> Tensor:  # fmt: skip
    x = _filled(input, mask, float("inf") if ord == float("-inf") else 0)
    return FUNCTIONS["linalg.vector_norm"](
        x, ord, _dims(dim, x.ndim), bool(keepdim), dtype=_same(x, dtype)
    )


def _spread(name: str, root: bool, doc: str) -> None:
    def fn(input: Tensor, dim: Dims = None, unbiased: bool | None = None, *, correction: float | None = None,
           keepdim: bool = False, dtype: Any = None, mask: Tensor | None = None) -> Tensor:  # fmt: skip
        if correction is None:
            correction = 1 if unbiased is None else int(unbiased)
        d = _same(input, dtype)
        if dtype is None and d.category < dt.FLOAT:
            d = dt.float32
        wide = d if d.category >= dt.FLOAT else dt.float32
        n = _count(input, dim, True, mask)
        off = input - total(input, dim, keepdim=True, dtype=d, mask=mask) / n
        squares = total(off * off.conj(), dim, keepdim=keepdim, dtype=wide, mask=mask)
        n = n.reshape(squares.shape)
        if correction:
            n = (n.to(wide.to_real()) - correction).clamp(min=0)
        out = (squares / n).to(d)
        return out.sqrt() if root else out

    _export(name, doc, _samples((), (1,), ((0, 2), False)))(fn)


_spread("var", False, "The variance of the unmasked elements over `dim`.")
_spread("std", True, "The standard deviation of the unmasked elements over `dim`.")


# ---------------------------------------------------------------- along a dimension


def _along(name: str, value: Callable[[Tensor], Any], doc: str) -> None:
    run = FUNCTIONS[name if name.startswith("cum") else f"nn.functional.{name}"]

    def fn(input: Tensor, dim: int, *, dtype: Any = None, mask: Tensor | None = None) -> Tensor:
        x = input if mask is None else _filled(input, mask, value(input))
        return run(x, _dims(dim, x.ndim)[0], dtype=_same(x, dtype))

    _export(name, doc, _samples((1,), (-1,)))(fn)


_along("cumsum", lambda x: 0, "The running sums of the unmasked elements along `dim`.")
_along("cumprod", lambda x: 1, "The running products of the unmasked elements along `dim`.")
_along(
    "softmax", lambda x: _extreme(x.dtype, -1), "`softmax` over the unmasked elements along `dim`."
)
_along(
    "log_softmax",
    lambda x: _extreme(x.dtype, -1),
    "`log_softmax` over the unmasked elements along `dim`.",
)
_along(
    "softmin", lambda x: _extreme(x.dtype, 1), "`softmin` over the unmasked elements along `dim`."
)


@_export("normalize", "The unmasked elements divided by their `ord`-norm along `dim`, or by `eps` where that is larger.",
         _samples((2.0, 1), (1.0, -1)))  # fmt: skip
def normalize(
    input: Tensor,
    ord: float,
    dim: int,
    *,
    eps: float = 1e-12,
    dtype: Any = None,
    mask: Tensor | None = None,
) -> Tensor:
    size = norm(input, ord, dim, keepdim=True, dtype=dtype, mask=mask)
    return _filled(input, mask, 0) / size.maximum(size.new_full((), eps))


@_export("logaddexp", "log(exp(input) + exp(other)) where both are unmasked, else of one of them, else -inf.", lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (3, 4))), {"input_mask": rng(2).random((3, 4)) > 0.3}, grad=False),
    Sample((draw(rng(), (3, 4)), draw(rng(1), (3, 4)))),
]))  # fmt: skip
def logaddexp(input: Tensor, other: Tensor, *, dtype: Any = None, input_mask: Tensor | None = None,
              other_mask: Tensor | None = None) -> Tensor:  # fmt: skip
    low = _extreme(input.dtype, -1)
    r = FUNCTIONS["logaddexp"](_filled(input, input_mask, low), _filled(other, other_mask, low))
    return r.to(_same(input, dtype))
