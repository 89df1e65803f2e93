"""Transforms of functions: what they give beside loops and finite differences, nested, and compiled."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.errors import KilnError
from kiln.func import (
    functional_call,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    replace_all_batch_norm_modules_,
    stack_module_state,
    value_and_grad,
    vjp,
    vmap,
)


def close(a, b, tolerance=1e-9):
    assert a.shape == b.shape
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), tolerance, tolerance)


def draw(*shape, seed=0):
    r = np.random.default_rng(seed)
    return kiln.tensor(r.normal(size=shape), dtype=kiln.float64)


def stacked(f, *xs):
    return kiln.stack([f(*row) for row in zip(*xs, strict=True)])


# ---------------------------------------------------------------- vmap


def test_in_dims_and_out_dims():
    x, y = draw(3, 5, 2), draw(4, 5)
    got = vmap(lambda d, v: d["x"] + v[0], ({"x": 1}, 1), -1)({"x": x}, y)
    close(got, kiln.stack([x[:, i] + y[0, i] for i in range(5)], -1))
    a, b = vmap(lambda v, w: (v * w, w), (0, None), (0, None))(y, y[0])
    close(a, y * y[0])
    close(b, y[0])
    assert vmap(lambda v: kiln.ones(2))(y).shape == (4, 2)


def test_vmaps_nest():
    x, y = draw(3, 4), draw(5, 4)
    table = vmap(lambda v: vmap(lambda w: v @ w)(y))(x)
    close(table, x @ y.T)
    close(vmap(vmap(kiln.sum, 0), 1)(draw(2, 3, 4)), draw(2, 3, 4).sum(2).T)


def test_chunks_give_the_same():
    x = draw(7, 3)
    f = vmap(lambda v: (v.sin(), v.sum()), out_dims=(1, 0), chunk_size=3)
    close(f(x)[0], x.sin().T)
    close(f(x)[1], x.sum(1))


def test_an_empty_batch():
    assert vmap(lambda v: v.sum())(kiln.zeros(0, 3)).shape == (0,)
    assert vmap(lambda v: kiln.linalg.det(v))(kiln.zeros(0, 3, 3)).shape == (0,)


def test_weak_types_promote_as_in_one_call():
    x = kiln.ones(3, dtype=kiln.float64)
    got = vmap(lambda s: s * kiln.ones(2))(x)  # a 0-d tensor is weak
    assert got.dtype is kiln.float32
    assert vmap(lambda s: kiln.where(s > 0, s, kiln.ones(2)))(x).dtype is kiln.float32


def test_in_place_ops_and_views():
    x = draw(4, 3)

    def f(v):
        out = v.new_zeros(3)
        out[1:] = v[:2]
        out[0] += v.sum()
        w = v * 2
        w.view(3, 1).mul_(v.view(3, 1))
        return out + w

    close(vmap(f)(x), stacked(f, x))
    close(vmap(grad(lambda v: f(v).sin().sum()))(x), stacked(grad(lambda v: f(v).sin().sum()), x))
    y = x.clone()
    vmap(lambda v: v.add_(1))(y)  # the memory of the argument, as without vmap
    close(y, x + 1)
    with pytest.raises(KilnError, match="in-place"):
        vmap(lambda v: kiln.zeros(3).add_(v))(x)


def test_python_can_not_ask_for_what_differs():
    x = draw(4, 3)
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        vmap(lambda v: v if v.sum() > 0 else -v)(x)
    with pytest.raises(RuntimeError, match=r"\.item\(\)"):
        vmap(lambda v: v * v.sum().item())(x)
    with pytest.raises(RuntimeError, match="depends on values"):
        vmap(lambda v: v[v > 0])(x)
    assert vmap(lambda v: v * (2 if kiln.ones(()) > 0 else 3))(x).shape == x.shape
    kept = []
    vmap(lambda v: kept.append(v) or v)(x)
    with pytest.raises(KilnError, match="no value outside"):
        kept[0] + 1
    assert "BatchedTensor" not in repr(x)
    shown = []
    vmap(lambda v: shown.append(repr(v)) or v)(x)
    assert shown[0].startswith("BatchedTensor(lvl=1, bdim=0")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: vmap(kiln.sin)(), "no inputs"),
        (lambda x: vmap(kiln.sin, (0, 0))(x), "not compatible with the structure of inputs"),
        (lambda x: vmap(kiln.sin, 2)(x), "dimensionality 2"),
        (lambda x: vmap(kiln.sin, None)(x), "in_dims"),
        (lambda x: vmap(kiln.sin, (None,))(x), "at least one"),
        (lambda x: vmap(kiln.add)(x, 1.0), "not compatible|type float"),
        (lambda x: vmap(kiln.add)(x, x[:1]), "same size in the mapped dimension"),
        (lambda x: vmap(lambda v: 1)(x), "must only return Tensors"),
        (lambda x: vmap(lambda v: v, out_dims=None)(x), "out_dim is None"),
        (lambda x: vmap(lambda v: v, out_dims=(0, 1))(x), "out_dims is not compatible"),
    ],
)
def test_errors_of_vmap(call, match):
    with pytest.raises(ValueError, match=match):
        call(draw(3, 2))


def test_randomness():
    x = kiln.zeros(3, 1000)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(lambda v: v + kiln.rand(1000))(x)
    kiln.manual_seed(1)
    same = vmap(lambda v: v + kiln.rand(1000), randomness="same")(x)
    assert (same[0] == same[1]).all()
    after = kiln.rand(1)
    kiln.manual_seed(1)
    assert (kiln.rand(1000) == same[0]).all()
    assert kiln.rand(1) == after
    kiln.manual_seed(1)
    for f in (
        lambda v: v + kiln.rand(1000),
        lambda v: F.dropout(v + 1),
        lambda v: kiln.bernoulli(v + 0.5),
        lambda v: kiln.randn_like(v),
        lambda v: kiln.randn(1000, dtype=kiln.float64),
        lambda v: v.clone().normal_(),
        lambda v: kiln.randperm(1000),
    ):
        rows = vmap(f, randomness="different")(x)
        again = vmap(f, randomness="different")(x)
        assert not (rows[0] == rows[1]).all()
        assert not (rows[2] == again[0]).all()
        assert rows.shape == (3, 1000)


def test_randomness_of_draws_with_parameters():
    x = kiln.full((3, 500), 4.0)
    for f in (kiln.poisson, kiln._standard_gamma, lambda v: kiln.binomial(v * 9, kiln.tensor(0.3))):
        rows = vmap(f, randomness="different")(x)
        assert not (rows[0] == rows[1]).all()
        rows = vmap(f, randomness="same")(x)
        assert (rows[0] == rows[1]).all()
    g = vmap(grad(lambda v: kiln._standard_gamma(v).sum()), randomness="different")(x)
    assert (g > 0).all()


def test_branches_go_both_ways():
    x = draw(5)
    got = vmap(lambda v: kiln.cond(v > 0, lambda v: v * 2, lambda v: v.sin(), (v,)))(x)
    close(got, kiln.where(x > 0, x * 2, x.sin()))


# ---------------------------------------------------------------- derivatives


def test_grad_by_some_arguments_and_with_aux():
    x, y = draw(3), draw(3, seed=1)
    close(grad(lambda x, y: (x * y).sum(), 1)(x, y), x)
    a, b = grad(lambda x, y: (x * x * y).sum(), (0, -1))(x, y)
    close(a, 2 * x * y)
    close(b, x * x)
    g, (value, aux) = grad_and_value(lambda d: (d["x"].sum(), d["x"] * 2), has_aux=True)({"x": x})
    close(g["x"], kiln.ones(3, dtype=kiln.float64))
    close(value, x.sum())
    close(aux, x * 2)
    assert not any(t.requires_grad for t in (a, b, g["x"], value, aux))
    close(value_and_grad(lambda x: x.sum())(x)[0], x.sum())
    close(grad(lambda x, y: y.sum())(x, y), kiln.zeros(3, dtype=kiln.float64))
    close(grad(grad(grad(lambda s: s**4)))(x[0]), 24 * x[0])


def test_errors_of_grad():
    x = draw(3)
    with pytest.raises(RuntimeError, match="scalar tensor"):
        grad(kiln.sin)(x)
    with pytest.raises(RuntimeError, match="return a tensor"):
        grad(lambda x: 1.0)(x)
    with pytest.raises(RuntimeError, match="argnum"):
        grad(kiln.sum, 1)(x)
    with pytest.raises(RuntimeError, match="floating"):
        grad(kiln.sum)(kiln.arange(3))
    with pytest.raises(RuntimeError, match="aux"):
        grad(kiln.sum, has_aux=True)(x)
    with pytest.raises(RuntimeError, match="structure"):
        vjp(kiln.sin, x)[1]((x, x))
    with pytest.raises(RuntimeError, match="shape"):
        jvp(kiln.sin, (x,), (x[:2],))


def test_gradients_reach_what_is_outside():
    w = draw(3).requires_grad_()
    x = draw(3, seed=1)
    g = grad(lambda x: (x * x * w).sum())(x)
    assert g.requires_grad
    g.sum().backward()
    close(w.grad, 2 * x)
    with kiln.no_grad():
        assert not grad(lambda x: (x * w).sum())(x).requires_grad
    x.requires_grad_()
    h = grad(lambda x: (x**3).sum())(x)
    close(kiln.autograd.grad(h.sum(), x)[0], 6 * x)
    assert not grad(lambda v: (v**3).sum())(x.detach()).requires_grad


def test_vjp_jvp_and_linearize_are_the_jacobian():
    x, v = draw(3), draw(3, seed=1)

    def f(x):
        return {"a": x.sin() * x.sum(), "b": (x.prod(), x[:2])}

    jac = jacrev(f)(x)
    out, pull = vjp(f, x)
    u = {"a": draw(3, seed=2), "b": (draw(seed=3), draw(2, seed=4))}
    (g,) = pull(u)
    close(g, u["a"] @ jac["a"] + u["b"][0] * jac["b"][0] + u["b"][1] @ jac["b"][1])
    for moved in (jvp(f, (x,), (v,))[1], linearize(f, x)[1](v)):
        close(moved["a"], jac["a"] @ v)
        close(moved["b"][0], jac["b"][0] @ v)
    close(out["a"], f(x)["a"])
    forward = jacfwd(f)(x)
    close(forward["a"], jac["a"])
    close(forward["b"][1], jac["b"][1])
    assert not out["a"].requires_grad
    assert not forward["a"].requires_grad


def test_jacobians_by_finite_differences():
    x, h = draw(2, 3), 1e-6

    def f(x):
        return F.softmax(x @ x.T, -1).exp().sum(0)

    want = kiln.zeros(2, 2, 3, dtype=kiln.float64)
    for i in range(2):
        for j in range(3):
            d = kiln.zeros(2, 3, dtype=kiln.float64)
            d[i, j] = h
            want[:, i, j] = (f(x + d) - f(x - d)) / (2 * h)
    for jac in (jacrev(f), jacfwd(f), jacrev(f, chunk_size=1)):
        close(jac(x), want, 1e-6)


def test_hessians():
    x = draw(4)

    def f(x):
        return (x.sin() * x.cumsum(0)).prod()

    want = kiln.stack([grad(lambda x, i=i: grad(f)(x)[i])(x) for i in range(4)])
    for h in (hessian(f), jacfwd(jacrev(f)), jacrev(jacfwd(f)), jacfwd(jacfwd(f))):
        close(h(x), want)
    rows = vmap(hessian(f))(draw(5, 4))
    close(rows, stacked(hessian(f), draw(5, 4)))


def test_jvp_of_complex_functions():
    z = kiln.complex(draw(3), draw(3, seed=1))
    t = kiln.complex(draw(3, seed=2), draw(3, seed=3))
    close(
        jvp(lambda z: z * z.conj() + z**2, (z,), (t,))[1], t * z.conj() + z * t.conj() + 2 * z * t
    )


def test_derivatives_of_derivatives_do_not_mix():
    """The inner derivative is by the inner variable, though both have one name outside (perturbation confusion)."""
    x = draw()
    close(grad(lambda x: x * grad(lambda y: x * y)(x))(x), 2 * x)
    d = jvp(
        lambda x: x * jvp(lambda y: x + y, (x,), (kiln.ones_like(x),))[1],
        (x,),
        (kiln.ones_like(x),),
    )
    close(d[1], kiln.ones((), dtype=kiln.float64))


# ---------------------------------------------------------------- together


def network():
    kiln.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8),
        nn.Tanh(), nn.Linear(8, 3),
    ).double()  # fmt: skip


def test_gradients_of_each_sample_of_a_network():
    model, x, y = network(), draw(5, 1, 8, 8), kiln.tensor([0, 1, 2, 1, 0])
    params = {k: p.detach() for k, p in model.named_parameters()}

    def loss(params, x, y):
        return F.cross_entropy(functional_call(model, params, (x[None],)), y[None])

    each = vmap(grad(loss), (None, 0, 0))(params, x, y)
    for i in range(5):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for k, p in model.named_parameters():
            close(each[k][i], p.grad, 1e-9)


def test_an_ensemble_of_models():
    models = [nn.Linear(3, 2).double() for _ in range(4)]
    params, buffers = stack_module_state(models)
    x = draw(5, 3)
    base = models[0]
    got = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(params, buffers)
    close(got, kiln.stack([m(x) for m in models]))
    got.sum().backward()
    assert params["weight"].grad.shape == (4, 2, 3)


def test_vmap_inside_and_outside_of_grad():
    w, x = draw(3, 3), draw(4, 3, seed=1)

    def f(w):
        return vmap(lambda v: grad(lambda v: (w @ v).sin().sum())(v) @ v)(x).sum()

    def loop(w):
        return sum(grad(lambda v: (w @ v).sin().sum())(v) @ v for v in x)

    close(grad(f)(w), grad(loop)(w))
    close(jvp(f, (w,), (w,))[1], jvp(loop, (w,), (w,))[1])


@pytest.mark.parametrize(
    "f",
    [
        lambda x: vmap(grad(lambda v: (v.sin() * v.cumsum(0)).sum()))(x),
        lambda x: hessian(lambda v: v.exp().prod() + v.norm())(x[0]),
        lambda x: jvp(
            lambda v: kiln.scan(lambda c, u: ((c * u).sin(), c + u), v[0], v)[1], (x,), (x * 2,)
        )[1],
        lambda x: vmap(lambda v: kiln.scan(lambda c, u: (c + u, c * u), v[0], v)[1])(x),
        lambda x: jacrev(lambda v: kiln.scan(lambda c, u: (c * u, c.sin()), v[0], v)[1])(x),
        lambda x: jacfwd(lambda v: kiln.scan(lambda c, u: (c * u, c.sin()), v[0], v)[1])(x[0]),
        lambda x: grad(lambda v: vmap(lambda u: u.softmax(0)[0])(v).sum())(x),
        lambda x: jacfwd(lambda v: v @ v.T)(x),
        lambda x: vmap(lambda v: kiln.rand(3) + v, randomness="different")(x),
    ],
)
def test_transforms_in_compiled_functions(f):
    x = draw(4, 3)
    kiln.manual_seed(0)
    want = f(x)
    compiled = kiln.compile(f)
    for _ in range(2):
        kiln.manual_seed(0)
        close(compiled(x), want, 1e-7)


def test_a_compiled_function_under_vmap():
    x = draw(4, 3)
    close(vmap(kiln.compile(lambda v: v.sin() * 2))(x), x.sin() * 2)


# ---------------------------------------------------------------- modules


def test_functional_call_leaves_the_module_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = dict(model.named_buffers())["1.num_batches_tracked"].clone()
    weight = kiln.zeros(3, 3)
    state = {"0.weight": weight, "1.running_mean": kiln.zeros(3)}
    out = functional_call(model, state, kiln.ones(4, 3))
    assert out.shape == (4, 3)
    assert model[0].weight is not weight
    assert dict(model.named_buffers())["1.num_batches_tracked"] == before + 1
    with pytest.raises(ValueError, match="multiple dictionaries"):
        functional_call(model, (state, state), kiln.ones(4, 3))
    with pytest.raises(RuntimeError, match="Missing"):
        functional_call(model, state, kiln.ones(4, 3), strict=True)


def test_batch_norm_under_vmap():
    model, x = nn.BatchNorm1d(3), kiln.randn(2, 4, 3)
    with pytest.raises(RuntimeError, match="in-place"):
        vmap(model)(x)
    replace_all_batch_norm_modules_(model)
    close(vmap(model)(x), stacked(model, x), 1e-5)


def test_tied_weights_are_given_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    x = kiln.ones(1, 2)
    close(functional_call(model, {"0.weight": kiln.eye(2) * 2}, x), x * 4)
    got = functional_call(model, {"0.weight": kiln.eye(2) * 2}, x, tie_weights=False)
    close(got, F.linear(x * 2, model[0].weight))


# ---------------------------------------------------------------- custom functions


class Through(kiln.autograd.Function):
    """Rounds, with a gradient of its own: twice the incoming one, times the input."""

    @staticmethod
    def forward(ctx, x, w):
        y = x.round() * w
        ctx.save_for_backward(x, w, y)
        return y, 3

    @staticmethod
    def backward(ctx, g, _):
        x, w, _ = ctx.saved_tensors
        return 2 * g * x * w if ctx.needs_input_grad[0] else None, (g * x.round()).sum()


def test_custom_functions_under_vmap():
    x, w = draw(4, 3) * 3, draw(seed=1)

    def f(v, w=w):
        return (Through.apply(v, w)[0] * v).sum()

    def g(v, w):
        return grad(lambda v: f(v, w))(v) @ v

    for h in (f, g):
        close(vmap(h, (0, None))(x, w), kiln.stack([h(v, w) for v in x]))
        for i in (0, 1):
            got = grad(lambda x, w, h=h: vmap(h, (0, None))(x, w).sum(), i)(x, w)
            close(got, grad(lambda x, w, h=h: sum(h(v, w) for v in x), i)(x, w))
    close(vmap(hessian(f))(x), kiln.stack([hessian(f)(v) for v in x]))
    close(hessian(lambda x: vmap(f)(x).sum())(x), hessian(lambda x: sum(f(v) for v in x))(x))
