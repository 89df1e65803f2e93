"""Draws by NumPy's samplers: gamma, Dirichlet, Poisson, binomial and von Mises numbers.

How many random words they take depends on what comes up, so each draw has a stream of its own: Philox
keyed by the generator's key, its counter in the high words (Note [Random streams]). A draw moves the
generator on by one block; its numbers follow from the state, the parameters and NumPy's version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnValueError, describe
from ..random import Generator
from ..shape import Size, broadcast_shapes
from ..tensor import CAPTURING, Tensor, active_capture
from .dispatch import expect_tensor
from .drawing import demand, floating, sample
from .implicit import dirichlet_grad, standard_gamma_grad
from .random import LAWS, draw, primitive, reached, states
from .registry import LEADING, Sample, composition, op
from .rules import zero_gradient
from .selection import where_op


def _stream(state: np.ndarray) -> np.random.Generator:
    key, counter = state.tolist()
    return np.random.Generator(np.random.Philox(key=key, counter=counter << 64))


def _like_first(state: Any, *given: Any) -> tuple:
    return Size(broadcast_shapes(*(x.shape for x in given))), given[0].dtype


def _sampler(name: str, *samples: tuple) -> Callable:
    return primitive(name, infer=_like_first, samples=states(*samples))


def _sensible(ok: np.ndarray, x: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """Parameters that NumPy takes: what captured programs are given is not checked before."""
    return np.where(ok, x, otherwise)


# ---------------------------------------------------------------- gamma and Dirichlet


def _log_gamma(state: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Logarithms of gamma numbers: of shape a + 1, times uniform ** (1 / a), as tiny shapes underflow."""
    a = shape.astype(np.float64)
    usual = np.isfinite(a) & (a >= 0)
    given, stream = _sensible(usual, a), _stream(state)
    larger = np.log(stream.standard_gamma(given + 1))
    with np.errstate(divide="ignore"):
        root = np.log1p(-stream.random(a.shape)) / given
    return np.where(usual, np.where(given > 0, larger + root, -np.inf), a)


@_sampler("random_gamma", (np.array([[0.1, 1.0], [30.0, 0.0]]),), (np.zeros((0,)),), (np.array(2.5),))  # fmt: skip
def random_gamma(state: Tensor, concentration: Tensor) -> Tensor:
    """Numbers of the gamma distribution of rate 1, none below the dtype's smallest normal number."""
    least = dt.finfo(dt.OF_NUMPY[concentration.dtype]).tiny
    return np.maximum(np.exp(_log_gamma(state, concentration)), least).astype(concentration.dtype)


def _dirichlet_rule(g: Tensor, drawn: Tensor, concentration: Tensor) -> Tensor:
    slope = dirichlet_grad(drawn, concentration, concentration.sum(-1, True))
    return slope * (g - (drawn * g).sum(-1, True))


def _dirichlet_quick(g: np.ndarray, drawn: np.ndarray, concentration: np.ndarray) -> np.ndarray:
    total = np.add.reduce(concentration, -1, keepdims=True)
    slope = dirichlet_grad.op.eager(drawn, concentration, total)
    return slope * (g - np.add.reduce(drawn * g, -1, keepdims=True))


def _moving(name: str, rule: Callable, quick: Callable) -> Callable:
    """An op that gives numbers as they were drawn, which move with the parameter that they were drawn with."""
    x = np.array([[0.2, 0.3], [0.5, 0.1]])

    def moving(drawn: Tensor, concentration: Tensor) -> Tensor:
        """Numbers as they were drawn, with their gradient."""
        return drawn

    return op(
        name=name, private=True, family="random_parameter", exact=True, batch=LEADING, grad={"concentration": rule}, quick={"concentration": quick},
        infer=lambda drawn, concentration: (drawn.shape, drawn.dtype), body=lambda drawn, concentration: drawn,
        samples=lambda: iter([Sample((x, x + 1), grad=False)]),
    )(moving)  # fmt: skip


