"""Random streams: the generator itself, what makes it reproducible, and the distributions."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import kiln
import kiln.nn.functional as F
from kiln.config import context
from kiln.mersenne import Singles, Words, first_state, is_state
from kiln.ops.random import random_bits
from kiln.ops.sampling import _sample_dirichlet, _standard_gamma
from kiln.tensor import wrap

N = 100_000


def bits(key: int, counter: int, n: int) -> list[int]:
    return random_bits(wrap(np.array([key, counter], np.uint64)), (n,)).tolist()


def block(key: int, counter: int) -> list[int]:
    """Philox4x32-10 as its paper writes it, on Python integers."""
    x = [counter % 2**32, counter >> 32, 0, 0]
    k = [key % 2**32, key >> 32]
    for _ in range(10):
        a, b = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [(b >> 32) ^ x[1] ^ k[0], b % 2**32, (a >> 32) ^ x[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return x


def ks(sample: Any, cdf: Any) -> float:
    """The Kolmogorov-Smirnov statistic scaled by sqrt(n); above 1.95 once in a thousand samples."""
    x = np.sort(np.asarray(sample, np.float64).ravel())
    p, n = cdf(x), x.size
    steps = np.arange(n + 1) / n
    return float(max(np.abs(p - steps[1:]).max(), np.abs(p - steps[:-1]).max()) * np.sqrt(n))


def normal_cdf(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + kiln.erf(wrap(x / np.sqrt(2))).numpy())


def test_known_answer() -> None:
    assert bits(0, 0, 4) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_layout() -> None:
    key, first = 0x123456789ABCDEF0, 2**32 - 2
    words = bits(key, first, 17)
    assert words == [w for i in range(5) for w in block(key, first + i)][:17]


def test_counter_wraps() -> None:
    assert bits(7, 2**64 - 1, 8) == block(7, 2**64 - 1) + block(7, 0)


def test_draws_are_consecutive() -> None:
    g = kiln.Generator().manual_seed(3)
    kiln.rand(5, generator=g)
    assert g.state.tolist() == [3, 2]


@pytest.mark.parametrize("dtype", [kiln.float32, kiln.float64, kiln.float16, kiln.bfloat16])
def test_uniform_stays_below_one(dtype: Any) -> None:
    x = kiln.rand(N, dtype=dtype, generator=kiln.Generator().manual_seed(1))
    assert x.dtype is dtype
    assert float(x.max()) < 1
    assert float(x.min()) >= 0
    assert abs(float(x.double().mean()) - 0.5) < 0.01


@pytest.mark.parametrize("dtype", [kiln.float32, kiln.float64])
def test_continuous_distributions(dtype: Any) -> None:
    g = kiln.Generator().manual_seed(2)
    e = kiln.empty(N, dtype=dtype)
    assert ks(kiln.rand(N, dtype=dtype, generator=g), lambda x: x) < 1.95
    assert ks(kiln.randn(N, dtype=dtype, generator=g), normal_cdf) < 1.95
    assert ks(e.normal_(2, 3, generator=g), lambda x: normal_cdf((x - 2) / 3)) < 1.95
    assert ks(e.uniform_(-2, 3, generator=g), lambda x: (x + 2) / 5) < 1.95
    assert ks(e.exponential_(2.0, generator=g), lambda x: 1 - np.exp(-2 * x)) < 1.95
    assert ks(e.cauchy_(1, 3, generator=g), lambda x: 0.5 + np.arctan((x - 1) / 3) / np.pi) < 1.95
    log_normal = e.log_normal_(0.2, 0.5, generator=g)
    assert ks(log_normal, lambda x: normal_cdf((np.log(x) - 0.2) / 0.5)) < 1.95


def chi_square(counts: np.ndarray, expected: Any) -> float:
    expected = np.broadcast_to(expected, counts.shape)
    return float(((counts - expected) ** 2 / expected).sum())


def test_the_size_of_integers_may_be_named():
    for x in (
        kiln.randint(3, 4, size=(2,)), kiln.randint(3, 4, (2,)), kiln.randint(3, high=4, size=(2,)),
        kiln.randint(low=3, high=4, size=(2,)),
    ):  # fmt: skip
        assert x.tolist() == [3, 3]
    assert kiln.randint(1, size=(2,)).tolist() == [0, 0]


def test_discrete_distributions() -> None:
    g = kiln.Generator().manual_seed(4)
    ints = kiln.randint(-3, 7, (N,), generator=g).numpy()
    assert set(ints) == set(range(-3, 7))
    assert chi_square(np.bincount(ints + 3), N / 10) < 27.9  # 9 degrees of freedom, 1 in 1000
    trials = kiln.empty(N).geometric_(0.3, generator=g).numpy().astype(int)
    p = 0.3 * 0.7 ** np.arange(15)
    assert chi_square(np.bincount(trials)[1:16], p * N) < 37.7
    orders = [tuple(kiln.randperm(4, generator=g).tolist()) for _ in range(2400)]
    counts = np.array([orders.count(o) for o in set(orders)])
    assert len(counts) == 24
    assert chi_square(counts, 100) < 49.8
    hits = kiln.bernoulli(kiln.full((N,), 0.2), generator=g)
    assert abs(float(hits.mean()) - 0.2) < 0.005


def test_multinomial() -> None:
    g = kiln.Generator().manual_seed(5)
    p = np.array([0.1, 0.0, 0.3, 0.6])
    with_replacement = kiln.multinomial(kiln.tensor(p), N, True, generator=g).numpy()
    np.testing.assert_allclose(np.bincount(with_replacement, minlength=4) / N, p, atol=0.006)
    pairs = kiln.multinomial(kiln.tensor(p).expand(N, 4), 2, generator=g).numpy()
    second = sum(p[i] * np.where(np.arange(4) == i, 0, p) / (1 - p[i]) for i in range(4))
    np.testing.assert_allclose(np.bincount(pairs[:, 0], minlength=4) / N, p, atol=0.006)
    np.testing.assert_allclose(np.bincount(pairs[:, 1], minlength=4) / N, second, atol=0.006)


def test_seeds_and_states() -> None:
    kiln.manual_seed(5)
    first, state = kiln.randn(10), kiln.get_rng_state()
    then = kiln.rand(7)
    kiln.set_rng_state(state)
    assert kiln.equal(kiln.rand(7), then)
    kiln.manual_seed(5)
    assert kiln.equal(kiln.randn(10), first)
    assert kiln.initial_seed() == 5
    with kiln.random.fork_rng():
        inside = kiln.rand(3)
    assert kiln.equal(kiln.rand(3), inside)
    assert kiln.seed() == kiln.initial_seed()


def test_generators_are_copied_with_their_place() -> None:
    g = kiln.Generator().manual_seed(-1)
    kiln.rand(3, generator=g)
    for other in (g.clone_state(), copy.deepcopy(g), pickle.loads(pickle.dumps(g))):
        assert other is not g
        assert kiln.equal(other.get_state(), g.get_state())
    with pytest.raises(ValueError, match="64 bits"):
        g.manual_seed(2**64)
    with pytest.raises(TypeError, match="uint8"):
        g.set_state(kiln.zeros(2))
    with pytest.raises(RuntimeError, match="wrong size"):
        g.set_state(kiln.zeros(2, dtype=kiln.uint8))


def test_states_are_bytes_of_seed_and_place() -> None:
    g = kiln.Generator().manual_seed(2**63 + 0x0102)
    kiln.rand(9, generator=g)
    state = g.get_state()
    assert state.dtype is kiln.uint8
    assert state.numpy().view(np.uint64).tolist() == [2**63 + 0x0102, 3]
    other = kiln.Generator().set_state(state)
    assert kiln.equal(kiln.rand(5, generator=g), kiln.rand(5, generator=other))
    shared = g.graphsafe_get_state()
    assert not kiln.equal(kiln.rand(4, generator=g), kiln.rand(4, generator=shared))
    assert g.state is shared.state


DRAWS = {
    "rand": lambda g: kiln.rand(3, 2, generator=g), "randn": lambda g: kiln.randn((3,), generator=g),
    "rand_like": lambda g: kiln.rand_like(kiln.ones(5), generator=g),
    "randn_like": lambda g: kiln.randn_like(kiln.ones(5), generator=g),
    "randint": lambda g: kiln.randint(0, 99, (4,), generator=g),
    "randint_like": lambda g: kiln.randint_like(kiln.ones(5), 99, generator=g),
    "randperm": lambda g: kiln.randperm(9, generator=g),
    "normal": lambda g: kiln.normal(kiln.zeros(3), 2.0, generator=g),
    "bernoulli": lambda g: kiln.bernoulli(kiln.full((30,), 0.5), generator=g),
    "multinomial": lambda g: kiln.multinomial(kiln.ones(30), 9, generator=g),
    **{name: lambda g, name=name, args=args: getattr(kiln.zeros(30), name)(*args, generator=g)
       for name, args in {"random_": (), "uniform_": (), "normal_": (), "log_normal_": (), "exponential_": (),
                          "cauchy_": (), "geometric_": (0.1,), "bernoulli_": (0.5,)}.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_every_draw_takes_a_generator(name: str) -> None:
    """The stream is the generator's own, and the default one stays where it is."""
    before, g = kiln.get_rng_state(), kiln.Generator().manual_seed(1)
    first = DRAWS[name](g)
    assert not kiln.equal(DRAWS[name](g), first)
    assert kiln.equal(DRAWS[name](kiln.Generator().manual_seed(1)), first)
    assert kiln.equal(kiln.get_rng_state(), before)
    with pytest.raises(TypeError, match="Generator"):
        DRAWS[name](3)


