"""The gradients that a backward pass begins with."""

from __future__ import annotations

import pytest

import kiln


@pytest.mark.parametrize("compiled", [False, True])
def test_a_gradient_of_another_dtype_is_cast_to_the_results(compiled):
    """A compiled backward once read float32 gradients as half as many float64 ones."""

    def double(x):
        return x.double() * 3

    x = kiln.arange(300.0, requires_grad=True)
    y = (kiln.compile(double) if compiled else double)(x)
    (g,) = kiln.autograd.grad(y, x, kiln.ones(300))
    assert g.dtype is kiln.float32
    assert g.tolist() == [3.0] * 300