_moving_gamma = _moving(
    "moving_gamma",
    lambda g, drawn, concentration: g * standard_gamma_grad(concentration, drawn),
    lambda g, drawn, concentration: g * standard_gamma_grad.op.eager(concentration, drawn),
)
_moving_dirichlet = _moving("moving_dirichlet", _dirichlet_rule, _dirichlet_quick)


@_sampler("random_dirichlet", (np.array([[0.1, 1.0], [30.0, 2.0]]),), (np.zeros((0, 2)),), (np.array([2.5]),))  # fmt: skip
def random_dirichlet(state: Tensor, concentration: Tensor) -> Tensor:
    """Points of the Dirichlet distribution along the last dimension, inside of the simplex."""
    logs = _log_gamma(state, concentration)
    x = np.exp(logs - logs.max(-1, keepdims=True, initial=-np.inf))
    info = dt.finfo(dt.OF_NUMPY[concentration.dtype])
    x = x / x.sum(-1, keepdims=True)
    return np.clip(x, info.tiny, 1 - info.eps / 2).astype(concentration.dtype)


# ---------------------------------------------------------------- counts and angles


@_sampler("random_poisson", (np.array([[0.0, 0.3], [9.0, 1e3]]),), (np.zeros((0,)),), (np.array(50.0),))  # fmt: skip
def random_poisson(state: Tensor, rate: Tensor) -> Tensor:
    """Counts of the Poisson distribution."""
    mean = rate.astype(np.float64)
    usual = (mean >= 0) & (mean < 2**62)
    return np.where(usual, _stream(state).poisson(_sensible(usual, mean)), mean).astype(rate.dtype)


@_sampler(
    "random_binomial", (np.array([[0.0, 5.0], [40.0, 1e4]]), np.array([0.3, 0.8])),
    (np.zeros((0,)), np.zeros((0,))), (np.array(9.0), np.array([0.0, 1.0])),
)  # fmt: skip
def random_binomial(state: Tensor, count: Tensor, prob: Tensor) -> Tensor:
    """Successes in `count` trials of probability `prob`."""
    n, p = np.maximum(count.astype(np.float64), 0), np.clip(prob.astype(np.float64), 0, 1)
    usual = (n < 2**62) & (p == p)
    drawn = _stream(state).binomial(_sensible(usual, n).astype(np.int64), _sensible(usual, p))
    return np.where(usual, drawn, n * p).astype(count.dtype)


@_sampler("random_von_mises", (np.array([[1e-3, 0.5], [4.0, 1e3]]),), (np.zeros((0,)),), (np.array(2.0),))  # fmt: skip
def random_von_mises(state: Tensor, concentration: Tensor) -> Tensor:
    """Angles in [-pi, pi] of the von Mises distribution around 0."""
    k = concentration.astype(np.float64)
    usual = (k >= 0) & np.isfinite(k)
    angle = _stream(state).vonmises(0.0, _sensible(usual, k))
    return np.where(usual, angle, np.nan).astype(concentration.dtype)


def _by_block(source: Callable) -> Callable:
    """The law of parameters that a primitive draws, from one block of the counter-based stream."""
    return lambda g, size, dtype, given: draw(g, 4, source, *given)


LAWS |= {
    "gamma": _by_block(random_gamma), "dirichlet": _by_block(random_dirichlet),
    "poisson": _by_block(random_poisson), "binomial": _by_block(random_binomial),
}  # fmt: skip


# ---------------------------------------------------------------- public functions