def test_captured_programs_draw_from_and_restore_generators() -> None:
    g = kiln.Generator()

    @kiln.compile
    def twice(x: Any) -> Any:
        state = kiln.get_rng_state()
        a = kiln.rand(3)
        kiln.set_rng_state(state)
        with kiln.random.fork_rng():
            b = kiln.rand(3)
        return a - b, kiln.rand(3) + x - x, kiln.randn(2, generator=g)

    for seed in (3, 4):
        g.manual_seed(seed)
        kiln.manual_seed(seed)
        same, third, own = twice(kiln.ones(3))
        assert same.tolist() == [0, 0, 0]
        kiln.manual_seed(seed)
        assert kiln.allclose(third, kiln.rand(3), atol=1e-6)
        assert kiln.allclose(own, kiln.randn(2, generator=kiln.Generator().manual_seed(seed)), 1e-5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: kiln.rand(3, 5),
        lambda: kiln.randint(0, 9, (7,)),
        lambda: kiln.bernoulli(kiln.full((5, 7), 0.5)),
        lambda: kiln.empty(9).exponential_(),
        lambda: F.dropout(kiln.ones(4, 9), 0.3) + F.dropout(kiln.ones(4, 9), 0.5),
        lambda: kiln.randn(11),
    ],
)
def test_compiled_draws_are_the_eager_ones(draw: Any) -> None:
    kiln.manual_seed(7)
    eager = [draw().numpy() for _ in range(3)]
    end = kiln.get_rng_state()
    kiln.manual_seed(7)
    compiled = kiln.compile(draw)
    for x in eager:
        np.testing.assert_allclose(compiled().numpy(), x, rtol=2e-6, atol=1e-6)
    assert kiln.equal(kiln.get_rng_state(), end)


