"""Distributions of numbers on the line that have a location and a scale."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import kiln

from ..ops.drawing import sample
from ..ops.likelihood import gaussian
from ..ops.sampling import _standard_gamma, von_mises
from ..tensor import Tensor
from . import constraints
from .distribution import Distribution, ExponentialFamily, _Shape
from .utils import broadcast_all, filled, standard_normal

_LOC_SCALE = {"loc": constraints.real, "scale": constraints.positive}


class _LocScale(Distribution):
    """A distribution on the whole line that a location and a scale give."""

    arg_constraints: ClassVar = _LOC_SCALE
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None):  # fmt: skip
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)


class Normal(_LocScale, ExponentialFamily):
    """The normal distribution of mean `loc` and standard deviation `scale`."""

    _mean_carrier_measure = 0

    @property
    def mean(self) -> Tensor:
        return self.loc

    mode = mean

    @property
    def stddev(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        return self.scale.square()

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        return self.loc + standard_normal(self._extended_shape(sample_shape), self.loc) * self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        return gaussian(value, self.loc, self.scale)

    def cdf(self, value: Tensor) -> Tensor:
        self._check(value)
        return 0.5 * (1 + ((value - self.loc) / (self.scale * math.sqrt(2))).erf())

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * (2 * value - 1).erfinv() * math.sqrt(2)

    def entropy(self) -> Tensor:
        return 0.5 + 0.5 * math.log(math.tau) + self.scale.log()

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        precision = self.scale.square().reciprocal()
        return self.loc * precision, -0.5 * precision

    def _log_normalizer(self, x: Tensor, y: Tensor) -> Tensor:
        return -0.25 * x.square() / y + 0.5 * (-math.pi / y).log()


class Laplace(_LocScale):
    """The Laplace distribution: an exponential one on both sides of `loc`."""

    @property
    def mean(self) -> Tensor:
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        return 2 * self.scale.square()

    @property
    def stddev(self) -> Tensor:
        return math.sqrt(2) * self.scale

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        u = kiln.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype) * 2 - 1
        u = u.clamp(min=kiln.finfo(u.dtype).eps - 1)
        return self.loc - self.scale * u.sign() * (-u.abs()).log1p()

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        return -(2 * self.scale).log() - (value - self.loc).abs() / self.scale

    def cdf(self, value: Tensor) -> Tensor:
        self._check(value)
        d = value - self.loc
        return 0.5 - 0.5 * d.sign() * (-d.abs() / self.scale).expm1()

    def icdf(self, value: Tensor) -> Tensor:
        d = value - 0.5
        return self.loc - self.scale * d.sign() * (-2 * d.abs()).log1p()

    def entropy(self) -> Tensor:
        return 1 + (2 * self.scale).log()


class Cauchy(_LocScale):
    """The Cauchy distribution of median `loc` and half width `scale`; it has no mean."""

    @property
    def mean(self) -> Tensor:
        return filled(self.loc, self._extended_shape(), math.nan)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return filled(self.loc, self._extended_shape(), math.inf)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        x = sample(None, "cauchy", self._extended_shape(sample_shape), self.loc.dtype, 0.0, 1.0)
        return self.loc + x * self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        z = (value - self.loc) / self.scale
        return -math.log(math.pi) - self.scale.log() - z.square().log1p()

    def cdf(self, value: Tensor) -> Tensor:
        self._check(value)
        return ((value - self.loc) / self.scale).atan() / math.pi + 0.5

    def icdf(self, value: Tensor) -> Tensor:
        return (math.pi * (value - 0.5)).tan() * self.scale + self.loc

    def entropy(self) -> Tensor:
        return math.log(4 * math.pi) + self.scale.log()


class StudentT(Distribution):
    """Student's t-distribution of `df` degrees of freedom, moved and scaled."""

    arg_constraints: ClassVar = {"df": constraints.positive, **_LOC_SCALE}
    support = constraints.real
    has_rsample = True

    def __init__(self, df: Tensor | float, loc: Tensor | float = 0.0, scale: Tensor | float = 1.0,
                 validate_args: bool | None = None):  # fmt: skip
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        super().__init__(self.df.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return kiln.where(self.df > 1, self.loc, math.nan)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        df = kiln.where(self.df > 2, self.df, math.inf)  # no 0 / 0 in gradients
        known = self.scale.square() * self.df / (df - 2)
        return kiln.where(self.df > 2, known, kiln.where(self.df > 1, math.inf, math.nan))

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        half = (self.df / 2).expand(shape)
        z = standard_normal(shape, self.df)
        return self.loc + self.scale * z * (_standard_gamma(half) / half).rsqrt()

    def _log_normalizer(self) -> Tensor:
        half = 0.5 * self.df
        return 0.5 * (self.df.log() + math.log(math.pi)) + half.lgamma() - (half + 0.5).lgamma()

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        z = (value - self.loc) / self.scale
        tail = -0.5 * (self.df + 1) * (z.square() / self.df).log1p()
        return tail - self.scale.log() - self._log_normalizer()

    def entropy(self) -> Tensor:
        half = 0.5 * self.df
        slope = (half + 0.5) * ((half + 0.5).digamma() - half.digamma())
        return self.scale.log() + slope + self._log_normalizer()


class Uniform(Distribution):
    """The uniform distribution on [low, high)."""

    has_rsample = True

    def __init__(self, low: Tensor | float, high: Tensor | float, validate_args: bool | None = None):  # fmt: skip
        self.low, self.high = broadcast_all(low, high)
        super().__init__(self.low.shape, validate_args=validate_args)

    @property
    def arg_constraints(self) -> Any:
        return {
            "low": constraints.less_than(self.high),
            "high": constraints.greater_than(self.low),
        }

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        return constraints.interval(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        return (self.high + self.low) / 2

    @property
    def mode(self) -> Tensor:
        return math.nan * self.high

    @property
    def variance(self) -> Tensor:
        return (self.high - self.low).square() / 12

    @property
    def stddev(self) -> Tensor:
        return (self.high - self.low) / math.sqrt(12)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        return self.icdf(kiln.rand(self._extended_shape(sample_shape), dtype=self.low.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        inside = (value >= self.low) & (value < self.high)
        return inside.to(self.low.dtype).log() - (self.high - self.low).log()

    def cdf(self, value: Tensor) -> Tensor:
        self._check(value)
        return ((value - self.low) / (self.high - self.low)).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        return value * (self.high - self.low) + self.low

    def entropy(self) -> Tensor:
        return (self.high - self.low).log()


class GeneralizedPareto(Distribution):
    """The generalized Pareto distribution: the tail beyond `loc`, heavy for positive `concentration`."""

    arg_constraints: ClassVar = {**_LOC_SCALE, "concentration": constraints.real}
    has_rsample = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, concentration: Tensor | float,
                 validate_args: bool | None = None):  # fmt: skip
        self.loc, self.scale, self.concentration = broadcast_all(loc, scale, concentration)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        end = self.loc - self.scale / self.concentration
        return constraints.interval(self.loc, kiln.where(self.concentration < 0, end, math.inf))

    def _exponential(self) -> tuple[Tensor, Tensor]:
        """Where the tail is exponential, and the concentration with 1 in those places."""
        flat = self.concentration.isclose(kiln.zeros_like(self.concentration))
        return flat, kiln.where(flat, 1.0, self.concentration)

    @property
    def mean(self) -> Tensor:
        few = self.concentration < 1
        c = kiln.where(few, self.concentration, 0.5)
        return kiln.where(few, self.loc + self.scale / (1 - c), math.nan)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        few = self.concentration < 0.5
        c = kiln.where(few, self.concentration, 0.25)
        return kiln.where(few, self.scale.square() / ((1 - c).square() * (1 - 2 * c)), math.nan)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        return self.icdf(kiln.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        z = (value - self.loc) / self.scale
        flat, c = self._exponential()
        power = 1 / c + 1
        fall = kiln.where(power == 0, power + 0 * z, power * (c * z).log1p())
        return -self.scale.log() - kiln.where(flat, z, fall)

    def log_survival_function(self, value: Tensor) -> Tensor:
        """The logarithm of the probability of a number above `value`."""
        self._check(value)
        z = (value - self.loc) / self.scale
        flat, c = self._exponential()
        return kiln.where(flat, -z, -(c * z).log1p() / c)

    def log_cdf(self, value: Tensor) -> Tensor:
        """The logarithm of `cdf`."""
        return (-self.log_survival_function(value).exp()).log1p()

    def cdf(self, value: Tensor) -> Tensor:
        return self.log_cdf(value).exp()

    def icdf(self, value: Tensor) -> Tensor:
        left = (-value).log1p()
        flat, c = self._exponential()
        return self.loc + self.scale * kiln.where(flat, -left, (-c * left).expm1() / c)

    def entropy(self) -> Tensor:
        return self.scale.log() + self.concentration + 1


class VonMises(Distribution):
    """The von Mises distribution of angles, in radians, around `loc`; the mean and variance are circular."""

    arg_constraints: ClassVar = {"loc": constraints.real, "concentration": constraints.positive}
    support = constraints.real

    def __init__(self, loc: Tensor | float, concentration: Tensor | float, validate_args: bool | None = None):  # fmt: skip
        self.loc, self.concentration = broadcast_all(loc, concentration)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        k = self.concentration
        return 1 - kiln.special.i1e(k) / kiln.special.i0e(k)

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        angle = von_mises(self.concentration.detach().expand(shape)) + self.loc.detach()
        return (angle + math.pi) % math.tau - math.pi

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        k = self.concentration
        fall = k * ((value - self.loc).cos() - 1)
        return fall - math.log(math.tau) - kiln.special.i0e(k).log()
