"""What weights must be after each step, by Keras's names.

https://keras.io/api/layers/constraints/
"""

from __future__ import annotations

from typing import Any

from ..tensor import Tensor
from .configured import Configured, finder


class Constraint(Configured):
    """Gives for a weight the one that is allowed."""

    def __call__(self, w: Tensor) -> Tensor:
        raise NotImplementedError


def _norm(w: Tensor, axis: Any) -> Tensor:
    return w.square().sum(axis, keepdim=True).sqrt()


class MaxNorm(Constraint):
    """Norms along `axis` of at most `max_value`."""

    def __init__(self, max_value: float = 2, axis: Any = 0) -> None:
        self.max_value, self.axis = max_value, axis

    def __call__(self, w: Tensor) -> Tensor:
        norms = _norm(w, self.axis)
        return w * (norms.clamp(0, self.max_value) / (1e-7 + norms))


class MinMaxNorm(Constraint):
    """Norms along `axis` between two values, drawn there by `rate`."""

    def __init__(self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Any = 0) -> None:  # fmt: skip
        self.min_value, self.max_value, self.rate, self.axis = min_value, max_value, rate, axis

    def __call__(self, w: Tensor) -> Tensor:
        norms = _norm(w, self.axis)
        wanted = self.rate * norms.clamp(self.min_value, self.max_value) + (1 - self.rate) * norms
        return w * (wanted / (1e-7 + norms))


class NonNeg(Constraint):
    """Nothing below 0."""

    def __call__(self, w: Tensor) -> Tensor:
        return w * (w >= 0).to(w.dtype)


class UnitNorm(Constraint):
    """Norms of 1 along `axis`."""

    def __init__(self, axis: Any = 0) -> None:
        self.axis = axis

    def __call__(self, w: Tensor) -> Tensor:
        return w / (1e-7 + _norm(w, self.axis))


max_norm, min_max_norm, non_neg, unit_norm = MaxNorm, MinMaxNorm, NonNeg, UnitNorm
KINDS = (MaxNorm, MinMaxNorm, NonNeg, UnitNorm)
get: Any = finder(Constraint, KINDS, {})

__all__ = [
    *(c.__name__ for c in KINDS),
    "Constraint",
    "get",
    "max_norm",
    "min_max_norm",
    "non_neg",
    "unit_norm",
]  # pyright: ignore[reportUnsupportedDunderAll]
