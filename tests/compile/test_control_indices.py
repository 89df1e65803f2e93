"""Indices inside loops and branches: native, checked before state changes, and gradients in place."""

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln.backends.cpu import program
from kiln.backends.cpu.recipe import Host

GOOD, BAD = [[0, 1], [4, 2], [3, 3]], [[0, 1], [5, 2], [0, 0]]
TABLE = np.random.default_rng(0).standard_normal((5, 3))


@pytest.fixture
def hosts(monkeypatch):
    """The host calls of all programs."""
    made, real = [], program.CpuProgram.__init__
    monkeypatch.setattr(
        program.CpuProgram, "__init__", lambda self, *a: made.append(self) or real(self, *a)
    )
    return lambda: [s for p in made for s in p.recipe.steps if isinstance(s, Host)]


def zeros():
    return kiln.zeros(2, 3, dtype=kiln.float64)


def table():
    return kiln.tensor(TABLE)


def scan(i):
    t = table()
    return kiln.scan(lambda c, i: (c.tanh() + F.embedding(i, t), c[0]), zeros(), i)


def backwards(i):
    t = table()
    return kiln.scan(lambda c, i: (c.tanh() + F.embedding(i, t), None), zeros(), i, reverse=True)[0]


def nested(i):
    t = table()

    def outer(c, row):
        inner = kiln.scan(lambda d, k: (d.tanh() + t[k], None), c, row)[0]
        return inner + t[row[:1]].sum(), None

    return kiln.scan(outer, kiln.zeros(3, dtype=kiln.float64), i)[0]


def scattered(i):
    return kiln.scan(lambda c, i: (c.index_add(0, i, zeros() + 1), None), table(), i)[0]


def while_body(i):
    t = table()

    def body(k, c):
        return k + 1, c + F.embedding(i.index_select(0, k.reshape(1))[0], t)

    return kiln.while_loop(lambda k, c: k < 3, body, (kiln.tensor(0), zeros()))[1]


def branch(i):
    t = table()
    return kiln.cond(
        i.sum() > 0, lambda: F.embedding(i, t), lambda: zeros()[None].expand(3, 2, 3) + 1
    )


def branch_in_scan(i):
    t = table()

    def step(c, i):
        return kiln.cond(i.sum() > 0, lambda: c + F.embedding(i, t), lambda: c * 2), None

    return kiln.scan(step, zeros(), i)[0]


@pytest.mark.parametrize(
    "fn", [scan, backwards, nested, scattered, while_body, branch, branch_in_scan]
)
def test_native_and_checked(fn, hosts):
    run, good = kiln.compile(fn), kiln.tensor(GOOD)
    for i in (good, good * 0, good):
        got, want = run(i), fn(i)
        for a, b in zip(*(x if isinstance(x, tuple) else [x] for x in (got, want)), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-12)
    assert not hosts()
    with pytest.raises(IndexError, match=r"index 5|range"):
        run(kiln.tensor(BAD))
    np.testing.assert_allclose(
        np.asarray(run(good)[0]), np.asarray(fn(good)[0]), rtol=1e-12, atol=1e-12
    )


def test_a_wrong_index_in_the_branch_not_taken_is_none():
    t = table()

    def fn(i, take):
        return kiln.cond(take, lambda: F.embedding(i, t), lambda: zeros())

    run = kiln.compile(fn)
    assert (run(kiln.tensor([0, 7]), kiln.tensor(False)) == 0).all()
    with pytest.raises(IndexError):
        run(kiln.tensor([0, 7]), kiln.tensor(True))


def test_a_condition_that_gathers_runs_on_the_host(hosts):
    limit = kiln.tensor([0, 3, 1])

    def fn(k):
        return kiln.while_loop(
            lambda k, n: n < limit[k], lambda k, n: (k, n + 1), (k, kiln.tensor(0))
        )[1]

    run = kiln.compile(fn)
    assert run(kiln.tensor(1)).item() == 3
    assert hosts()
    with pytest.raises(IndexError):
        run(kiln.tensor(3))


def test_a_loop_ends_where_clamped_indices_would_keep_it_going():
    steps = kiln.tensor([1, 1, 0])

    def fn(k):
        return kiln.while_loop(lambda k: k < 10, lambda k: k + steps[k], (k,))

    with pytest.raises(IndexError):
        kiln.compile(fn)(kiln.tensor(3))


def test_state_is_untouched_where_a_loop_fails(hosts):
    state, t = kiln.zeros(2, 3, dtype=kiln.float64), table()

    def fn(i):
        state.add_(1)
        state.copy_(kiln.scan(lambda c, i: (c + F.embedding(i, t), None), state, i)[0])

    run = kiln.compile(fn)
    with pytest.raises(IndexError):
        run(kiln.tensor(BAD))
    assert (state == 0).all()
    run(kiln.tensor(GOOD))
    np.testing.assert_allclose(state.numpy(), 1 + TABLE[GOOD].sum(0), rtol=1e-12)
    assert not hosts()


def test_gradients_through_a_loop_that_gathers(hosts):
    t = table().requires_grad_()

    def fn(i):
        y = kiln.scan(lambda c, i: (c.tanh() + F.embedding(i, t), None), zeros(), i)[0]
        return kiln.autograd.grad(y.sum(), t)[0]

    run, good = kiln.compile(fn), kiln.tensor(GOOD)
    np.testing.assert_allclose(run(good).numpy(), fn(good).numpy(), rtol=1e-10, atol=1e-12)
    assert not hosts()
    with pytest.raises(IndexError):
        run(kiln.tensor(BAD))
