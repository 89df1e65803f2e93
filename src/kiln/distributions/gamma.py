"""Distributions that are made of gamma numbers, whose gradients are those of implicit reparameterisation."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

import kiln

from ..errors import KilnValueError, describe
from ..ops.densities import beta_density, beta_entropy, gamma_density, gamma_entropy
from ..ops.drawing import sample
from ..ops.sampling import _sample_dirichlet, _standard_gamma
from ..tensor import CAPTURING, PLAIN, Tensor
from . import constraints
from .distribution import Distribution, ExponentialFamily, _Shape
from .utils import broadcast_all

_TINY = {d: kiln.finfo(d).tiny for d in (kiln.float32, kiln.float64)}


def _above_zero(value: Tensor) -> Tensor:
    tiny = _TINY.get(value.dtype) or kiln.finfo(value.dtype).tiny
    if (
        not CAPTURING and value.__class__ in PLAIN and (a := value._a).__class__ is np.ndarray
        and a.size and np.minimum.reduce(a, None) >= tiny
    ):  # fmt: skip
        return value
    return value.clamp(min=tiny)


class Gamma(ExponentialFamily):
    """The gamma distribution of shape `concentration`."""

    arg_constraints: ClassVar = {
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }
    support = constraints.nonnegative
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(self, concentration: Tensor | float, rate: Tensor | float, validate_args: bool | None = None):  # fmt: skip
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def mode(self) -> Tensor:
        return ((self.concentration - 1) / self.rate).clamp(min=0)

    @property
    def variance(self) -> Tensor:
        return self.concentration / self.rate.square()

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        shapes = self.concentration.expand(shape) if sample_shape else self.concentration
        return _above_zero(_standard_gamma(shapes) / self.rate)

    def log_prob(self, value: Tensor) -> Tensor:
        value = kiln.as_tensor(value, dtype=self.rate.dtype)
        self._check(value)
        return gamma_density(value, self.concentration, self.rate)

    def cdf(self, value: Tensor) -> Tensor:
        self._check(value)
        return kiln.special.gammainc(self.concentration, self.rate * value)

    def entropy(self) -> Tensor:
        return gamma_entropy(self.concentration, self.rate)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return self.concentration - 1, -self.rate

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:
        return (x + 1).lgamma() - (x + 1) * (-y).log()


class Chi2(Gamma):
    """The chi-squared distribution of `df` degrees of freedom."""

    arg_constraints: ClassVar = {"df": constraints.positive}

    def __init__(self, df: Tensor | float, validate_args: bool | None = None):
        super().__init__(0.5 * df, 0.5, validate_args=validate_args)

    @property
    def df(self) -> Tensor:
        """The degrees of freedom."""
        return self.concentration * 2


class Exponential(ExponentialFamily):
    """The exponential distribution."""

    arg_constraints: ClassVar = {"rate": constraints.positive}
    support = constraints.nonnegative
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(self, rate: Tensor | float, validate_args: bool | None = None):
        (self.rate,) = broadcast_all(rate)
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.rate.reciprocal()

    stddev = mean

    @property
    def mode(self) -> Tensor:
        return kiln.zeros_like(self.rate)

    @property
    def variance(self) -> Tensor:
        return self.rate.pow(-2)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return sample(None, "exponential", shape, self.rate.dtype, 1.0) / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        return self.rate.log() - self.rate * value

    def cdf(self, value: Tensor) -> Tensor:
        self._check(value)
        return -(-self.rate * value).expm1()

    def icdf(self, value: Tensor) -> Tensor:
        return -(-value).log1p() / self.rate

    def entropy(self) -> Tensor:
        return 1 - self.rate.log()

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (-self.rate,)

    def _log_normalizer(self, x: Tensor) -> Tensor:
        return -(-x).log()


class FisherSnedecor(Distribution):
    """The F-distribution: the ratio of two chi-squared numbers over their degrees of freedom."""

    arg_constraints: ClassVar = {"df1": constraints.positive, "df2": constraints.positive}
    support = constraints.positive
    has_rsample = True

    def __init__(self, df1: Tensor | float, df2: Tensor | float, validate_args: bool | None = None):
        self.df1, self.df2 = broadcast_all(df1, df2)
        super().__init__(self.df1.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        df2 = kiln.where(self.df2 > 2, self.df2, math.nan)
        return df2 / (df2 - 2)

    @property
    def mode(self) -> Tensor:
        mode = (self.df1 - 2) / self.df1 * self.df2 / (self.df2 + 2)
        return kiln.where(self.df1 > 2, mode, math.nan)

    @property
    def variance(self) -> Tensor:
        df2 = kiln.where(self.df2 > 4, self.df2, math.nan)
        total = self.df1 + df2 - 2
        return 2 * df2.square() * total / (self.df1 * (df2 - 2).square() * (df2 - 4))

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        above, below = (_standard_gamma((df / 2).expand(shape)) / df for df in (self.df1, self.df2))
        return _above_zero(above / _above_zero(below))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        a, b, ratio = self.df1 / 2, self.df2 / 2, self.df1 / self.df2
        scale = (a + b).lgamma() - a.lgamma() - b.lgamma()
        return scale + a * ratio.log() + (a - 1) * value.log() - (a + b) * (ratio * value).log1p()


class Dirichlet(ExponentialFamily):
    """The Dirichlet distribution of points of the simplex along the last dimension."""

    arg_constraints: ClassVar = {"concentration": constraints.independent(constraints.positive, 1)}
    support = constraints.simplex
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(self, concentration: Tensor, validate_args: bool | None = None):
        if concentration.dim() < 1:
            raise KilnValueError(
                "Dirichlet", "`concentration` parameter must be at least one-dimensional.", describe(concentration),
                "the last dimension holds the components",
            )  # fmt: skip
        self.concentration = concentration
        shape = concentration.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, True)

    @property
    def mode(self) -> Tensor:
        excess = (self.concentration - 1).clamp(min=0.0)
        inside = excess / excess.sum(-1, True)
        corner = kiln.nn.functional.one_hot(inside.argmax(-1), excess.shape[-1]).to(excess.dtype)
        return kiln.where((self.concentration < 1).all(-1, True), corner, inside)

    @property
    def variance(self) -> Tensor:
        total = self.concentration.sum(-1, True)
        return self.concentration * (total - self.concentration) / (total.square() * (total + 1))

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        given = self.concentration
        return _sample_dirichlet(
            given.expand(self._extended_shape(sample_shape)) if sample_shape else given
        )

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        return (self.concentration - 1).xlogy(value).sum(-1) - self._log_normalizer(self.concentration)  # fmt: skip

    def entropy(self) -> Tensor:
        a = self.concentration
        total, k = a.sum(-1), a.shape[-1]
        slopes = (total - k) * total.digamma() - ((a - 1) * a.digamma()).sum(-1)
        return self._log_normalizer(a) + slopes

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.concentration,)

    def _log_normalizer(self, x: Tensor) -> Tensor:
        return x.lgamma().sum(-1) - x.sum(-1).lgamma()


class Beta(ExponentialFamily):
    """The beta distribution on [0, 1]: the first of the two components of a Dirichlet distribution."""

    arg_constraints: ClassVar = {"concentration1": constraints.positive, "concentration0": constraints.positive}  # fmt: skip
    support = constraints.unit_interval
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(self, concentration1: Tensor | float, concentration0: Tensor | float,
                 validate_args: bool | None = None):  # fmt: skip
        both = kiln.stack(broadcast_all(concentration1, concentration0), -1)
        self._dirichlet = Dirichlet(both, validate_args=validate_args)
        super().__init__(both.shape[:-1], validate_args=validate_args)

    def _check_parameters(self) -> None:
        if (
            type(self).arg_constraints is not Beta.arg_constraints
        ):  # else the Dirichlet distribution has looked
            super()._check_parameters()

    @property
    def concentration1(self) -> Tensor:
        """The power of x, plus 1."""
        return self._dirichlet.concentration[..., 0]

    @property
    def concentration0(self) -> Tensor:
        """The power of 1 - x, plus 1."""
        return self._dirichlet.concentration[..., 1]

    @property
    def mean(self) -> Tensor:
        return self._dirichlet.mean[..., 0]

    @property
    def mode(self) -> Tensor:
        return self._dirichlet.mode[..., 0]

    @property
    def variance(self) -> Tensor:
        return self._dirichlet.variance[..., 0]

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        return self._dirichlet.rsample(sample_shape)[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        return beta_density(value, self.concentration1, self.concentration0)

    def entropy(self) -> Tensor:
        return beta_entropy(self.concentration1, self.concentration0)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return self.concentration1, self.concentration0

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:
        return x.lgamma() + y.lgamma() - (x + y).lgamma()
