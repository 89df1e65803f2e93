"""What samples are distributed like, their gradients, and distributions in captured functions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from laws import CASES, EACH, made

import kiln
from kiln import distributions as kd

N = 4000


@pytest.fixture(autouse=True)
def seeded() -> Any:
    kiln.manual_seed(11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def ks(sample: np.ndarray, cdf: Callable) -> float:
    """The Kolmogorov-Smirnov statistic scaled by sqrt(n); above 1.95 once in a thousand samples."""
    x = np.sort(sample)
    p, n = cdf(x), x.size
    steps = np.arange(n + 1) / n
    return float(max(np.abs(p - steps[1:]).max(), np.abs(p - steps[:-1]).max()) * np.sqrt(n))


def summed(d: Any, x: np.ndarray) -> Callable:
    """The distribution function of numbers, from the density: in logarithms of the distance from the least."""
    d._validate_args = False
    low = x.min() - 1e-9 * (1 + abs(x.min()))
    t = np.linspace(math.log(1e-9 * (1 + np.ptp(x))), math.log(np.ptp(x) * 1.01), 40_001)
    at = low + np.exp(t)
    density = np.nan_to_num(np.exp(d.log_prob(kiln.tensor(at)).numpy())) * np.exp(t)
    area = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(t))])
    return lambda y: np.interp(y, at, area / area[-1])


NUMBERS: list[Callable] = [
    lambda: kd.Normal(0.3, 1.7), lambda: kd.Laplace(0.3, 1.7), lambda: kd.Cauchy(0.3, 1.7), lambda: kd.Uniform(-1.0, 2.0),
    lambda: kd.Exponential(1.3), lambda: kd.Gumbel(0.5, 2.0), lambda: kd.Pareto(0.8, 3.0), lambda: kd.Weibull(0.8, 1.9),
    lambda: kd.LogNormal(0.1, 0.6), lambda: kd.HalfNormal(1.5), lambda: kd.HalfCauchy(1.5), lambda: kd.Kumaraswamy(1.4, 2.0),
    lambda: kd.ContinuousBernoulli(0.2), lambda: kd.ContinuousBernoulli(0.5), lambda: kd.GeneralizedPareto(0.1, 1.0, 0.2),
    lambda: kd.GeneralizedPareto(0.1, 1.0, 0.0),
]  # fmt: skip
DENSITIES: list[Callable] = [
    lambda: kd.Gamma(2.5, 2.0), lambda: kd.Gamma(60.0, 0.5), lambda: kd.Gamma(0.7, 1.0), lambda: kd.Beta(2.0, 3.0, validate_args=False), lambda: kd.Beta(1.5, 40.0, validate_args=False),
    lambda: kd.StudentT(5.0, 0.5, 2.0), lambda: kd.FisherSnedecor(5.0, 9.0), lambda: kd.Chi2(3.0), lambda: kd.InverseGamma(4.0, 2.0),
    lambda: kd.VonMises(0.0, 0.8), lambda: kd.VonMises(0.0, 30.0), lambda: kd.RelaxedBernoulli(kiln.tensor(1.5), 0.4),
]  # fmt: skip
COUNTS: list[Callable] = [
    lambda: kd.Poisson(0.7), lambda: kd.Poisson(9.5), lambda: kd.Poisson(40.0), lambda: kd.Binomial(6, 0.3), lambda: kd.Binomial(200, 0.8),
    lambda: kd.Binomial(30, 0.98), lambda: kd.Geometric(0.3), lambda: kd.NegativeBinomial(2.5, 0.6), lambda: kd.Bernoulli(0.3),
    lambda: kd.Categorical(kiln.tensor([0.2, 0.5, 0.3])),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(NUMBERS)))
def test_numbers_follow_their_distribution_function(i: int) -> None:
    d = NUMBERS[i]()
    x = d.sample((N,)).double()
    assert not x.requires_grad
    assert ks(x.numpy(), lambda y: d.cdf(kiln.tensor(y)).numpy()) < 1.95


@pytest.mark.parametrize("i", range(len(DENSITIES)))
def test_numbers_follow_their_density(i: int) -> None:
    d = DENSITIES[i]()
    x = d.sample((N,)).double().numpy()
    assert ks(x, summed(d, x)) < 1.95


@pytest.mark.parametrize("i", range(len(COUNTS)))
def test_counts_have_their_probabilities(i: int) -> None:
    """Pearson's statistic over the counts that are expected more than 20 times, as a normal deviate."""
    d = COUNTS[i]()
    x = d.sample((N,)).numpy()
    assert (x == np.floor(x)).all()
    k = np.arange(x.max() + 1)
    due = N * np.exp(d.log_prob(kiln.tensor(k)).numpy().astype(np.float64))
    often = due > 20
    found = np.bincount(x.astype(int), minlength=k.size)
    statistic = (((found - due) ** 2)[often] / due[often]).sum()
    freedom = often.sum()
    assert abs(found[often].sum() - due[often].sum()) < 5 * math.sqrt(N)
    assert (statistic - freedom) / math.sqrt(2 * freedom) < 5


