"""PyTorch's stream of random numbers: the same numbers, and the same state after each draw."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pytorch_stream import by_mkl

import kiln
from kiln.config import context

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_stream")]


BY_MKL = by_mkl()


def seed(n: int) -> None:
    kiln.manual_seed(n)
    torch.manual_seed(n)


def same_state(a: Any = kiln, b: Any = torch) -> None:
    get = "get_state" if hasattr(a, "get_state") else "get_rng_state"
    ours, theirs = getattr(a, get)().numpy(), getattr(b, get)().numpy()
    np.testing.assert_array_equal(ours, theirs)


def wide(x: Any) -> np.ndarray:
    """The values as float64, as integers or as they are."""
    if x.is_complex():
        return (kiln if isinstance(x, kiln.Tensor) else torch).view_as_real(x).double().numpy()
    return (x.double() if x.is_floating_point() else x).numpy()


def check(draw: Callable[[Any], Any], ulps: float = 0) -> None:
    """A draw gives equal numbers in memory of equal order, up to so many units in the last place, and the state follows."""
    ours, theirs = draw(kiln), draw(torch)
    same_state()
    assert str(ours.dtype).split(".")[-1] == str(theirs.dtype).split(".")[-1]
    assert tuple(ours.shape) == tuple(theirs.shape)
    if theirs.numel():
        many = [i for i, s in enumerate(theirs.shape) if s > 1]
        assert [ours.stride(i) for i in many] == [theirs.stride(i) for i in many]
    a, b = wide(ours.detach()), wide(theirs.detach())
    if ulps == 0 or not (theirs.is_floating_point() or theirs.is_complex()):
        np.testing.assert_array_equal(a, b)
    else:
        eps = torch.finfo(theirs.dtype).eps
        np.testing.assert_allclose(a, b, rtol=ulps * eps, atol=ulps * eps)


FLOATS = ("float32", "float64", "float16", "bfloat16")
sizes = st.one_of(st.lists(st.integers(0, 5), max_size=3), st.integers(14, 70).map(lambda n: [n]))


@st.composite
def draws(pick: Any) -> tuple[Callable[[Any], Any], float]:
    """A draw, and how many units in the last place its numbers may be off by."""
    size, dtype = pick(sizes), pick(st.sampled_from(FLOATS))
    low, more = pick(st.floats(-3, 3)), pick(st.floats(0.01, 5))
    p = pick(st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0]))
    n = pick(st.sampled_from([1, 2, 100, 2**28 - 1, 2**28, 2**31, 2**40]))

    def new(m: Any) -> Any:  # transposed every other time, and strided
        x = m.empty(size, dtype=getattr(m, dtype))
        if len(size) > 1 and n % 2:
            x = m.empty(size[::-1], dtype=getattr(m, dtype)).permute(*reversed(range(len(size))))
        if len(size) == 1 and n == 100:
            x = m.empty(2 * size[0], dtype=getattr(m, dtype))[::2]
        return x

    def weights(m: Any) -> Any:
        return m.arange(1.0, 13.0, dtype=m.float64 if n % 2 else m.float32).reshape(3, 4)

    def quarters(m: Any) -> Any:
        return m.arange(0.0, 20.0) / 4

    exact: list[Callable[[Any], Any]] = [
        lambda m: m.rand(size, dtype=getattr(m, dtype)),
        lambda m: new(m).uniform_(low, low + more),
        lambda m: m.rand_like(new(m)),
        lambda m: m.randint(0, n, size),
        lambda m: m.randint(-5, n, size, dtype=m.int64),
        lambda m: new(m).random_(),
        lambda m: new(m).random_(0, 7),
        lambda m: m.empty(size, dtype=m.int64).random_(),
        lambda m: m.empty(size, dtype=m.uint8).random_(),
        lambda m: m.empty(size, dtype=m.bool).random_(),
        lambda m: m.randperm(n % 97),
        lambda m: m.bernoulli(m.full(size, p, dtype=getattr(m, dtype))),
        lambda m: new(m).bernoulli_(m.full([], p, dtype=m.float64)),
        lambda m: m.multinomial(weights(m), 1),
        lambda m: m.multinomial(weights(m), 3),
        lambda m: m.multinomial(weights(m), 30, True),
        lambda m: new(m).geometric_(max(min(p, 0.9), 0.05)),
    ]
    if not BY_MKL:
        exact += [
            lambda m: new(m).bernoulli_(p),
            lambda m: m.nn.functional.dropout(new(m).fill_(1), p),
            lambda m: m.nn.functional.dropout2d(m.ones(2, 3, 2, 2), p),
        ]
    counts = [
        lambda m: m.poisson(quarters(m) * 4),
        lambda m: m.binomial(m.full((20,), 30.0), quarters(m) / 5),
    ]
    near: list[Callable[[Any], Any]] = [
        lambda m: m.randn(size, dtype=getattr(m, dtype)),
        lambda m: m.randn(size, dtype=m.complex64),
        lambda m: new(m).normal_(low, more),
        lambda m: m.randn_like(new(m)),
        lambda m: m.normal(m.full(size, low), more),
        lambda m: new(m).log_normal_(low, more),
        lambda m: new(m).cauchy_(low, more),
        lambda m: m._standard_gamma(quarters(m).to(m.float64 if n % 2 else m.float32)),
        lambda m: m._sample_dirichlet(quarters(m).reshape(4, 5)),
        lambda m: m.rrelu(quarters(m) - 2, training=True),
    ]
    if not BY_MKL:
        near += [
            lambda m: new(m).exponential_(more),
            lambda m: m.nn.functional.alpha_dropout(m.ones(size), p, True),
        ]
    kind = pick(st.sampled_from([exact, exact, near, counts]))
    # a float32 normal number is within 4 units, which mean and scale may enlarge where they cancel
    return pick(st.sampled_from(kind)), 0 if kind is not near else 40


@settings(max_examples=40, deadline=None)
@given(st.integers(-(2**63), 2**64 - 1), st.lists(draws(), min_size=1, max_size=6))
def test_sequences_of_draws(n: int, sequence: list) -> None:
    seed(n)
    same_state()
    for draw, ulps in sequence:
        check(draw, ulps)


@pytest.mark.parametrize("dtype", FLOATS)
def test_many_normal_numbers(dtype: str) -> None:
    """The bits of float64 and of half numbers, up to NumPy's own last place; four units of float32's."""
    seed(7)
    ours = kiln.randn(1 << 17, dtype=getattr(kiln, dtype)).numpy().astype(np.float64)
    theirs = torch.randn(1 << 17, dtype=getattr(torch, dtype)).double().numpy()
    same_state()
    ulp = np.spacing(np.abs(theirs).astype(np.float32 if dtype == "float32" else np.float64))
    if dtype in ("float32", "float64"):
        assert (np.abs(ours - theirs) / ulp).max() <= 5
    else:
        assert (ours != theirs).mean() < 1e-3


@pytest.mark.parametrize("n", [0, 1, 383, 384, 385, 512, 513, 5000, 70_001])
def test_few_numbers_and_many_are_of_one_stream(n: int) -> None:
    seed(n)
    for _ in range(2):
        check(lambda m: m.randperm(n))
        for d in ("float32", "float64", "float16"):
            check(lambda m, d=d: m.rand(n, dtype=getattr(m, d)))
        check(lambda m: m.randint(-3, 1000, (n,)))
        check(lambda m: m.randn(n % 700), 4)
        check(lambda m: m.empty(n % 700).normal_(1, 2), 4)
        check(lambda m: m.empty(n % 700, dtype=m.float64).log_normal_(0, 1), 4)


def test_states_travel() -> None:
    theirs = torch.Generator().manual_seed(11)
    ours = kiln.Generator(stream="torch")
    same_state(kiln.Generator(), torch.Generator())
    torch.randn(3, generator=theirs)  # with half of a pair kept
    ours.set_state(kiln.from_numpy(theirs.get_state().numpy()))
    assert ours.initial_seed() == 11
    for g in (ours, ours.clone_state(), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert kiln.equal(g.get_state(), kiln.from_numpy(theirs.get_state().numpy()))
    kiln.randn(2, generator=ours)
    back = torch.Generator().set_state(torch.from_numpy(ours.get_state().numpy()))
    torch.randn(2, generator=theirs)
    same_state(ours, back)
    same_state(ours, theirs)


def test_what_is_no_state() -> None:
    g = kiln.Generator()
    with pytest.raises(RuntimeError, match="size"):
        g.set_state(kiln.zeros(16, dtype=kiln.uint8))
    with pytest.raises(RuntimeError, match="Invalid mt19937"):
        g.set_state(kiln.zeros(5056, dtype=kiln.uint8))
    with pytest.raises(TypeError):
        g.set_state(kiln.zeros(5056))
    with pytest.raises(ValueError, match="stream"):
        kiln.random.set_stream("mt")


def test_forks_leave_the_state() -> None:
    seed(3)
    with kiln.random.fork_rng():
        kiln.randn(5)
        kiln.random.set_stream("philox")
        kiln.randn(5)
        kiln.random.set_stream("torch")
    same_state()


def test_generators_have_streams_of_their_own() -> None:
    g, other = kiln.Generator(), kiln.Generator(stream="philox")
    assert (g.stream, other.stream, kiln.random.get_stream()) == ("torch", "philox", "torch")
    before = kiln.get_rng_state()
    a = kiln.rand(4, generator=g.manual_seed(5))
    np.testing.assert_array_equal(
        a.numpy(), torch.rand(4, generator=torch.Generator().manual_seed(5)).numpy()
    )
    kiln.rand(4, generator=other)
    assert kiln.equal(before, kiln.get_rng_state())


@pytest.mark.skipif(BY_MKL, reason="this PyTorch takes dropout's trials from MKL")
def test_captured_programs_draw_at_each_call() -> None:
    """In the order of eager mode, along the branch that is taken, in loops; nothing is frozen."""

    def step(m: Any, x: Any) -> Any:
        a = m.nn.functional.dropout(x, 0.3)
        b = m.randn(20)
        if a.sum() > 11:
            return a + b + m.rand(20)
        return a - b

    ours = kiln.compile(lambda x: step(kiln, x))
    seed(0)
    for _ in range(6):
        check(
            lambda m: (
                ours(kiln.full((20,), 0.5)) if m is kiln else step(torch, torch.full((20,), 0.5))
            ),
            40,
        )

    total = kiln.compile(
        lambda x: kiln.scan(lambda c, y: (c + kiln.rand(2), y), kiln.zeros(2), x)[0]
    )
    check(
        lambda m: total(m.zeros(3)) if m is kiln else m.zeros(2) + m.rand(2) + m.rand(2) + m.rand(2)
    )


def test_captured_programs_follow_the_stream() -> None:
    draw = kiln.compile(lambda: kiln.rand(5))
    seed(4)
    check(lambda m: draw() if m is kiln else m.rand(5))
    kiln.random.set_stream("philox")
    kiln.manual_seed(4)
    first = draw()
    kiln.manual_seed(4)
    assert kiln.equal(first, kiln.rand(5))
    kiln.random.set_stream("torch")
    seed(4)
    check(lambda m: draw() if m is kiln else m.rand(5))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_under_vmap(randomness: str) -> None:
    seed(1)
    for f in (
        lambda m, x: x + m.rand(2),
        lambda m, x: x + m.randn(20).sum(),
        lambda m, x: x + m.randint(0, 9, (2,)),
        *([lambda m, x: m.bernoulli(x)] if randomness == "different" else []),
    ):
        check(
            lambda m, f=f: m.vmap(lambda x: f(m, x), randomness=randomness)(m.full((3, 2), 0.5)), 40
        )


def test_gradients_of_draws() -> None:
    """Gamma and Dirichlet numbers move with their parameters, as those of the other stream do."""
    seed(2)
    grads = []
    for m in (kiln, torch):
        a = m.linspace(0.5, 4, 8).requires_grad_()
        gamma, dirichlet = m.distributions.Gamma(a, m.ones(8)), m.distributions.Dirichlet(a)
        (gamma.rsample() * dirichlet.rsample()).sum().backward()
        grads.append(a.grad.numpy())
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-3)


FAMILIES: dict[str, Callable[[Any, Any], Any]] = {
    "Bernoulli": lambda m, d: d.Bernoulli(m.full((4,), 0.3)), "Beta": lambda m, d: d.Beta(m.full((3,), 2.0), m.ones(3)),
    "Categorical": lambda m, d: d.Categorical(m.ones(4, 5)), "Cauchy": lambda m, d: d.Cauchy(m.zeros(3), m.ones(3)),
    "Exponential": lambda m, d: d.Exponential(m.ones(3)), "Gamma": lambda m, d: d.Gamma(m.full((3,), 2.0), m.ones(3)),
    "Geometric": lambda m, d: d.Geometric(m.full((4,), 0.3)), "Gumbel": lambda m, d: d.Gumbel(m.zeros(3), m.ones(3)),
    "Laplace": lambda m, d: d.Laplace(m.zeros(3), m.ones(3)), "Multinomial": lambda m, d: d.Multinomial(10, m.ones(4)),
    "MultivariateNormal": lambda m, d: d.MultivariateNormal(m.zeros(3), m.eye(3)), "Poisson": lambda m, d: d.Poisson(m.ones(3) * 5),
    "MixtureSameFamily": lambda m, d: d.MixtureSameFamily(d.Categorical(m.ones(3)), d.Normal(m.zeros(3), m.ones(3))),
    "StudentT": lambda m, d: d.StudentT(m.full((3,), 3.0)), "VonMises": lambda m, d: d.VonMises(m.zeros(3), m.full((3,), 2.0)),
    "Weibull": lambda m, d: d.Weibull(m.ones(3), m.full((3,), 2.0)),
    "Binomial": lambda m, d: d.Binomial(m.full((3,), 20.0), m.full((3,), 0.3)), "Chi2": lambda m, d: d.Chi2(m.full((3,), 3.0)),
    "ContinuousBernoulli": lambda m, d: d.ContinuousBernoulli(m.full((3,), 0.3)),
    "Dirichlet": lambda m, d: d.Dirichlet(m.full((2, 3), 1.5)), "Wishart": lambda m, d: d.Wishart(m.full((2,), 4.5), m.eye(3)),
    "FisherSnedecor": lambda m, d: d.FisherSnedecor(m.full((3,), 3.0), m.full((3,), 6.0)),
    "GeneralizedPareto": lambda m, d: d.GeneralizedPareto(m.zeros(3), m.ones(3), m.full((3,), 0.1)),
    "HalfCauchy": lambda m, d: d.HalfCauchy(m.ones(3)), "HalfNormal": lambda m, d: d.HalfNormal(m.ones(3)),
    "InverseGamma": lambda m, d: d.InverseGamma(m.full((3,), 3.0), m.ones(3)),
    "Kumaraswamy": lambda m, d: d.Kumaraswamy(m.ones(3), m.full((3,), 3.0)),
    "LKJCholesky": lambda m, d: d.LKJCholesky(4, m.full((2,), 1.5)), "LogNormal": lambda m, d: d.LogNormal(m.zeros(3), m.ones(3)),
    "LogisticNormal": lambda m, d: d.LogisticNormal(m.zeros(3), m.ones(3)),
    "LowRankMultivariateNormal": lambda m, d: d.LowRankMultivariateNormal(m.zeros(3), m.ones(3, 1), m.ones(3)),
    "NegativeBinomial": lambda m, d: d.NegativeBinomial(m.full((3,), 4.0), m.full((3,), 0.4)),
    "OneHotCategorical": lambda m, d: d.OneHotCategorical(m.ones(4)), "Pareto": lambda m, d: d.Pareto(m.ones(3), m.full((3,), 3.0)),
    "RelaxedBernoulli": lambda m, d: d.RelaxedBernoulli(m.tensor(0.5), m.full((3,), 0.4)),
    "RelaxedOneHotCategorical": lambda m, d: d.RelaxedOneHotCategorical(m.tensor(0.5), m.ones(3)),
    "Uniform": lambda m, d: d.Uniform(m.zeros(3), m.ones(3)),
    "scalar Wishart": lambda m, d: d.Wishart(m.tensor(5.0), scale_tril=m.eye(2)),
}  # fmt: skip


@pytest.mark.skipif(BY_MKL, reason="this PyTorch takes trials from MKL")
@pytest.mark.filterwarnings("ignore:Singular sample")  # PyTorch says so of regular ones
@pytest.mark.parametrize("name", FAMILIES)
def test_distributions_draw_the_same(name: str) -> None:
    seed(1)
    for shape in ((), (20,)):
        check(lambda m, shape=shape: FAMILIES[name](m, m.distributions).sample(shape), 100)


@pytest.mark.parametrize("n", [0, 7, 9_000])
@pytest.mark.parametrize("p", [0.0, 1.0, 0.4, 2.0**-53, 5e-324, 1 - 2.0**-53, 1e-3 + 2.0**-50])
def test_trials_are_doubles_below_their_probability(n, p):
    from kiln.mersenne import Words, first_state

    a, b = Words(), Words()
    a.load(first_state(3))
    b.load(first_state(3))
    doubles = a.doubles(n)
    np.testing.assert_array_equal(b.below(n, p), doubles < p)
    if n:  # where nothing is between, the low words decide
        a.load(first_state(3))
        np.testing.assert_array_equal(a.below(n, doubles[n // 2]), doubles < doubles[n // 2])
    assert b.words(1) == a.words(1)


@pytest.mark.parametrize("n", [513, 5_000, 20_001])
def test_kernels_give_the_words_that_numpy_gives(n):
    from kiln.mersenne import Words, first_state

    half, single = np.float16(1.5), np.float32(1) / np.float32(0.9)
    draws = [
        lambda s: s.words(n), lambda s: s.words(3), lambda s: s.floats(n), lambda s: s.doubles(n),
        *(lambda s, v=v: s.below(n, 0.3, v) for v in (np.True_, half, single, np.float64(1) / 0.7)),
    ]  # fmt: skip
    found = []
    for eager in ("cpu", "reference"):
        state, stream = first_state(3), Words()
        stream.load(state)
        with context(eager=eager):
            found.append([draw(stream) for draw in draws])
        stream.store()
        found[-1].append(state)
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_what_dropout_keeps_is_rounded_as_a_quotient():
    for name in FLOATS:
        seed(1)
        check(lambda m, d=name: m.nn.functional.dropout(m.ones(3_000, dtype=getattr(m, d)), 0.3))
