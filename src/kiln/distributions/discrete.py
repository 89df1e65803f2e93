"""Distributions of counts and of two outcomes, and their continuous relatives; given probabilities or logits."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import kiln

from ..autograd.modes import no_grad
from ..errors import KilnNotImplementedError, KilnValueError, describe
from ..nn.functional import binary_cross_entropy_with_logits, logsigmoid
from ..ops.drawing import sample
from ..ops.sampling import _standard_gamma
from ..shape import Size
from ..tensor import Tensor, active_capture
from . import constraints
from .distribution import Distribution, ExponentialFamily, _Shape
from .utils import (
    broadcast_all,
    clamp_probs,
    lazy_property,
    logits_to_probs,
    probs_to_logits,
    uniform_inside,
)


def one_of(distribution: Any, probs: Any, logits: Any) -> str:
    """Which of the two was given; ValueError unless exactly one was."""
    if (probs is None) == (logits is None):
        raise KilnValueError(
            type(distribution).__name__, "Either `probs` or `logits` must be specified, but not both.",
            describe([probs, logits]), "give one of them",
        )  # fmt: skip
    return "logits" if probs is None else "probs"


class Odds(Distribution):
    """Distributions given the probability of success or its log odds, the other being computed when asked for."""

    arg_constraints: ClassVar = {"probs": constraints.unit_interval, "logits": constraints.real}

    def _take(self, probs: Any, logits: Any, *others: Any) -> list[Tensor]:
        """Keep what was given, broadcast against the others, which are returned."""
        name = one_of(self, probs, logits)
        given, *rest = broadcast_all(logits if probs is None else probs, *others)
        setattr(self, name, given)
        return [x.to(given.dtype) for x in rest]

    @lazy_property
    def logits(self) -> Tensor:
        """The log odds of success."""
        return probs_to_logits(self.probs, is_binary=True)

    @lazy_property
    def probs(self) -> Tensor:
        """The probability of success."""
        return logits_to_probs(self.logits, is_binary=True)

    @property
    def _param(self) -> Tensor:
        return self.probs if "probs" in vars(self) else self.logits

    @property
    def param_shape(self) -> Size:
        """The shape of the parameter."""
        return self._param.shape


class Bernoulli(Odds, ExponentialFamily):
    """1 with probability `probs`, else 0."""

    support = constraints.boolean
    has_enumerate_support = True
    _mean_carrier_measure = 0

    def __init__(self, probs: Tensor | float | None = None, logits: Tensor | float | None = None,
                 validate_args: bool | None = None):  # fmt: skip
        self._take(probs, logits)
        super().__init__(self._param.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        likely = (self.probs >= 0.5).to(self.probs.dtype)
        return kiln.where(self.probs == 0.5, math.nan, likely)

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        with no_grad():
            return kiln.bernoulli(self.probs.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        logits, value = broadcast_all(self.logits, value)
        return -binary_cross_entropy_with_logits(logits, value, reduction="none")

    def entropy(self) -> Tensor:
        return binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._enumerated(kiln.arange(2, dtype=self._param.dtype), expand)

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.probs.logit(),)

    def _log_normalizer(self, x: Tensor) -> Tensor:
        return x.exp().log1p()


class Geometric(Odds):
    """The number of failures before the first success."""

    support = constraints.nonnegative_integer

    def __init__(self, probs: Tensor | float | None = None, logits: Tensor | float | None = None,
                 validate_args: bool | None = None):  # fmt: skip
        self._take(probs, logits)
        super().__init__(self._param.shape, validate_args=validate_args)
        if probs is not None and self._validate_args and self._looks() and not bool((self.probs > 0).all()):  # fmt: skip
            raise KilnValueError(
                "Geometric", f"Expected parameter probs of distribution {self!r} to be positive but found invalid "
                f"values:\n{self.probs}", describe(self.probs), "the first success must be possible",
            )  # fmt: skip

    @property
    def mean(self) -> Tensor:
        return 1 / self.probs - 1

    @property
    def mode(self) -> Tensor:
        return kiln.zeros_like(self.probs)

    @property
    def variance(self) -> Tensor:
        return (1 / self.probs - 1) / self.probs

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        with no_grad():
            d = self.probs.dtype
            u = sample(
                None, "uniform", self._extended_shape(sample_shape), d, kiln.finfo(d).tiny, 1.0
            )
            return (u.log() / (-self.probs).log1p()).floor()

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        value, probs = broadcast_all(value, self.probs)
        failing = kiln.where((probs == 1) & (value == 0), 0.0, probs)
        return value * (-failing).log1p() + self.probs.log()

    def entropy(self) -> Tensor:
        own = binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")
        return own / self.probs


class Binomial(Odds):
    """The number of successes in `total_count` trials."""

    arg_constraints: ClassVar = {
        "total_count": constraints.nonnegative_integer,
        **Odds.arg_constraints,
    }
    has_enumerate_support = True

    def __init__(self, total_count: Tensor | int = 1, probs: Tensor | float | None = None,
                 logits: Tensor | float | None = None, validate_args: bool | None = None):  # fmt: skip
        (self.total_count,) = self._take(probs, logits, total_count)
        super().__init__(self._param.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.probs

    @property
    def mode(self) -> Tensor:
        return ((self.total_count + 1) * self.probs).floor().minimum(self.total_count)

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with no_grad():
            return kiln.binomial(self.total_count.expand(shape), self.probs.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        n = self.total_count
        ways = (n + 1).lgamma() - (value + 1).lgamma() - (n - value + 1).lgamma()
        # log(1 + exp(logits)), also where exp overflows
        scale = self.logits.clamp(min=0) + (-self.logits.abs()).exp().log1p()
        return value * self.logits + ways - n * scale

    def _one_count(self, what: str) -> int:
        if active_capture() is None:
            count = int(self.total_count.max())
            if bool((self.total_count == count).all()):
                return count
        raise KilnNotImplementedError(
            "Binomial", f"Inhomogeneous total count not supported by `{what}`.", describe(self.total_count),
            "use one total_count, known outside of captured functions",
        )  # fmt: skip

    def entropy(self) -> Tensor:
        self._one_count("entropy")
        log_prob = self.log_prob(self.enumerate_support(False))
        return -(log_prob.exp() * log_prob).sum(0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        count = self._one_count("enumerate_support")
        return self._enumerated(kiln.arange(1 + count, dtype=self._param.dtype), expand)


class NegativeBinomial(Odds):
    """The number of successes before `total_count` failures, which need not be a whole number."""

    arg_constraints: ClassVar = {
        "total_count": constraints.greater_than_eq(0),
        "probs": constraints.half_open_interval(0.0, 1.0),
        "logits": constraints.real,
    }
    support = constraints.nonnegative_integer

    def __init__(self, total_count: Tensor | float, probs: Tensor | float | None = None,
                 logits: Tensor | float | None = None, validate_args: bool | None = None):  # fmt: skip
        (self.total_count,) = self._take(probs, logits, total_count)
        super().__init__(self._param.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.logits.exp()

    @property
    def mode(self) -> Tensor:
        return ((self.total_count - 1) * self.logits.exp()).floor().clamp(min=0)

    @property
    def variance(self) -> Tensor:
        return self.mean / (-self.logits).sigmoid()

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        with no_grad():
            count = self.total_count.expand(self._extended_shape(sample_shape))
            return kiln.poisson(_standard_gamma(count) * self.logits.exp())

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        n = self.total_count
        ways = (n + value).lgamma() - (1 + value).lgamma() - n.lgamma()
        ways = kiln.where(n + value == 0, 0.0, ways)
        return n * logsigmoid(-self.logits) + value * logsigmoid(self.logits) + ways


class Poisson(ExponentialFamily):
    """Counts of independent events that come at a rate."""

    arg_constraints: ClassVar = {"rate": constraints.nonnegative}
    support = constraints.nonnegative_integer

    def __init__(self, rate: Tensor | float, validate_args: bool | None = None):
        (self.rate,) = broadcast_all(rate)
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.rate

    variance = mean

    @property
    def mode(self) -> Tensor:
        return self.rate.floor()

    def sample(self, sample_shape: _Shape = ()) -> Tensor:
        with no_grad():
            return kiln.poisson(self.rate.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        rate, value = broadcast_all(self.rate, value)
        return value.xlogy(rate) - rate - (value + 1).lgamma()

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.rate.log(),)

    def _log_normalizer(self, x: Tensor) -> Tensor:
        return x.exp()


class ContinuousBernoulli(Odds, ExponentialFamily):
    """Numbers of [0, 1] of density proportional to probs**x (1 - probs)**(1 - x).

    Between the two `lims` its functions are Taylor polynomials around 1/2, where they would be 0 / 0
    (Loaiza-Ganem and Cunningham, 2019, "The continuous Bernoulli").
    """

    support = constraints.unit_interval
    has_rsample = True
    _mean_carrier_measure = 0

    def __init__(self, probs: Tensor | float | None = None, logits: Tensor | float | None = None,
                 lims: tuple[float, float] = (0.499, 0.501), validate_args: bool | None = None):  # fmt: skip
        self._take(probs, logits)
        self._lims = lims
        if probs is not None:
            if validate_args and not bool(constraints.unit_interval.check(self.probs).all()):
                raise KilnValueError(
                    "ContinuousBernoulli", "The parameter probs has invalid values", describe(self.probs),
                    "probabilities lie in [0, 1]",
                )  # fmt: skip
            vars(self)["probs"] = clamp_probs(self.probs)
        super().__init__(self._param.shape, validate_args=validate_args)

    @lazy_property
    def probs(self) -> Tensor:
        """The probability in the density."""
        return clamp_probs(logits_to_probs(self.logits, is_binary=True))

    def _far(self) -> tuple[Tensor, Tensor]:
        """Where probs is far from 1/2, and probs with another number in all other places."""
        far = (self.probs <= self._lims[0]) | (self.probs > self._lims[1])
        return far, kiln.where(far, self.probs, self._lims[0])

    def _cont_bern_log_norm(self) -> Tensor:
        """The logarithm of the density's scale."""
        far, p = self._far()
        x = (self.probs - 0.5).square()
        exact = ((-p).log1p() - p.log()).abs().log() - (1 - 2 * p).abs().log()
        return kiln.where(far, exact, math.log(2) + (4 / 3 + 104 / 45 * x) * x)

    @property
    def mean(self) -> Tensor:
        far, p = self._far()
        x = self.probs - 0.5
        exact = p / (2 * p - 1) + 1 / ((-p).log1p() - p.log())
        return kiln.where(far, exact, 0.5 + (1 / 3 + 16 / 45 * x.square()) * x)

    @property
    def variance(self) -> Tensor:
        far, p = self._far()
        x = (self.probs - 0.5).square()
        exact = p * (p - 1) / (1 - 2 * p).square() + 1 / ((-p).log1p() - p.log()).square()
        return kiln.where(far, exact, 1 / 12 - (1 / 15 - 128 / 945 * x) * x)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        return self.icdf(kiln.rand(self._extended_shape(sample_shape), dtype=self.probs.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        logits, value = broadcast_all(self.logits, value)
        return self._cont_bern_log_norm() - binary_cross_entropy_with_logits(logits, value, reduction="none")  # fmt: skip

    def cdf(self, value: Tensor) -> Tensor:
        self._check(value)
        far, p = self._far()
        exact = (p.pow(value) * (1 - p).pow(1 - value) + p - 1) / (2 * p - 1)
        inside = kiln.where(far, exact, value)
        return kiln.where(value <= 0, 0.0, kiln.where(value >= 1, 1.0, inside))

    def icdf(self, value: Tensor) -> Tensor:
        far, p = self._far()
        exact = ((-p + value * (2 * p - 1)).log1p() - (-p).log1p()) / (p.log() - (-p).log1p())
        return kiln.where(far, exact, value)

    def entropy(self) -> Tensor:
        zero, one = (-self.probs).log1p(), self.probs.log()
        return self.mean * (zero - one) - self._cont_bern_log_norm() - zero

    @property
    def _natural_params(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def _log_normalizer(self, x: Tensor) -> Tensor:
        low, high = (end - 0.5 for end in self._lims)
        far = (x <= low) | (x > high)
        exact = kiln.where(far, x, low)
        taylor = 0.5 * x + x.square() / 24 - x.pow(4) / 2880
        return kiln.where(far, exact.expm1().abs().log() - exact.abs().log(), taylor)


class LogitRelaxedBernoulli(Odds):
    """The log odds of a `RelaxedBernoulli` number."""

    support = constraints.real
    has_rsample = True

    def __init__(self, temperature: Tensor, probs: Tensor | float | None = None,
                 logits: Tensor | float | None = None, validate_args: bool | None = None):  # fmt: skip
        self._take(probs, logits)
        self.temperature = temperature
        super().__init__(self._param.shape, validate_args=validate_args)

    def rsample(self, sample_shape: _Shape = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        u, p = uniform_inside(shape, self._param), clamp_probs(self.probs.expand(shape))
        return (u.log() - (-u).log1p() + p.log() - (-p).log1p()) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        logits, value = broadcast_all(self.logits, value)
        d = logits - value * self.temperature
        return self.temperature.log() + d - 2 * d.exp().log1p()
