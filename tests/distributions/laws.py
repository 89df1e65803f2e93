"""Every distribution with some parameters: arrays and numbers, so that Kiln and PyTorch can be given them alike."""

from __future__ import annotations

from typing import Any

import numpy as np

r = np.random.default_rng(3)


def positive(*shape: int, low: float = 0.4, high: float = 3.0) -> np.ndarray:
    return r.uniform(low, high, shape)


def real(*shape: int) -> np.ndarray:
    return r.normal(size=shape)


def simplex(*shape: int) -> np.ndarray:
    p = r.uniform(0.2, 1, shape)
    return p / p.sum(-1, keepdims=True)


def definite(*shape: int) -> np.ndarray:
    a = r.normal(size=shape)
    return a @ a.swapaxes(-1, -2) + np.eye(shape[-1])


def factor(*shape: int) -> np.ndarray:
    return np.linalg.cholesky(definite(*shape))


def chances(*shape: int) -> np.ndarray:
    return r.uniform(0.1, 0.9, shape)


_LOC_SCALE: list[dict] = [
    {"loc": real(3), "scale": positive(2, 1)},
    {"loc": 0.3, "scale": 1.7},
    {"loc": real(2), "scale": 0.5},
]
_BINARY: list[dict] = [{"probs": chances(2, 3)}, {"logits": real(3)}, {"probs": 0.3}]
_MANY: list[dict] = [{"probs": simplex(2, 4)}, {"logits": real(4)}]
CASES: dict[str, list[dict[str, Any]]] = {
    "Bernoulli": _BINARY,
    "Beta": [{"concentration1": positive(3), "concentration0": positive(2, 1)}, {"concentration1": 0.7, "concentration0": 2.0}],
    "Binomial": [{"total_count": 7, "probs": chances(2, 3)}, {"total_count": 4, "logits": real(3)}],
    "Categorical": _MANY,
    "Cauchy": _LOC_SCALE,
    "Chi2": [{"df": positive(3)}, {"df": 2.5}],
    "ContinuousBernoulli": [*_BINARY, {"probs": np.array([0.5, 0.4995, 0.2])}],
    "Dirichlet": [{"concentration": positive(2, 3)}, {"concentration": positive(4, low=1.5)}, {"concentration": positive(3, low=0.2, high=0.9)}],
    "Exponential": [{"rate": positive(2, 3)}, {"rate": 1.3}],
    "FisherSnedecor": [{"df1": positive(3, high=6), "df2": positive(2, 1, high=9)}, {"df1": 3.0, "df2": 5.0}],
    "Gamma": [{"concentration": positive(3), "rate": positive(2, 1)}, {"concentration": 0.7, "rate": 2.0}],
    "GeneralizedPareto": [{k: v.astype(np.float32) for k, v in (("loc", real(3)), ("scale", positive(3)), ("concentration", np.array([0.3, 0.0, -0.4])))}, {"loc": 0.1, "scale": 1.0, "concentration": 0.2}],
    "Geometric": _BINARY,
    "Gumbel": _LOC_SCALE,
    "HalfCauchy": [{"scale": positive(2, 3)}, {"scale": 1.5}],
    "HalfNormal": [{"scale": positive(2, 3)}, {"scale": 1.5}],
    "InverseGamma": [{"concentration": positive(3, low=2.2, high=4), "rate": positive(2, 1)}, {"concentration": 0.7, "rate": 2.0}],
    "Kumaraswamy": [{"concentration1": positive(3), "concentration0": positive(2, 1)}, {"concentration1": 1.4, "concentration0": 2.0}],
    "Laplace": _LOC_SCALE,
    "LKJCholesky": [{"dim": 3, "concentration": positive(2)}, {"dim": 2, "concentration": 1.5}, {"dim": 4, "concentration": 0.7}],
    "LogNormal": _LOC_SCALE,
    "LogisticNormal": [{"loc": real(2, 3), "scale": positive(3)}, {"loc": 0.2, "scale": 0.8}],
    "LowRankMultivariateNormal": [
        {"loc": real(4), "cov_factor": real(4, 2), "cov_diag": positive(4)},
        {"loc": real(2, 1, 3), "cov_factor": real(3, 1), "cov_diag": positive(2, 3)},
    ],
    "Multinomial": [{"total_count": 5, "probs": simplex(2, 3)}, {"total_count": 3, "logits": real(4)}],
    "MultivariateNormal": [
        {"loc": real(3), "covariance_matrix": definite(3, 3)},
        {"loc": real(2, 3), "precision_matrix": definite(3, 3)},
        {"loc": real(3), "scale_tril": factor(2, 1, 3, 3)},
    ],
    "NegativeBinomial": [{"total_count": 3.5, "probs": chances(2, 3)}, {"total_count": positive(3), "logits": real(3)}],
    "Normal": _LOC_SCALE,
    "OneHotCategorical": _MANY,
    "OneHotCategoricalStraightThrough": _MANY,
    "Pareto": [{"scale": positive(3), "alpha": positive(2, 1, low=2.1, high=4)}, {"scale": 0.8, "alpha": 0.9}],
    "Poisson": [{"rate": positive(2, 3)}, {"rate": 4.0}],
    "RelaxedBernoulli": [{"temperature": np.array(0.7), "probs": chances(2, 3)}, {"temperature": np.array([2.0]), "logits": real(3)}],
    "RelaxedOneHotCategorical": [{"temperature": np.array(0.7), "probs": simplex(2, 3)}, {"temperature": np.array([2.0]), "logits": real(4)}],
    "StudentT": [{"df": np.array([0.8, 1.7, 4.5]), "loc": real(2, 1), "scale": positive(3)}, {"df": 3.0}],
    "Uniform": [{"low": real(3) - 2, "high": positive(2, 1)}, {"low": -0.5, "high": 1.5}],
    "VonMises": [{"loc": real(3), "concentration": positive(2, 1, high=9)}],
    "Weibull": [{"scale": positive(3), "concentration": positive(2, 1)}, {"scale": 0.8, "concentration": 1.9}],
    "Wishart": [{"df": 4.5, "covariance_matrix": definite(3, 3)}, {"df": np.array([3.5, 5.0]), "precision_matrix": definite(2, 2)},
                {"df": positive(2, low=3.1, high=6), "scale_tril": factor(2, 3, 3)}],
}  # fmt: skip
EACH = [(name, i) for name, options in CASES.items() for i in range(len(options))]


def made(library: Any, name: str, i: int, tensor: Any, **more: Any) -> Any:
    """A distribution of `kiln.distributions` or `torch.distributions`; `tensor` makes tensors of arrays."""
    given = CASES[name][i]
    arguments = {k: tensor(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    return getattr(library, name)(**arguments, **more)
