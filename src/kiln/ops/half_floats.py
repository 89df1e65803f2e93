"""Numbers and 0-d tensors beside half floats: which of them an op rounds first."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from .registry import Op

HALF = (dt.float16.np, dt.bfloat16.np)

# Note [Numbers beside half floats]: ops on half floats compute in float32 and round their result. A number beside them
# (or a 0-d tensor that doesn't decide the dtype) is rounded to theirs first, as in PyTorch, which holds it as a tensor of that
# dtype, except where an op says `wide_numbers`: products, quotients and lerp take a number as it is, and a 0-d tensor
# that is their last operand. The factor of a sum (`alpha`) is rounded.


def wide(op: Op, slot: int, x: Any) -> bool:
    """Whether a number or 0-d operand beside half floats is taken as it is."""
    return op.wide_numbers and (not hasattr(x, "dtype") or slot == op.tensor_slots[-1])


def rounded(x: Any, half: dt.dtype) -> float:
    """A number as half floats have it."""
    with np.errstate(over="ignore"):
        return float(half.np.type(x))


def hold(op: Op, args: list, half: dt.dtype) -> bool:
    """Round what an op on half floats rounds first; whether there is a number or 0-d operand beside them."""
    beside = False
    for i in op.tensor_slots:
        x = args[i]
        if x is None or (x.__class__ is np.ndarray and (x.ndim or x.dtype is half.np)):
            continue
        beside = True
        if not wide(op, i, x):
            args[i] = x.astype(half.np) if x.__class__ is np.ndarray else rounded(x, half)
    if op.scalar in ("add", "sub") and op.factor is not None and args[op.factor] != 1:
        args[op.factor] = rounded(args[op.factor], half)
    return beside
