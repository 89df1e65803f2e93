"""Programs of one call, for any number of rows: where they are kept, and calls of few elements that are prepared.

Half floats are computed in float32 and rounded once, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..ops.dispatch import LARGE, apply
from ..ops.half_floats import HALF
from ..ops.registry import Op
from ..tensor import Tensor

DEAR = 1 << 12
"""Elements from where on several passes do, or one over elements that NumPy takes one by one."""
READY = 4096  # prepared calls that are kept in mind
BLOCKS = (1 << 20, 1 << 18, 1 << 17, 1 << 15, 1 << 12)  # elements of a block
SMALL = 1 << 6
"""Elements from where on a call that is prepared costs less than several of NumPy's."""
_WHOLE = 1 << 16
"""Elements of a block of a call that is prepared, where several blocks would cost as much as they do."""
FEW = 64  # fewer rows are those of a decoding step, whose length is another each time


@cache
def shelf() -> Any:
    """The Programs of one call."""
    from .cpu import one_op

    return one_op.shelf


def alike(args: Sequence[Any], weight: int | None = None, sizes: Sequence[int] = ()) -> tuple:
    """What calls of one layer have in common that differ in sizes alone: the channels and all plain arguments.

    The array at `weight` has one shape in all of them; the arguments at `sizes` are such sizes.
    """
    of: list[Any] = []
    for i, a in enumerate(args):
        if a.__class__ is np.ndarray:
            channels = a.shape[1:2] if a.ndim > 2 else ()
            of.append((a.dtype.num, a.ndim, a.shape if i == weight else channels))
        elif a.__class__ is list:
            of.append(alike(a))
        elif i not in sizes:
            of.append(a)
    return tuple(of)


# ---------------------------------------------------------------- in float32, rounded once


def widened(fn: Callable, half: dt.dtype) -> Callable:
    """A function of tensors whose half floats are float32 inside."""

    def wide(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.to(dt.float32) if x.dtype is half else x
        return [wide(y) for y in x] if x.__class__ is list else x

    def narrow(x: Any) -> Any:
        return x.to(half) if isinstance(x, Tensor) and x.dtype is dt.float32 else x

    def run(*args: Any) -> Any:
        r = fn(*map(wide, args))
        return [narrow(y) for y in r] if isinstance(r, tuple | list) else narrow(r)

    return run


def half_of(arrays: Sequence[np.ndarray]) -> Any:
    """The one half float among dtypes; None where there is none, False where others are beside it."""
    half = None
    for a in arrays:
        if a.dtype in HALF:
            if half is not None and a.dtype is not half:
                return False
            half = a.dtype
    if half is not None and any(a.dtype.kind == "f" and a.dtype is not half for a in arrays):
        return False
    return half


@cache
def calling(op: Op, half: Any = None) -> Callable:
    """An op as a function of tensors, in float32 inside where they are half floats."""

    def fn(*args: Any) -> Any:
        return apply(op, args)

    if half is None or half.np not in HALF or op.exact:
        return fn
    return widened(fn, half)


# ---------------------------------------------------------------- in blocks of rows


def block_rows(rows: int, cols: int) -> int:
    """How many rows of so many elements a block has: the same for most numbers of rows, so that they share kernels."""
    size = rows * cols
    return max(1, next((b for b in BLOCKS if b <= size), BLOCKS[-1]) // cols)


def prepared(
    name: str, fn: Callable, arrays: tuple, cut: int, rest: tuple, native: Callable[[], bool], cols: int = 0
) -> Callable | None:  # fmt: skip
    """An elementwise function, or one of rows of so many, as a function of arrays like these; `cut` of them have rows.

    `rest` are its further arguments. The arrays are C-contiguous, of one dtype and few enough to be small beside a
    call. None where the reference is to do it.
    """
    if config.eager != "cpu" or not native():
        return None
    ready, x = shelf().ready, arrays[0]
    key = name, x.shape, x.dtype.num, str(rest), cols, config.cpu_isa, len(arrays)
    try:
        return ready[key]
    except KeyError:
        if len(ready) >= READY:
            ready.clear()
    rows = [a.reshape(-1, cols) if cols else a.reshape(-1) for a in arrays[:cut]]
    most = max(1, _WHOLE // max(1, cols))
    args = [*rows, *arrays[cut:], *rest]
    ready[key] = shelf().prepare(name, fn, args, range(cut), most, x.shape)
    return ready[key]


def in_rows(
    name: str, fn: Callable, arrays: tuple[np.ndarray, ...], native: Callable[[], bool], rest: Any = None,
    like: Any = None,
) -> np.ndarray | None:  # fmt: skip
    """What a function gives for the rows of C-contiguous arrays, the first of which has the longest; None where it has no kernels.

    `name` and `rest` say which function it is, and `like` what its calls for rows of other lengths have in common.
    """
    if config.eager != "cpu" or not arrays[0].size or not native():
        return None
    known = None if rest is None else str(rest)
    key = (name, known, config.cpu_isa, *[(a.shape, a.dtype.num) for a in arrays])
    ready, first = shelf().ready, arrays[0]
    try:
        found = ready[key]
    except KeyError:
        if len(ready) >= READY:
            ready.clear()
        cols = max(1, first.size // len(first))
        most = block_rows(len(first), cols) if first.size >= LARGE else len(first)
        found = shelf().rows(name, fn, arrays, most, known, like)
        if found is not shelf().later:
            ready[key] = found
    return None if found is None else found(*arrays)