@pytest.mark.parametrize(
    ("name", "i"),
    [e for e in EACH if e[0] not in ("Cauchy", "HalfCauchy", "VonMises", "Categorical")],
)
def test_moments(name: str, i: int) -> None:
    """Means of samples are the distribution's, within their own errors."""
    d = made(kd, name, i, kiln.tensor)
    try:
        mean, variance = d.mean.numpy(), d.variance.numpy()
    except NotImplementedError:
        return
    n = 4000
    x = d.sample((n,)).double().numpy()
    good = np.isfinite(mean) & np.isfinite(variance)
    away = np.abs(x.mean(0) - mean)[good] / np.sqrt(variance[good] / n)
    assert (away < 5).all()
    assert d.support.check(kiln.tensor(x) if name != "LKJCholesky" else d.sample((3,))).all()


def test_whole_vectors() -> None:
    covariance = kiln.tensor([[2.0, 0.6], [0.6, 1.0]])
    for d in (kd.MultivariateNormal(kiln.zeros(2), covariance), kd.MultivariateNormal(kiln.zeros(2), precision_matrix=covariance.inverse()),
              kd.LowRankMultivariateNormal(kiln.zeros(2), kiln.tensor([[1.0], [0.6]]), kiln.tensor([1.0, 0.64]))):  # fmt: skip
        found = np.cov(d.sample((N,)).numpy().T)
        assert np.allclose(found, covariance.numpy(), atol=0.2)
    d = kd.LKJCholesky(3, 1.5).sample((N,))
    correlation = (d @ d.mT).numpy()
    for i, j in ((0, 1), (0, 2), (1, 2)):  # each correlation is a beta number on [-1, 1]
        beta = kd.Beta(1.5 + 0.5, 1.5 + 0.5, validate_args=False)
        x = (correlation[:, i, j] + 1) / 2
        assert ks(x, summed(beta, x)) < 1.95


# ---------------------------------------------------------------- gradients


def gamma_slope(a: float, z: float) -> float:
    """dz/da by finite differences of the distribution function in 60 digits."""
    with mpmath.workdps(60):
        a, z, h = mpmath.mpf(a), mpmath.mpf(z), mpmath.mpf(10) ** -20

        def below(a: Any) -> Any:
            return mpmath.gammainc(a, 0, z, regularized=True)

        density = mpmath.exp((a - 1) * mpmath.log(z) - z - mpmath.loggamma(a))
        return float(-(below(a + h) - below(a - h)) / (2 * h) / density)


def beta_slope(x: float, a: float, b: float) -> float:
    """dx/da / (1 - x), in the same way."""
    with mpmath.workdps(60):
        x, a, b, h = mpmath.mpf(x), mpmath.mpf(a), mpmath.mpf(b), mpmath.mpf(10) ** -20

        def below(a: Any) -> Any:
            return mpmath.betainc(a, b, 0, x, regularized=True)

        density = x ** (a - 1) * (1 - x) ** (b - 1) / mpmath.beta(a, b)
        return float(-(below(a + h) - below(a - h)) / (2 * h) / density / (1 - x))


