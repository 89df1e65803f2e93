"""Layers read their parameters from the table of a module, and what somebody put in their place where there is any."""

import pytest

import kiln
from kiln import nn
from kiln.nn.utils import parametrize

LAYERS = {
    "linear": (lambda: nn.Linear(3, 3), "weight"), "norm": (lambda: nn.LayerNorm(3), "weight"),
    "cell": (lambda: nn.LSTMCell(3, 3), "weight_ih"), "bias": (lambda: nn.Linear(3, 3), "bias"),
}  # fmt: skip


def value(layer, x):
    out = layer(x)
    return (out[0] if isinstance(out, tuple) else out).detach().clone()


@pytest.mark.parametrize("name", LAYERS)
def test_what_stands_in_a_parameter_s_place_is_used(name):
    make, of = LAYERS[name]
    kiln.manual_seed(0)
    layer, x = make(), kiln.randn(2, 3)
    before, old = value(layer, x), getattr(layer, of)
    doubled = (old * 2).detach()

    del layer._parameters[of]  # as pruning does
    setattr(layer, of, doubled)
    changed = value(layer, x)
    assert not kiln.equal(before, changed)

    delattr(layer, of)
    layer.register_parameter(of, nn.Parameter(old.detach()))
    assert kiln.equal(value(layer, x), before)
    layer.__dict__[of] = doubled  # as an attribute of its own beside the table
    assert kiln.equal(value(layer, x), changed)
    del layer.__dict__[of]

    class Double(nn.Module):
        def forward(self, w):
            return w * 2

    parametrize.register_parametrization(layer, of, Double())
    assert kiln.equal(value(layer, x), changed)


def test_a_class_of_its_own_may_say_what_a_parameter_is():
    class Scaled(nn.Linear):
        scale = 3.0

        @property
        def bias(self):
            if "bias" not in self._parameters:
                raise AttributeError("bias")
            return self._parameters["bias"] * self.scale

    layer = Scaled(2, 2)
    x = kiln.zeros(1, 2)
    assert kiln.equal(layer(x)[0], layer._parameters["bias"] * 3)