@composition(method=False, samples=lambda: iter([
    Sample((np.zeros((2, 3)),), grad=False), Sample((np.zeros(2, np.int64),), error=NotImplementedError),
    Sample(([1.0],), error=TypeError),
]))  # fmt: skip
def _standard_gamma(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Gamma numbers of shape `input` and rate 1, differentiable in it by implicit reparameterisation."""
    expect_tensor("_standard_gamma", input)
    floating("_standard_gamma", input.dtype)
    drawn = sample(generator, "gamma", input._a.shape, input.dtype, parameters=[input.detach()])
    return _moving_gamma(drawn, input) if CAPTURING or input.requires_grad else drawn


@composition(method=False, samples=lambda: iter([
    Sample((np.ones((2, 0)),), grad=False), Sample((np.zeros(2, np.int64),), error=NotImplementedError),
    Sample(([1.0],), error=TypeError),
]))  # fmt: skip
def _sample_dirichlet(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Points of the Dirichlet distribution along the last dimension, differentiable in `input`."""
    expect_tensor("_sample_dirichlet", input)
    floating("_sample_dirichlet", input.dtype)
    drawn = sample(generator, "dirichlet", input._a.shape, input.dtype, parameters=[input.detach()])
    return _moving_dirichlet(drawn, input) if CAPTURING or input.requires_grad else drawn


@composition(method=False, samples=lambda: iter([
    Sample((np.zeros((2, 3)),), grad=False), Sample((np.zeros((0,)),), grad=False),
    Sample((np.zeros(2, np.int64),), error=NotImplementedError), Sample((np.array([-1.0]),), error=RuntimeError),
    Sample(([1.0],), error=TypeError),
]))  # fmt: skip
def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Counts of the Poisson distribution whose rates are `input`, in its dtype; their gradient is zero."""
    expect_tensor("poisson", input)
    floating("poisson", input.dtype)
    if active_capture() is None and bool((input < 0).any()):
        raise KilnError("poisson", "invalid Poisson rate, expected rate to be non-negative", describe(input), "")  # fmt: skip
    r = sample(generator, "poisson", input._a.shape, input.dtype, parameters=[input.detach()])
    return zero_gradient(r, input)


@composition(method=False, samples=lambda: iter([
    Sample((np.array([3.0, 4.0]), np.array([[0.0], [1.0]])), grad=False), Sample((np.zeros((0,)), np.zeros((0,))), grad=False),
    Sample((np.ones(2, np.int64), np.ones(2)), error=ValueError), Sample((np.ones(2), np.ones(2, np.int64)), error=ValueError),
    Sample((np.ones(2), np.ones(3)), error=RuntimeError), Sample((1.0, np.ones(3)), error=TypeError),
]))  # fmt: skip
def binomial(count: Tensor, prob: Tensor, generator: Generator | None = None) -> Tensor:
    """Successes in `count` trials of probability `prob`, broadcast; their gradient is zero."""
    for x in (count, prob):
        expect_tensor("binomial", x)
        if not x.is_floating_point():
            raise KilnValueError("binomial", "only supports floating-point dtypes", describe(x), "use x.float()")  # fmt: skip
    demand("binomial", count.dtype is prob.dtype, "count and prob must have one dtype", describe([count, prob]))  # fmt: skip
    shape = broadcast_shapes(count.shape, prob.shape, op="binomial")
    r = sample(
        generator, "binomial", shape, count.dtype, parameters=[count.detach(), prob.detach()]
    )
    return zero_gradient(r, count, prob)


def _best_fisher(k: Tensor, generator: Generator | None) -> Tensor:
    """Angles drawn until they are accepted (Best and Fisher, 1979), as PyTorch's class draws them."""
    tau = 1 + (1 + 4 * k * k).sqrt()
    rho = (tau - (2 * tau).sqrt()) / (2 * k)
    r = where_op(k < 1e-5, 1 / k + k, (1 + rho * rho) / (2 * rho))
    shape, angle, done = tuple(k._a.shape), k * 0, k != k
    while not bool(done.all()):
        u1, u2, u3 = sample(generator, "uniform", (3, *shape), dt.float64, 0.0, 1.0).unbind()
        z = (math.pi * u1).cos()
        f = (1 + r * z) / (r + z)
        c = k * (r - f)
        accepted = (c * (2 - c) - u2 > 0) | ((c / u2).log() + 1 - c >= 0)
        angle = where_op(accepted, (u3 - 0.5).sign() * f.acos(), angle)
        done = done | accepted
    return angle


def von_mises(concentration: Tensor, generator: Generator | None = None) -> Tensor:
    """Angles of the von Mises distribution around 0, for which PyTorch has no function."""
    if reached(generator).stream == "torch":
        return _best_fisher(concentration.double(), generator).to(concentration.dtype)
    return draw(generator, 4, random_von_mises, concentration)
