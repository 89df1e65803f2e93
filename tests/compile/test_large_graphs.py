"""Graphs of thousands of ops: work, kernels and their code grow no faster than the Graph."""

import cProfile
import pstats

import numpy as np
import pytest

import kiln
from kiln.backends.cpu import fuse, jit, layout
from kiln.backends.cpu.isa import host_isa
from kiln.compile import loopnest as ln
from kiln.compile import regions


def chain(n):
    def f(x):
        for i in range(n // 2):
            x = x * (1 + i / 1e6) + 0.25
        return x

    return f, (kiln.ones(8, 16),)


def views(n):
    def f(x):
        for _ in range(n // 4):
            x = x.reshape(8, 2, 16).transpose(0, 1).reshape(16, 16) + 1.0
        return x

    return f, (kiln.ones(16, 16),)


def mixed(n):
    w = kiln.ones(16, 16)

    def f(x):
        for _ in range(n // 5):
            x = kiln.relu(x @ w + x)
            x = x - x.mean(1, keepdim=True)
        return x

    return f, (kiln.ones(8, 16),)


def wide(n):
    def f(x):
        return kiln.stack([(x * float(i) + 1.5).tanh().sum(0) for i in range(n // 4)])

    return f, (kiln.ones(8, 16),)


def gradients(n):
    ws = [kiln.ones(16, 16, requires_grad=True) for _ in range(n // 10)]

    def f(x):
        for w in ws:
            w.grad = None
            x = kiln.tanh(x @ w) + x.mean(1, keepdim=True)
        x.sum().backward()
        return [w.grad for w in ws]

    return f, (kiln.ones(8, 16),)


def updates(n):
    parameters = [kiln.nn.Parameter(kiln.ones(8 + i % 5)) for i in range(n // 8)]
    optimizer = kiln.optim.Adam(parameters)

    def f(x):
        optimizer.zero_grad()
        sum((p * x).sum() for p in parameters).backward()
        optimizer.step()

    return f, (kiln.tensor(2.0),)


PROGRAMS = [chain, views, mixed, wide, gradients, updates]


def captured(program):
    f, args = program
    compiled = kiln.compile(f, backend="reference")
    compiled(*args)
    return compiled.entries[0].root.plan.graph


def lowered(graph, monkeypatch):
    """The Recipe of a Graph, LLVM left out, and how many function calls it took."""
    fuse._merged.cache_clear()
    fuse._kernel.cache_clear()
    monkeypatch.setattr(jit, "provide", lambda texts, isa: [str(len(t)) for t in texts])
    profile = cProfile.Profile()
    recipe = profile.runcall(layout.plan, graph, "test", host_isa())
    return recipe, pstats.Stats(profile).total_calls


@pytest.mark.parametrize("program", PROGRAMS)
def test_twice_the_graph_is_twice_the_work(program, monkeypatch, full):
    graphs = [captured(program(n)) for n in ((200, 400) if full else (160, 320))]
    (small, few), (large, many) = [lowered(g, monkeypatch) for g in graphs]
    size = len(graphs[1].nodes()) / len(graphs[0].nodes())
    assert many <= 1.25 * size * few
    assert len(large.kernels) <= 1.25 * size * len(small.kernels) + 1
    assert max(map(int, large.objects)) <= 1.1 * max(map(int, small.objects))


@pytest.mark.parametrize("program", [chain, views])
def test_a_long_chain_is_cut_into_kernels(program, monkeypatch):
    nests = []
    monkeypatch.setattr(layout, "emit", lambda xs, *rest: nests.extend(x.nest for x in xs))
    lowered(captured(program(400)), monkeypatch)
    assert nests
    assert all(ln.height(nest.roots()) <= ln.HIGHEST for nest in nests)


def test_a_long_chain_computes_what_it_did():
    for program in (chain, views):
        f, args = program(600)
        np.testing.assert_allclose(kiln.compile(f)(*args).numpy(), f(*args).numpy(), rtol=1e-5)


def test_pieces_of_a_join_are_computed_once(monkeypatch):
    f, args = wide(160)
    np.testing.assert_allclose(kiln.compile(f)(*args).numpy(), f(*args).numpy(), rtol=1e-5)
    recipe, _ = lowered(captured((f, args)), monkeypatch)
    assert len(recipe.kernels) <= 2 * 40 + 1


def test_equal_pieces_of_a_join_share_a_kernel():
    def f(*xs):
        return kiln.cat([x * 2 for x in xs])

    xs = [kiln.full((3, 5), float(i)) for i in range(40)]
    compiled = kiln.compile(f)
    np.testing.assert_allclose(compiled(*xs).numpy(), f(*xs).numpy(), rtol=1e-6)
    recipe = compiled.entries[0].root.plan.program.recipe
    assert len(recipe.kernels) == 40
    assert len(recipe.objects) == 1


def test_a_window_higher_than_the_cap_is_one_expression():
    x = kiln.tensor(np.random.default_rng(0).standard_normal((2, 3, 16, 16), "float32"))

    def f(x):
        return kiln.nn.functional.max_pool2d(x, 5, 1)

    np.testing.assert_array_equal(kiln.compile(f)(x).numpy(), f(x).numpy())
    assert regions._MOST_TAPS > ln.HIGHEST
