"""Probability distributions: sampling, densities, entropies and divergences, all differentiable.

https://docs.pytorch.org/docs/stable/distributions.html
"""

from __future__ import annotations

import sys

from . import (  # noqa: F401
    categorical,
    composed,
    constraint_registry,
    constraints,
    continuous,
    discrete,
    distribution,
    gamma,
    kl,
    multivariate,
    transformed,
    transforms,
    utils,
)
from .categorical import (
    Categorical,
    Multinomial,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
)
from .composed import Independent, MixtureSameFamily, TransformedDistribution
from .constraint_registry import biject_to, transform_to
from .continuous import Cauchy, GeneralizedPareto, Laplace, Normal, StudentT, Uniform, VonMises
from .discrete import (
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    Geometric,
    NegativeBinomial,
    Poisson,
)
from .distribution import Distribution, ExponentialFamily
from .gamma import Beta, Chi2, Dirichlet, Exponential, FisherSnedecor, Gamma
from .kl import kl_divergence, register_kl
from .multivariate import LKJCholesky, LowRankMultivariateNormal, MultivariateNormal, Wishart
from .transformed import (
    Gumbel,
    HalfCauchy,
    HalfNormal,
    InverseGamma,
    Kumaraswamy,
    LogisticNormal,
    LogNormal,
    Pareto,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    Weibull,
)
from .transforms import *  # noqa: F403

__all__ = [
    "Bernoulli", "Beta", "Binomial", "Categorical", "Cauchy", "Chi2", "ContinuousBernoulli", "Dirichlet",
    "Distribution", "Exponential", "ExponentialFamily", "FisherSnedecor", "Gamma", "GeneralizedPareto",
    "Geometric", "Gumbel", "HalfCauchy", "HalfNormal", "Independent", "InverseGamma", "Kumaraswamy",
    "LKJCholesky", "Laplace", "LogNormal", "LogisticNormal", "LowRankMultivariateNormal",
    "MixtureSameFamily", "Multinomial", "MultivariateNormal", "NegativeBinomial", "Normal",
    "OneHotCategorical", "OneHotCategoricalStraightThrough", "Pareto", "Poisson", "RelaxedBernoulli",
    "RelaxedOneHotCategorical", "StudentT", "TransformedDistribution", "Uniform", "VonMises", "Weibull",
    "Wishart", "biject_to", "kl_divergence", "register_kl", "transform_to",
]  # fmt: skip
__all__ += transforms.__all__

# PyTorch has a module for each class, which programs import from: here families share them.
_MODULES = {
    categorical: "multinomial one_hot_categorical",
    composed: "independent mixture_same_family transformed_distribution",
    continuous: "cauchy generalized_pareto laplace normal studentT uniform von_mises",
    discrete: "bernoulli binomial continuous_bernoulli geometric negative_binomial poisson",
    distribution: "exp_family",
    gamma: "beta chi2 dirichlet exponential fishersnedecor",
    multivariate: "lkj_cholesky lowrank_multivariate_normal multivariate_normal wishart",
    transformed: "gumbel half_cauchy half_normal inverse_gamma kumaraswamy log_normal logistic_normal pareto relaxed_bernoulli "
    "relaxed_categorical weibull",
}
for _module, _names in _MODULES.items():
    for _name in _names.split():
        globals()[_name] = sys.modules[f"{__name__}.{_name}"] = _module
