"""Rows that are added to a table's, in blocks: what the reference adds, at any number of them."""

import numpy as np
import pytest

import kiln
from kiln.ops.registry import REGISTRY


@pytest.mark.parametrize("n", [7, 8, 40, 64, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_added(n, dtype):
    r = np.random.default_rng(n)
    index, grad = r.integers(0, 9, (n,)), r.standard_normal((n, 80)).astype(dtype)
    op = REGISTRY["embedding_grad"]
    for padding in (None, 3):
        args = (grad, index, 9, padding, False)
        np.testing.assert_allclose(op.eager(*args), op.reference(*args), rtol=1e-5, atol=1e-5)
    op = REGISTRY["index_put_op"]
    start = r.standard_normal((9, 80)).astype(dtype)
    for at in (index, index - 9, index.reshape(1, n)):
        args = (start, grad.reshape(*at.shape, 80), [at], (0,), True)
        kept = start.copy()
        np.testing.assert_allclose(op.eager(*args), op.reference(*args), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(start, kept)


def test_places_out_of_range_are_refused():
    x = kiln.zeros(9, 80)
    with pytest.raises(IndexError):
        x.index_put_((kiln.full((40,), 9),), kiln.ones(40, 80), accumulate=True)
    assert not x.any()


def test_a_number_goes_where_a_mask_says():
    x = kiln.arange(6.0).reshape(2, 3)
    view = x[1]
    x[x > 3] = -1
    assert x.tolist() == [[0, 1, 2], [3, -1, -1]]
    assert view.tolist() == [3, -1, -1]
    p = kiln.ones(3, requires_grad=True)
    q = p * 2
    q[kiln.tensor([True, False, True])] = 5.0
    q.sum().backward()
    assert p.grad.tolist() == [0, 2, 0]
    y = p.exp()
    with kiln.no_grad():
        y[y > 0] = 0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
