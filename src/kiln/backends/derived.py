"""Native routines that follow from the registry: large arrays run as Programs of one call in eager mode.

Elementwise ops, and the gradient rules of elementwise ops, run in blocks of rows, so that a kernel serves
any number of them: adjacent dimensions along which operands are alike are one. Reductions of trailing
dimensions run by rows, everything else that has kernels by shape. An op's attributes are part of its
kernels; numbers in places of tensors, such as the 1.5 of `x * 1.5`, are not, save some that ops have
better forms for. Half floats are computed in float32 and rounded once, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import OpNode
from ..config import config
from ..errors import KilnError
from ..formats import dense, images_order, inverse, result_order
from ..ops.dispatch import LARGE, apply
from ..ops.half_floats import hold
from ..ops.registry import SHAPE, Op
from ..ops.runners import IMAGES
from ..shape import broadcast_shapes
from ..tensor import Tensor

DEAR = 1 << 12
"""Elements from where on several passes do, or one over elements that NumPy takes one by one."""
STREAM = 1 << 19
"""Elements from where on kernels beat NumPy where its own loops go as fast as memory does."""
READY = 4096  # prepared calls that are kept in mind
BLOCKS = (1 << 20, 1 << 18, 1 << 17, 1 << 15, 1 << 12)  # elements of a block
SMALL = 1 << 6
"""Elements from where on a call that is prepared costs less than several of NumPy's."""
_WHOLE = 1 << 16
"""Elements of a block of a call that is prepared, where several blocks would cost as much as they do."""
LONG = 1 << 12
"""Elements from where on a reduction of rows is prepared."""
FEW = 64  # fewer rows are those of a decoding step, whose length is another each time

_F32 = dt.float32.np
_HALF = (dt.float16.np, dt.bfloat16.np)
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


@cache
def shelf() -> Any:
    """The Programs of one call."""
    from .cpu import one_op

    return one_op.shelf


# ---------------------------------------------------------------- in float32, rounded once


def _widened(fn: Callable, half: dt.dtype) -> Callable:
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


def _half_of(arrays: Sequence[np.ndarray]) -> Any:
    """The one half float among dtypes; None where there is none, False where others are beside it."""
    half = None
    for a in arrays:
        if a.dtype in _HALF:
            if half is not None and a.dtype is not half:
                return False
            half = a.dtype
    if half is not None and any(a.dtype.kind == "f" and a.dtype is not half for a in arrays):
        return False
    return half


def _elements(arrays: list[np.ndarray]) -> int:
    """How many elements arrays have when broadcast, or an upper bound where those are few."""
    if all(a.shape == arrays[0].shape for a in arrays):
        return arrays[0].size if arrays else 0
    bound = prod(a.size for a in arrays)
    if bound < DEAR:
        return bound
    try:
        return prod(broadcast_shapes(*[a.shape for a in arrays]))
    except KilnError:
        return 0  # which the reference tells


