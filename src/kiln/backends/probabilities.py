"""Softmax and cross entropy in eager mode, along rows: any number of them shares kernels, and softmax any length."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import OpNode
from ..config import config
from ..ops.dispatch import apply
from ..ops.registry import REGISTRY
from ..tensor import Tensor
from . import derived

_FLOATS = (dt.float32.np, dt.float64.np)


@cache
def _softmax() -> Any:
    """The module of softmax's kernels."""
    from .cpu import softmax

    return softmax


def bind(native: Callable[[], bool]) -> None:
    """Give softmax, cross entropy and their gradients their routines."""
    _bind_softmax("softmax", native)
    _bind_softmax("log_softmax", native)
    _bind_cross_entropy(native)


def _bind_softmax(name: str, native: Callable[[], bool]) -> None:
    op = REGISTRY[name]
    others = op.eager

    def able(*arrays: Any) -> bool:
        first = arrays[0]
        return all(
            a.__class__ is np.ndarray and a.dtype is first.dtype and a.shape == first.shape and a.flags.c_contiguous
            for a in arrays
        ) and first.ndim > 0 and first.dtype in _FLOATS and first.size >= derived.SMALL and (
            config.eager == "cpu" and native()
        )  # fmt: skip

    def run(input: np.ndarray, dim: int, dtype: Any) -> np.ndarray:
        """Along the last dimension."""
        if dtype is None and able(input) and dim in (-1, input.ndim - 1):
            return _softmax().run(name, input)
        return others(input, dim, dtype)

    def gradient(node: OpNode, gs: list) -> list | None:
        _, dim, dtype = node.args
        (g,), y = gs, node.outs[0][0]  # type: ignore[index]
        if dtype is None and able(g, y) and dim in (-1, g.ndim - 1):
            return [_softmax().run(name + "_grad", g, y)]
        return None

    run.small = True  # type: ignore[attr-defined]
    op.eager, derived.OWN[name] = run, gradient


def _bind_cross_entropy(native: Callable[[], bool]) -> None:
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
