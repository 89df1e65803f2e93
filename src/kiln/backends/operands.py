"""How operands and results of large calls lie: as rows of a few dimensions, and images as PyTorch has them lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from ..config import config
from ..errors import KilnError
from ..formats import images_order, inverse, result_order
from ..ops.registry import Op
from ..ops.runners import IMAGES
from ..shape import broadcast_shapes
from ..tensor import Tensor
from .one_call import DEAR, READY, shelf


def elements(arrays: list[np.ndarray]) -> int:
    """How many elements arrays have when broadcast, or an upper bound where those are few."""
    if not arrays:
        return 0
    large = arrays[0]
    for a in arrays:
        if a.size > large.size:
            large = a
    shape, n = large.shape, large.ndim
    for a in arrays:
        if a.shape != shape and a.size != 1 and (a.ndim >= n or a.shape != shape[n - a.ndim :]):
            break
    else:
        return large.size
    bound = prod(a.size for a in arrays)
    if bound < DEAR:
        return bound
    try:
        return prod(broadcast_shapes(*[a.shape for a in arrays]))
    except KilnError:
        return 0  # which the reference tells


def crosses(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether an element of one array may lie where another element of the other does."""
    same = a.shape == b.shape and a.strides == b.strides and a.ctypes.data == b.ctypes.data
    return not same and np.may_share_memory(a, b)


def arrange(
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


def exact(
    name: str, call: Callable, args: Sequence[Any], order: tuple[int, ...] | None, more: Any = (),
    like: Callable[[Sequence[Any]], Any] | None = None,
) -> Callable | None:  # fmt: skip
    """The Program of a call as a function of its arrays, results in this order; None where it is to be found each time.

    `name` and `more` say what is called, `like` what calls in other sizes have in common; where there are too many, it gives None.
    """
    key: list[Any] = [
        name,
        order,
        more,
        config.cpu_isa,
        config.float32_matmul_precision,
        config.layout,
    ]
    for a in args:
        if a.__class__ is np.ndarray:
            key.append((a.shape, None if a.flags.c_contiguous else a.strides, a.dtype.num))
        else:
            key.append((a.__class__, a) if a.__class__ is not float else repr(a))
    ready, known = shelf().ready, tuple(key)
    try:
        return ready[known]
    except KeyError:
        if any(hasattr(a, "calls") for a in args):
            return None  # without data (Note [Meta tensors]), and not to be kept as part of a key
        if len(ready) >= READY:
            ready.clear()
        found = shelf().exact(
            name, lying(call, order), args, (order, more) if more else order, like and (lambda: like(args))
        )  # fmt: skip
        if found is not shelf().later:
            ready[known] = found
        return found
    except TypeError:  # a list among the arguments
        return None
