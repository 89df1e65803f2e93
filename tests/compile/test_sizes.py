"""Functions whose arguments change their sizes: captured for some, then run in eager mode."""

import warnings

import pytest

import kiln
from kiln import nn
from kiln.config import context


def step_of(model, **options):
    opt = kiln.optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        opt.zero_grad()
        loss = model(x)[0].square().mean()
        loss.backward()
        opt.step()
        return loss.detach()

    return step, kiln.compile(step, **options)


def test_batches_of_many_lengths_are_captured_a_few_times():
    lengths = [3, 5, 4, 3, 6, 7, 5, 8, 3]
    batches = [kiln.randn(n, 2, 4) for n in lengths]
    losses = []
    for compiled in (False, True):
        kiln.manual_seed(0)
        plain, fast = step_of(nn.GRU(4, 5), dynamic=True)
        with context(max_sizes=2):
            losses.append([float((fast if compiled else plain)(x)) for x in batches])
    assert fast.captures == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_one_warning_says_so():
    f = kiln.compile(lambda x: x * 2)
    with context(max_sizes=1):
        f(kiln.ones(1))
        with pytest.warns(UserWarning, match="run in eager mode"):
            f(kiln.ones(2))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            f(kiln.ones(3))
        assert f(kiln.ones(1)).tolist() == [2.0]
    assert f.captures == 1


def test_other_facts_than_sizes_are_captured():
    f = kiln.compile(lambda x, k: x * k, dynamic=True)
    with context(max_sizes=1):
        for k in (1, 2, 3):
            f(kiln.ones(2), k)
        f(kiln.ones(2, 2), 1)
        f(kiln.ones(2, dtype=kiln.float64), 1)
    assert f.captures == 5


def test_all_sizes_where_asked_for():
    f = kiln.compile(lambda x: x * 2, dynamic=False)
    with context(max_sizes=1):
        for n in range(1, 5):
            f(kiln.ones(n))
    assert f.captures == 4
