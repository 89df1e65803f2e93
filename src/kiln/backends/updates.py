"""Steps of optimizers in eager mode: what is done to a parameter as one Program.

An update is written in ops on a parameter, its gradient and its state. Where it treats each element by itself,
one kernel reads and writes all of these once, for any shape of so many elements.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..ops.storing import bump
from ..sharing import watched, written
from ..tensor import CAPTURING, Tensor
from . import one_call
from .routines import native

_FLOATS = (dt.float32.np, dt.float64.np)
_NUMBERS: dict[Any, np.ndarray] = {}


def _number(x: Any) -> np.ndarray | None:
    """A Python number as a 0-d array, kept from step to step."""
    if x.__class__ is not float and x.__class__ is not int:
        return None
    found = _NUMBERS.get((x, x.__class__))
    if found is None:
        if len(_NUMBERS) > 256:
            _NUMBERS.clear()
        found = _NUMBERS[x, x.__class__] = np.array(x, np.float64)
    return found


def numbers(values: Sequence[Any]) -> list[np.ndarray] | None:
    """The options of a step as arrays; None where it is to run op by op."""
    if CAPTURING or config.eager != "cpu" or not native():
        return None
    found = [_number(x) for x in values]
    return None if any(a is None for a in found) else found  # type: ignore[return-value]


def run(
    name: str, key: Hashable, fn: Callable, tensors: Sequence[Any], options: list[np.ndarray]
) -> bool:
    """Have `fn(tensors, options)`, on a parameter, its gradient and its state, change them; False where its ops are to run.

    `name` and `key` say which function it is: all that it reads besides. It treats each element by itself, of tensors of the
    parameter's shape and of single numbers.
    """
    first: Any = tensors[0]._a
    if first.__class__ is not np.ndarray or not first.size or first.dtype not in _FLOATS:
        return False
    shape, d, plain = first.shape, first.dtype, first.flags.c_contiguous
    arrays: list[np.ndarray] = []
    own = []
    for i, x in enumerate(tensors):
        a: Any = x._a if isinstance(x, Tensor) else None
        if a.__class__ is not np.ndarray:
            return False
        if a.shape == shape and a.dtype is d:
            own.append(i)
            if not (a.flags.c_contiguous if plain else a.strides == first.strides):
                if i != 1:  # a gradient may lie in another order
                    return False
                a = np.ascontiguousarray(a) if plain else _as(a, first)
        elif a.ndim:
            return False
        if not (i == 1 or a.flags.writeable) or (i and x._ver is tensors[0]._ver is not None):
            return False  # the latter share memory
        arrays.append(a)
    if not plain and not first.transpose(np.argsort(first.strides)[::-1]).flags.c_contiguous:
        return False
    n = len(arrays)
    full = (name, key, first.size, d.num, n, config.cpu_isa)

    def whole(*given: Any) -> None:
        fn(given[:n], given[n:])

    if watched:
        written(*arrays)
    if not one_call.shelf().change(name, whole, arrays + options, full, own):
        return False
    for i, x in enumerate(tensors):
        if i != 1:
            bump(x)
    return True


def _as(a: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A copy that lies as another array does."""
    out = np.empty_like(like)
    np.copyto(out, a)
    return out
