"""Constructors named after their type mean what they mean in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers


def outcome(call, m):
    """Shape, dtype and data of a result, or the class of the error."""
    try:
        t = call(m)
    except Exception as e:
        return type(e).__mro__[-4:]
    if isinstance(t, m.Tensor):
        return tuple(t.shape), str(t.dtype).partition(".")[2], t.tolist()
    return str(t).replace("torch", "kiln")


CALLS = [
    lambda m: m.FloatTensor([1, 2]), lambda m: m.LongTensor([[1, 2], [3, 4]]), lambda m: m.FloatTensor((2, 3)),
    lambda m: m.FloatTensor(np.ones(2, np.float32)), lambda m: m.LongTensor(np.arange(3)), lambda m: m.FloatTensor(),
    lambda m: m.FloatTensor(2, 3).shape, lambda m: m.LongTensor(m.ones(2, 3).size()).shape, lambda m: m.BoolTensor([0, 1]),
    lambda m: m.FloatTensor(m.ones(2)), lambda m: m.HalfTensor([1.5]), lambda m: m.DoubleTensor([1]), lambda m: m.ByteTensor([1, 2]),
    lambda m: m.FloatTensor(3.5), lambda m: m.LongTensor(m.ones(2)), lambda m: m.LongTensor([1.7]),
    lambda m: m.ones(2).new([1, 2]), lambda m: m.ones(2).long().new([1, 2]), lambda m: m.ones(2).new(2, 3).shape,
    lambda m: m.ones(2).new().shape, lambda m: m.ones(2).new(m.ones(3)), lambda m: m.ones(2).new(m.ones(2, 3).size()).shape,
    lambda m: m.ones(2).type(), lambda m: m.ones(2).bool().type(), lambda m: m.ones(2).type(m.LongTensor),
    lambda m: m.ones(2).type(f"{m.__name__}.LongTensor"), lambda m: m.ones(2).type(m.int32),
    lambda m: isinstance(m.ones(2), m.FloatTensor), lambda m: isinstance(m.ones(2), m.LongTensor), lambda m: m.FloatTensor.dtype,
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_typed_constructors(call):
    assert outcome(call, kiln) == outcome(call, torch)


@pytest.mark.parametrize("m", [kiln, torch], ids=["kiln", "torch"])
def test_variable(m):
    variable = m.autograd.Variable
    leaf, plain = m.ones(2, requires_grad=True), m.ones(2)
    assert isinstance(plain, variable)
    assert not isinstance(1, variable)
    assert not variable(leaf).requires_grad
    assert variable(leaf).data_ptr() == leaf.data_ptr()
    assert variable(plain, requires_grad=True).requires_grad
    assert not plain.requires_grad
    assert not variable(leaf * 2).requires_grad
    with pytest.raises(AssertionError, match="why"):
        m._assert(False, "why")


def test_the_class_of_tensors_is_the_type_of_those_of_the_default_dtype():
    x = kiln.ones(2, dtype=kiln.int64)
    assert x.type(kiln.Tensor).dtype is kiln.float32
    assert kiln.nn.Linear(2, 2).double().type(kiln.Tensor).weight.dtype is kiln.float32
    with pytest.raises(TypeError):
        kiln.ones(2, dtype=kiln.Tensor)