def test_dropout() -> None:
    kiln.manual_seed(8)
    x = kiln.ones(400, 250)
    y = F.dropout(x, 0.3)
    assert abs(float((y == 0).float().mean()) - 0.3) < 0.005
    np.testing.assert_allclose(y.numpy()[y.numpy() != 0], 1 / 0.7, rtol=1e-6)
    assert F.dropout(x, 0.5, training=False) is x
    channels = F.dropout2d(kiln.ones(40, 30, 3, 3), 0.3).numpy()
    assert (channels.std((2, 3)) == 0).all()
    assert abs((channels == 0).mean() - 0.3) < 0.05
    selu = F.alpha_dropout(kiln.randn(N), 0.2, True)
    assert abs(float(selu.mean())) < 0.02
    assert abs(float(selu.std()) - 1) < 0.02


def test_dropout_gradient_is_its_mask() -> None:
    x = kiln.ones(100, requires_grad=True)
    y = F.dropout(x, 0.4)
    y.sum().backward()
    assert kiln.equal(x.grad, y.detach())


@pytest.mark.parametrize("p", [0.3, kiln.tensor([[0.1], [0.9]])])
def test_bernoulli_in_place_draws_with_p_alone(p):
    """`bernoulli_` looks at p, and not at the elements that it replaces."""
    kiln.manual_seed(5)
    x = kiln.full((2, 5000), 7.0)
    assert x.bernoulli_(p) is x
    assert set(np.unique(x.numpy())) == {0.0, 1.0}
    want = np.broadcast_to(np.asarray(p, np.float32), (2, 1))
    np.testing.assert_allclose(x.numpy().mean(1, keepdims=True), want, atol=0.03)


