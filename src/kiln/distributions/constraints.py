"""Regions in which parameters and samples of distributions lie.

A constraint's `check(value)` tells, for each event, whether it lies in the region; an event takes the
last `event_dim` dimensions. https://docs.pytorch.org/docs/stable/distributions.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

import kiln

from ..autograd.modes import no_grad
from ..errors import KilnAssertionError, KilnNotImplementedError, KilnValueError, describe
from ..tensor import CAPTURING, Tensor

__all__ = [
    "Constraint", "MixtureSameFamilyConstraint", "boolean", "cat", "corr_cholesky", "dependent",
    "dependent_property", "greater_than", "greater_than_eq", "half_open_interval", "independent",
    "integer_interval", "interval", "is_dependent", "less_than", "lower_cholesky", "lower_triangular",
    "multinomial", "nonnegative", "nonnegative_integer", "one_hot", "positive", "positive_definite",
    "positive_integer", "positive_semidefinite", "real", "real_vector", "simplex", "square", "stack",
    "symmetric", "unit_interval",
]  # fmt: skip


FEW = 8
"""Elements that are looked at one by one sooner than by NumPy."""
_EXACT = 1 << 24


def _exact(bound: Any) -> bool:
    """Whether a bound is the same number in every dtype that is compared with it here."""
    c = bound.__class__
    return (c is int or c is float) and -_EXACT <= bound <= _EXACT and bound == int(bound)


class Constraint:
    """A region; subclasses write `check`."""

    is_discrete: Any = False
    event_dim: Any = 0
    _plain = False
    """Whether `check` takes NumPy's arrays too, where bounds are numbers, and Python's numbers if `event_dim` is 0."""

    def check(self, value: Tensor) -> Tensor:
        """Whether each event of `value` lies in the region: bool of sample and batch shape."""
        raise NotImplementedError

    def holds(self, value: Tensor) -> bool:
        """Whether all events of `value` lie in the region, without a history of the question."""
        a = value._a
        if self._plain and not CAPTURING and a.__class__ is np.ndarray and a.dtype.kind in "fiub":
            bounds = self.__dict__.values()
            if a.size <= FEW and not self.event_dim and all(map(_exact, bounds)):
                return all(map(self.check, a.ravel().tolist()))
            if all(isinstance(bound, int | float) for bound in bounds):
                with suppress(RuntimeWarning):  # where somebody turns warnings into errors
                    return bool(np.all(self.check(a)))  # type: ignore[arg-type]
        with no_grad():
            return bool(self.check(value).all())

    def __repr__(self) -> str:
        bounds = ", ".join(f"{k}={v}" for k, v in vars(self).items())
        return f"{type(self).__name__.removeprefix('_')}({bounds})"


# ---------------------------------------------------------------- regions that depend on other values


class _Dependent(Constraint):
    """A region that depends on other variables; what isn't known of it raises NotImplementedError."""

    def __init__(self, *, is_discrete: Any = NotImplemented, event_dim: Any = NotImplemented):
        self._is_discrete, self._event_dim = is_discrete, event_dim

    def _known(self, name: str) -> Any:
        value = getattr(self, "_" + name)
        if value is NotImplemented:
            raise KilnNotImplementedError(
                "constraints.dependent", f".{name} cannot be determined statically", None,
                f"name it: dependent({name}=…)",
            )  # fmt: skip
        return value

    @property
    def is_discrete(self) -> bool:
        return self._known("is_discrete")

    @property
    def event_dim(self) -> int:
        return self._known("event_dim")

    def __call__(self, *, is_discrete: Any = NotImplemented, event_dim: Any = NotImplemented) -> Any:  # fmt: skip
        """The same with more known: `dependent(is_discrete=True, event_dim=1)`."""
        return _Dependent(
            is_discrete=self._is_discrete if is_discrete is NotImplemented else is_discrete,
            event_dim=self._event_dim if event_dim is NotImplemented else event_dim,
        )

    def check(self, value: Tensor) -> Tensor:
        raise KilnValueError(
            "constraints.dependent", "Cannot determine validity of dependent constraint", describe(value), "",
        )  # fmt: skip

    def __repr__(self) -> str:
        return "Dependent()"


