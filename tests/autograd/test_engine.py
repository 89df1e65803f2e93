"""Backward: accumulation, graphs kept and freed, views and in-place changes, hooks, modes."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln.autograd import grad
from kiln.errors import KilnError


def leaf(*values: float):
    return kiln.tensor(values or 0.0, dtype=kiln.float64, requires_grad=True)


def close(t, values):
    np.testing.assert_allclose(t.detach().numpy(), values)


def test_gradients_accumulate_in_leaves():
    x = leaf(1, 2, 3)
    (x * x).sum().backward()
    close(x.grad, [2, 4, 6])
    x.sum().backward()
    close(x.grad, [3, 5, 7])
    memory = x.grad
    x.sum().backward()
    assert x.grad is memory


def test_a_tensor_used_twice_sums_its_gradients():
    x = leaf(2)
    y = x * 3
    (y * y + y).sum().backward()
    close(x.grad, [3 * (2 * 6 + 1)])


def test_broadcast_gradients_have_the_inputs_shape():
    x, y = leaf(1, 2, 3), kiln.ones(4, 1, dtype=kiln.float64, requires_grad=True)
    (x * y).sum().backward()
    close(x.grad, [4, 4, 4])
    assert y.grad.shape == (4, 1)


def test_backward_needs_a_scalar_or_a_gradient():
    x = leaf(1, 2)
    with pytest.raises(RuntimeError, match="scalar outputs"):
        (x * 2).backward()
    (x * 2).backward(kiln.tensor([1.0, 10.0], dtype=kiln.float64))
    close(x.grad, [2, 20])
    with pytest.raises(RuntimeError, match="shape"):
        (x * 2).backward(kiln.ones(3, dtype=kiln.float64))
    with pytest.raises(RuntimeError, match="does not require grad"):
        kiln.ones(1).backward()


def test_backward_twice_needs_retain_graph():
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    close(x.grad, [12])
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_grad_leaves_dot_grad_alone():
    x, y = leaf(2), leaf(3)
    (gx,) = grad((x * y).sum(), x)
    close(gx, [3])
    assert x.grad is None
    with pytest.raises(RuntimeError, match="not have been used"):
        grad((x * 2).sum(), y)
    assert grad((x * 2).sum(), y, allow_unused=True) == (None,)
    (zero,) = grad((x * 2).sum(), y, materialize_grads=True)
    close(zero, [0])
    with pytest.raises(RuntimeError, match="does not require grad"):
        grad(x.sum(), x.detach())


def test_gradients_of_gradients():
    x = leaf(2)
    (g,) = grad((x * x * x).sum(), x, create_graph=True)
    (h,) = grad(g.sum(), x, create_graph=True)
    (k,) = grad(h.sum(), x)
    close(g, [12])
    close(h, [12])
    close(k, [6])


def test_gradients_of_intermediate_tensors():
    x = leaf(2)
    y = x * 3
    (g,) = grad((y * y).sum(), y)
    close(g, [12])
    y.retain_grad()
    (y * y).sum().backward()
    close(y.grad, [12])
    close(x.grad, [36])


def test_backward_to_chosen_inputs():
    x, y = leaf(2), leaf(3)
    (x * y).sum().backward(inputs=[x])
    close(x.grad, [3])
    assert y.grad is None
    with pytest.raises(RuntimeError, match="empty"):
        (x * y).sum().backward(inputs=[])


def test_modes():
    x = leaf(2)
    with kiln.no_grad():
        assert not (x * 2).requires_grad
        with kiln.enable_grad():
            assert (x * 2).requires_grad
    with kiln.inference_mode():
        assert kiln.is_inference_mode_enabled()
        assert not (x * 2).requires_grad
    with kiln.set_grad_enabled(False):
        assert not kiln.is_grad_enabled()
    assert kiln.is_grad_enabled()

    @kiln.no_grad()
    def f():
        return x * 2

    @kiln.no_grad
    def g():
        yield x * 2
        yield x * 3

    assert not f().requires_grad
    assert [y.requires_grad for y in g()] == [False, False]
    assert kiln.is_grad_enabled()


def test_detach_shares_memory_and_version():
    x = leaf(1, 2)
    y = x.detach()
    assert not y.requires_grad
    y.add_(1)
    close(x, [2, 3])
    assert x._version == 1
    with pytest.raises(RuntimeError, match="only leaf tensors can stop"):
        (x * 2).requires_grad = False


def test_integers_have_no_gradient():
    with pytest.raises(RuntimeError, match="floating"):
        kiln.ones(2, dtype=kiln.int64, requires_grad=True)


def test_in_place_on_a_leaf_is_refused_and_changes_nothing():
    x = leaf(1, 2)
    for change in (lambda: x.add_(1), lambda: x[0].mul_(2), lambda: x.__setitem__(0, 5.0)):
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad") as e:
            change()
        assert isinstance(e.value, KilnError)
        close(x, [1, 2])
        assert x._version == 0
    with kiln.no_grad():
        x.add_(1)
    close(x, [2, 3])


def test_in_place_on_intermediate_tensors():
    x = leaf(1, 2)
    y = x * 2
    y.mul_(3).add_(x)
    y.sum().backward()
    close(x.grad, [7, 7])


def test_in_place_ops_that_need_their_input_keep_it():
    x = leaf(0.5, 1.5)
    y = x * 1
    y.sin_()
    y.sum().backward()
    close(x.grad, np.cos([0.5, 1.5]))


def test_a_saved_tensor_changed_in_place_is_noticed():
    x = leaf(1, 2)
    y = x * 2
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_a_tensor_multiplied_in_place_by_itself_is_noticed():
    y = leaf(1, 2) * 1
    y.mul_(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_in_place_on_a_view_reaches_its_base():
    x = leaf(1, 2, 3)
    y = x * 1
    y[1:].mul_(10)
    y.sum().backward()
    close(x.grad, [1, 10, 10])


def test_in_place_on_a_base_reaches_its_views():
    x = leaf(1, 2, 3)
    y = x * 1
    view = y[:2]
    y.mul_(5)
    view.sum().backward()
    close(x.grad, [5, 5, 0])


def test_assignment_is_differentiable():
    x, v = leaf(1, 2, 3), leaf(7)
    y = x * 1
    y[0] = v[0] * 2
    y.sum().backward()
    close(x.grad, [0, 1, 1])
    close(v.grad, [2])


def test_views_made_without_gradients_refuse_changes_with_them():
    y = leaf(1, 2) * 1
    with kiln.no_grad():
        view = y[:1]
    with pytest.raises(RuntimeError, match="no_grad"):
        view.mul_(2)


def test_hooks_see_and_change_gradients():
    x = leaf(1, 2)
    seen = []
    handle = x.register_hook(lambda g: seen.append(g.tolist()))
    y = x * 2
    y.register_hook(lambda g: g * 10)
    y.sum().backward()
    close(x.grad, [20, 20])
    assert seen == [[20, 20]]
    handle.remove()
    x.sum().backward()
    assert len(seen) == 1
    with pytest.raises(RuntimeError, match="doesn't require gradient"):
        kiln.ones(1).register_hook(print)


def test_post_accumulate_hooks_run_after_the_gradient_is_stored():
    x = leaf(1)
    seen = []
    x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.tolist()))
    (x * 3).sum().backward()
    assert seen == [[3]]


def test_node_hooks():
    x = leaf(1)
    y = x * 3
    y.grad_fn.register_prehook(lambda gs: (gs[0] * 2,))
    y.grad_fn.register_hook(lambda inputs, outputs: (inputs[0] + 1, *inputs[1:]))
    y.sum().backward()
    close(x.grad, [7])


def test_a_gradient_must_fit():
    x = leaf(1, 2)
    with pytest.raises(RuntimeError, match="shape"):
        x.grad = kiln.ones(3, dtype=kiln.float64)
    with pytest.raises(TypeError, match="Tensor or None"):
        x.grad = 3
    x.grad = None


def test_zero_size_and_zero_dimensions():
    x = kiln.ones(0, 3, dtype=kiln.float64, requires_grad=True)
    x.sum().backward()
    assert x.grad.shape == (0, 3)
    y = leaf()
    (y * y).backward()
    close(y.grad, 0)


def test_a_deep_graph_needs_no_recursion():
    x = y = leaf(1)
    for _ in range(5000):
        y = y + 0
    y.sum().backward()
    close(x.grad, [1])


def test_deepcopy():
    import copy

    x = leaf(1, 2)
    x.sum().backward()
    y = copy.deepcopy(x)
    assert y.requires_grad
    close(y.grad, [1, 1])
    with pytest.raises(RuntimeError, match="leaf"):
        copy.deepcopy(x * 2)


def test_a_gradient_that_depends_on_its_input_in_form_only_can_be_differentiated():
    """As in PyTorch, where the backward of leaky_relu is an op of its own that reads the input."""
    x = kiln.tensor([-1.0, 2.0], requires_grad=True)
    (g,) = kiln.autograd.grad(F.leaky_relu(x, 0.5).sum(), x, create_graph=True)
    assert g.requires_grad
    g.pow(2).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0])
    (h,) = kiln.autograd.grad(F.leaky_relu(x, 0.5).sum(), x)
    assert not h.requires_grad
    (linear,) = kiln.autograd.grad((x * 2).sum(), x, create_graph=True)
    assert not linear.requires_grad


@pytest.mark.parametrize("compiled", [False, True])
def test_integers_made_of_what_requires_grad_do_not(compiled):
    """A cast to integers, or a sum into them, ends the history, and their memory can be shared."""

    def f(x):
        y = x * 2
        made = (y.to(kiln.int16), y.long(), y.bool(), y.type(kiln.int64), y.sum(dtype=kiln.int64))
        assert not any(t.requires_grad or t.grad_fn for t in made)
        assert not made[0].float().requires_grad
        into = kiln.zeros(3, dtype=kiln.int32)
        with kiln.no_grad():
            into.copy_(y)
        assert not into.requires_grad
        return *made, (y + made[1]).sum()

    x = kiln.tensor([1.5, -2.0, 3.0], requires_grad=True)
    *made, total = (kiln.compile(f) if compiled else f)(x)
    assert made[0].numpy().tolist() == [3, -4, 6]
    total.backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_the_gradient_of_as_strided_follows_memory():
    """Elements are found by where they lie: in a transposed tensor, or a part of a larger one."""
    x = kiln.arange(12.0).reshape(3, 4).requires_grad_()
    (x.t().as_strided((2, 3), (4, 1)) * 2).sum().backward()
    assert x.grad.tolist() == [[2.0, 2.0, 2.0, 0.0], [2.0, 2.0, 2.0, 0.0], [0.0] * 4]
    part = kiln.arange(10.0)[2:6].detach().requires_grad_()
    part.as_strided((3,), (2,), 1).sum().backward()
    assert part.grad.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_arguments_of_older_programs():
    x = kiln.tensor([1.0, 2.0], requires_grad=True)
    (g,) = kiln.autograd.grad((x * x).sum(), x, None, True, True, True, True)
    assert g.tolist() == [2.0, 4.0]
    with pytest.warns(FutureWarning, match="only_inputs"):
        kiln.autograd.grad((x * x).sum(), x, only_inputs=False)
    with pytest.warns(FutureWarning, match="grad_variables"):
        kiln.autograd.backward([x * 3], grad_variables=[kiln.ones(2)])
    assert x.grad.tolist() == [3.0, 3.0]
    kiln.autograd.backward([(x * 2).sum()], None, None, False, None, [x])
    assert x.grad.tolist() == [5.0, 5.0]


@pytest.mark.parametrize("kept", [False, True])
def test_gradients_of_what_was_joined_lie_in_one_array_that_nobody_else_has(kept):
    """As in PyTorch no part is copied; but never is `.grad` memory that a hook or the caller holds too."""
    a, b = kiln.ones(30, 4, requires_grad=True), kiln.ones(20, 4, requires_grad=True)
    weights, seen = kiln.arange(200.0).reshape(50, 4), []
    both = kiln.cat([a, b])
    if kept:
        both.register_hook(seen.append)
    (both * weights).sum().backward()
    assert np.array_equal(np.concatenate([a.grad.numpy(), b.grad.numpy()]), weights.numpy())
    assert (b.grad.data_ptr() - a.grad.data_ptr() == a.grad.nbytes) is not kept
    a.grad.zero_()
    assert np.array_equal(b.grad.numpy(), weights[30:].numpy())
    assert all(np.array_equal(g.numpy(), weights.numpy()) for g in seen)


@pytest.mark.parametrize(
    "of",
    [
        lambda a, b: a.flatten() + b.flatten(),
        lambda a, b: (a + b).flatten(),
        lambda a, b: kiln.cat([a.flatten(), b.flatten()])[:12] * 2 + b.flatten(),
        lambda a, b: a.reshape(12).view(12) * 1 + b.unsqueeze(0).reshape(12),
    ],
)
def test_gradients_of_two_leaves_never_share_memory(of):
    a, b = (kiln.ones(3, 4, requires_grad=True) for _ in range(2))
    weights = kiln.arange(12.0)
    for _ in range(2):
        (of(a, b) * weights).sum().backward()
        before = b.grad.clone()
        a.grad.mul_(3)
        assert np.array_equal(b.grad.numpy(), before.numpy())


def test_a_gradient_that_was_given_stays_as_it_is():
    """PyTorch keeps it as `.grad`, so that a second backward adds it to itself: 4 in place of 3."""
    x, g = kiln.ones(3, requires_grad=True), kiln.ones(3, 1)
    y = x.view(3, 1)
    for _ in range(3):
        y.backward(g, retain_graph=True)
    assert x.grad.tolist() == [3.0, 3.0, 3.0]
    assert g.flatten().tolist() == [1.0, 1.0, 1.0]


def test_a_leaf_used_often_sums_in_memory_of_its_own():
    """Neither what was given, nor what hooks have seen, nor a gradient that goes two ways is added to."""
    x, other = (kiln.ones(2, 3, requires_grad=True) for _ in range(2))
    seen = []
    y = x + other
    for _ in range(4):
        y = y + x
        y.register_hook(seen.append)
    g = kiln.full((2, 3), 2.0)
    (a,) = kiln.autograd.grad(y, x, g, retain_graph=True)
    y.backward(g)
    assert (a == 10).all()
    assert (x.grad == 10).all()
    assert (other.grad == 2).all()
    assert (g == 2).all()
    assert len(seen) == 8
    assert all((s == 2).all() for s in seen)


@pytest.mark.parametrize("shape", [(3, 4, 5), (60, 70, 40)])
def test_first_gradients_are_row_major_whatever_comes_in(shape):
    """Views that lie in another order, expanded ones and ones of another dtype, small and large."""
    weights = kiln.arange(float(np.prod(shape))).reshape(shape)
    for of, want in (
        (lambda x: x.transpose(0, -1), weights),
        (lambda x: x[:, 1:-1], kiln.nn.functional.pad(weights[:, 1:-1], (0, 0, 1, 1))),
        (lambda x: x.double(), weights),
        (lambda x: x.sum(-1, True).expand(shape), weights.sum(-1, True).expand(shape)),
    ):
        x = kiln.ones(shape, requires_grad=True)
        out = of(x)
        w = weights.transpose(0, -1) if out.shape != weights.shape else weights
        w = weights[:, 1:-1] if out.shape[1] < shape[1] else w
        g = w.to(out.dtype).contiguous()
        out.backward(g)
        assert np.array_equal(x.grad.numpy(), want.numpy())
        assert x.grad.is_contiguous()
        x.grad.zero_()
        assert np.array_equal(g.numpy(), w.to(out.dtype).numpy())


def test_inputs_of_grad_are_any_iterable():
    w = {"a": kiln.ones(2, requires_grad=True), "b": kiln.ones(2, requires_grad=True)}
    found = kiln.autograd.grad((w["a"] * 2 + w["b"] * 3).sum(), w.values())
    assert [g.tolist() for g in found] == [[2, 2], [3, 3]]


@pytest.mark.parametrize("dtype", [kiln.float32, kiln.float64])
def test_plain_backward_is_that_of_gradients_with_history(dtype):
    """Backward of first order has rules on arrays for some ops, the others' rules are the reference."""
    index = kiln.tensor([[1, 1, 2], [2, 1, 1]])

    def f(x, y):
        p = (x / y + y.exp()).log().softmax(1).clamp(0.1, 0.6)
        z = (x / 2.0).log_softmax(0) + (3.0 / y) + x / index
        return (p.gather(1, index) * z.gather(0, index - 1).square()[:, :1]).sum() + (
            1 / z[0, 0]
        ).clamp(max=0.2)

    x = (kiln.arange(6).reshape(2, 3) / 3 + 0.4).to(dtype).requires_grad_()
    y = kiln.tensor([0.5, 1.5, 2.5], dtype=dtype, requires_grad=True)
    want = grad(f(x, y), (x, y), create_graph=True)
    f(x, y).backward()
    for a, b in zip((x.grad, y.grad), want, strict=True):
        assert a.dtype is dtype
        kiln.testing.assert_close(a, b.detach())


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("f", [kiln.log, kiln.reciprocal, lambda x: 1 / x, lambda x: x.softmax(0)])
def test_backward_is_silent_where_warnings_are_errors(f):
    x = leaf(0, 1)
    f(x)[0].backward()
    assert x.grad.shape == (2,)


