"""Transforms beside PyTorch's: the same values, shapes and error classes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kiln
import kiln.nn.functional
from kiln import func

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr:UserWarning"),
]


def library(lib: Any, f: Any) -> SimpleNamespace:
    def draw(*shape, seed=0):
        return lib.tensor(np.random.default_rng(seed).normal(size=shape), dtype=lib.float64)

    return SimpleNamespace(t=lib, f=f, F=lib.nn.functional, draw=draw, i=lambda x: lib.tensor(x))


def plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return tuple(plain(v) for v in x)
    return x.detach().numpy()


def same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            same(a[k], b[k])
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    else:
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, 1e-9, 1e-9)


CALLS = [
    lambda m: m.f.vmap(m.t.dot, (0, None))(m.draw(4, 3), m.draw(3)),
    lambda m: m.f.vmap(lambda d: {"a": d["x"][0] * d["x"][1]}, ({"x": (0, 1)},), 0)({"x": (m.draw(3, 2), m.draw(2, 3))}),
    lambda m: m.f.vmap(m.f.vmap(m.t.mul), (1, 0), (1, 0)[0])(m.draw(3, 4), m.draw(4, 3)),
    lambda m: m.f.vmap(lambda x: x[..., None] + x.mean(0), -1, -2)(m.draw(3, 4, 2)),
    lambda m: m.f.vmap(lambda x, i: x[i], (None, 0))(m.draw(5, 2), m.i([3, 0, 4])),
    lambda m: m.f.vmap(lambda x, i: x.scatter(0, i, 1.0), (0, 0))(m.draw(2, 4), m.i([[1, 2], [0, 3]])),
    lambda m: m.f.vmap(lambda x, i: m.F.one_hot(i, 5) * x)(m.draw(3), m.i([1, 4, 0])),
    lambda m: m.f.vmap(lambda x: m.t.linalg.solve(x @ x.T + m.t.eye(3, dtype=x.dtype), x))(m.draw(4, 3, 3)),
    lambda m: m.f.vmap(lambda x: tuple(x.sort(0, descending=True)), out_dims=(0, 1))(m.draw(4, 3)),
    lambda m: m.f.vmap(lambda x, w: m.F.conv2d(x[None], w, padding=1)[0])(m.draw(2, 3, 5, 5), m.draw(2, 4, 3, 3, 3)),
    lambda m: m.f.vmap(lambda x: m.t.einsum("ij,kj->ik", x, x).tril(-1).cumsum(1))(m.draw(2, 3, 4)),
    lambda m: m.f.vmap(lambda x: x.new_zeros(3).index_add(0, m.i([0, 2]), x[:2]).flip(0))(m.draw(2, 4)),
    lambda m: m.f.vmap(lambda x: m.t.ones(2))(m.draw(3)),
    lambda m: m.f.grad(lambda x, y: (x * y[0]).sum() + y[1].prod(), (0, 1))(m.draw(3), (m.draw(3), m.draw(2))),
    lambda m: m.f.grad_and_value(lambda x: (x.norm(), x * 2), has_aux=True)(m.draw(3)),
    lambda m: m.f.vjp(lambda x: {"a": x.sin(), "b": x.sum()}, m.draw(3))[1]({"a": m.draw(3), "b": m.draw()}),
    lambda m: m.f.jvp(lambda x, y: (x * y, (x @ y).exp()), (m.draw(3), m.draw(3)), (m.draw(3, seed=1), m.draw(3))),
    lambda m: m.f.jvp(lambda x: (x.sum(), x), (m.draw(3),), (m.draw(3),), has_aux=True),
    lambda m: m.f.linearize(lambda x: x.cumprod(0), m.draw(3))[1](m.draw(3, seed=1)),
    lambda m: m.f.jacrev(lambda x, y: (x.sin() * y, y.sum()), (0, 1))(m.draw(3), m.draw(3)),
    lambda m: m.f.jacrev(lambda x, y: x.sin() * y["a"], 1, chunk_size=2)(m.draw(3), {"a": m.draw(3)}),
    lambda m: m.f.jacfwd(lambda x: (x @ x.T, x.sum(0)), has_aux=False)(m.draw(2, 3)),
    lambda m: m.f.jacfwd(lambda x: (x.sin(), x), has_aux=True)(m.draw(2, 3)),
    lambda m: m.f.hessian(lambda x, y: (x.sin() @ y) ** 2, (0, 1))(m.draw(3), m.draw(3)),
    lambda m: m.f.vmap(m.f.hessian(lambda x: m.F.softplus(x).prod()))(m.draw(2, 3)),
    lambda m: m.f.vmap(lambda x: m.f.jvp(m.t.tanh, (x,), (x,))[1])(m.draw(2, 3)),
    lambda m: m.f.jacfwd(lambda x: m.f.vmap(m.f.grad(lambda v: (v**3).sum()))(x))(m.draw(2, 2)),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_values_are_pytorchs(call):
    same(plain(call(library(kiln, func))), plain(call(library(torch, torch.func))))


ERRORS = [
    lambda m: m.f.vmap(m.t.sin, 3)(m.draw(2, 2)),
    lambda m: m.f.vmap(m.t.mul)(m.draw(2), m.draw(3)),
    lambda m: m.f.vmap(m.t.mul, (0,))(m.draw(2), m.draw(2)),
    lambda m: m.f.vmap(m.t.sin, None)(m.draw(2)),
    lambda m: m.f.vmap(m.t.sin)(),
    lambda m: m.f.vmap(m.t.sin)(2.0),
    lambda m: m.f.vmap(lambda x: "a")(m.draw(2)),
    lambda m: m.f.vmap(lambda x: x, out_dims=2)(m.draw(2)),
    lambda m: m.f.vmap(lambda x: x, out_dims=None)(m.draw(2)),
    lambda m: m.f.vmap(lambda x: x if x > 0 else -x)(m.draw(2)),
    lambda m: m.f.vmap(lambda x: x.item())(m.draw(2)),
    lambda m: m.f.vmap(lambda x: x.nonzero())(m.draw(2, 2)),
    lambda m: m.f.vmap(lambda x: m.t.zeros(2).add_(x))(m.draw(2, 2)),
    lambda m: m.f.vmap(lambda x: m.t.rand(2))(m.draw(2)),
    lambda m: m.f.vmap(m.t.sin, randomness="some")(m.draw(2)),
    lambda m: m.f.vmap(m.t.sin, chunk_size=0)(m.draw(2)),
    lambda m: m.f.grad(m.t.sin)(m.draw(2)),
    lambda m: m.f.grad(lambda x: 1)(m.draw(2)),
    lambda m: m.f.grad(m.t.sum, 1)(m.draw(2)),
    lambda m: m.f.grad(m.t.sum)(m.i([1, 2])),
    lambda m: m.f.vjp(m.t.sin, m.draw(2))[1](m.draw(3)),
    lambda m: m.f.jvp(m.t.sin, (m.draw(2),), (m.draw(3),)),
    lambda m: m.f.jvp(m.t.sin, m.draw(2), (m.draw(2),)),
    lambda m: m.f.jacrev(lambda x: 1)(m.draw(2)),
    lambda m: m.f.stack_module_state([]),
]


@pytest.mark.parametrize("call", ERRORS)
def test_errors_are_pytorchs(call):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(library(torch, torch.func))
    with pytest.raises(theirs.type) as ours:
        call(library(kiln, func))
    assert isinstance(ours.value, kiln.KilnError)
