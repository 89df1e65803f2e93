"""`kiln.autograd.functional` and `forward_ad`: products with derivatives, and dual numbers."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
from kiln.autograd import forward_ad, functional
from kiln.errors import KilnError

F64 = kiln.float64


def draw(*shape, seed=0):
    return kiln.tensor(np.random.default_rng(seed).normal(size=shape), dtype=F64)


def close(a, b):
    if isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            close(x, y)
    else:
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), 1e-9, 1e-9)


def f(x, y):
    return x.sin() * y, (x * x).sum()


def s(x, y):
    return (x.exp() * y.sin()).sum()


def test_products_with_the_jacobian():
    x, y, v, w = (draw(3, seed=i) for i in range(4))
    jac = functional.jacobian(f, (x, y))
    assert [[tuple(b.shape) for b in row] for row in jac] == [[(3, 3), (3, 3)], [(3,), (3,)]]
    out, g = functional.vjp(f, (x, y), (v, kiln.ones((), dtype=F64)))
    close(out, f(x, y))
    close(g, (v @ jac[0][0] + jac[1][0], v @ jac[0][1]))
    close(functional.jvp(f, (x, y), (v, w))[1], (jac[0][0] @ v + jac[0][1] @ w, jac[1][0] @ v))
    for how in ({"vectorize": True}, {"vectorize": True, "strategy": "forward-mode"}):
        close(functional.jacobian(f, (x, y), **how), jac)
    assert not any(t.requires_grad for t in (*out, *g, jac[0][0]))


def test_products_with_the_hessian():
    x, y, v, w = (draw(3, seed=i) for i in range(4))
    h = functional.hessian(s, (x, y))
    close(h[0][0], (x.exp() * y.sin()).diag())
    want = (h[0][0] @ v + h[0][1] @ w, h[1][0] @ v + h[1][1] @ w)
    close(functional.hvp(s, (x, y), (v, w))[1], want)
    close(functional.vhp(s, (x, y), (v, w))[1], want)
    for how in (
        {"vectorize": True},
        {"vectorize": True, "outer_jacobian_strategy": "forward-mode"},
    ):
        close(functional.hessian(s, (x, y), **how), h)
    close(functional.hessian(lambda x: x.sum(), x), kiln.zeros(3, 3, dtype=F64))


def test_create_graph_keeps_the_history():
    x = draw(3).requires_grad_()
    j = functional.jacobian(lambda x: x**3, x, create_graph=True)
    j.sum().backward()
    close(x.grad, 6 * x)
    out, g = functional.vjp(lambda x: (x**3).sum(), x, create_graph=True)
    close(kiln.autograd.grad(g.sum() + out, x)[0], 6 * x + 3 * x**2)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: functional.vjp(lambda x: x * 2, x), RuntimeError, "v can only be None"),
        (lambda x: functional.vjp(lambda x: x * 2, x, x[:2]), RuntimeError, "invalid size"),
        (lambda x: functional.jacobian(lambda x: 3, x), TypeError, "Tensor or a tuple"),
        (lambda x: functional.jacobian(kiln.sin, [1.0]), TypeError, "index 0"),
        (lambda x: functional.jacobian(kiln.ones_like, x, strict=True), RuntimeError, "does not require"),
        (lambda x: functional.jacobian(lambda x, y: x, (x, x), strict=True), RuntimeError, "input 1"),
        (lambda x: functional.jacobian(kiln.sin, x, strategy="up"), RuntimeError, "strategy"),
        (lambda x: functional.jacobian(kiln.sin, x, strategy="forward-mode"), NotImplementedError, "vectorize"),
        (lambda x: functional.hessian(kiln.sin, x), RuntimeError, "single"),
        (lambda x: functional.hessian(kiln.sum, x, strict=True), RuntimeError, "independent"),
    ],
)  # fmt: skip
def test_errors_of_products(call, error, match):
    with pytest.raises(error, match=match):
        call(draw(3))


def test_dual_numbers():
    x, t, c = draw(3), draw(3, seed=1), draw(3, seed=2)
    with kiln.no_grad(), forward_ad.dual_level():
        d = forward_ad.make_dual(x, t)
        e = forward_ad.make_dual(c, x)
        y = (d.sin() * d).cumsum(0)
        y[0] = d[1]
        primal, tangent = forward_ad.unpack_dual(y)
        want = (t * x.sin() + t * x * x.cos()).cumsum(0)
        want[0] = t[1]
        close(tangent, want)
        close(forward_ad.unpack_dual(d * e).tangent, t * c + x * x)
        close(forward_ad.unpack_dual(d).tangent, t)
        assert forward_ad.unpack_dual(c).tangent is None
        assert not primal.requires_grad
        assert not tangent.requires_grad
        with pytest.raises(RuntimeError, match="different size"):
            forward_ad.make_dual(x, t[:2])
        with pytest.raises(RuntimeError, match="Nested"):
            forward_ad.enter_dual_level()
    assert forward_ad.unpack_dual(x) == (x, None)
    assert kiln.is_grad_enabled()
    with pytest.raises(KilnError, match="no level exists"):
        forward_ad.make_dual(x, t)


def test_backward_through_tangents():
    x, t = draw(3).requires_grad_(), draw(3, seed=1)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual((forward_ad.make_dual(x, t) ** 3).sum()).tangent
        (g,) = kiln.autograd.grad(tangent, x)
    close(g, 6 * x * t)


def test_a_batch_of_gradients_at_once():
    x, w = draw(3).requires_grad_(), draw(3, seed=1).requires_grad_()
    y = x.sin() * w
    rows, none = kiln.autograd.grad(
        y, (x, draw(1).requires_grad_()), kiln.eye(3, dtype=F64), True, True, allow_unused=True, is_grads_batched=True
    )  # fmt: skip
    close(rows, (x.cos() * w).diag())
    assert none is None
    close(kiln.autograd.grad(rows.sum(), w)[0], x.cos())
