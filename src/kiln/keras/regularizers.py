"""Penalties on weights or outputs, by Keras's names.

https://keras.io/api/layers/regularizers/
"""

from __future__ import annotations

from typing import Any

from ..ops.creation import eye
from ..tensor import Tensor
from .configured import Configured, finder


class Regularizer(Configured):
    """Gives a number for a tensor, which is added to the loss."""

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class L1L2(Regularizer):
    """l1 * Σ|x| + l2 * Σx²."""

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1, self.l2 = 0.0 if l1 is None else l1, 0.0 if l2 is None else l2

    def __call__(self, x: Tensor) -> Tensor:
        found = x.new_zeros(())
        if self.l1:
            found = found + self.l1 * x.abs().sum()
        return found + self.l2 * x.square().sum() if self.l2 else found


class L1(Regularizer):
    """l1 * Σ|x|."""

    def __init__(self, l1: float = 0.01) -> None:
        self.l1 = 0.01 if l1 is None else l1

    def __call__(self, x: Tensor) -> Tensor:
        return self.l1 * x.abs().sum()


class L2(Regularizer):
    """l2 * Σx²."""

    def __init__(self, l2: float = 0.01) -> None:
        self.l2 = 0.01 if l2 is None else l2

    def __call__(self, x: Tensor) -> Tensor:
        return self.l2 * x.square().sum()


class OrthogonalRegularizer(Regularizer):
    """How far rows (or columns) of a matrix are from being orthogonal: the mean of |cosines| between them, times `factor`."""

    def __init__(self, factor: float = 0.01, mode: str = "rows") -> None:
        self.factor, self.mode = factor, mode

    def __call__(self, x: Tensor) -> Tensor:
        x = x if self.mode == "rows" else x.T
        unit = x / x.square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
        n = unit.shape[0]
        cosines = (unit @ unit.T) * (1 - eye(n))
        return self.factor * 0.5 * cosines.abs().sum() / (n * (n - 1) / 2)


l1, l2, l1_l2 = L1, L2, L1L2
KINDS = (L1, L2, L1L2, OrthogonalRegularizer)
get: Any = finder(Regularizer, KINDS, {"l1": L1, "l2": L2, "l1_l2": lambda: L1L2(0.01, 0.01)})

__all__ = [*(c.__name__ for c in KINDS), "Regularizer", "get", "l1", "l1_l2", "l2"]  # pyright: ignore[reportUnsupportedDunderAll]
