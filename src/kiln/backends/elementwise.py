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
from ..ops.runners import descending
from .one_call import DEAR, SMALL, block_rows, calling, half_of, prepared, shelf, widened
from .operands import arrange, crosses, elements

STREAM = 1 << 19
"""Elements from where on kernels beat NumPy where its own loops go as fast as memory does."""

FEW = 1 << 12
"""Elements up to which a kernel of any number of them is called, by one thread."""
LEAST = 1 << 5
"""Elements from where on such a call costs less than several of NumPy's."""
WHOLE, SINGLE = "(array)", "(number)"

_F32, _F64 = dt.float32.np, dt.float64.np
_NUMBERS = (int, float)
EXACT = {-2, -1, -0.5, 0, 0.5, 1, 2, 3}
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
    exact: bool = False,
) -> list | None:
    """An elementwise function on arrays at `slots`, in blocks; None where the reference is to do it.

    `into`, the first of them, is overwritten with the result where that is given. Kernels for rows that operands
    are repeated along are for rows of one length: where the reference gives the same bits (`exact`), few lengths have them.
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
    like = (lambda: ("rows", key)) if exact and row > 1 else None
    if n > most < 8:  # rows too long for blocks
        r = shelf().run(name, fn, args, (key, "whole"), like)
    else:
        lead = shape if row == 1 else (n,)
        r = shelf().run_blocks(name, fn, args, cut, most, lead, key, like=like)
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
        elif x.__class__ in _NUMBERS and d is not None and x not in EXACT and op.scalar != "pow":
            args[i] = np.array(x, d)
            found.append(i)
    return found


def _quick_cast(a: np.dtype, b: np.dtype) -> bool:
    """Whether NumPy has vectors for a cast: not for half floats, nor between floats and integers of 64 bits."""
    mixed = (a.kind == "f") != (b.kind == "f") and "b" not in (a.kind, b.kind)
    long = any(d.itemsize == 8 and d.kind in "iu" for d in (a, b))
    return b not in HALF and not (mixed and long)


_known: dict[Any, Callable | None] = {}
_MOST = 4096  # kernels that are kept in mind


def few(
    name: str, fn: Callable, d: np.dtype, arrays: int, numbers: int, rest: tuple, native: Callable[[], bool]
) -> Callable | None:  # fmt: skip
    """The kernel of an elementwise function, whatever the number of elements; None where there is none.

    `rest`, which it is given behind the arrays, says with its name which function it is; see `cpu.few.function`.
    """
    if config.eager != "cpu":
        return None
    key = name, d.num, arrays, numbers, str(rest) if 0 in rest else rest, config.cpu_isa
    try:
        return _known[key]
    except KeyError:
        if len(_known) >= _MOST:
            _known.clear()
        call = None
        if native():
            from .cpu.few import function

            call = function(
                f"{name} {rest}",
                lambda *xs: fn(*xs, *rest),
                d,
                arrays,
                numbers,
                config.cpu_isa or None,
            )
        _known[key] = call
        return call


def _in_order(a: np.ndarray) -> bool:
    """Whether no dimension of an array lies outside of an earlier one."""
    return descending(tuple([s for s, n in zip(a.strides, a.shape, strict=True) if n > 1]))


def elementwise(op: Op, native: Callable[[], bool]) -> Callable:
    """The routine of an elementwise op."""
    run, slots, name, body = op.run, op.tensor_slots, op.name, op.body
    once = op.ufunc is not None or op.exact or op.promote == "bool" or not (op.scalar or body)
    first = slots[0]
    factor, cutting = op.factor, op.index.get("rounding_mode")
    cast = op.family == "cast"
    streamed = cast or op.ufunc in _STREAMED
    exact = op.exact or op.ufunc in _STREAMED
    fn, n_arrays = calling(op), len(slots)

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
        r = mapped(name, call, given, places, into=into, exact=exact and half is None)
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
            and LEAST <= x.size < LARGE
            and x.flags.c_contiguous
        ):
            if x.size < FEW:
                call = few(name, fn, _F32, 1, 0, args[1:], native)
                if call is not None:
                    return call(np.empty(x.shape, _F32), x.size, x)
            call = prepared(name, fn, (x,), 1, args[1:], native)
            if call is not None:
                return call(x)
        return eager(*args)

    def dear(*args: Any) -> Any:
        """`otherwise` where there are many elements, or operands are of several dtypes."""
        x = args[0]
        d: Any = x.dtype if x.__class__ is np.ndarray else None
        if d is not _F32 and d is not _F64:
            return otherwise(*args)
        k = n_arrays
        while args[k - 1] is None:  # which may be left out
            k -= 1
        arrays = args[:k]
        for a in arrays:
            if a.__class__ is not np.ndarray or a.dtype is not d:
                return otherwise(*args)
        shape = x.shape
        for a in arrays[1:]:
            if a.shape != shape:
                shape = np.broadcast_shapes(*[a.shape for a in arrays])
                break
        n = prod(shape)
        if not 0 < n < FEW:
            return otherwise(*args)
        call = few(name, fn, d, k, 0, args[k:], native)
        if call is None:
            return otherwise(*args)
        alike = []
        for a in arrays:
            if a.shape != shape or not a.flags.c_contiguous:
                if not a.flags.c_contiguous and not _in_order(a):
                    return otherwise(*args)  # whose results lie as operands do
                a = np.ascontiguousarray(np.broadcast_to(a, shape))
            alike.append(a)
        return call(np.empty(shape, d), n, *alike)

    def into(*args: Any) -> bool:
        x = args[first]
        return x.flags.writeable and native_result(args, x) is not None

    def several(*args: Any) -> Any:
        """`brief` of operands beside the first that are alike, or numbers: such as kernels are not made for are arrays."""
        x = args[0]
        if not (
            x.__class__ is np.ndarray and x.dtype is _F32 and LEAST <= x.size < LARGE and x.flags.c_contiguous
        ):  # fmt: skip
            return eager(*args)
        if factor is not None and args[factor] != 1:
            return eager(*args)  # which may be another number each time
        shape, whole, single, given = x.shape, [x], [], list(args)
        for i in slots[1:]:
            a = args[i]
            if a.__class__ is np.ndarray:
                if a.dtype is not _F32 or a.shape != shape or not a.flags.c_contiguous:
                    return eager(*args)
                whole.append(a)
                given[i] = WHOLE
            elif a is None or (a.__class__ in _NUMBERS and (a in EXACT or op.scalar == "pow")):
                continue
            elif a.__class__ in _NUMBERS:
                single.append(np.array(a, _F32))
                given[i] = SINGLE
            else:
                return eager(*args)
        rest, n = tuple(given[1:]), len(whole)

        def call(first: Any, *others: Any) -> Any:
            arrays, numbers = iter(others[: n - 1]), iter(others[n - 1 : n - 1 + len(single)])
            return fn(first, *[
                next(arrays) if a is WHOLE else next(numbers) if a is SINGLE else a for a in rest
            ])  # fmt: skip

        if x.size < FEW:
            known = few(name, call, _F32, n, len(single), rest, native)
            if known is not None:
                return known(np.empty(shape, _F32), x.size, *whole, *single)
        known = prepared(name, call, (*whole, *single), n, rest, native)
        return eager(*args) if known is None else known(*whole, *single)

    op.into = into
    if once or cast or first:
        return eager
    found = otherwise = brief if slots == (0,) else several
    if op.dear:
        found = dear
    found.least = 0 if op.dear else LEAST  # type: ignore[attr-defined]
    return found
