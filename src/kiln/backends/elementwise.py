"""Routines of elementwise ops: kernels that serve any number of elements, in blocks of rows.

Adjacent dimensions along which operands are alike are one. An op's attributes are part of its kernels; numbers in
places of tensors, such as the 1.5 of `x * 1.5`, are not, save some that ops have better forms for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..formats import dense
from ..ops.dispatch import LARGE
from ..ops.half_floats import HALF, hold
from ..ops.registry import Op
from .one_call import DEAR, SMALL, block_rows, calling, half_of, prepared, shelf, widened
from .operands import arrange, crosses, elements

STREAM = 1 << 19
"""Elements from where on kernels beat NumPy where its own loops go as fast as memory does."""

_F32 = dt.float32.np
_NUMBERS = (int, float)
_EXACT = {-2, -1, -0.5, 0, 0.5, 1, 2, 3}
"""Numbers that ops have better forms for, such as squares."""
_STREAMED = {
    np.add, np.subtract, np.multiply, np.divide, np.negative, np.absolute, np.square, np.reciprocal,
    np.maximum, np.minimum, np.floor, np.ceil, np.trunc, np.rint, np.isnan, np.logical_not,
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal,
    np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert,
}  # fmt: skip
"""What NumPy computes with vectors of the processor, in one pass and to the same bits."""


def mapped(
    name: str,
    fn: Callable,
    args: list,
    slots: Sequence[int],
    key: Any = (),
    into: np.ndarray | None = None,
) -> list | None:
    """An elementwise function on arrays at `slots`, in blocks; None where the reference is to do it.

    `into`, the first of them, is overwritten with the result where that is given.
    """
    arrays = [args[i] for i in slots]
    found = arrange(arrays)
    if found is None:
        return None
    operands, cut, shape, order = found
    if into is not None and (
        shape != into.shape or order is not None or not into.flags.c_contiguous
        or any(crosses(a, into) for a in operands[1:])
    ):  # fmt: skip
        return None
    for i, a in zip(slots, operands, strict=True):
        args[i] = a
    cut = [slots[k] for k in cut]
    first = args[cut[0]]
    n = first.shape[0]
    row = prod(shape) // n
    most = block_rows(n, row)
    if into is not None:
        return shelf().run_blocks(name, fn, args, cut, most, (n,), key, operands[0])
    if n > most < 8:  # rows too long for blocks
        r = shelf().run(name, fn, args, (key, "whole"))
    else:
        r = shelf().run_blocks(name, fn, args, cut, most, shape if row == 1 else (n,), key)
    if r is None:
        return None
    full = prod(shape)
    back = None if order is None else sorted(range(len(order)), key=order.__getitem__)
    for k, a in enumerate(r):
        if a.__class__ is not np.ndarray:
            continue
        if a.size != full:
            return None
        a = a if a.shape == shape else a.reshape(shape)
        r[k] = a if back is None else a.transpose(back)
    return r


def numbers(op: Op, args: list, slots: Sequence[int], half: Any, arrays: list) -> list[int]:
    """Put 0-d arrays in place of numbers among operands; gives the slots of all arrays."""
    d = _F32 if half else next((a.dtype for a in arrays if a.dtype.kind == "f"), None)
    found = []
    for i in slots:
        x = args[i]
        if x.__class__ is np.ndarray:
            found.append(i)
        elif x.__class__ in _NUMBERS and d is not None and x not in _EXACT and op.scalar != "pow":
            args[i] = np.array(x, d)
            found.append(i)
    return found


def _quick_cast(a: np.dtype, b: np.dtype) -> bool:
    """Whether NumPy has vectors for a cast: not for half floats, nor between floats and integers of 64 bits."""
    mixed = (a.kind == "f") != (b.kind == "f") and "b" not in (a.kind, b.kind)
    long = any(d.itemsize == 8 and d.kind in "iu" for d in (a, b))
    return b not in HALF and not (mixed and long)


def elementwise(op: Op, native: Callable[[], bool]) -> Callable:
    """The routine of an elementwise op."""
    run, slots, name, body = op.run, op.tensor_slots, op.name, op.body
    once = op.ufunc is not None or op.exact or op.promote == "bool" or not (op.scalar or body)
    first = slots[0]
    factor, cutting = op.factor, op.index.get("rounding_mode")
    cast = op.family == "cast"
    streamed = cast or op.ufunc in _STREAMED
    fn = calling(op)

    def scaled(*args: Any) -> Any:
        return body(*args)  # type: ignore[misc]

    def native_result(args: tuple, into: np.ndarray | None = None) -> Any:
        """The result, in the memory of `into` if that is given; None where the reference is to compute it."""
        arrays = [args[i] for i in slots if args[i].__class__ is np.ndarray]
        size, least = elements(arrays), LARGE if once else DEAR
        if size < least or any(a.dtype.kind == "c" for a in arrays):
            return None
        x = arrays[0]
        half = half_of(arrays)
        if half is False or config.eager != "cpu" or not native():
            return None
        if op.lies == "rows" and not x.flags.c_contiguous:
            return None
        if streamed and size < STREAM and half is None and (
            _quick_cast(x.dtype, args[1].np) if cast else factor is None or args[factor] == 1
        ) and len({a.strides for a in arrays if a.size == size}) == 1:  # fmt: skip
            return None
        if once and not all(a.flags.c_contiguous or 0 in a.strides or dense(a) for a in arrays):
            return None  # NumPy's one pass is less than a copy and one
        if half is None and size < LARGE and x.dtype.kind != "f":
            return None
        given = list(args)
        if half is not None:
            hold(op, given, dt.OF_NUMPY[half])
        places = numbers(op, given, slots, half, arrays)
        call = fn
        if factor is not None and given[factor] != 1:
            if x.dtype.kind != "f" or half or any(a.dtype is not x.dtype for a in arrays):
                return None
            given[factor] = np.array(given[factor], x.dtype)
            places, call = [*places, factor], scaled
        if half is not None and not op.exact and (cutting is None or args[cutting] != "trunc"):
            call = widened(call, dt.OF_NUMPY[half])  # which rounds once
        r = mapped(name, call, given, places, into=into)
        return None if r is None else r[0]

    def eager(*args: Any) -> Any:
        for i in slots:
            x = args[i]
            if x.__class__ is np.ndarray and x.size >= SMALL:
                break
        else:  # by any broadcasting of these
            return run(*args)
        r = native_result(args)
        return run(*args) if r is None else r

    def brief(*args: Any) -> Any:
        x = args[0]
        if (
            x.__class__ is np.ndarray
            and x.dtype is _F32
            and SMALL <= x.size < LARGE
            and x.flags.c_contiguous
        ):
            call = prepared(name, fn, (x,), 1, args[1:], native)
            if call is not None:
                return call(x)
        return eager(*args)

    def into(*args: Any) -> bool:
        x = args[first]
        return x.flags.writeable and native_result(args, x) is not None

    def numbered(*args: Any) -> Any:
        """`brief` where the operands beside the first are numbers: such as kernels are not made for are arrays."""
        x = args[0]
        if not (
            x.__class__ is np.ndarray and x.dtype is _F32 and SMALL <= x.size < LARGE and x.flags.c_contiguous
        ):  # fmt: skip
            return eager(*args)
        given, arrays, places = list(args), [x], []
        for i in slots[1:]:
            a = args[i]
            if a is None or (a.__class__ in _NUMBERS and (a in _EXACT or op.scalar == "pow")):
                continue
            if a.__class__ not in _NUMBERS:
                return eager(*args)
            arrays.append(np.array(a, _F32))
            places.append(i)
            given[i] = ...

        def call(*tensors: Any) -> Any:
            back = iter(tensors)
            return fn(*[next(back) if a is x or a is ... else a for a in given])

        known = prepared(name, call, tuple(arrays), 1, (places, *given[1:]), native)
        return eager(*args) if known is None else known(*arrays)

    def paired(*args: Any) -> Any:
        """`brief` for two arrays alike, as gradients by an input or a result are."""
        x, y = args[0], args[1]
        if (
            x.__class__ is np.ndarray is y.__class__ and x.dtype is _F32 is y.dtype and SMALL <= x.size < LARGE
            and x.shape == y.shape and x.flags.c_contiguous and y.flags.c_contiguous
        ):  # fmt: skip
            call = prepared(name, fn, (x, y), 2, args[2:], native)
            if call is not None:
                return call(x, y)
        return eager(*args)

    op.into = into
    if once or cast or first:
        return eager
    found = brief if slots == (0,) else paired if op.private and slots == (0, 1) else numbered
    found.least = SMALL  # type: ignore[attr-defined]
    return found