@pytest.mark.parametrize("a", [1e-3, 0.1, 0.8, 1.0, 3.0, 40.0])
def test_gamma_numbers_move_with_their_shape(a: float) -> None:
    z = np.array([1e-12, 1e-3, 0.3, 0.99, 1.01, a / 2, a, a * 1.01, a + 3 * math.sqrt(a), a + 9])
    found = kiln._standard_gamma_grad(kiln.full(z.shape, a, dtype=kiln.float64), kiln.tensor(z))
    due = [gamma_slope(a, x) for x in z]
    assert np.allclose(found.numpy(), due, 1e-12, 0), (found, due)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (0.01, 0.02),
        (0.3, 0.7),
        (0.5, 30.0),
        (2.0, 0.1),
        (1.0, 1.0),
        (3.0, 4.0),
        (50.0, 9.0),
        (1.0, 1e-3),
        (1e-4, 2.0),
    ],
)
def test_dirichlet_points_move_with_their_concentration(a: float, b: float) -> None:
    middle = a / (a + b)
    x = np.array([1e-9, 0.01, 0.3, 0.5, 0.51, 0.9, 0.99, middle, min(middle * 1.1, 0.999)])
    x = x[(1 - x) ** b > 1e-30]  # 60 digits don't tell the slope of a probability of 1
    given = (kiln.full(x.shape, v, dtype=kiln.float64) for v in (a, a + b))
    found = kiln._dirichlet_grad(kiln.tensor(x), *given)
    due = [beta_slope(v, a, b) for v in x]
    assert np.allclose(found.numpy(), due, 1e-9, 0), (found, due)


def test_large_shapes_move_like_normal_numbers() -> None:
    """For a shape of 10**8 gamma numbers are a + sqrt(a) z, which move by 1 + z / (2 sqrt(a))."""
    a, z = 1e8, np.array([-3.0, -1.0, 0.0, 2.0])
    found = kiln._standard_gamma_grad(kiln.tensor(np.full(4, a)), kiln.tensor(a + math.sqrt(a) * z))
    assert np.allclose(found.numpy(), 1 + z / (2 * math.sqrt(a)), 1e-7, 0)


