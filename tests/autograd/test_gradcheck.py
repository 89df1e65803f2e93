"""gradcheck and gradgradcheck: right gradients pass, wrong ones are named."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
from kiln.autograd import Function, GradcheckError, gradcheck, gradgradcheck
from kiln.errors import KilnWarning


def leaf(*shape: int, dtype: str = "float64", seed: int = 0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=shape)
    if dtype == "complex128":
        a = a + 1j * rng.normal(size=shape)
    return kiln.from_numpy(a.astype(dtype)).requires_grad_()


class WrongCube(Function):
    """x ** 3 with a first gradient that is right and a second one that is wrong."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x * x.detach()


class Wrong(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 3


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_right_gradients_pass(fast, dtype):
    x, y = leaf(3, dtype=dtype), leaf(2, 3, dtype=dtype, seed=1)
    assert gradcheck(lambda a, b: (a * b, (a * a).sum()), (x, y), fast_mode=fast)
    assert gradgradcheck(lambda a, b: a * b * b, (x, y), fast_mode=fast)


def test_complex_to_real_and_back():
    z = leaf(3, dtype="complex128")
    assert gradcheck(lambda z: z.abs(), (z,))
    assert gradcheck(lambda z: z.real * 2 + z.imag, (z,))
    assert gradcheck(lambda x: x * (1 + 2j), (leaf(3),))


@pytest.mark.parametrize("fast", [False, True])
def test_wrong_gradients_are_named(fast):
    with pytest.raises(GradcheckError, match="output 0 with respect to input 0") as e:
        gradcheck(Wrong.apply, (leaf(3),), fast_mode=fast)
    assert isinstance(e.value, RuntimeError)
    assert not gradcheck(Wrong.apply, (leaf(3),), fast_mode=fast, raise_exception=False)


def test_wrong_second_gradients_are_found():
    x = leaf(3)
    assert gradcheck(WrongCube.apply, (x,))
    assert not gradgradcheck(WrongCube.apply, (x,), raise_exception=False)


def test_inputs_are_restored():
    x = leaf(3)
    before = x.detach().clone()
    gradcheck(lambda x: x * 2, (x,))
    assert (x == before).all()


def test_an_input_that_requires_grad_is_needed():
    with pytest.raises(ValueError, match="require grad"):
        gradcheck(lambda x: x, (leaf(3).detach(),))


def test_single_precision_is_warned_about():
    with pytest.warns(KilnWarning, match="double precision"):
        gradcheck(lambda x: x * 2, (leaf(2, dtype="float32"),), eps=1e-2, atol=1e-2)


def test_elements_that_share_memory_are_refused():
    with pytest.raises(RuntimeError, match="share memory"):
        gradcheck(lambda x: x * 2, (leaf(1).detach().expand(3).requires_grad_(),))


def test_unsupported_modes_say_so():
    with pytest.raises(NotImplementedError, match="check_batched_grad"):
        gradcheck(lambda x: x, (leaf(2),), check_batched_grad=True)


def test_nondeterministic_backward_is_found():
    rng = np.random.default_rng(0)

    class Noisy(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * (2 + 1e-7 * rng.normal())

    with pytest.raises(GradcheckError, match="deterministic"):
        gradcheck(Noisy.apply, (leaf(3),))
    assert gradcheck(Noisy.apply, (leaf(3),), nondet_tol=1e-5)
