"""Which transform leads from unconstrained numbers to a region.

`biject_to(constraint)` is one to one; `transform_to(constraint)` need not be, but works coordinate by
coordinate where it can. https://docs.pytorch.org/docs/stable/distributions.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import KilnNotImplementedError, KilnTypeError, describe
from ..tensor import Tensor
from . import constraints
from .transforms import (
    AffineTransform,
    CatTransform,
    ComposeTransform,
    CorrCholeskyTransform,
    ExpTransform,
    IndependentTransform,
    LowerCholeskyTransform,
    PositiveDefiniteTransform,
    SigmoidTransform,
    SoftmaxTransform,
    StackTransform,
    StickBreakingTransform,
    Transform,
    identity_transform,
)

__all__ = ["ConstraintRegistry", "biject_to", "transform_to"]


class ConstraintRegistry:
    """Transforms by the class of a constraint; `registry(constraint)` gives one."""

    def __init__(self) -> None:
        self._registry: dict[type, Callable[[Any], Transform]] = {}

    def register(self, constraint: Any, factory: Callable | None = None) -> Callable:
        """Register a function from a constraint to its transform, for a class or an instance of it; a decorator too."""
        if factory is None:
            return lambda factory: self.register(constraint, factory)
        kind = type(constraint) if isinstance(constraint, constraints.Constraint) else constraint
        if not (isinstance(kind, type) and issubclass(kind, constraints.Constraint)):
            raise KilnTypeError(
                "register", f"Expected constraint to be either a Constraint subclass or instance, but got {constraint}",
                describe(constraint), "",
            )  # fmt: skip
        self._registry[kind] = factory
        return factory

    def __call__(self, constraint: Any) -> Transform:
        factory = self._registry.get(type(constraint))
        if factory is None:
            raise KilnNotImplementedError(
                "transform_to", f"Cannot transform {type(constraint).__name__} constraints", describe(constraint),
                "register a transform for them",
            )  # fmt: skip
        return factory(constraint)


biject_to = ConstraintRegistry()
transform_to = ConstraintRegistry()


def _above(c: Any) -> Transform:
    return ComposeTransform([ExpTransform(), AffineTransform(c.lower_bound, 1)])


def _below(c: Any) -> Transform:
    return ComposeTransform([ExpTransform(), AffineTransform(c.upper_bound, -1)])


def _between(c: Any) -> Transform:
    low, high = c.lower_bound, c.upper_bound
    if not isinstance(low, Tensor) and not isinstance(high, Tensor) and (low, high) == (0, 1):
        return SigmoidTransform()
    return ComposeTransform([SigmoidTransform(), AffineTransform(low, high - low)])


def _made_of_others(registry: ConstraintRegistry) -> dict[Any, Callable]:
    return {
        constraints.independent: lambda c: IndependentTransform(registry(c.base_constraint), c.reinterpreted_batch_ndims),
        constraints.cat: lambda c: CatTransform([registry(x) for x in c.cseq], c.dim, c.lengths),
        constraints.stack: lambda c: StackTransform([registry(x) for x in c.cseq], c.dim),
    }  # fmt: skip


_BOTH: dict[Any, Callable] = {
    constraints.real: lambda c: identity_transform,
    constraints.greater_than: _above, constraints.greater_than_eq: _above, constraints.less_than: _below,
    constraints.interval: _between, constraints.half_open_interval: _between,
    constraints.corr_cholesky: lambda c: CorrCholeskyTransform(),
}  # fmt: skip
_OWN: dict[ConstraintRegistry, dict[Any, Callable]] = {
    biject_to: {constraints.simplex: lambda c: StickBreakingTransform()},
    transform_to: {
        constraints.simplex: lambda c: SoftmaxTransform(),
        constraints.lower_cholesky: lambda c: LowerCholeskyTransform(),
        constraints.positive_definite: lambda c: PositiveDefiniteTransform(),
        constraints.positive_semidefinite: lambda c: PositiveDefiniteTransform(),
    },
}  # fmt: skip
for _registry, _own in _OWN.items():
    for _constraint, _factory in (_BOTH | _made_of_others(_registry) | _own).items():
        _registry.register(_constraint, _factory)
