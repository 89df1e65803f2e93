"""The native routines that follow from the registry: large arrays run as Programs of one call in eager mode.

Elementwise ops run in blocks, reductions of trailing dimensions by rows, everything else that has kernels by shape.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..ops.dispatch import LARGE
from ..ops.registry import Op
from ..tensor import Tensor
from .elementwise import elementwise
from .gradients import BY_SHAPE
from .one_call import FEW, alike, block_rows, calling, half_of, in_rows, shelf

LONG = 1 << 12
"""Elements from where on a reduction of rows is prepared."""

_F32 = dt.float32.np


def _rows_alike() -> str:
    """What calls for rows have in common, whatever the length of these."""
    return "rows"


def whole(op: Op, native: Callable[[], bool]) -> Callable:
    """The routine of an op that is no map: by the rows of a reduction of trailing dimensions, else by shape."""
    run, slots, name = op.run, op.tensor_slots[:3], op.name
    lists = set(op.list_slots)
    dim = op.index.get("dim")
    keepdim = op.index.get("keepdim")
    brief = keepdim is not None and dim is not None and slots == (0,)
    fn = calling(op)

    def last(args: tuple) -> np.ndarray | None:
        """The result of a reduction of float32 along the last dimension; None for any other."""
        x, d = args[0], args[dim]
        d = d[0] if (d.__class__ is tuple or d.__class__ is list) and len(d) == 1 else d
        n = x.ndim
        if (
            n < 2
            or x.dtype is not _F32
            or d.__class__ is not int
            or d % n != n - 1
            or not x.flags.c_contiguous
        ):
            return None
        given = [1 if i == dim else False if i == keepdim else a for i, a in enumerate(args)]
        lead = (*x.shape[:-1], 1) if keepdim is not None and args[keepdim] else x.shape[:-1]

        def rows(y: Tensor) -> Tensor:
            return fn(y, *given[1:])

        like = _rows_alike if op.exact else None
        r = in_rows(name, rows, (x.reshape(-1, x.shape[-1]),), native, given[1:], like)
        return None if r is None or r.ndim != 1 else r.reshape(lead)

    def eager(*args: Any) -> Any:
        size = 0
        for i in slots:
            x = args[i]
            if x.__class__ is np.ndarray:
                size = max(size, x.size)
            elif i in lists:
                size = max(size, sum(a.size for a in x))
        if brief and LONG <= size < LARGE and (r := last(args)) is not None:
            return r
        if size < LARGE or config.eager != "cpu" or not native():
            return run(*args)
        arrays = [a for x in args for a in (x if x.__class__ is list else (x,)) if a.__class__ is np.ndarray]  # fmt: skip
        half = half_of(arrays)
        if half is False or any(a.dtype.kind == "c" for a in arrays):
            return run(*args)
        call = calling(op, None if half is None else dt.OF_NUMPY[half])
        r = None
        if dim is not None:
            like = _rows_alike if op.exact else None
            r = _by_rows(name, call, args, slots, dim, keepdim, like)
        if r is None:
            r = shelf().run(name, call, args, (), lambda: alike(args))
        if r is None or any(a.__class__ is not np.ndarray for a in r):
            return run(*args)
        return r[0] if len(r) == 1 else tuple(r)

    eager.least_of_any = LONG if brief else LARGE  # type: ignore[attr-defined]
    return eager


def _by_rows(
    name: str, fn: Callable, args: tuple, slots: tuple, dim: int, keepdim: int | None, like: Any
) -> list | None:
    """An op along trailing dimensions of arrays of one shape by rows: each is an op along them by itself."""
    x, d = args[slots[0]], args[dim]
    if x.__class__ is not np.ndarray or d is None or d == () or d == []:
        return None
    shape, ndim = x.shape, x.ndim
    axes = sorted(a % ndim for a in (d if isinstance(d, tuple | list) else (d,)))
    lead = ndim - len(axes)
    if axes != list(range(lead, ndim)) or lead == 0 or (keepdim is None and len(axes) != 1):
        return None
    cols = prod(shape[lead:])
    rows = x.size // max(1, cols)
    most = block_rows(rows, max(1, cols))
    if rows < FEW or not cols or most < 8:
        return None
    given = list(args)
    cut = []
    for i, a in enumerate(args):
        if a.__class__ is list and any(b.__class__ is np.ndarray for b in a):
            return None
        if a.__class__ is np.ndarray:
            if a.shape != shape or not a.flags.c_contiguous:
                return None
            given[i] = a.reshape(rows, cols)
            cut.append(i)
    given[dim] = 1
    left = shape[:lead]
    if keepdim is not None:
        given[keepdim] = False
        left += (1,) * len(axes) if args[keepdim] else ()
    return shelf().run_blocks(name, fn, given, cut, most, left, "rows", like=like)


def bind(op: Op, native: Callable[[], bool]) -> None:
    """Give an op the routine that follows from its definition, if any."""
    if op.view or op.layout or not op.tensor_slots:
        return
    if op.family in ("elementwise", "select", "cast"):
        if op.scalar or op.body:
            op.eager = elementwise(op, native)
    elif op.family in BY_SHAPE or op.family == "movement":
        op.eager = whole(op, native)
