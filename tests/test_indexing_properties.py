"""Indexing, reading and writing, against NumPy; gradients and views on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kiln


@st.composite
def indexed(draw, advanced: bool = True):
    """A shape and an index that fits it."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    parts = []
    lists = draw(st.integers(1, 3))
    for n in shape[: draw(st.integers(0, len(shape)))]:
        kinds = ["int", "slice", "all", "none"] + (["list"] if advanced else [])
        kind = draw(st.sampled_from(kinds))
        if kind == "int":
            parts.append(draw(st.integers(-n, n - 1)))
        elif kind == "slice":
            ends = st.none() | st.integers(-n - 1, n + 1)
            parts.append(slice(draw(ends), draw(ends), draw(st.none() | st.integers(1, 3))))
        elif kind == "all":
            parts.append(slice(None))
        elif kind == "none":
            parts += [None, slice(None)]
        else:
            parts.append(draw(st.lists(st.integers(-n, n - 1), min_size=lists, max_size=lists)))
    if draw(st.booleans()):
        parts.append(...)
    return shape, tuple(parts)


def reads(shape, index) -> np.ndarray:
    """Which elements `x[index]` reads, by number.

    PyTorch applies integers before lists; NumPy counts integers among the lists.
    """
    if ... in index:
        at = index.index(...)
        fill = len(shape) - sum(p is not None and p is not ... for p in index)
        index = (*index[:at], *[slice(None)] * fill, *index[at + 1 :])
    flat = np.arange(np.prod(shape)).reshape(shape)
    flat = flat[tuple(slice(None) if isinstance(p, list) else p for p in index)]
    rest = tuple(p if isinstance(p, list) else slice(None) for p in index if not isinstance(p, int))
    return np.asarray(flat[rest])


def arange(shape) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


@given(indexed())
@settings(max_examples=200, deadline=None)
def test_reading(case):
    shape, index = case
    a = arange(shape)
    got = kiln.from_numpy(a)[index]
    np.testing.assert_array_equal(got.numpy(), reads(shape, index))


@given(indexed(advanced=False))
@settings(max_examples=100, deadline=None)
def test_basic_indexing_gives_views(case):
    shape, index = case
    a = arange(shape)
    view = kiln.from_numpy(a)[index]
    view.fill_(-1)
    expected = arange(shape)
    expected[index] = -1
    np.testing.assert_array_equal(a, expected)


@given(indexed(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_writing(case, scalar):
    shape, index = case
    a, expected = arange(shape), arange(shape)
    numbers = reads(shape, index)
    value = 7.0 if scalar else -np.ones(numbers.shape)
    expected.flat[numbers.ravel()] = 7.0 if scalar else -1
    kiln.from_numpy(a)[index] = value if scalar else kiln.from_numpy(np.asarray(value))
    np.testing.assert_array_equal(a, expected)


@given(indexed())
@settings(max_examples=100, deadline=None)
def test_gradients_count_how_often_an_element_is_read(case):
    shape, index = case
    x = kiln.from_numpy(arange(shape)).requires_grad_()
    x[index].sum().backward()
    expected = np.zeros(shape)
    np.add.at(expected.reshape(-1), reads(shape, index).ravel(), 1.0)
    got = np.zeros(shape) if x.grad is None else x.grad.numpy()
    np.testing.assert_array_equal(got, expected)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_boolean_masks(shape, random):
    a = arange(shape)
    mask = np.array([random.random() < 0.5 for _ in range(a.size)]).reshape(a.shape)
    x = kiln.from_numpy(a.copy())
    np.testing.assert_array_equal(x[kiln.from_numpy(mask)].numpy(), a[mask])
    x[kiln.from_numpy(mask)] = 0.0
    np.testing.assert_array_equal(x.numpy(), np.where(mask, 0, a))


@pytest.mark.parametrize(
    ("index", "error"),
    [(5, IndexError), ((0, 0, 0), IndexError), ("a", (IndexError, TypeError)), (1.5, (IndexError, TypeError)),
     (slice(None, None, -1), ValueError)],
    ids=str,
)  # fmt: skip
def test_bad_indices(index, error):
    with pytest.raises(error):
        kiln.zeros(2, 3)[index]


@pytest.mark.parametrize("fn", [
    lambda x, i: x[:, i], lambda x, i: x[..., i], lambda x, i: x[:, i[:, None]], lambda x, i: x[:, i, i],
    lambda x, i: x.index_select(2, i), lambda x, i: kiln.cat([x, x], 1), lambda x, i: kiln.stack([x, x], 1), lambda x, i: x.softmax(1),
    lambda x, i: x.cumsum(1), lambda x, i: x.amax(0), lambda x, i: x.sum(2), lambda x, i: x.tril(), lambda x, i: x.logsumexp(2),
])  # fmt: skip
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (0, 2, 1)], ids=str)
def test_results_that_pytorch_lays_out_in_row_major_order(fn, order):
    """So that a reshape of them is a view, in eager mode as in a compiled program."""
    x, i = kiln.arange(120.0).reshape(4, 5, 6).permute(order), kiln.tensor([0, 2, 1])
    got = fn(x, i)
    assert got.is_contiguous()
    assert got.view(-1).shape == (got.numel(),)
    np.testing.assert_allclose(got.numpy(), kiln.compile(fn)(x, i).numpy(), rtol=1e-5)


