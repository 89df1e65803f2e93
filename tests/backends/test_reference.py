"""The reference backend: the ops' NumPy references in order, with updates stored at the end."""

import numpy as np
import pytest

import kiln
from kiln import dtypes as dt
from kiln.backends import base, reference
from kiln.errors import KilnValueError
from kiln.graph import Graph, const, input_node, literal, make
from kiln.graph.node import item

X = input_node(0, (3,), dt.float32)
Y = input_node(1, (3,), dt.float32)


def run(graph, *arrays):
    return reference.compile(graph, "test").run(list(arrays))


def arrays(*values):
    return [np.array(v, np.float32) for v in values]


def test_values_constants_and_items():
    s = make("topk", (X, 3, -1, True, True))
    table = literal(np.array([10.0, 20.0, 30.0], np.float32))
    g = Graph([X], [item(s, 0), item(s, 1), make("add", (X, table, 1)), const(2, dt.int32), X])
    x = arrays([1, 3, 2])[0]
    out = run(g, x)
    for got, want in zip(out, ([3, 2, 1], [1, 2, 0], [11, 23, 32], 2, [1, 3, 2]), strict=True):
        np.testing.assert_array_equal(got, want)
    assert out[3].dtype == np.int32
    out[-1][:] = 0  # an output is never an input's memory
    assert x[0] == 1
    out[2][:] = 0
    np.testing.assert_array_equal(run(g, x)[2], [11, 23, 32])


def test_updates_see_old_values_and_are_stored_together():
    g = Graph([X, Y], [make("add", (X, Y, 1)), Y, X], {1: 0, 2: 1})
    x, y = arrays([1, 2, 3], [10, 20, 30])
    (total,) = run(g, x, y)
    np.testing.assert_array_equal(total, [11, 22, 33])
    np.testing.assert_array_equal(x, [10, 20, 30])
    np.testing.assert_array_equal(y, [1, 2, 3])


def test_updates_of_views_in_any_layout():
    g = Graph([X], [make("exp", (X,))], {0: 0})
    memory = np.zeros(6, np.float32)
    assert run(g, memory[::2]) == []
    np.testing.assert_array_equal(memory, [1, 0, 1, 0, 1, 0])


def test_a_failure_leaves_state_alone():
    index = input_node(1, (2,), dt.int64)
    g = Graph([X, index], [make("exp", (X,)), make("index_select", (X, 0, index))], {0: 0})
    (x,) = arrays([1, 2, 3])
    with pytest.raises(IndexError):
        run(g, x, np.array([0, 5]))
    np.testing.assert_array_equal(x, [1, 2, 3])


def test_backends_by_name():
    assert base.get("reference") is reference
    with pytest.raises(KilnValueError, match="no such backend"):
        base.get("tpu")
    with pytest.raises(KilnValueError):
        kiln.compile(lambda x: x, backend="tpu")
    with kiln.config.context(backend="reference"):
        assert kiln.compile(lambda x: x * 2)(kiln.ones(2))[0].item() == 2
