"""Cross entropy of many samples in eager mode: by rows, so that batches of any number of them share kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..ops.dispatch import apply
from ..ops.registry import REGISTRY
from ..tensor import Tensor
from . import derived

_FLOATS = (dt.float32.np, dt.float64.np)


def bind(native: Callable[[], bool]) -> None:
    """Give cross entropy and its gradient their routines."""
    loss, excess = REGISTRY["cross_entropy"], REGISTRY["softmax_excess"]
    losses_of, excess_of = loss.eager, excess.eager

    def able(input: np.ndarray, target: np.ndarray, *others: np.ndarray) -> bool:
        return (
            input.ndim == 2 and input.dtype in _FLOATS and input.size >= derived.DEAR * 4
            and len(input) >= derived.FEW and input.flags.c_contiguous
            and target.dtype == np.int64 and target.flags.c_contiguous
            and all(a.shape == input.shape[:1] for a in (target, *others))
            and config.eager == "cpu" and native()
        )  # fmt: skip

    def each(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        return apply(loss, (input, target, None, ignore_index, "none"))

    def cross_entropy(
        input: np.ndarray, target: np.ndarray, weight: Any, ignore_index: int, reduction: str
    ) -> np.ndarray:
        found = None
        if weight is None and able(input, target):
            most, given = derived.block_rows(*input.shape), [input, target, ignore_index]
            found = derived.shelf().run_blocks("cross_entropy", each, given, (0, 1), most, target.shape, "rows")  # fmt: skip
        if found is None:
            return losses_of(input, target, weight, ignore_index, reduction)
        if reduction == "none":
            return found[0]
        total = np.add.reduce(found[0])
        if reduction == "mean":
            with np.errstate(all="ignore"):
                total = total / total.dtype.type(np.count_nonzero(target != ignore_index))
        return np.asarray(total)

    def rows(scale: Tensor, input: Tensor, target: Tensor) -> Tensor:
        return apply(excess, (scale, input, target))

    def softmax_excess(scale: np.ndarray, input: np.ndarray, target: np.ndarray) -> np.ndarray:
        found = None
        if able(input, target, scale) and scale.dtype is input.dtype:
            most, given = derived.block_rows(*input.shape), [np.ascontiguousarray(scale), input, target]  # fmt: skip
            found = derived.shelf().run_blocks("softmax_excess", rows, given, (0, 1, 2), most, target.shape, "rows")  # fmt: skip
        return excess_of(scale, input, target) if found is None else found[0]

    loss.eager, excess.eager = cross_entropy, softmax_excess