@pytest.mark.parametrize("create_graph", [False, True])
def test_only_what_leads_to_the_inputs_is_computed(create_graph):
    x, w = kiln.ones(2, 3, requires_grad=True), kiln.ones(4, 3, requires_grad=True)
    b = kiln.zeros(4, requires_grad=True)
    y = F.linear(x, w, b)
    z = kiln.cat([y * b, w.mT])
    seen = []
    y.grad_fn.register_hook(lambda into, of: seen.append([g is None for g in into]))
    z.grad_fn.register_hook(lambda into, of: seen.append([g is None for g in into]))
    (g,) = grad(z.sum(), x, create_graph=create_graph)
    assert seen == [[False, True], [False, True, True]]
    np.testing.assert_array_equal(g.detach().numpy(), np.zeros((2, 3)))
    assert g.requires_grad is create_graph
    assert x.grad is w.grad is b.grad is None


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_rule_that_is_not_needed_may_have_no_gradient(create_graph):
    class Half(kiln.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            raise AssertionError("nobody asked")

    a, x = kiln.ones(3, requires_grad=True), kiln.ones(3, requires_grad=True)
    (g,) = grad((a * Half.apply(x)).sum(), a, create_graph=create_graph)
    np.testing.assert_array_equal(g.detach().numpy(), [2, 2, 2])


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_that_were_found_are_not_written_to(create_graph):
    leaf = kiln.ones(3, requires_grad=True)
    x = leaf * 1
    first = x[0]
    z = x + 0.0  # whose gradient goes on as it is, to where parts are added up in place
    s = z[0] * 2 + z[1] * 3 + first * 5
    gz, gx, gl = grad(s, [z, x, leaf], create_graph=create_graph)
    np.testing.assert_array_equal(gz.detach().numpy(), [2, 3, 0])
    np.testing.assert_array_equal(gx.detach().numpy(), [7, 3, 0])
    np.testing.assert_array_equal(gl.detach().numpy(), [7, 3, 0])


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_leafs_hooks_see_the_sum_of_its_gradients_once(create_graph):
    x = kiln.ones(2, requires_grad=True)
    seen = []
    x.register_hook(lambda g: seen.append(g.tolist()))
    grad((x * 2 + x * 3).sum(), x, create_graph=create_graph)
    assert seen == [[5, 5]]


@pytest.mark.parametrize("of", [kiln.tanh, kiln.sigmoid, lambda x: x**4, lambda x: x.pow(3)])
@pytest.mark.parametrize("shape", [(), (4,), (3, 5), (0, 2)])
@pytest.mark.parametrize("dtype", [kiln.float32, kiln.float64])
def test_derivatives_up_to_the_third(of, shape, dtype):
    x = (kiln.rand(shape, dtype=dtype) - 0.5).requires_grad_()
    y, found = of(x), []
    for _ in range(3):
        (y,) = grad(y.sum(), x, create_graph=True)
        found.append(y.detach())
    (last,) = grad(found[0].sum() * 0 + of(x).sum(), x)  # on plain arrays
    kiln.testing.assert_close(last, found[0])
    h = 1e-3 if dtype is kiln.float64 else 1e-2
    with kiln.no_grad():
        away = [of(x + k * h) for k in (-2, -1, 1, 2)]
    slope = (away[2] - away[1]) / (2 * h)
    bend = (away[3] - 2 * away[2] + 2 * away[1] - away[0]) / (2 * h**3)
    kiln.testing.assert_close(found[0], slope, rtol=1e-3, atol=1e-3)
    if dtype is kiln.float64:
        kiln.testing.assert_close(found[2], bend, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "of", [F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.leaky_relu, F.relu]
)
@pytest.mark.parametrize("n", [5, 100])
def test_bends_of_activations(of, n):
    """Second and third derivatives, in float64 by finite differences, in float32 by those in float64."""
    x = (kiln.linspace(-3, 3, n, dtype=kiln.float64) + 0.01).requires_grad_()

    def slopes(x):
        y, found = of(x), []
        for _ in range(3):
            (y,) = grad(y.sum(), x, create_graph=True)
            found.append(y.detach())
            if not y.requires_grad:
                break
        return found

    exact, h = slopes(x), 1e-4
    for lower, higher in zip([of, *[lambda x, k=k: slopes(x)[k] for k in range(len(exact) - 1)]], exact, strict=True):  # fmt: skip
        a, b = lower((x.detach() - h).requires_grad_()), lower((x.detach() + h).requires_grad_())
        kiln.testing.assert_close(higher, ((b - a) / (2 * h)).detach(), rtol=1e-5, atol=1e-6)
    for a, b in zip(slopes(x.detach().float().requires_grad_()), exact, strict=True):
        kiln.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5)


