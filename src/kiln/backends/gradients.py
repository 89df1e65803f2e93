"""Gradients of large calls: an op's gradient rules as one Program, in blocks of rows where they can be."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from types import NoneType
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import OpNode
from ..config import config
from ..ops.dispatch import LARGE
from ..ops.registry import SHAPE
from ..tensor import Tensor
from .elementwise import EXACT, LEAST, SINGLE, WHOLE, few, mapped, numbers
from .one_call import BLOCKS, DEAR, FEW, alike, block_rows, half_of, prepared, shelf, widened
from .operands import exact, laid, lying, order_of

_F32 = dt.float32.np
BY_SHAPE = {"composite", "reduction", "scan", "sort", "indexing", "cast"}


OWN: dict[str, Callable[[OpNode, list], list | None]] = {}
"""By op, kernels of its gradients, for what they take; they give RULES where these are to run one by one."""
RULES: list = []


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
        if not mapping and family not in BY_SHAPE:
            return None
        if (own := OWN.get(op.name)) is not None and (found := own(node, gs)) is not None:
            return None if found is RULES else found
        if (left := LEFT.get(op.name)) is not None and left(*node.args):
            return None
        g = gs[0]
        if mapping and len(gs) == 1 and g.size < LARGE:
            found = _brief_gradients(node, g, native)
            if found is not None:
                return found
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


_BRIEF = 1 << 12
"""Elements from where on a gradient is prepared."""


_PLAIN = {int, float, bool, str, NoneType, dt.dtype}


def _brief_gradients(node: OpNode, g: np.ndarray, native: Callable[[], bool]) -> list | None:
    """The gradients of an elementwise op of few elements, operands alike or numbers, a call each; None for any other."""
    op, plan, outs = node.op, node.plan, () if node.outs is None else node.outs[0]
    d = g.dtype
    if g.__class__ is not np.ndarray:
        g = np.asarray(g)  # NumPy's functions of 0-d arrays give numbers
    if d is not _F32 or g.size < (1 if op.dear else LEAST):
        return None
    shape, arrays, singles = g.shape, [g], []
    rest: list[Any] = []
    for i, x in enumerate((*node.args, *outs)):
        a = x._a if isinstance(x, Tensor) else x
        if a.__class__ is np.ndarray:
            if a.dtype is not d:
                return None
            if a.shape != shape or not a.flags.c_contiguous:
                if not op.dear:
                    return None
                a = np.ascontiguousarray(np.broadcast_to(a, shape))
            arrays.append(a)
            rest.append(WHOLE)
        elif a.__class__ is float and a not in EXACT and i in op.tensor_slots:
            singles.append(np.array(a, d))
            rest.append(SINGLE)
        elif a.__class__ in _PLAIN:
            rest.append(a)
        else:
            return None
    factor = op.factor is not None and node.args[op.factor] != 1
    if not g.flags.c_contiguous and op.dear:
        g = arrays[0] = np.ascontiguousarray(g)
    if factor or not g.flags.c_contiguous or any(SHAPE in r.slots for r in plan.rules):
        return None
    if any(e is None or (e[2] != shape and not op.dear) or e[3] is not d for e in node.edges):
        return None  # what is broadcast is summed by the tape
    n, given = len(arrays), (*arrays, *singles)

    def gradient(j: int) -> Callable:
        def fn(*xs: Any) -> Any:
            left, numbers = iter(xs[1:n]), iter(xs[n : n + len(singles)])
            args = [next(left) if r is WHOLE else next(numbers) if r is SINGLE else r for r in rest]
            m = len(node.args)
            return node.differentiate(xs[:1], args[:m], lambda: args[m:])[j]

        return fn

    found = []
    for j in range(len(node.edges)):
        known = j, plan.slots, plan.save_out, *rest
        if g.size < _BRIEF:
            call = few(op.name + "_backward", gradient(j), d, n, len(singles), known, native)
            r = None if call is None else call(np.empty(shape, d), g.size, *given)
        else:
            call = prepared(op.name + "_backward", gradient(j), given, n, known, native)
            r = None if call is None else call(*given)
        if r is None:
            return None
        found.append(r)
    return found


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
    half = half_of(arrays)
    if half is False or any(a.dtype.kind == "c" for a in arrays):
        return None
    shapes = tuple(None if e is None else e[2] for e in node.edges)

    def fn(*given: Any) -> list:
        return node.differentiate(given[:n], given[n:m], lambda: given[m:])

    call = fn if half is None else widened(fn, dt.OF_NUMPY[half])
    name, rows = op.name + "_backward", None
    key = plan.slots, plan.save_out
    if mapping and not any(SHAPE in r.slots for r in plan.rules):
        slots = [i for i, x in enumerate(values) if x.__class__ is np.ndarray]
        operands = [n + i for i in op.tensor_slots]
        places = numbers(op, values, operands, half, arrays)
        if op.factor is not None and half is None and values[n + op.factor].__class__ is float:
            values[n + op.factor] = np.array(values[n + op.factor], arrays[0].dtype)
            places.append(n + op.factor)
        slots = sorted({*slots, *places})
        r = mapped(name, call, values, slots, key, exact=op.exact)
    elif half is None and (rows := _normed_rows(node, values, n)) is not None:
        given, cut, sums = rows
        most = max(1, BLOCKS[0] // given[cut[0]].shape[1])
        r = shelf().run_sums(name, call, given, cut, most, sums, key)
    elif (rows := _rows(node, values, n)) is not None:
        given, cut, shape = rows
        most = block_rows(*given[cut[0]].shape)
        r = shelf().run_blocks(name, call, given, cut, most, shape[:-1], (key, "rows"))
    else:
        order, more = order_of(op, values), (key, shapes)
        known = exact(name, call, values, order, more, alike)
        if known is not None:
            r = known(*arrays)
        else:
            r = shelf().run(name, lying(call, order), values, (order, more), lambda: alike(values))
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
