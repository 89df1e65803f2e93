"""Kullback-Leibler divergences.

Between distributions of different kinds, KL(p || q) = -entropy(p) - E_p[log q]: each kind of q says
which moments of p its log density takes, and each kind of p which moments it has.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import kiln

from ..errors import KilnNotImplementedError, KilnTypeError, KilnValueError, describe
from ..nn.functional import softplus
from ..ops.densities import beta_divergence, gamma_divergence
from ..tensor import Tensor, active_capture
from .categorical import Categorical, OneHotCategorical
from .composed import Independent, TransformedDistribution
from .continuous import Cauchy, Laplace, Normal, Uniform
from .discrete import Bernoulli, Binomial, ContinuousBernoulli, Geometric, Poisson
from .distribution import Distribution, ExponentialFamily
from .gamma import Beta, Dirichlet, Exponential, Gamma
from .multivariate import LowRankMultivariateNormal, MultivariateNormal
from .transformed import Gumbel, HalfNormal, Pareto
from .utils import euler_constant, sum_rightmost

__all__ = ["kl_divergence", "register_kl"]

_REGISTRY: dict[tuple[type, type], Callable] = {}
_FOUND: dict[tuple[type, type], Callable | None] = {}


def register_kl(type_p: type, type_q: type) -> Callable:
    """A decorator that registers KL(p || q) for two classes of distributions and their subclasses."""
    for kind in (type_p, type_q):
        if not isinstance(
            kind, type
        ):  # any class may be, as for PyTorch: mixins of distributions are
            raise KilnTypeError(
                "register_kl",
                f"Expected a Distribution subclass but got {kind}",
                describe(kind),
                "",
            )

    def register(fn: Callable) -> Callable:
        _REGISTRY[type_p, type_q] = fn
        _FOUND.clear()
        return fn

    return register


def _find(p: type, q: type) -> Callable | None:
    """The function for the nearest registered bases; a RuntimeWarning where p's and q's nearest differ."""
    matches = [(a, b) for a, b in _REGISTRY if issubclass(p, a) and issubclass(q, b)]
    if not matches:
        return None
    far = {m: (p.__mro__.index(m[0]), q.__mro__.index(m[1])) for m in matches}
    by_p = min(matches, key=lambda m: far[m])
    by_q = min(matches, key=lambda m: far[m][::-1])
    if _REGISTRY[by_p] is not _REGISTRY[by_q]:
        warnings.warn(
            f"Ambiguous kl_divergence({p.__name__}, {q.__name__}). "
            f"Please register_kl({by_p[0].__name__}, {by_q[1].__name__})", RuntimeWarning, stacklevel=3,
        )  # fmt: skip
    return _REGISTRY[by_p]


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """KL(p || q), the mean under p of log p - log q, of the batch's shape; NotImplementedError for unknown pairs."""
    kinds = type(p), type(q)
    if kinds not in _FOUND:
        _FOUND[kinds] = _find(*kinds)
    fn = _FOUND[kinds]
    if fn is None:
        raise KilnNotImplementedError(
            "kl_divergence", f"No KL(p || q) is implemented for p type {kinds[0].__name__} and q type {kinds[1].__name__}",
            None, "give it by register_kl",
        )  # fmt: skip
    return fn(p, q)


def _unless(impossible: Any, kl: Tensor, value: float = math.inf) -> Tensor:
    """The divergence, but infinity where p gives what q can't."""
    return kiln.where(impossible, value, kl)


# ---------------------------------------------------------------- one kind, two parameters


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Any, q: Any) -> Tensor:
    one = p.probs * (softplus(-q.logits) - softplus(-p.logits))
    zero = (1 - p.probs) * (softplus(q.logits) - softplus(p.logits))
    one = _unless(p.probs == 0, _unless(q.probs == 0, one), 0.0)
    return one + _unless(p.probs == 1, _unless(q.probs == 1, zero), 0.0)


@register_kl(Binomial, Binomial)
def _binomial(p: Any, q: Any) -> Tensor:
    if active_capture() is None and bool((p.total_count < q.total_count).any()):
        raise KilnNotImplementedError(
            "kl_divergence", "KL between Binomials where q.total_count > p.total_count is not implemented", None, ""
        )  # fmt: skip
    each = p.probs * (p.logits - q.logits) + (-p.probs).log1p() - (-q.probs).log1p()
    return _unless(p.total_count > q.total_count, p.total_count * each)