def _crosses(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether an element of one array may lie where another element of the other does."""
    same = a.shape == b.shape and a.strides == b.strides and a.ctypes.data == b.ctypes.data
    return not same and np.may_share_memory(a, b)


@cache
def calling(op: Op, half: Any = None) -> Callable:
    """An op as a function of tensors, in float32 inside where they are half floats."""

    def fn(*args: Any) -> Any:
        return apply(op, args)

    if half is None or half.np not in _HALF or op.exact:
        return fn
    return _widened(fn, half)


# ---------------------------------------------------------------- how operands lie


def _arrange(
    arrays: list[np.ndarray],
) -> tuple[list[np.ndarray], list[int], tuple, tuple | None] | None:
    """Operands that broadcast as rows of a few dimensions: (arrays, which of them have rows, shape, order).

    Adjacent dimensions are one where each operand either has all of them or repeats along all. The shape is that of the result's
    rows in memory, whose dimensions are `order` (None: as they are). None where operands do not lie so.
    """
    shape = arrays[0].shape
    if all(a.shape == shape and a.flags.c_contiguous for a in arrays):
        return [a.reshape(-1) for a in arrays], list(range(len(arrays))), shape, None
    strides = arrays[0].strides
    if 1 not in shape and all(a.strides == strides and a.shape == shape for a in arrays):
        order = tuple(sorted(range(len(shape)), key=lambda i: -strides[i]))
        turned = [a.transpose(order) for a in arrays]
        if turned[0].flags.c_contiguous:
            return [a.reshape(-1) for a in turned], list(range(len(arrays))), turned[0].shape, order
    try:
        shape = tuple(broadcast_shapes(*[a.shape for a in arrays]))
    except KilnError:
        return None  # which the reference tells
    ndim = len(shape)
    operands = []
    for a in arrays:
        if 0 in a.strides and a.size > 1:
            a = a[tuple(slice(1) if step == 0 else slice(None) for step in a.strides)]
        operands.append(a.reshape((1,) * (ndim - a.ndim) + a.shape) if a.ndim < ndim else a)
    order = None
    if not all(a.flags.c_contiguous for a in operands):
        if not any(a.shape == shape for a in operands):
            return None
        order = result_order(shape, operands)
        if order is not None:
            operands = [a.transpose(order) for a in operands]
            shape = tuple(shape[i] for i in order)
        operands = [np.ascontiguousarray(a) for a in operands]
    sizes: list[int] = []
    parts: list[list[int]] = [[] for _ in operands]
    last: Any = None
    for i, s in enumerate(shape):
        if s == 1:
            continue
        pattern = [a.shape[i] != 1 for a in operands]
        if pattern == last:
            sizes[-1] *= s
        else:
            sizes.append(s)
        for p, full in zip(parts, pattern, strict=True):
            if pattern == last:
                p[-1] *= s if full else 1
            else:
                p.append(s if full else 1)
        last = pattern
    if not sizes:
        return None
    out, cut = [], []
    for k, (a, p) in enumerate(zip(operands, parts, strict=True)):
        if a.size == 1:
            out.append(a.reshape(()))
            continue
        if p[0] != 1:
            cut.append(k)
        out.append(a.reshape(p))
    return (out, cut, shape, order) if cut else None


def order_of(op: Op, args: Sequence[Any]) -> tuple[int, ...] | None:
    """The order in which results of images of a call are to lie; None for row-major."""
    if op.lies not in IMAGES:
        return None
    operands = [a for a in args if a.__class__ is np.ndarray]
    n = max((a.ndim for a in operands), default=0)
    if n < 4 or all(a.flags.c_contiguous for a in operands):
        return None
    return images_order(op.lies, n, operands)


def lying(fn: Callable, order: tuple[int, ...] | None) -> Callable:
    """A function of tensors whose results of images have their dimensions in this order."""
    if order is None:
        return fn

    def turned(x: Any) -> Any:
        return x.permute(order) if isinstance(x, Tensor) and x.ndim == len(order) else x

    def run(*args: Any) -> Any:
        r = fn(*args)
        return [turned(y) for y in r] if isinstance(r, tuple | list) else turned(r)

    return run


def laid(results: list, order: tuple[int, ...] | None) -> list:
    """The results of what is `lying` in an order, as they were."""
    if order is None:
        return results
    back = inverse(order)
    return [a.transpose(back) if getattr(a, "ndim", 0) == len(order) else a for a in results]


def block_rows(rows: int, cols: int) -> int:
    """How many rows of so many elements a block has: the same for most numbers of rows, so that they share kernels."""
    size = rows * cols
    return max(1, next((b for b in BLOCKS if b <= size), BLOCKS[-1]) // cols)


def _mapped(
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
    found = _arrange(arrays)
    if found is None:
        return None
    operands, cut, shape, order = found
    if into is not None and (
        shape != into.shape or order is not None or not into.flags.c_contiguous
        or any(_crosses(a, into) for a in operands[1:])
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


def _numbers(op: Op, args: list, slots: Sequence[int], half: Any, arrays: list) -> list[int]:
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
    return b not in _HALF and not (mixed and long)


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
        size, least = _elements(arrays), LARGE if once else DEAR
        if size < least or any(a.dtype.kind == "c" for a in arrays):
            return None
        x = arrays[0]
        half = _half_of(arrays)
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
        places = _numbers(op, given, slots, half, arrays)
        call = fn
        if factor is not None and given[factor] != 1:
            if x.dtype.kind != "f" or half or any(a.dtype is not x.dtype for a in arrays):
                return None
            given[factor] = np.array(given[factor], x.dtype)
            places, call = [*places, factor], scaled
        if half is not None and not op.exact and (cutting is None or args[cutting] != "trunc"):
            call = _widened(call, dt.OF_NUMPY[half])  # which rounds once
        r = _mapped(name, call, given, places, into=into)
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
    name: str, fn: Callable, arrays: tuple[np.ndarray, ...], native: Callable[[], bool], rest: Any = None
) -> np.ndarray | None:  # fmt: skip
    """What a function gives for the rows of C-contiguous arrays, the first of which has the longest; None where it has no kernels.

    `name` and `rest` say which function it is.
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
        found = ready[key] = shelf().rows(name, fn, arrays, most, known)
    return None if found is None else found(*arrays)


# ---------------------------------------------------------------- by shape


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

        r = in_rows(name, rows, (x.reshape(-1, x.shape[-1]),), native, given[1:])
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
        half = _half_of(arrays)
        if half is False or any(a.dtype.kind == "c" for a in arrays):
            return run(*args)
        call = calling(op, None if half is None else dt.OF_NUMPY[half])
        r = None
        if dim is not None:
            r = _by_rows(name, call, args, slots, dim, keepdim)
        if r is None:
            r = shelf().run(name, call, args)
        if r is None or any(a.__class__ is not np.ndarray for a in r):
            return run(*args)
        return r[0] if len(r) == 1 else tuple(r)

    return eager


def _by_rows(
    name: str, fn: Callable, args: tuple, slots: tuple, dim: int, keepdim: int | None
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
    return shelf().run_blocks(name, fn, given, cut, most, left, "rows")


# ---------------------------------------------------------------- gradient rules

_BY_SHAPE = {"composite", "reduction", "scan", "sort", "indexing", "cast"}


OWN: dict[str, Callable[[OpNode, list], list | None]] = {}
"""By op, kernels of its gradients, for what they take."""


LEFT: dict[str, Callable[..., bool]] = {}
"""By op, the calls whose gradient rules are quicker with the ops' own routines than as one Program."""


EARLY: dict[str, int] = {}
"""By op, elements from where on its gradients are one Program, where that is sooner than for others."""


def gradients(native: Callable[[], bool]) -> Callable[[OpNode, list], list | None]:
    """What the tape asks for the gradients of large calls: an array, or None, for each edge; None where rules are to run one by one."""

    def run(node: OpNode, gs: list) -> list | None:
        op = node.op
        family = op.family
        mapping = family == "elementwise" or family == "select"
        if not mapping and family not in _BY_SHAPE:
            return None
        if (own := OWN.get(op.name)) is not None and (found := own(node, gs)) is not None:
            return found
        if (left := LEFT.get(op.name)) is not None and left(*node.args):
            return None
        g = gs[0]
        if (
            mapping
            and len(gs) == len(node.edges) == 1
            and _BRIEF <= g.size < LARGE
            and g.dtype is _F32
        ):
            found = _brief_gradient(node, g, native)
            if found is not None:
                return [found]
        size = 0 if g is None else g.size
        for e in node.edges:
            if e is not None:
                size = max(size, prod(e[2]))
        once = not mapping or (node.plan.quick is not None and op.ufunc is not None)
        least = EARLY.get(op.name) or (LARGE if once else DEAR * 4)
        if size < least or config.eager != "cpu" or not native():
            return None
        return _differentiated(node, gs, mapping)

    return run


_BRIEF = 1 << 10
"""Elements from where on a gradient that is prepared costs less than NumPy's passes one by one."""


def _brief_gradient(node: OpNode, g: np.ndarray, native: Callable[[], bool]) -> np.ndarray | None:
    """The gradient of an elementwise op of one operand by a prepared call; None for any other."""
    plan, outs = node.plan, () if node.outs is None else node.outs[0]
    shape, arrays, rest = g.shape, [g], []
    for x in (*node.args, *outs):
        a = x._a if isinstance(x, Tensor) else x
        if a.__class__ is np.ndarray:
            if a.shape != shape or a.dtype is not _F32 or not a.flags.c_contiguous:
                return None
            arrays.append(a)
        else:
            rest.append(a)
    if not g.flags.c_contiguous or any(SHAPE in r.slots for r in plan.rules):
        return None
    present = [x.__class__ is np.ndarray or isinstance(x, Tensor) for x in node.args]
    n, name = len(arrays), node.op.name + "_backward"

    def fn(*given: Any) -> Any:
        left, others = iter(given[1:n]), iter(rest)
        args = [next(left) if there else next(others) for there in present]
        return node.differentiate(given[:1], args, lambda: tuple(left))[0]

    call = prepared(name, fn, tuple(arrays), n, (plan.slots, plan.save_out, *rest), native)
    return None if call is None else call(*arrays)


def _differentiated(node: OpNode, gs: list, mapping: bool) -> list | None:
    op, plan = node.op, node.plan
    outs = () if node.outs is None else node.outs[0]
    n, m = len(gs), len(gs) + len(node.args)

    def raw(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x._a if x._a.__class__ is np.ndarray else x
        return [raw(y) for y in x] if isinstance(x, list | tuple) and any(isinstance(y, Tensor) for y in x) else x  # fmt: skip

    values = [*gs, *map(raw, node.args), *outs]
    if any(isinstance(x, Tensor) for x in values):
        return None  # of another kind than an array
    arrays = [a for x in values for a in (x if x.__class__ is list else (x,)) if a.__class__ is np.ndarray]  # fmt: skip
    half = _half_of(arrays)
    if half is False or any(a.dtype.kind == "c" for a in arrays):
        return None
    shapes = tuple(None if e is None else e[2] for e in node.edges)

    def fn(*given: Any) -> list:
        return node.differentiate(given[:n], given[n:m], lambda: given[m:])

    call = fn if half is None else _widened(fn, dt.OF_NUMPY[half])
    name, rows = op.name + "_backward", None
    key = plan.slots, plan.save_out
    if mapping and not any(SHAPE in r.slots for r in plan.rules):
        slots = [i for i, x in enumerate(values) if x.__class__ is np.ndarray]
        operands = [n + i for i in op.tensor_slots]
        places = _numbers(op, values, operands, half, arrays)
        if op.factor is not None and half is None and values[n + op.factor].__class__ is float:
            values[n + op.factor] = np.array(values[n + op.factor], arrays[0].dtype)
            places.append(n + op.factor)
        slots = sorted({*slots, *places})
        r = _mapped(name, call, values, slots, key)
    elif half is None and (rows := _normed_rows(node, values, n)) is not None:
        given, cut, sums = rows
        most = max(1, BLOCKS[0] // given[cut[0]].shape[1])
        r = shelf().run_sums(name, call, given, cut, most, sums, key)
    elif (rows := _rows(node, values, n)) is not None:
        given, cut, shape = rows
        most = block_rows(*given[cut[0]].shape)
        r = shelf().run_blocks(name, call, given, cut, most, shape[:-1], (key, "rows"))
    else:
        order = order_of(op, values)
        r = shelf().run(name, lying(call, order), values, (key, shapes, order))
        if r is not None:
            r = laid(r, order)
    if r is None:
        return None
    first = next(g for g in gs if g is not None)
    found = [x if x is None or x.__class__ is np.ndarray else first for x in r]
    if rows is not None:
        found = [
            x if x is None or e is None else x.reshape(e[2])
            for x, e in zip(found, node.edges, strict=True)
        ]
    return found


def _normed_rows(node: OpNode, values: list, n: int) -> tuple[list, list[int], list[int]] | None:
    """What the rules of a norm of trailing dimensions are given by rows: which arguments have them, which results are sums.

    These are the gradients of what all rows share, such as a weight.
    """
    slot = node.op.index.get("normalized_shape")
    if slot is None:
        return None
    shape, last = values[n].shape, tuple(values[n + slot])
    cols = prod(last)
    if not cols or len(shape) == len(last):
        return None
    given, cut = list(values), []
    for i, a in enumerate(values):
        if a.__class__ is np.ndarray:
            if not a.flags.c_contiguous or a.shape not in (shape, last):
                return None
            given[i] = a.reshape((-1, cols) if a.shape == shape else cols)
            if a.shape == shape:
                cut.append(i)
    given[n + slot] = (cols,)
    return given, cut, [k for k, (i, _) in enumerate(node.plan.slots) if n + i not in cut]


def _rows(node: OpNode, values: list, n: int) -> tuple[list, list[int], tuple] | None:
    """What the rules of an op along the last dimension are given by rows, where all arrays have one shape."""
    dim = node.op.index.get("dim")
    if dim is None or any(SHAPE in r.slots for r in node.plan.rules):
        return None
    shape, d = values[0].shape, values[n + dim]
    if len(shape) < 2 or d.__class__ is not int or d not in (-1, len(shape) - 1):
        return None
    rows = prod(shape[:-1])
    given, cut = list(values), []
    for i, a in enumerate(values):
        if a.__class__ is list:
            return None
        if a.__class__ is np.ndarray:
            if a.shape != shape or not a.flags.c_contiguous:
                return None
            given[i] = a.reshape(rows, shape[-1])
            cut.append(i)
    given[n + dim] = 1
    few = rows < FEW or block_rows(rows, shape[-1]) < 8
    return None if few else (given, cut, shape)


# ---------------------------------------------------------------- which routine an op has


def bind(op: Op, native: Callable[[], bool]) -> None:
    """Give an op the routine that follows from its definition, if any."""
    if op.view or op.layout or not op.tensor_slots:
        return
    if op.family in ("elementwise", "select", "cast"):
        if op.scalar or op.body:
            op.eager = elementwise(op, native)
    elif op.family in _BY_SHAPE or op.family == "movement":
        op.eager = whole(op, native)