def test_what_an_index_tensor_writes_is_of_the_same_dtype():
    x = kiln.zeros(2, 2)
    for index in (
        kiln.tensor([0]),
        (0, kiln.tensor([1])),
        (kiln.tensor([0]), kiln.tensor([True, False])),
    ):
        with pytest.raises(RuntimeError, match="dtypes match"):
            x[index] = kiln.tensor(1)
    x[kiln.tensor([0])] = 1
    x[0, kiln.tensor([False, True])] = kiln.tensor(2)
    x[1] = kiln.tensor([3, 4])
    assert x.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("index", [0, slice(0, 2), (slice(None), 1), Ellipsis, (0, 1)])
def test_what_is_written_may_have_more_dimensions_of_size_one_in_front(index):
    picked = np.zeros((3, 4))[index]
    value = np.arange(1.0, picked.size + 1).reshape(1, 1, *picked.shape)
    want = np.zeros((3, 4))
    want[index] = value[0, 0]

    def write(x, v):
        x[index] = v
        return x

    x, v = kiln.zeros(3, 4, dtype=kiln.float64), kiln.tensor(value, requires_grad=True)
    write(x, v).sum().backward()
    np.testing.assert_array_equal(x.detach().numpy(), want)
    assert v.grad.shape == v.shape
    got = kiln.compile(write)(kiln.zeros(3, 4, dtype=kiln.float64), v.detach())
    np.testing.assert_array_equal(got.numpy(), want)
    with pytest.raises(RuntimeError):
        write(kiln.zeros(3, 4), kiln.ones(2, *picked.shape, 1, 1))


def test_lists_that_hold_more_than_numbers_are_an_index_for_each_dimension():
    x, i, j = kiln.arange(24).reshape(2, 3, 4), kiln.tensor([0, 1]), kiln.tensor([1, 0])
    for index, meant in (
        ([i, j], (i, j)), ([[0, 1], [1, 0]], (i, j)), ([slice(0, 1), slice(1, 3)], (slice(0, 1), slice(1, 3))),
        ([0, slice(None)], (0, slice(None))), ([None, 0], (None, 0)), ([..., 0], (..., 0)), ([i.numpy(), 1], (i, 1)),
    ):  # fmt: skip
        assert kiln.equal(x[index], x[meant])
        y, z = x.clone(), x.clone()
        y[index] = z[meant] = -1
        assert kiln.equal(y, z)
    assert x[[0, 1]].shape == (2, 3, 4)
    assert x[[[0]] * 32].shape == (32, 1, 3, 4)


def test_sizes_are_whole_numbers():
    assert kiln.Size((kiln.tensor(3), np.int64(2), True)) == (3, 2, 1)
    assert all(type(n) is int for n in kiln.Size(kiln.tensor([2, 3])))
    with pytest.raises(TypeError, match="expected int at position 1, but got: float"):
        kiln.Size((2, 2.0))