@register_kl(Categorical, Categorical)
def _categorical(p: Any, q: Any) -> Tensor:
    each = p.probs * (p.logits - q.logits)
    return _unless(p.probs == 0, _unless(q.probs == 0, each), 0.0).sum(-1)


@register_kl(OneHotCategorical, OneHotCategorical)
def _one_hot(p: Any, q: Any) -> Tensor:
    return _categorical(p._categorical, q._categorical)


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_bernoulli(p: Any, q: Any) -> Tensor:
    own, other = (d._cont_bern_log_norm() + (-d.probs).log1p() for d in (p, q))
    return p.mean * (p.logits - q.logits) + own - other


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Any, q: Any) -> Tensor:
    a, b = p.concentration, q.concentration
    slope = a.digamma() - a.sum(-1, True).digamma()
    return q._log_normalizer(b) - p._log_normalizer(a) + ((a - b) * slope).sum(-1)


@register_kl(Beta, Beta)
def _beta(p: Any, q: Any) -> Tensor:
    return beta_divergence(p.concentration1, p.concentration0, q.concentration1, q.concentration0)


@register_kl(Exponential, Exponential)
def _exponential(p: Any, q: Any) -> Tensor:
    ratio = q.rate / p.rate
    return ratio - ratio.log() - 1


@register_kl(ExponentialFamily, ExponentialFamily)
def _exponential_family(p: Any, q: Any) -> Tensor:
    """The Bregman divergence of the log normalizer."""
    if type(p) is not type(q):
        raise KilnNotImplementedError(
            "kl_divergence", "The cross KL-divergence between different exponential families cannot be computed "
            "using Bregman divergences", f"{type(p).__name__}, {type(q).__name__}", "give it by register_kl",
        )  # fmt: skip
    theta, own, slopes = p._normalizer_and_slope()
    result = q._log_normalizer(*q._natural_params) - own
    for a, b, slope in zip(theta, q._natural_params, slopes, strict=True):
        result = result - sum_rightmost((b - a) * slope, len(q.event_shape))
    return result


@register_kl(Gamma, Gamma)
def _gamma(p: Any, q: Any) -> Tensor:
    return gamma_divergence(p.concentration, p.rate, q.concentration, q.rate)


@register_kl(Geometric, Geometric)
def _geometric(p: Any, q: Any) -> Tensor:
    return -p.entropy() - (-q.probs).log1p() / p.probs - q.logits


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Any, q: Any) -> Tensor:
    ratio, shift = p.scale / q.scale, (p.loc - q.loc) / q.scale
    tail = ((1 + ratio).lgamma() - shift).exp()
    return -ratio.log() + shift + ratio * euler_constant + tail - (1 + euler_constant)


@register_kl(Laplace, Laplace)
def _laplace(p: Any, q: Any) -> Tensor:
    ratio, apart = p.scale / q.scale, (p.loc - q.loc).abs()
    return -ratio.log() + apart / q.scale + ratio * (-apart / p.scale).exp() - 1


@register_kl(Normal, Normal)
def _normal(p: Any, q: Any) -> Tensor:
    ratio = (p.scale / q.scale).square()
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale).square() - 1 - ratio.log())


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: Any, q: Any) -> Tensor:
    return _normal(p.base_dist, q.base_dist)


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Any, q: Any) -> Tensor:
    """Chyzak and Nielsen, 2019, "A closed-form formula for the KL divergence between Cauchy distributions"."""
    sizes = (p.scale + q.scale).square() + (p.loc - q.loc).square()
    return sizes.log() - (4 * p.scale * q.scale).log()


@register_kl(Pareto, Pareto)
def _pareto(p: Any, q: Any) -> Tensor:
    ratio = q.alpha / p.alpha
    kl = q.alpha * (p.scale / q.scale).log() - ratio.log() + ratio - 1
    return _unless(p.scale < q.scale, kl)


@register_kl(Poisson, Poisson)
def _poisson(p: Any, q: Any) -> Tensor:
    return p.rate * (p.rate.log() - q.rate.log()) - (p.rate - q.rate)


@register_kl(Uniform, Uniform)
def _uniform(p: Any, q: Any) -> Tensor:
    kl = ((q.high - q.low) / (p.high - p.low)).log()
    return _unless((q.low > p.low) | (q.high < p.high), kl)