def test_gradients_of_what_was_broadcast_in_place_of_ones():
    x, a, b = (kiln.rand(s, requires_grad=True) for s in ((3, 4), (3, 1), (1,)))
    ((x * a) + b).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), x.detach().sum(1, keepdim=True).numpy(), rtol=1e-6)
    assert b.grad.tolist() == [12]
    ga, gb = grad(((x * a) + b).sum(), [a, b], create_graph=True)
    np.testing.assert_allclose(ga.detach().numpy(), a.grad.numpy(), rtol=1e-6)
    assert gb.shape == (1,)
    vector, matrix = kiln.rand(4, requires_grad=True), kiln.rand(3, 4, requires_grad=True)
    ((matrix @ vector) @ (matrix @ vector)).backward()
    np.testing.assert_allclose(vector.grad.numpy(), (2 * matrix.mT @ (matrix @ vector)).detach().numpy(), rtol=1e-5)  # fmt: skip


def test_what_saved_nothing_may_be_gone_through_again():
    x = kiln.rand(3, 4, requires_grad=True)
    o = kiln.rand(3, 4)

    class Twice(kiln.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.factor = 2
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * ctx.factor

    shared = kiln.cat([(x + o - 1).view(12), x.t().reshape(-1)]).sum().round() + Twice.apply(x)
    for factor in (2.0, 3.0):  # each pass frees what is its own, not the sums and views before it
        y = shared * factor
        y.sum().backward()
        with pytest.raises(RuntimeError, match="second time"):
            y.sum().backward()
    assert x.grad.tolist() == [[10.0] * 4] * 3

    saved = (x * o).sum() + x.exp().sum()
    kiln.autograd.grad(saved, x)
    with pytest.raises(RuntimeError, match="second time"):
        kiln.autograd.grad(saved, x)
