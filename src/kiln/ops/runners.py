"""An op's reference as eager mode runs it: in promoted dtypes, with results that lie as PyTorch has them lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..formats import images_order, inverse, result_order
from ..shape import broadcast_shapes
from ..tensor import wrap
from . import _blas
from .half_floats import HALF, hold
from .registry import Op

_F32, _F64 = dt.float32.np, dt.float64.np
_EXACT = 1 << 24  # integers that all of these have


def runner(op: Op) -> Callable:
    """The reference as it runs in eager mode: promotion for elementwise ops, half floats in float32."""
    if op.family == "elementwise":
        return _elementwise_runner(op)
    run = op.reference if op.exact else _half_runner(op)
    if op.lies == "operands":
        return _following(op, run)
    if op.lies in IMAGES:
        return of_images(op, run)
    if op.family == "factorization":
        return _blas.alone(run)
    return _row_major(run) if op.lies == "rows" else run


def _row_major(run: Callable) -> Callable:
    """A reference whose results lie in row-major order, where NumPy lets them follow an operand or an index."""

    def laid(*args: Any) -> Any:
        r = run(*args)
        if r.__class__ is np.ndarray:
            return r if r.flags.c_contiguous else r.copy()
        if r.__class__ is tuple or r.__class__ is list:
            return tuple(a if a.flags.c_contiguous else a.copy() for a in map(np.asarray, r))
        return r

    return laid


IMAGES = ("channels", "images", "joined")
"""How results of images lie: channels innermost where those of an operand do, else in row-major order."""


def of_images(op: Op, run: Callable) -> Callable:
    """A function of images whose results lie as PyTorch has them lie."""
    lies = op.lies
    joined = lies == "joined"

    @wraps(run)
    def laid(*args: Any) -> Any:
        r = run(*args)
        if r.__class__ is np.ndarray and r.ndim < 4 and r.flags.c_contiguous:
            return r
        if r.__class__ is tuple and not [a for a in r if a.ndim > 3 or not a.flags.c_contiguous]:
            return r
        given = args[0] if joined else args[:2]
        operands = [a for a in given if a.__class__ is np.ndarray]
        if r.__class__ is tuple or r.__class__ is list:
            return tuple(_in_order(a, images_order(lies, a.ndim, operands)) for a in r)
        return _in_order(r, images_order(lies, r.ndim, operands))

    return laid


def compute_dtype(op: Op, operands: Any) -> dt.dtype:
    """The common dtype in which an elementwise op computes."""
    d = dt.result_type(*operands)
    if op.promote == "float" and d.category < dt.FLOAT:
        return dt.get_default_dtype()
    return d


def _elementwise_runner(op: Op) -> Callable:
    ref, slots = op.reference, op.tensor_slots
    keep = op.promote in ("same", "float")
    rounding = op.index.get("rounding_mode")  # of a division, which gives floats without one

    def compute(*args: Any) -> Any:
        d = None
        values: Any = args
        for i in slots:
            x = args[i]
            c = x.__class__
            if c is np.ndarray:
                if d is None and (x.dtype is _F32 or x.dtype is _F64):
                    d = x.dtype
                elif x.dtype is not d:
                    break
            elif c is float or (c is int and -_EXACT < x < _EXACT):
                values = list(args)
            elif x is not None:
                break
        else:
            if d is not None:  # nothing to promote
                if values is not args:
                    for i in slots:
                        if args[i] is not None and args[i].__class__ is not np.ndarray:
                            values[i] = d.type(args[i])
                r = ref(*values)
                return r.astype(d) if keep and r.dtype is not d else r
        present = [i for i in slots if args[i] is not None]
        want = compute_dtype(op, [args[i] for i in present])
        if rounding is not None and args[rounding] is None and want.category < dt.FLOAT:
            want = dt.get_default_dtype()
        if want.is_complex and op.infer is not None:  # NumPy takes what the op may refuse
            op.infer(*(wrap(x) if x.__class__ is np.ndarray else x for x in args))
        half = want.np in HALF and not op.exact
        np_type = _F32 if half else want.np
        values = list(args)
        once = half and hold(op, values, want)  # a quotient by a number is rounded once
        for i in present:
            x = values[i]
            if x.__class__ is np.ndarray:
                if x.dtype is not np_type:
                    values[i] = x.astype(np_type)
            else:
                try:
                    values[i] = np_type.type(x)
                except (
                    OverflowError
                ):  # integers wrap, as in PyTorch, unless the op's rule refuses them
                    op.infer(*args)
                    values[i] = np.int64(x).astype(np_type)
        r = ref(*values)
        if half and rounding is not None and args[rounding] == "trunc" and not once:
            values[rounding] = None  # PyTorch rounds the quotient to the dtype before cutting off
            r = np.trunc(ref(*values).astype(want.np).astype(_F32))
        if (keep and r.dtype != want.np) or (half and r.dtype == _F32):
            r = r.astype(want.np)
        return r

    if "memory_format" in op.index:
        return compute
    return _row_major(compute) if op.lies == "rows" else _following(op, compute)


def _following(op: Op, run: Callable) -> Callable:
    """An elementwise reference whose results lie as PyTorch has them lie."""
    slots = op.tensor_slots

    def laid(*args: Any) -> Any:
        r = run(*args)
        if r.__class__ is np.ndarray:
            if r.ndim < 2:
                return r
            plain = r.flags.c_contiguous
            for i in slots:
                a = args[i]
                if a.__class__ is np.ndarray and not a.flags.c_contiguous:
                    plain = False
            return r if plain else follow(r, [args[i] for i in slots])
        if r.__class__ is tuple:
            return tuple(follow(np.asarray(a), [args[i] for i in slots]) for a in r)
        return r

    return laid


def follow(r: np.ndarray, operands: Sequence[Any]) -> np.ndarray:
    """An elementwise result in the order in which its operands lie, where NumPy gave it another."""
    arrays = [a for a in operands if a.__class__ is np.ndarray]
    for a in arrays:
        if not a.flags.c_contiguous and not descending(a.strides):
            return _in_order(r, result_order(r.shape, arrays))
    return r if r.flags.c_contiguous else _in_order(r, None)


def descending(strides: tuple[int, ...]) -> bool:
    """Whether no dimension lies outside of an earlier one; those that repeat lie nowhere."""
    last = 0
    for s in strides:
        if s:
            if s < 0 or (last and s >= last):
                return False
            last = s
    return True


def _in_order(r: np.ndarray, dims: tuple[int, ...] | None) -> np.ndarray:
    """An array whose memory has its dimensions in this order (None: row-major); a copy where it has another."""
    turned = r if dims is None else r.transpose(dims)
    if turned.flags.c_contiguous:
        return r
    turned = dt.bits(turned).copy().view(r.dtype)
    return turned if dims is None else turned.transpose(inverse(dims))


def _half_runner(op: Op) -> Callable:
    ref = op.reference
    dtype_slot, slots = op.index.get("dtype"), op.tensor_slots

    def up(x: Any) -> Any:
        if x.__class__ is np.ndarray and x.dtype in HALF:
            return x.astype(_F32)
        return [up(y) for y in x] if x.__class__ is list else x

    def run(*args: Any) -> Any:
        half = None
        for i in slots:
            for x in args[i] if args[i].__class__ is list else (args[i],):
                if x.__class__ is not np.ndarray or x.dtype is _F32 or x.dtype is _F64:
                    continue
                if half is None and x.dtype in HALF:
                    half = x.dtype
        if half is None:
            return ref(*args)
        r = ref(*(up(a) for a in args))
        if dtype_slot is not None and args[dtype_slot] is not None:
            return r

        def down(y: Any) -> Any:
            y = np.asarray(y)
            return y.astype(half) if y.dtype == _F32 else y

        return tuple(map(down, r)) if isinstance(r, tuple | list) else down(r)

    return run


def elementwise_infer(op: Op) -> Callable:
    """The shape rule of an elementwise op: broadcast shapes, promoted dtype."""

    def infer(*args: Any) -> tuple:
        xs = [args[i] for i in op.tensor_slots if args[i] is not None]
        shape = broadcast_shapes(*[getattr(x, "shape", ()) for x in xs], op=op.name)
        d = compute_dtype(op, xs)
        if op.promote == "bool":
            return shape, dt.bool_
        if op.promote == "real":
            return shape, d.to_real()
        return shape, d

    return infer