@register_kl(LowRankMultivariateNormal, LowRankMultivariateNormal)
@register_kl(LowRankMultivariateNormal, MultivariateNormal)
@register_kl(MultivariateNormal, LowRankMultivariateNormal)
@register_kl(MultivariateNormal, MultivariateNormal)
def _gaussian(p: Any, q: Any) -> Tensor:
    if p.event_shape != q.event_shape:
        raise KilnValueError(
            "kl_divergence", "KL-divergence between two (Low Rank) Multivariate Normals with different event shapes "
            "cannot be computed", f"{p.event_shape}, {q.event_shape}", "",
        )  # fmt: skip
    factor, diagonal = p._parts()
    batch = kiln.broadcast_shapes(factor.shape[:-2], q.batch_shape)
    factor = factor.expand(batch + factor.shape[-2:])
    trace = q._mahalanobis(factor.movedim(-1, 0)).sum(0)  # of q's precision times p's covariance
    if diagonal is not None:
        trace = trace + (q._precision_diagonal() * diagonal).sum(-1)
    apart = q._mahalanobis(q.loc - p.loc)
    return q._half_log_det() - p._half_log_det() + 0.5 * (trace + apart - p.event_shape[0])


@register_kl(Independent, Independent)
def _independent(p: Any, q: Any) -> Tensor:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise KilnNotImplementedError("kl_divergence", "events of different dimensions", f"{p}, {q}", "")  # fmt: skip
    return sum_rightmost(kl_divergence(p.base_dist, q.base_dist), p.reinterpreted_batch_ndims)


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed(p: Any, q: Any) -> Tensor:
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise KilnNotImplementedError("kl_divergence", "different transforms or events", f"{p}, {q}", "")  # fmt: skip
    return kl_divergence(p.base_dist, q.base_dist)


# ---------------------------------------------------------------- moments


def _around(f: Callable, low: Any, high: Any) -> Tensor:
    """The mean of f's derivative between two numbers."""
    return (f(high) - f(low)) / (high - low)


def _x_log_x(x: Tensor) -> Tensor:
    return x.xlogy(x) - x  # whose derivative is log x


_LOG: dict[type, Callable] = {  # E[log x]
    Beta: lambda p: p.concentration1.digamma() - (p.concentration1 + p.concentration0).digamma(),
    Exponential: lambda p: -euler_constant - p.rate.log(),
    Gamma: lambda p: p.concentration.digamma() - p.rate.log(),
    Pareto: lambda p: p.scale.log() + p.alpha.reciprocal(),
    Uniform: lambda p: _around(_x_log_x, p.low, p.high),
}
_LOG_REST: dict[type, Callable] = {  # E[log(1 - x)]
    Uniform: lambda p: _around(_x_log_x, 1 - p.high, 1 - p.low),
}
_LOG_EXP: dict[type, Callable] = {  # log E[exp(-x / s)]
    Exponential: lambda p, s: -(1 / (p.rate * s)).log1p(),
    Gamma: lambda p, s: -p.concentration * (1 / (p.rate * s)).log1p(),
    Normal: lambda p, s: 0.5 * (p.scale / s).square() - p.loc / s,
    Uniform: lambda p, s: (
        -p.low / s + (-((p.low - p.high) / s).expm1() * s / (p.high - p.low)).log()
    ),
}


# ---------------------------------------------------------------- E_p[log q]


def _of(moments: dict[type, Callable], p: Any, *args: Any) -> Tensor:
    """A moment of p, as its class or the nearest base has it."""
    return next(moments[c] for c in type(p).__mro__ if c in moments)(p, *args)


def _in_normal(p: Any, q: Any) -> Tensor:
    square = p.variance + (p.mean - q.loc).square()
    return -0.5 * square / q.scale.square() - q.scale.log() - 0.5 * math.log(math.tau)


def _in_exponential(p: Any, q: Any) -> Tensor:
    return q.rate.log() - q.rate * p.mean


def _in_gamma(p: Any, q: Any) -> Tensor:
    a = q.concentration
    return a * q.rate.log() - a.lgamma() + (a - 1) * _of(_LOG, p) - q.rate * p.mean


def _in_gumbel(p: Any, q: Any) -> Tensor:
    tail = (q.loc / q.scale + _of(_LOG_EXP, p, q.scale)).exp()
    return (q.loc - p.mean) / q.scale - tail - q.scale.log()


def _in_uniform(p: Any, q: Any) -> Tensor:
    return -(q.high - q.low).log()


def _in_beta(p: Any, q: Any) -> Tensor:
    a, b = q.concentration1, q.concentration0
    powers = (a - 1) * _of(_LOG, p) + (b - 1) * _of(_LOG_REST, p)
    return powers - q._log_normalizer(a, b)