REPARAMETERIZED: list[tuple[Callable, tuple]] = [
    (kd.Gamma, (0.7, 2.0)), (kd.Beta, (0.8, 1.5)), (kd.StudentT, (9.0, 0.5, 2.0)), (kd.FisherSnedecor, (5.0, 12.0)),
    (kd.InverseGamma, (6.0, 2.0)), (kd.Normal, (0.5, 2.0)), (kd.Kumaraswamy, (1.5, 2.0)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given"), REPARAMETERIZED)
def test_gradients_of_samples_are_those_of_the_mean(kind: Any, given: tuple) -> None:
    """The mean's gradient is the mean of the samples' gradients; of squares likewise."""
    exact = [kiln.tensor(x, dtype=kiln.float64, requires_grad=True) for x in given]
    d = kind(*exact)
    due = kiln.autograd.grad(d.variance + d.mean.square(), exact, allow_unused=True)
    each = [kiln.full((N,), x, dtype=kiln.float64, requires_grad=True) for x in given]
    found = kiln.autograd.grad(kind(*each).rsample().square().sum(), each)
    for g, due_g in zip(found, due, strict=True):
        error = float(g.std()) / math.sqrt(N)
        assert abs(float(g.mean()) - float(due_g)) < 5 * error + 1e-6


def test_the_gamma_distribution_function_has_gradients_by_its_parameters() -> None:
    x = kiln.tensor([0.01, 0.7, 2.0, 30.0], dtype=kiln.float64)
    given = [kiln.tensor(v, dtype=kiln.float64, requires_grad=True) for v in ([0.3, 2.0, 2.0, 25.0], [1.0, 0.5, 2.0, 0.9])]  # fmt: skip
    assert kiln.autograd.gradcheck(lambda a, b: kd.Gamma(a, b).cdf(x), given)
    assert kiln.autograd.gradcheck(lambda a: kiln.special.gammaincc(a, x), given[:1])


def test_second_derivatives_of_draws_are_refused() -> None:
    a = kiln.tensor(2.0, requires_grad=True)
    (g,) = kiln.autograd.grad(kd.Gamma(a, 1.0).rsample(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="is not implemented"):
        g.backward()


def test_straight_through_samples_pass_gradients_to_probabilities() -> None:
    logits = kiln.tensor([0.1, 0.5, -1.0], requires_grad=True)
    x = kd.OneHotCategoricalStraightThrough(logits=logits).rsample()
    assert sorted(x.detach().round().tolist()) == [0, 0, 1]
    (x * kiln.tensor([1.0, 2.0, 3.0])).sum().backward()
    due = kiln.autograd.grad((logits.softmax(-1) * kiln.tensor([1.0, 2.0, 3.0])).sum(), logits)[0]
    assert np.allclose(logits.grad.numpy(), due.numpy(), atol=1e-6)


# ---------------------------------------------------------------- captured


QUICK = (
    "Bernoulli",
    "Beta",
    "Categorical",
    "MultivariateNormal",
    "Normal",
)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_captured_functions_draw_and_score_as_eager_ones(name: str) -> None:
    leaves: list = []

    def tensor(a: np.ndarray) -> Any:
        leaves.append(kiln.tensor(a.astype(np.float32)).requires_grad_())
        return leaves[-1]

    made(kd, name, 0, tensor)

    def step(*parameters: Any) -> Any:
        given = iter(parameters)
        d = made(kd, name, 0, lambda a: next(given))
        x = d.rsample((2,)) if d.has_rsample else d.sample((2,))
        log_prob = d.log_prob(x.detach())
        found = [
            g
            for g in kiln.autograd.grad(log_prob.sum(), parameters, allow_unused=True)
            if g is not None
        ]
        return [x, log_prob, *found]

    outcomes, compiled = [], kiln.compile(step)
    for fn in (step, compiled):
        kiln.manual_seed(4)
        outcomes.append(fn(*leaves))
    for a, b in zip(*outcomes, strict=True):
        assert np.allclose(a.detach().numpy(), b.detach().numpy(), 1e-3, 1e-4, equal_nan=True)
    if name in ("Normal", "Beta"):  # the next call draws other numbers
        assert (compiled(*leaves)[0] != outcomes[0][0]).any()


def test_captured_checks() -> None:
    """Elements are checked in captured functions where that was asked for."""

    def score(scale: Any, validate_args: Any = None) -> Any:
        return kd.Normal(0.0, scale, validate_args=validate_args).log_prob(kiln.zeros(2))

    assert kiln.compile(score)(kiln.tensor([1.0, -1.0])).isnan().tolist() == [False, True]
    strict = kiln.compile(lambda scale: score(scale, True))
    assert strict(kiln.tensor([1.0, 1.0])).shape == (2,)
    with pytest.raises(ValueError, match="scale"):
        strict(kiln.tensor([1.0, -1.0]))


def test_a_squashed_policy_is_trained_compiled() -> None:
    """Caches of transforms keep the exact inverse inside of a captured step."""
    loc = kiln.nn.Parameter(kiln.tensor([2.0]))
    opt = kiln.optim.SGD([loc], lr=0.1)

    @kiln.compile
    def step() -> Any:
        d = kd.TransformedDistribution(
            kd.Normal(loc, kiln.tensor([0.5])), kd.TanhTransform(cache_size=1)
        )
        x = d.rsample((64,))
        loss = (0.05 * d.log_prob(x) + x.square()).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    losses = [float(step()) for _ in range(60)]
    assert losses[-1] < losses[0] - 0.5
    assert abs(float(loc)) < 1.0