class _DependentProperty(property, _Dependent):
    """A property of distributions that is a `_Dependent` constraint when read from the class."""

    def __init__(self, fn: Callable | None = None, *, is_discrete: Any = NotImplemented,
                 event_dim: Any = NotImplemented):  # fmt: skip
        property.__init__(self, fn)
        _Dependent.__init__(self, is_discrete=is_discrete, event_dim=event_dim)

    def __call__(self, fn: Callable) -> Any:  # type: ignore[override]
        """As a decorator with what is known: `@dependent_property(is_discrete=False, event_dim=0)`."""
        return _DependentProperty(fn, is_discrete=self._is_discrete, event_dim=self._event_dim)


def is_dependent(constraint: Any) -> bool:
    """Whether a constraint depends on other variables."""
    return isinstance(constraint, _Dependent)


# ---------------------------------------------------------------- regions made of others


def _require(ok: bool, what: str, received: Any) -> None:
    if not ok:
        raise KilnAssertionError("constraints", what, describe(received), "pass constraints")


def _all_rightmost(result: Tensor, keep: int) -> Tensor:
    return result.flatten(keep).all(-1) if result.dim() > keep else result


class _Over(Constraint):
    """A region made of another one."""

    def __init__(self, base_constraint: Constraint):
        _require(isinstance(base_constraint, Constraint), "base_constraint must be a Constraint", base_constraint)  # fmt: skip
        self.base_constraint = base_constraint

    @property
    def is_discrete(self) -> bool:
        return self.base_constraint.is_discrete

    @property
    def event_dim(self) -> int:
        return self.base_constraint.event_dim


def _dims(value: Tensor, least: int) -> None:
    if value.dim() < least:
        raise KilnValueError(
            "constraints", f"Expected value.dim() >= {least} but got {value.dim()}", describe(value), "",
        )  # fmt: skip


class _IndependentConstraint(_Over):
    """A region whose events take more dimensions, in each element of which another region holds."""

    def __init__(self, base_constraint: Constraint, reinterpreted_batch_ndims: int):
        super().__init__(base_constraint)
        _require(isinstance(reinterpreted_batch_ndims, int) and reinterpreted_batch_ndims >= 0,
                 "reinterpreted_batch_ndims must be an int that is not negative", reinterpreted_batch_ndims)  # fmt: skip
        self.reinterpreted_batch_ndims = reinterpreted_batch_ndims

    @property
    def event_dim(self) -> int:
        return self.base_constraint.event_dim + self.reinterpreted_batch_ndims

    def holds(self, value: Tensor) -> bool:
        if value.dim() < self.event_dim:
            return super().holds(value)
        return self.base_constraint.holds(value)  # all events lie there, whatever counts as one

    def check(self, value: Tensor) -> Tensor:
        result = self.base_constraint.check(value)
        keep = result.dim() - self.reinterpreted_batch_ndims
        if keep < 0:
            _dims(value, self.event_dim)
        return _all_rightmost(result, keep)

    def __repr__(self) -> str:
        return f"IndependentConstraint({self.base_constraint!r}, {self.reinterpreted_batch_ndims})"


class MixtureSameFamilyConstraint(_Over):
    """The support of a mixture: where all of its components have support."""

    def check(self, value: Tensor) -> Tensor:
        _dims(value, self.event_dim)
        result = self.base_constraint.check(value.unsqueeze(-1 - self.event_dim))
        return _all_rightmost(result, value.dim() - self.event_dim)

    def __repr__(self) -> str:
        return f"MixtureSameFamilyConstraint({self.base_constraint!r})"


class _Cat(Constraint):
    """Regions for consecutive stretches of one dimension, of these lengths, as `kiln.cat` joins them."""

    def __init__(self, cseq: Sequence[Constraint], dim: int = 0, lengths: Sequence[int] | None = None):  # fmt: skip
        _require(all(isinstance(c, Constraint) for c in cseq), "all of cseq must be constraints", cseq)  # fmt: skip
        self.cseq = list(cseq)
        self.lengths = [1] * len(self.cseq) if lengths is None else list(lengths)
        _require(len(self.lengths) == len(self.cseq), "lengths must match cseq", lengths)
        self.dim = dim

    @property
    def is_discrete(self) -> bool:
        return any(c.is_discrete for c in self.cseq)

    @property
    def event_dim(self) -> int:
        return max(c.event_dim for c in self.cseq)

    def check(self, value: Tensor) -> Tensor:
        _require(-value.dim() <= self.dim < value.dim(), f"dim {self.dim} is out of range", value)
        parts = value.split(self.lengths, self.dim)
        return kiln.cat([c.check(v) for c, v in zip(self.cseq, parts, strict=True)], self.dim)