@pytest.mark.parametrize(
    "bad", [[math.nan, 1.0], [1.0, math.inf], [-0.1, 1.0], [0.0, 0.0], [[1.0, 0.0], [0.0, 0.0]]]
)
def test_weights_that_nothing_can_be_drawn_with(bad):
    with pytest.raises(RuntimeError, match="prob"):
        kiln.multinomial(kiln.tensor(bad), 1)


def test_categories_without_weight_are_not_drawn():
    weights = kiln.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    for replacement in (False, True):
        drawn = kiln.cat([kiln.multinomial(weights, 1, replacement) for _ in range(30)], 1)
        assert set(drawn[0].tolist()) == {1}
        assert set(drawn[1].tolist()) == {0, 2}


@given(st.lists(st.tuples(st.sampled_from(("words", "floats", "doubles", "few", "below", "single", "reload", "copy")),
                          st.one_of(st.integers(0, 12), st.integers(100, 700))), max_size=40))  # fmt: skip
@example(
    [("words", 0), ("floats", 0), ("few", 0), ("words", 3)]
)  # where the words are to be renewed
@settings(max_examples=60, deadline=None)
def test_small_draws_are_parts_of_one_stream(draws):
    """Whatever is drawn in whatever order: the words of the generator, one after the other, and its state."""
    bits = np.random.RandomState(7)
    numbers, at = np.frombuffer(bits.bytes(4 * 60_000), "<u4").astype(np.uint64), 0
    state, stream = first_state(7), Words()
    stream.load(state, 0)

    def doubles(n):
        high, low = numbers[at : at + 2 * n : 2], numbers[at + 1 : at + 2 * n : 2]
        return ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)) * 2.0**-53

    for kind, n in draws:
        if kind == "reload":
            stream.store()
            stream.load(state, 0)
        elif kind == "copy":  # somebody else goes on from the state
            stream.store()
            state, stream = state.copy(), Words() if n % 2 else stream
            stream.load(state, 0 if n % 3 else None)
        elif kind == "words":
            np.testing.assert_array_equal(stream.words(n), numbers[at : at + n])
            at += n
        elif kind == "floats":
            np.testing.assert_array_equal(stream.floats(n), (numbers[at : at + n] % 2**24) * 2.0**-24)  # fmt: skip
            at += n
        elif kind == "single":  # some more are looked at than are taken
            one = Singles(stream, n)
            taken = [one.next() for _ in range(n // 3)]
            one.close()
            np.testing.assert_array_equal(taken, doubles(n // 3))
            at += 2 * (n // 3)
        else:
            got = stream.below(n, 0.25, np.float32(3)) if kind == "below" else getattr(stream, kind)(n)  # fmt: skip
            due = doubles(n)
            np.testing.assert_array_equal(got, (due < 0.25) * 3 if kind == "below" else due)
            at += 2 * n
    stream.store()
    assert is_state(state)
    after = np.random.RandomState(7)
    if at:
        after.bytes(4 * at)
    _, keys, place, *_ = after.get_state()
    np.testing.assert_array_equal(state[24 : 24 + 8 * 624].view(np.uint64), keys)
    assert state.view(np.uint64)[2] == (place if at else 0)


def _draws() -> list[Any]:
    """Draws of PyTorch's laws, around the sizes at which they change how they go about it."""
    a = kiln.linspace(0.0, 4.0, 21)
    found: list[Any] = [
        f for n in (0, 1, 15, 16, 37, 700, 1300)
        for f in (
            lambda n=n: kiln.rand(n), lambda n=n: kiln.rand(n, dtype=kiln.float64),
            lambda n=n: kiln.randn(n), lambda n=n: kiln.randn(n, dtype=kiln.float64),
            lambda n=n: kiln.empty(n).normal_(-1.5, 2.5), lambda n=n: kiln.empty(n, 2).T.normal_(1, 3),
            lambda n=n: kiln.empty(n).uniform_(-0.7, 3.1), lambda n=n: kiln.empty(n).double().uniform_(-0.7, 3.1),
            lambda n=n: kiln.randperm(n), lambda n=n: kiln.randint(-3, 1000, (n,)), lambda n=n: kiln.randint(2**40, (n,)),
            lambda n=n: kiln.empty(n).exponential_(1.5), lambda n=n: kiln.empty(n).bernoulli_(0.3),
            lambda n=n: F.dropout(kiln.ones(n), 0.3), lambda n=n: kiln.bernoulli(kiln.full((n,), 0.4)),
        )
    ]  # fmt: skip
    for x in (a, a.double()):
        found += [
            lambda x=x: _standard_gamma(x), lambda x=x: _sample_dirichlet(x[1:].view(4, 5)),
            lambda x=x: kiln.multinomial(x, 1), lambda x=x: kiln.multinomial(x.view(3, 7), 1),
            lambda x=x: kiln.multinomial(x.view(3, 7), 5), lambda x=x: kiln.multinomial(x.view(7, 3).T, 9, True),
        ]  # fmt: skip
    return found


def test_kernels_draw_what_the_laws_say() -> None:
    kind, results = kiln.random.get_stream(), []
    kiln.random.set_stream("torch")
    try:
        for eager in ("cpu", "reference"):
            kiln.manual_seed(3)
            with context(eager=eager):
                results.append([(draw(), kiln.get_rng_state()) for draw in _draws()])
    finally:
        kiln.random.set_stream(kind)
    for (a, after), (b, due) in zip(*results, strict=True):
        assert kiln.equal(after, due)
        assert a.dtype is b.dtype
        near = 2e-6 if a.is_floating_point() else 0.0
        kiln.testing.assert_close(a, b, rtol=near, atol=near)


def test_weights_that_nothing_is_drawn_from_leave_the_stream(torch_stream: None) -> None:
    state = kiln.get_rng_state()
    for bad in ([0.0, 0.0], [1.0, -1.0], [math.inf, 1.0], [math.nan, 1.0]):
        with pytest.raises(RuntimeError, match="prob"):
            kiln.multinomial(kiln.tensor([[0.5, 0.5], bad]), 1)
    assert kiln.equal(state, kiln.get_rng_state())
