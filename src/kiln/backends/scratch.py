"""What eager mode's kernels take for themselves while they run: asked for by shapes, before anything runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .. import dtypes as dt
from ..autograd.tape import OpNode
from ..config import config
from ..device import CPU, device
from ..meta import Nothing
from ..ops.dispatch import LARGE
from ..ops.half_floats import HALF
from ..ops.registry import Op
from ..shape import numel
from ..tensor import Tensor
from . import gradients
from .by_shape import WORK
from .one_call import calling, shelf
from .operands import lying, order_of
from .routines import native

_FLOATS = {dt.float32.np, dt.float64.np, *HALF}


def of_call(op: Op, args: tuple) -> int:
    """The bytes of scratch memory of an op's call on tensors that may have no data."""
    by_shape = WORK.get(op.name)
    if by_shape is None and (op.family == "movement" or not hasattr(op.eager, "least_of_any")):
        return 0
    try:
        given, arrays = _untouched(args)
    except MemoryError:  # of what can't be run nobody needs to know more
        return 0
    floats = [a for a in arrays if a.dtype in _FLOATS]
    if not floats or any(a.dtype.kind == "c" or a.dtype is not floats[0].dtype for a in (*floats, arrays[0])):  # fmt: skip
        return 0
    if by_shape is None:
        return _asked(lambda: op.eager(*given)) if max(a.size for a in arrays) >= LARGE else 0
    work, least = by_shape
    if work(*given) < least:
        return 0
    half = arrays[0].dtype if arrays[0].dtype in HALF else None
    fn = calling(op, None if half is None else dt.OF_NUMPY[half])
    order = order_of(op, given)
    return _asked(lambda: shelf().run(op.name, lying(fn, order), given, order))


def of_gradients(node: OpNode, gs: Any) -> int:
    """The bytes of scratch memory of the Program of an op's gradient rules, where they are one."""
    op = node.op
    if op.family not in gradients.BY_SHAPE or op.name in gradients.OWN:
        return 0
    try:
        (given, outs, found), arrays = _untouched((node.args, node.outs and node.outs[0], gs))
    except MemoryError:
        return 0
    if (left := gradients.LEFT.get(op.name)) is not None and left(*given):
        return 0
    if not arrays or max(a.size for a in arrays) < LARGE:
        return 0
    part: Any = SimpleNamespace(
        op=op, plan=node.plan, args=given, outs=outs and (outs, None), edges=node.edges,
        differentiate=node.differentiate,
    )  # fmt: skip
    return _asked(lambda: gradients._differentiated(part, list(found), False))


def _asked(call: Any) -> int:
    if config.eager != "cpu" or not native():
        return 0
    with device(CPU):  # not on meta, as the call is that would ask
        return shelf().room(call)


def _untouched(args: Any) -> tuple[Any, list[np.ndarray]]:
    """Arguments with arrays that nobody has touched in place of tensors, and these arrays."""
    arrays: list[np.ndarray] = []

    def array(x: Any) -> Any:
        if isinstance(x, Tensor):
            x = x._a
        if isinstance(x, Nothing):
            size = x.itemsize
            span = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.strides, strict=True))
            whole = np.empty(span if numel(x.shape) else 0, x.dtype)
            x = as_strided(whole, x.shape, [s * size for s in x.strides])
        if isinstance(x, np.ndarray):
            arrays.append(x)
        elif isinstance(x, list | tuple):
            return type(x)(map(array, x))
        return x

    return array(args), arrays