class _Stack(Constraint):
    """Regions for the slices along one dimension, as `kiln.stack` joins them."""

    def __init__(self, cseq: Sequence[Constraint], dim: int = 0):
        _require(all(isinstance(c, Constraint) for c in cseq), "all of cseq must be constraints", cseq)  # fmt: skip
        self.cseq = list(cseq)
        self.dim = dim

    @property
    def is_discrete(self) -> bool:
        return any(c.is_discrete for c in self.cseq)

    @property
    def event_dim(self) -> int:
        dim = max(c.event_dim for c in self.cseq)
        return dim + 1 if self.dim + dim < 0 else dim

    def check(self, value: Tensor) -> Tensor:
        _require(-value.dim() <= self.dim < value.dim(), f"dim {self.dim} is out of range", value)
        return kiln.stack(
            [c.check(v) for c, v in zip(self.cseq, value.unbind(self.dim), strict=False)], self.dim
        )


# ---------------------------------------------------------------- numbers


class _Boolean(Constraint):
    """0 and 1."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return (value == 0) | (value == 1)


def _whole(value: Any, inside: Tensor) -> Tensor:
    """Where values are inside and whole, as those of integer dtypes all are."""
    if isinstance(value, np.ndarray):
        whole = value.dtype.kind in "iub"
    else:
        whole = isinstance(value, Tensor) and not value.is_floating_point()
    return inside if whole else inside & (value % 1 == 0)


class _IntegerInterval(Constraint):
    """Whole numbers in [lower_bound, upper_bound]."""

    _plain = True
    is_discrete = True

    def __init__(self, lower_bound: Any, upper_bound: Any):
        self.lower_bound, self.upper_bound = lower_bound, upper_bound

    def check(self, value: Tensor) -> Tensor:
        return _whole(value, (value >= self.lower_bound) & (value <= self.upper_bound))


class _IntegerGreaterThan(Constraint):
    """Whole numbers from lower_bound up."""

    _plain = True
    is_discrete = True

    def __init__(self, lower_bound: Any):
        self.lower_bound = lower_bound

    def check(self, value: Tensor) -> Tensor:
        return _whole(value, value >= self.lower_bound)


class _Real(Constraint):
    """All numbers but NaN."""

    _plain = True

    def check(self, value: Tensor) -> Tensor:
        return value == value


class _GreaterThan(Constraint):
    """Numbers above lower_bound."""

    _plain = True

    def __init__(self, lower_bound: Any):
        self.lower_bound = lower_bound

    def check(self, value: Tensor) -> Tensor:
        return value > self.lower_bound


class _GreaterThanEq(Constraint):
    """Numbers from lower_bound up."""

    _plain = True

    def __init__(self, lower_bound: Any):
        self.lower_bound = lower_bound

    def check(self, value: Tensor) -> Tensor:
        return value >= self.lower_bound


class _LessThan(Constraint):
    """Numbers below upper_bound."""

    _plain = True

    def __init__(self, upper_bound: Any):
        self.upper_bound = upper_bound

    def check(self, value: Tensor) -> Tensor:
        return value < self.upper_bound


class _Interval(Constraint):
    """Numbers in [lower_bound, upper_bound]."""

    _plain = True

    def __init__(self, lower_bound: Any, upper_bound: Any):
        self.lower_bound, self.upper_bound = lower_bound, upper_bound

    def check(self, value: Tensor) -> Tensor:
        return (value >= self.lower_bound) & (value <= self.upper_bound)


class _HalfOpenInterval(Constraint):
    """Numbers in [lower_bound, upper_bound)."""

    _plain = True

    def __init__(self, lower_bound: Any, upper_bound: Any):
        self.lower_bound, self.upper_bound = lower_bound, upper_bound

    def check(self, value: Tensor) -> Tensor:
        return (value >= self.lower_bound) & (value < self.upper_bound)


# ---------------------------------------------------------------- vectors


class _OneHot(Constraint):
    """Vectors with one 1 among zeros."""

    is_discrete = True
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return ((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == 1)


class _Simplex(Constraint):
    """Vectors without negative numbers whose sum is 1, to 1e-6."""

    _plain = True
    event_dim = 1

    def holds(self, value: Tensor) -> bool:
        a = value._a
        if (
            not CAPTURING
            and a.__class__ is np.ndarray
            and 0 < a.size <= 2 * FEW
            and a.dtype.char in "fd"
            and a.ndim
        ):
            n = a.shape[-1]
            near = 1e-6 - n * 2.0**-24  # within which the sum is whatever order it is rounded in
            rows = [a.tolist()] if a.ndim == 1 else a.reshape(-1, n).tolist()
            if all(min(row) >= 0 and -near < sum(row) - 1 < near for row in rows):
                return True
        return super().holds(value)

    def check(self, value: Tensor) -> Tensor:
        return (value >= 0).all(-1) & (abs(value.sum(-1) - 1) < 1e-6)


class _Multinomial(Constraint):
    """Vectors of counts whose sum is at most upper_bound."""

    is_discrete = True
    event_dim = 1

    def __init__(self, upper_bound: Any):
        self.upper_bound = upper_bound

    def check(self, value: Tensor) -> Tensor:
        return (value >= 0).all(-1) & (value.sum(-1) <= self.upper_bound)


# ---------------------------------------------------------------- matrices


def _one_small(a: Any) -> bool:
    """Whether this is the array of one small square matrix of floats, outside of captures."""
    return (
        not CAPTURING and a.__class__ is np.ndarray and a.dtype.char in "fd"
        and a.ndim == 2 and 0 < a.size <= FEW * FEW and a.shape[0] == a.shape[1]
    )  # fmt: skip


class _LowerTriangular(Constraint):
    """Square matrices with zeros above the diagonal."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        return (value.tril() == value).flatten(-2).all(-1)