def _in_continuous_bernoulli(p: Any, q: Any) -> Tensor:
    return p.mean * q.logits + (-q.probs).log1p() + q._cont_bern_log_norm()


def _in_pareto(p: Any, q: Any) -> Tensor:
    return q.alpha.log() + q.alpha * q.scale.log() - (q.alpha + 1) * _of(_LOG, p)


def _in_laplace(p: Any, q: Any) -> Tensor:
    """Under a normal p: the mean distance from q's middle."""
    apart, spread = p.loc - q.loc, p.scale * math.sqrt(2)
    z = apart / spread
    distance = spread / math.sqrt(math.pi) * (-z.square()).exp() + apart * z.erf()
    return -(2 * q.scale).log() - distance / q.scale


def _in_poisson(p: Any, q: Any) -> Tensor:
    """Under a p of zeros and ones, whose factorials are 1."""
    return p.mean * q.rate.log() - q.rate


_CROSS: list[tuple[Callable, type, tuple[type, ...]]] = [  # E_p[log q], q, and the kinds of p
    (_in_normal, Normal, (Beta, ContinuousBernoulli, Exponential, Gamma, Gumbel, Laplace, Pareto, Uniform)),
    (_in_exponential, Exponential, (Beta, ContinuousBernoulli, Gamma, Pareto, Uniform)),
    (_in_gamma, Gamma, (Beta, Exponential, Pareto, Uniform)),
    (_in_gumbel, Gumbel, (Exponential, Gamma, Normal, Uniform)),
    (_in_uniform, Uniform, (Beta, ContinuousBernoulli)),
    (_in_beta, Beta, (Uniform,)),
    (_in_continuous_bernoulli, ContinuousBernoulli, (Beta, Uniform)),
    (_in_pareto, Pareto, (Uniform,)),
    (_in_laplace, Laplace, (Normal,)),
    (_in_poisson, Poisson, (Bernoulli,)),
]  # fmt: skip
_OUTSIDE: dict[tuple[type, type], Callable] = {  # where p gives what q can't
    (Beta, Uniform): lambda p, q: (q.low > 0) | (q.high < 1),
    (Uniform, Beta): lambda p, q: (p.high > 1) | (p.low < 0),
    # here PyTorch counts shared ends too
    (ContinuousBernoulli, Uniform): lambda p, q: (q.low >= 0) | (q.high <= 1),
    (Uniform, ContinuousBernoulli): lambda p, q: (p.high >= 1) | (p.low <= 0),
    (Uniform, Exponential): lambda p, q: p.low < 0,
    (Uniform, Gamma): lambda p, q: p.low < 0,
    (Uniform, Pareto): lambda p, q: p.low < q.scale,
    (Pareto, Exponential): lambda p, q: p.alpha <= 1,
    (Pareto, Gamma): lambda p, q: p.alpha <= 1,
    (Pareto, Normal): lambda p, q: p.alpha <= 2,
}
_NEVER: dict[type, Iterable[type]] = {  # p whose support is not in q's, or only a corner of it
    Beta: (Pareto,),
    ContinuousBernoulli: (Pareto,),
    Exponential: (Beta, ContinuousBernoulli, Pareto, Uniform),
    Gamma: (Beta, ContinuousBernoulli, Pareto, Uniform),
    Gumbel: (Beta, ContinuousBernoulli, Exponential, Gamma, Pareto, Uniform),
    Laplace: (Beta, ContinuousBernoulli, Exponential, Gamma, Pareto, Uniform),
    Normal: (Beta, ContinuousBernoulli, Exponential, Gamma, Pareto, Uniform),
    Pareto: (Beta, ContinuousBernoulli, Uniform),
    Poisson: (Bernoulli, Binomial),
}


def _crossed(expected: Callable, outside: Callable | None) -> Callable:
    def kl(p: Any, q: Any) -> Tensor:
        value = -p.entropy() - expected(p, q)
        return value if outside is None else _unless(outside(p, q), value)

    return kl


def _infinite(p: Any, q: Any) -> Tensor:
    return kiln.full_like(p.mean, math.inf)


for _expected, _q, _kinds in _CROSS:
    for _p in _kinds:
        register_kl(_p, _q)(_crossed(_expected, _OUTSIDE.get((_p, _q))))
for _p, _qs in _NEVER.items():
    for _q in _qs:
        register_kl(_p, _q)(_infinite)
