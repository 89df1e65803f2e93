"""Masks: reading and writing where a condition holds, and finding where it does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import mode
from ..autograd.recorders import called
from ..errors import KilnError, KilnTypeError, describe
from ..shape import broadcast_shapes
from ..tensor import CAPTURING, PLAIN, Tensor, wrap
from . import storing
from .dispatch import LARGE
from .indexing import assign, index_op
from .picking import masked_scatter_op, nonzero_op
from .registry import Sample, composition, method
from .samples import draw, rng
from .selection import where_op

_F32, _F64, _BOOL = dt.float32.np, dt.float64.np, dt.bool_.np


def _mask_check(name: str, mask: Any) -> None:
    if not isinstance(mask, Tensor) or mask.dtype is not dt.bool_:
        raise KilnError(
            name, f"{name} only supports boolean masks", describe(mask), "compare first: x > 0"
        )


def _mask_samples() -> Any:
    yield Sample((draw(rng(), (3, 4)), rng(1).random((3, 4)) > 0.5, 1.5))
    yield Sample((draw(rng(), (3, 4)), rng(1).random((4,)) > 0.5, draw(rng(2), ())))
    yield Sample((draw(rng(), ()), np.array(True), 0.0))
    yield Sample((draw(rng(), (3,)), draw(rng(), (3,)), 1.0), error=RuntimeError)
    some = np.array([True, False])
    yield Sample((np.array([True, False]), some, 10), grad=False)
    yield Sample((np.array([1, 2]), some, 2.5), grad=False)
    yield Sample((np.array([1, 2], np.uint8), some, 300), error=RuntimeError)
    yield Sample((np.array([1, 2]), some, np.array(1j)), error=RuntimeError)


def filled(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """input with `value` where the mask is True, in the order in which input lies."""
    _mask_check("masked_fill", mask)
    if isinstance(value, Tensor):
        if value._a.ndim:
            raise KilnError(
                "masked_fill", "masked_fill only supports a 0-dimensional value tensor",
                describe(value), "",
            )  # fmt: skip
        if value.is_complex() and not input.is_complex():
            raise KilnError("masked_fill", f"value cannot be converted to type {input.dtype.name} without overflow",
                            describe(value), "cast the tensor first")  # fmt: skip
        value = value.to(input.dtype)
    else:
        value = dt.element(value, input.dtype, "masked_fill")
    return where_op(mask, value, input)


@composition(samples=_mask_samples)
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """input with `value` where the mask is True."""
    if (
        (value.__class__ is float or value.__class__ is int) and not CAPTURING and input.__class__ in PLAIN
        and mask.__class__ in PLAIN and not (mode.grad and (input._rg or input._base is not None))
        and (a := input._a).__class__ is np.ndarray is (m := mask._a).__class__ and a.shape == m.shape
        and (a.dtype is _F32 or a.dtype is _F64) and m.dtype is _BOOL and a.flags.c_contiguous and a.size < LARGE
        and not dt.FLOAT32_MAX < abs(value) < math.inf
    ):  # fmt: skip
        r = a.copy()
        np.copyto(r, a.dtype.type(value), where=m)
        return wrap(r)
    out = called(filled(input, mask, value), f"MaskedFillBackward{int(isinstance(value, Tensor))}")
    return out.contiguous()


@method("masked_fill_")
def masked_fill_(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Set elements to `value` where the mask is True; returns self."""
    return assign(self, masked_fill, mask, value)


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), rng(1).random((3, 4)) > 0.5)),
                                   Sample((draw(rng(), (3, 4)), rng(1).random((4,)) > 0.5))]))  # fmt: skip
def masked_select(input: Tensor, mask: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The elements where the mask is True, in one dimension."""
    _mask_check("masked_select", mask)
    shape = broadcast_shapes(input._a.shape, mask._a.shape, op="masked_select")
    r = called(input.expand(shape)[mask.expand(shape)], "MaskedSelectBackward0")
    return storing.store_out(index_op.op, r, out, (input, mask))


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), rng(1).random((4,)) > 0.5, draw(rng(2), (3, 4)))),
    Sample((draw(rng(), (4,)), rng(1).random((3, 4)) > 0.5, draw(rng(2), (3, 4)))),
    Sample((draw(rng(), ()), np.array(True), draw(rng(2), (1,)))),
    Sample((draw(rng(), (3,)), np.array([True, True, False]), draw(rng(2), (1,))), error=RuntimeError),
]))  # fmt: skip
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """input with consecutive elements of source where the mask is True."""
    _mask_check("masked_scatter", mask)
    if source.dtype is not input.dtype:
        raise KilnError("masked_scatter", "input and source must have the same dtype",
                        f"{describe(input)}, {describe(source)}", "convert one of them")  # fmt: skip
    shape = broadcast_shapes(input.shape, mask.shape, op="masked_scatter")
    return masked_scatter_op(input if input.shape == shape else input.expand(shape), mask, source)


@method("masked_scatter_")
def masked_scatter_(self: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """`masked_scatter` in place."""
    return assign(self, masked_scatter, mask, source)


# ---------------------------------------------------------------- coordinates


@composition(samples=None)
def nonzero(input: Tensor, *, out: Any = None, as_tuple: bool = False) -> Any:
    """Coordinates of the elements that are not zero: an (n, ndim) tensor, or a tuple of columns."""
    if as_tuple:
        if out is not None:
            kind = KilnError if isinstance(out, Tensor) else KilnTypeError
            raise kind(
                "nonzero", "nonzero does not support out= when as_tuple is True", describe(out), ""
            )
        coords = nonzero_op(input.reshape(1) if input._a.ndim == 0 else input)
        return tuple(coords[:, i] for i in range(coords._a.shape[1]))
    r = nonzero_op(input)
    return storing.store_out(nonzero_op.op, r, out)  # type: ignore[attr-defined]


@composition(samples=None)
def argwhere(input: Tensor) -> Tensor:
    """Coordinates of the elements that are not zero, one row each."""
    return nonzero_op(input)
