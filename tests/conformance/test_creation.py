"""Counted and filled tensors, and Python numbers in narrow dtypes, as PyTorch has them."""

from __future__ import annotations

import numpy as np
import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers

SPACES = [
    ("linspace", (0, 50, 7)), ("linspace", (3.7, 50, 5)), ("linspace", (50, 0, 50)), ("linspace", (2, 5, 1)),
    ("logspace", (0, 3.5, 5)), ("logspace", (-3, 0, 5)), ("logspace", (2, -3, 1, 1.1)), ("logspace", (0, 3, 4, 2.0)),
    ("arange", (0.0, -8.000001, -4.0)), ("arange", (0, 5, 0.5)), ("arange", (1.5, 7, 2)),
]  # fmt: skip


@pytest.mark.parametrize("d", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize(("name", "args"), SPACES, ids=str)
def test_spaced(name, args, d):
    if name == "arange" and d == "int64" and int(args[2]) == 0:
        with pytest.raises(ValueError, match="nonzero"):
            kiln.arange(*args, dtype=kiln.int64)
        return
    want = getattr(torch, name)(*args, dtype=getattr(torch, d))
    got = getattr(kiln, name)(*args, dtype=getattr(kiln, d))
    filled = getattr(kiln, name)(*args, out=kiln.empty(0, dtype=getattr(kiln, d)))
    for t in (got, filled):
        assert t.dtype is getattr(kiln, d)
        np.testing.assert_allclose(t.numpy(), want.numpy(), 1e-5)


@pytest.mark.parametrize("args", [(0, float("inf"), 2), (float("-inf"), 1), (0, -5, 1), (0, 5, 0)])
def test_impossible_ranges_are_refused(args):
    with pytest.raises(RuntimeError):
        torch.arange(*args)
    with pytest.raises(kiln.KilnError):
        kiln.arange(*args)


NARROW = [
    lambda m: m.tensor(-5, dtype=m.uint8), lambda m: m.tensor(300, dtype=m.uint8), lambda m: m.tensor(1e30, dtype=m.int32),
    lambda m: m.full((2,), -9, dtype=m.uint8), lambda m: m.full((2,), 2**40, dtype=m.int32),
    lambda m: m.add(m.tensor([1], dtype=m.uint8), m.tensor([1], dtype=m.uint8), alpha=-3),
    lambda m: m.add(m.tensor([1], dtype=m.uint8), m.tensor([1], dtype=m.uint8), alpha=300),
    lambda m: m.tensor([1], dtype=m.uint8) - 300,
]  # fmt: skip


@pytest.mark.parametrize("call", NARROW)
def test_numbers_in_narrow_dtypes(call):
    try:
        want = call(torch)
    except RuntimeError:
        with pytest.raises(kiln.KilnError):
            call(kiln)
    else:
        np.testing.assert_array_equal(call(kiln).numpy(), want.numpy())


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "and", "or", "xor"])
def test_reflected_operators_take_a_tensor(name):
    with pytest.raises(TypeError):
        getattr(kiln.Tensor, f"__r{name}__")(2, kiln.tensor([1]))


def test_reflected_matmul():
    a, b = kiln.tensor([[1.0, 2.0]]), kiln.tensor([[3.0], [4.0]])
    assert a.__rmatmul__(b).shape == (2, 2)


def test_where_of_a_bool_tensor():
    x, c = kiln.tensor([True, True]), kiln.tensor([True, False])
    assert x.where(c, kiln.tensor([False, False])).tolist() == [True, False]


def test_broadcast_shapes_takes_sizes():
    assert kiln.broadcast_shapes((5, 1), 5) == (5, 5)
