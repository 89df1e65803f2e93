"""Checkpointing: the same gradients with less kept between forward and backward."""

from __future__ import annotations

import gc
import weakref

import pytest

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.utils.checkpoint import (
    checkpoint,
    checkpoint_sequential,
    set_checkpoint_early_stop,
)


def layers():
    kiln.manual_seed(0)
    return nn.Sequential(
        *(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.3)) for _ in range(4))
    )


def gradients(model, run):
    kiln.manual_seed(1)
    x = kiln.ones(3, 8).requires_grad_()
    model.zero_grad()
    out = run(x)
    after = kiln.rand(1)
    out.square().sum().backward()
    return [out.detach(), after, x.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("early", [True, False])
def test_gradients_are_the_same(early):
    model = layers()
    want = gradients(model, model)

    def nested(x):
        return model[3](checkpoint(lambda x: model[2](checkpoint(model[1], x)), x))

    with set_checkpoint_early_stop(early):
        for run in (
            lambda x: checkpoint(model, x, use_reentrant=False),
            lambda x: checkpoint_sequential(model, 2, x, use_reentrant=False),
            lambda x: checkpoint(nested, checkpoint(model[0], x)),
        ):
            for got, due in zip(gradients(model, run), want, strict=True):
                assert kiln.equal(got, due)


def test_what_is_inside_is_not_kept():
    kept = []

    def f(x):
        y = x.exp()
        kept.append(weakref.ref(y._a))
        return y.sin().exp().sum()

    x = kiln.ones(1000).requires_grad_()
    out = f(x)
    gc.collect()
    assert kept[0]() is not None
    out = checkpoint(f, x)
    gc.collect()
    assert kept[1]() is None
    out.backward()
    (g,) = kiln.autograd.grad(f(x), x)
    assert kiln.equal(x.grad, g)


def test_second_derivatives_and_compiled_functions():
    def f(x):
        return checkpoint(lambda x: F.gelu(x.exp() * x).sum(), x)

    x = kiln.ones(3, dtype=kiln.float64).requires_grad_()
    (g,) = kiln.autograd.grad(f(x), x, create_graph=True)
    (h,) = kiln.autograd.grad(g.sum(), x)
    assert kiln.allclose(
        h, kiln.func.hessian(lambda x: F.gelu(x.exp() * x).sum())(x.detach()).sum(0)
    )
    step = kiln.compile(lambda x: kiln.autograd.grad(f(x), x)[0])
    assert kiln.allclose(step(x), g)


def test_a_function_that_differs_is_told():
    sizes = iter((2, 3))

    def f(x):
        return x[: next(sizes)].exp().sum()

    out = checkpoint(f, kiln.ones(4).requires_grad_())
    with pytest.raises(RuntimeError, match="other tensors"):
        out.backward()
    with pytest.raises(ValueError, match="determinism_check"):
        checkpoint(f, kiln.ones(4), determinism_check="some")
