"""Where results may be written: `out=` and in-place forms beside the memory that they read."""

from __future__ import annotations

import pytest

import kiln


def refused(call):
    with pytest.raises(RuntimeError, match=r"refer to a single memory location|share memory"):
        call()


def test_results_do_not_lie_across_an_input():
    x = kiln.arange(6.0)
    refused(lambda: kiln.exp(x[:-1], out=x[1:]))
    refused(lambda: x[1:].add_(x[:-1]))
    refused(lambda: x[1:].copy_(x[:-1]))
    square = kiln.arange(9.0).reshape(3, 3)
    refused(lambda: square.add_(square.t()))
    refused(lambda: kiln.add(square, 1, out=square.t()))
    assert x.tolist() == [0, 1, 2, 3, 4, 5]
    assert square.flatten().tolist() == list(range(9))


def test_an_input_itself_may_be_the_output_of_elementwise_ops_only():
    x = kiln.tensor([0.0, 1.0])
    assert kiln.add(x, x, out=x).tolist() == [0, 2]
    assert x.mul_(x).tolist() == [0, 4]
    index = kiln.tensor([1, 0])
    refused(lambda: kiln.gather(x, 0, index, out=x))
    refused(lambda: kiln.take(x, index, out=x))
    refused(lambda: kiln.cat([x], out=x))
    longer = kiln.tensor([2, 1, 0])
    refused(lambda: kiln.gather(longer.clone(), 0, longer[1:], out=longer[:1]))
    refused(lambda: kiln.gather(index.clone(), 0, index, out=index[:1]))


def test_views_side_by_side_are_apart():
    x = kiln.arange(6.0)
    assert kiln.exp(x[:3], out=x[3:]).shape == (3,)
    assert x[:3].add_(x[3:]).shape == (3,)


def test_expanded_outputs_are_refused_whatever_their_shape():
    wide = kiln.zeros(1).expand(3)
    refused(lambda: kiln.exp(kiln.ones(3), out=wide))
    refused(lambda: kiln.index_select(kiln.ones(4), 0, kiln.tensor([0, 1]), out=wide))


@pytest.mark.parametrize("name", ["abs", "floor", "neg", "msort", "tril", "linalg.inv"])
def test_functions_that_compute_in_the_dtype_of_out_want_the_results(name):
    fn = kiln
    for part in name.split("."):
        fn = getattr(fn, part)
    with pytest.raises(RuntimeError, match="expected out= of dtype float32"):
        fn(kiln.eye(2), out=kiln.zeros(2, 2, dtype=kiln.float64))


def test_sums_are_taken_in_the_dtype_of_out():
    x = kiln.full((2, 3), 1.5)
    assert kiln.cumsum(x, 0, out=kiln.zeros(2, 3, dtype=kiln.int64)).tolist() == [[1] * 3, [2] * 3]
    assert kiln.sum(x, 0, out=kiln.zeros(3, dtype=kiln.int64)).tolist() == [2, 2, 2]
    assert kiln.prod(x, 0, out=kiln.zeros(3, dtype=kiln.float64)).dtype is kiln.float64


@pytest.mark.parametrize("dtype", [kiln.float32, kiln.bfloat16])
def test_nans_are_no_numbers_to_medians_and_come_last_among_distinct_ones(dtype):
    nan = float("nan")
    x = kiln.tensor([[nan, 2.0, 1.0, nan]], dtype=dtype)
    assert x.nanmedian(1).values.item() == 1.0
    assert x.unique()[:2].tolist() == [1.0, 2.0]
    assert kiln.full((2, 2), nan, dtype=dtype).mode(1).indices.tolist() == [0, 0]


def test_sparse_bags_are_refused_where_pytorch_refuses_them():
    weight = kiln.ones(4, 2, requires_grad=True)
    bags = kiln.tensor([[0, 1]])
    with pytest.raises(ValueError, match="max mode does not support sparse"):
        kiln.nn.functional.embedding_bag(bags, weight, mode="max", sparse=True)
    out = kiln.nn.functional.embedding_bag(
        bags, weight, mode="sum", sparse=True, scale_grad_by_freq=True
    )
    with pytest.raises(RuntimeError, match="scale_grad_by_freq"):
        out.sum().backward()


@pytest.mark.parametrize("name", ["floor_divide", "remainder", "fmod", "atan2"])
def test_complex_numbers_have_no_remainders_nor_quadrants(name):
    with pytest.raises(NotImplementedError, match="complex64"):
        getattr(kiln, name)(kiln.ones(2) * 1j, kiln.ones(2))


@pytest.mark.parametrize("name", ["pow", "bitwise_left_shift", "bitwise_right_shift"])
def test_bools_are_neither_raised_to_powers_nor_shifted(name):
    x = kiln.tensor([True, False])
    with pytest.raises(NotImplementedError, match="bool"):
        getattr(kiln, name)(x, x)


@pytest.mark.parametrize("name", ["cumsum_", "cumprod_"])
def test_in_place_scans_take_no_other_dtype(name):
    for d, other in ((kiln.int32, kiln.int64), (kiln.float32, kiln.float64)):
        x = kiln.ones(3, dtype=d)
        with pytest.raises(RuntimeError, match="should match"):
            getattr(x, name)(0, dtype=other)
        assert getattr(x, name)(0, dtype=d) is x
        assert getattr(x, name)(0).dtype is d