class _LowerCholesky(_LowerTriangular):
    """Lower triangular matrices with a positive diagonal."""

    def holds(self, value: Tensor) -> bool:
        a = value._a
        if self.__class__ is not _LowerCholesky or not _one_small(a):
            return super().holds(value)
        return all(
            row[i] > 0 and not any(row[i + 1 :]) and all(x == x for x in row[:i])
            for i, row in enumerate(a.tolist())
        )

    def check(self, value: Tensor) -> Tensor:
        return super().check(value) & (value.diagonal(0, -2, -1) > 0).all(-1)


class _CorrCholesky(_LowerCholesky):
    """Lower triangular matrices with a positive diagonal and rows of length 1."""

    def check(self, value: Tensor) -> Tensor:
        tolerance = kiln.finfo(value.dtype).eps * value.shape[-1] * 10
        length = value.detach().square().sum(-1).sqrt()
        return super().check(value) & ((length - 1).abs() <= tolerance).all(-1)


class _Square(Constraint):
    """Square matrices."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        return kiln.full(value.shape[:-2], value.shape[-2] == value.shape[-1], dtype=kiln.bool)


class _Symmetric(_Square):
    """Square matrices that equal their transpose, to 1e-6."""

    def check(self, value: Tensor) -> Tensor:
        if value.shape[-2] != value.shape[-1]:
            return super().check(value)
        return value.isclose(value.mT, atol=1e-6).flatten(-2).all(-1)


class _PositiveSemidefinite(_Symmetric):
    """Symmetric matrices without negative eigenvalues."""

    def check(self, value: Tensor) -> Tensor:
        ok = super().check(value)
        return ok & (kiln.linalg.eigvalsh(value) >= 0).all(-1) if bool(ok.all()) else ok


class _PositiveDefinite(_Symmetric):
    """Symmetric matrices that have a Cholesky factor."""

    def holds(self, value: Tensor) -> bool:
        a = value._a
        if not _one_small(a) or not (a == a.T).all():
            return super().holds(value)
        with no_grad():
            return not kiln.linalg.cholesky_ex(value)[1].item()

    def check(self, value: Tensor) -> Tensor:
        ok = super().check(value)
        return ok & (kiln.linalg.cholesky_ex(value)[1] == 0) if bool(ok.all()) else ok


dependent = _Dependent()
dependent_property = _DependentProperty
independent = _IndependentConstraint
boolean = _Boolean()
one_hot = _OneHot()
nonnegative_integer = _IntegerGreaterThan(0)
positive_integer = _IntegerGreaterThan(1)
integer_interval = _IntegerInterval
real = _Real()
real_vector = independent(real, 1)
positive = _GreaterThan(0.0)
nonnegative = _GreaterThanEq(0.0)
greater_than = _GreaterThan
greater_than_eq = _GreaterThanEq
less_than = _LessThan
multinomial = _Multinomial
unit_interval = _Interval(0.0, 1.0)
interval = _Interval
half_open_interval = _HalfOpenInterval
simplex = _Simplex()
lower_triangular = _LowerTriangular()
lower_cholesky = _LowerCholesky()
corr_cholesky = _CorrCholesky()
square = _Square()
symmetric = _Symmetric()
positive_semidefinite = _PositiveSemidefinite()
positive_definite = _PositiveDefinite()
cat = _Cat
stack = _Stack
