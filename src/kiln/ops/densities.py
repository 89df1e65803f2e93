"""What distributions made of gamma numbers compute again and again, each as one op: a kernel where there would be ten and more.

They are maps of values and parameters, so any number of elements is one call, and so is each gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..tensor import Tensor
from .arithmetic import elementwise
from .elementary import _digamma, lgamma, xlogy
from .registry import Sample
from .rules import by_body, parameter_names
from .samples import draw, rng

_lgamma, _xlogy = lgamma.op.reference, xlogy.op.reference


def _map(body: Callable, node: str, *bounds: tuple[float, float]) -> Callable:
    """A private op of operands that broadcast, written in ops as `body`; its samples are in these bounds."""

    def samples() -> Iterator[Sample]:
        for shape in ((4,), (), (2, 3)):
            yield Sample(tuple(draw(rng(i), shape, *b) for i, b in enumerate(bounds)))
        yield Sample(tuple(draw(rng(i), (3, 1)[i % 2 :], *b) for i, b in enumerate(bounds)))

    facts: dict[str, Any] = {"grad": by_body(body, *parameter_names(body)), "samples": samples}
    return elementwise("float", private=True, dear=True, body=body, node=node, **facts)


def _slope(x: Any) -> Any:
    return _digamma(x).astype(x.dtype)


# ---------------------------------------------------------------- gamma


def _gamma_density_body(value: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
    scores = concentration.xlogy(rate) + (concentration - 1).xlogy(value)
    return scores - rate * value - concentration.lgamma()


@_map(_gamma_density_body, "SubBackward0", (0.2, 3.0), (0.5, 3.0), (0.5, 2.0))
def gamma_density(value: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
    """The logarithm of the gamma density."""
    scores = _xlogy(concentration, rate) + _xlogy(concentration - 1, value)
    return scores - rate * value - _lgamma(concentration)


def _gamma_entropy_body(concentration: Tensor, rate: Tensor) -> Tensor:
    rest = (1 - concentration) * concentration.digamma()
    return concentration - rate.log() + concentration.lgamma() + rest


@_map(_gamma_entropy_body, "AddBackward0", (0.5, 3.0), (0.5, 2.0))
def gamma_entropy(concentration: Tensor, rate: Tensor) -> Tensor:
    """The entropy of the gamma distribution."""
    rest = (1 - concentration) * _slope(concentration)
    return concentration - np.log(rate) + _lgamma(concentration) + rest


def _gamma_divergence_body(a: Tensor, rate: Tensor, b: Tensor, other: Tensor) -> Tensor:
    scale = b.lgamma() - a.lgamma() + b * (rate / other).log()
    return scale + (a - b) * a.digamma() + (other - rate) * (a / rate)


@_map(_gamma_divergence_body, "AddBackward0", (0.5, 3.0), (0.5, 2.0), (0.5, 3.0), (0.5, 2.0))
def gamma_divergence(a: Tensor, rate: Tensor, b: Tensor, other: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of gamma distributions of shapes a and b."""
    scale = _lgamma(b) - _lgamma(a) + b * np.log(rate / other)
    return scale + (a - b) * _slope(a) + (other - rate) * (a / rate)


# ---------------------------------------------------------------- beta


def _log_beta_body(a: Tensor, b: Tensor) -> Tensor:
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


def _log_beta(a: Any, b: Any) -> Any:
    return _lgamma(a) + _lgamma(b) - _lgamma(a + b)


def _beta_density_body(value: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (a - 1).xlogy(value) + (b - 1).xlogy(1 - value) - _log_beta_body(a, b)


@_map(_beta_density_body, "SubBackward0", (0.1, 0.9), (0.5, 3.0), (0.5, 3.0))
def beta_density(value: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The logarithm of the beta density."""
    return _xlogy(a - 1, value) + _xlogy(b - 1, 1 - value) - _log_beta(a, b)


def _beta_entropy_body(a: Tensor, b: Tensor) -> Tensor:
    total = a + b
    slopes = (a - 1) * a.digamma() + (b - 1) * b.digamma()
    return _log_beta_body(a, b) - slopes + (total - 2) * total.digamma()


@_map(_beta_entropy_body, "AddBackward0", (0.5, 3.0), (0.5, 3.0))
def beta_entropy(a: Tensor, b: Tensor) -> Tensor:
    """The entropy of the beta distribution."""
    total = a + b
    slopes = (a - 1) * _slope(a) + (b - 1) * _slope(b)
    return _log_beta(a, b) - slopes + (total - 2) * _slope(total)


def _beta_divergence_body(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    total = a + b
    slopes = (a - c) * a.digamma() + (b - d) * b.digamma() - (total - c - d) * total.digamma()
    return _log_beta_body(c, d) - _log_beta_body(a, b) + slopes


@_map(_beta_divergence_body, "AddBackward0", (0.5, 3.0), (0.5, 3.0), (0.5, 3.0), (0.5, 3.0))
def beta_divergence(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of the beta distributions of shapes a and b, and c and d."""
    total = a + b
    slopes = (a - c) * _slope(a) + (b - d) * _slope(b) - (total - c - d) * _slope(total)
    return _log_beta(c, d) - _log_beta(a, b) + slopes
