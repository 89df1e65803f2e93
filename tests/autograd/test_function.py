"""Custom functions: forward and backward written by the user."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
from kiln.autograd import Function, grad, gradcheck, gradgradcheck
from kiln.autograd import forward_ad as fwAD
from kiln.autograd.function import once_differentiable
from kiln.errors import KilnError


def leaf(*shape: int, seed: int = 0, dtype: str = "float64"):
    a = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return kiln.from_numpy(a).requires_grad_()


class Exp(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class ScaledSum(Function):
    """Two inputs, an attribute, two outputs; in the form with setup_context."""

    @staticmethod
    def forward(x, y, scale=2.0):
        return (x + y) * scale, x * y

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.scale = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx, g, h):
        x, y = ctx.saved_tensors
        return g * ctx.scale + h * y, g * ctx.scale + h * x, None


def test_gradients_and_gradients_of_gradients():
    x = leaf(3)
    assert gradcheck(Exp.apply, (x,))
    assert gradgradcheck(Exp.apply, (x,))
    assert gradcheck(ScaledSum.apply, (leaf(2, 3), leaf(2, 3, seed=1), 3.0))
    assert gradgradcheck(ScaledSum.apply, (leaf(2, 3), leaf(2, 3, seed=1)))


def test_third_derivative_through_a_saved_output():
    x = leaf(2)
    y = Exp.apply(x).sum()
    for _ in range(3):
        (y,) = grad(y, x, create_graph=True)
        np.testing.assert_allclose(y.detach().numpy(), np.exp(x.detach().numpy()))
        y = y.sum()


def test_defaults_and_keywords_with_setup_context():
    x, y = leaf(2), leaf(2, seed=1)
    a, _ = ScaledSum.apply(x, y=y)
    np.testing.assert_allclose(a.detach().numpy(), 2 * (x + y).detach().numpy())
    with pytest.raises(TypeError, match="keyword"):
        Exp.apply(x=x)


def test_the_context_is_the_node():
    y = Exp.apply(leaf(2))
    assert y.grad_fn.name() == "ExpBackward"
    assert repr(y).endswith("grad_fn=<ExpBackward>)")
    assert not y.is_leaf


def test_forward_is_not_recorded_and_no_history_without_need():
    seen = []

    class Watch(Function):
        @staticmethod
        def forward(ctx, x):
            seen.append((kiln.is_grad_enabled(), ctx.needs_input_grad))
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    assert Watch.apply(leaf(2)).requires_grad
    assert not Watch.apply(leaf(2).detach()).requires_grad
    with kiln.no_grad():
        assert not Watch.apply(leaf(2)).requires_grad
    assert seen == [(False, (True,)), (False, (False,)), (False, (True,))]


def test_needs_input_grad_counts_all_arguments():
    class Check(Function):
        @staticmethod
        def forward(ctx, a, x, b, y):
            assert ctx.needs_input_grad == (False, True, False, False)
            return x * a + y

        @staticmethod
        def backward(ctx, g):
            assert ctx.needs_input_grad == (False, True, False, False)
            return None, g * 3, None, None

    x = leaf(2)
    Check.apply(3, x, "text", leaf(2).detach()).sum().backward()
    assert x.grad.tolist() == [3, 3]


def test_mark_non_differentiable_and_integer_outputs():
    class Sort(Function):
        @staticmethod
        def forward(ctx, x):
            mask = x > 0
            ctx.mark_non_differentiable(count := x * 0)
            ctx.save_for_backward(mask)
            return x * mask, count, mask

        @staticmethod
        def backward(ctx, g, g1, g2):
            assert (g1 == 0).all()
            (mask,) = ctx.saved_tensors
            return g * mask

    x = leaf(5)
    y, count, mask = Sort.apply(x)
    assert y.requires_grad
    assert not count.requires_grad
    assert not mask.requires_grad
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), (x.detach().numpy() > 0).astype(float))


@pytest.mark.parametrize("materialize", [True, False])
def test_unused_outputs(materialize):
    class Two(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(materialize)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, g, h):
            assert (h is None) != materialize
            return g * 2 if h is None else g * 2 + h * 3

    x = leaf(2)
    Two.apply(x)[0].sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_mark_dirty_rewrites_the_history_of_its_input():
    class Double(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = leaf(3)
    y = x * 1
    before = y._version
    z = Double.apply(y)
    assert z is y
    assert y._version == before + 1
    y.sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="leaf"):
        Double.apply(leaf(3))


def test_mark_dirty_on_a_view():
    class Double(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = leaf(3)
    y = x * 1
    Double.apply(y[1:])
    y.sum().backward()
    assert x.grad.tolist() == [1, 2, 2]


def test_dirty_tensors_must_be_returned():
    class Bad(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x + 1

        @staticmethod
        def backward(ctx, g):
            return g

    with pytest.raises(KilnError, match="must be returned"):
        Bad.apply(leaf(2) * 1)


def test_an_input_returned_unchanged_is_a_new_tensor_on_its_memory():
    class Same(Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 5

    x = leaf(2)
    y = Same.apply(x)
    assert y is not x
    assert y.data_ptr() == x.data_ptr()
    y.sum().backward()
    assert x.grad.tolist() == [5, 5]


def test_saved_tensors_changed_in_place_are_noticed():
    x = leaf(3)
    y = Exp.apply(x)
    with kiln.no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_backward_twice():
    x = leaf(3)
    y = Exp.apply(x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def function(backward, forward=lambda ctx, x, k: x * 2):
    return type(
        "Custom",
        (Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (lambda ctx, g: g, "1 gradients for 2 inputs"),
        (lambda ctx, g: (g, None, g), "3 gradients for 2 inputs"),
        (lambda ctx, g: (g, g), "not a tensor"),
        (lambda ctx, g: (g.sum().expand(5), None), "invalid gradient at index 0"),
        (lambda ctx, g: (1.0, None), "not a Tensor or None"),
    ],
)
def test_wrong_gradients_are_told(backward, message):
    with pytest.raises(RuntimeError, match=message) as e:
        function(backward).apply(leaf(3), 2).sum().backward()
    assert isinstance(e.value, KilnError)


def test_trailing_nones_are_taken():
    x = leaf(3)
    function(lambda ctx, g: (g * 2, None, None, None)).apply(x, 2).sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


def test_gradients_of_broadcast_shape_are_summed():
    x = leaf(3)
    y = function(lambda ctx, g: (g.expand(4, 3), None)).apply(x, 2)
    y.sum().backward()
    assert x.grad.tolist() == [4, 4, 4]


def test_missing_methods():
    class Empty(Function):
        pass

    class OnlyForward(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

    with pytest.raises(NotImplementedError, match="forward"):
        Empty.apply(leaf(2))
    with pytest.raises(NotImplementedError, match="backward"):
        OnlyForward.apply(leaf(2)).sum().backward()


def test_vjp_is_another_name_for_backward():
    class Named(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 4

        @staticmethod
        def vjp(ctx, g):
            return g * 4

    x = leaf(2)
    Named.apply(x).sum().backward()
    assert x.grad.tolist() == [4, 4]


def test_once_differentiable():
    class Once(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx, g):
            assert not kiln.is_grad_enabled()
            (x,) = ctx.saved_tensors
            return g * 2 * x

    x = leaf(3)
    Once.apply(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.detach().numpy())
    u = kiln.ones(3, dtype=kiln.float64, requires_grad=True)
    (g,) = grad(Once.apply(x), x, u, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_save_for_backward_takes_tensors_only():
    def forward(ctx, x, k):
        ctx.save_for_backward(x, k)
        return x

    with pytest.raises(TypeError, match="argument 1 is not a Tensor"):
        function(lambda ctx, g: (g, None), forward).apply(leaf(2), 3)


class Swing(Function):
    """Sine and cosine, with a derivative each way."""

    @staticmethod
    def forward(x, n):
        return x.sin() * n, x.cos()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.n = inputs[1]
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0], *output)

    @staticmethod
    def jvp(ctx, t, n):
        assert n is None
        _, sine, cosine = ctx.saved_tensors
        return t * cosine * ctx.n, -t * sine / ctx.n

    @staticmethod
    def backward(ctx, a, b):
        (x,) = ctx.saved_tensors
        return a * x.cos() * ctx.n - b * x.sin(), None


class Forward(Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_forward(x, y)
        return x * y

    @staticmethod
    def jvp(ctx, a, b):
        x, y = ctx.saved_tensors
        return a * y + b * x


def test_forward_mode_takes_a_functions_own_derivative():
    x = kiln.tensor([0.3, 1.2], dtype=kiln.float64, requires_grad=True)
    assert kiln.autograd.gradcheck(lambda x: Swing.apply(x, 2.0), (x,), check_forward_ad=True)
    f = lambda x: Swing.apply(x, 2.0)[0]  # noqa: E731
    along = lambda x: kiln.func.jvp(f, (x,), (kiln.ones_like(x),))[1]  # noqa: E731
    assert kiln.allclose(kiln.func.jvp(along, (x,), (kiln.ones_like(x),))[1], -2 * x.sin())
    assert kiln.allclose(kiln.func.jacfwd(f)(x), kiln.diag(2 * x.cos()))
    assert kiln.allclose(kiln.func.grad(lambda x: along(x).sum())(x), -2 * x.sin())


def test_a_function_with_a_forward_derivative_alone():
    a, b = kiln.tensor([1.0, 2.0]), kiln.tensor([3.0, 5.0])
    with fwAD.dual_level():
        y = Forward.apply(fwAD.make_dual(a, kiln.ones(2)), b)
        assert fwAD.unpack_dual(y).tangent.tolist() == [3, 5]
    assert Forward.apply(a, b).tolist() == [3, 10]
    with pytest.raises(NotImplementedError, match="either the backward or vjp"):
        Forward.apply(a.requires_grad_(), b).sum().backward()
