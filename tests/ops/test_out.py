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


def test_what_is_copied_to_the_output_first_does_not_lie_across_it():
    x = kiln.arange(13.0)
    a, b, ones, index = (
        x[:9].view(3, 3),
        x[1:10].view(3, 3),
        kiln.ones(3, 3),
        kiln.tensor([0, 1, 2]),
    )
    wide = index.expand(3, 3)
    for call in (
        lambda: kiln.addmm(a, ones, ones, out=b),
        lambda: kiln.addmv(x[:3], ones, x[3:6], out=x[1:4]),
        lambda: kiln.addbmm(a, ones[None], ones[None], out=b),
        lambda: kiln.baddbmm(a[None], ones[None], ones[None], out=b[None]),
        lambda: kiln.sgn(a, out=b),
        lambda: kiln.conj_physical(a, out=b),
        lambda: kiln.msort(a, out=b),
        lambda: kiln.outer(x[:3], x[9:12], out=x[1:10].view(3, 3)),
        lambda: kiln.nn.functional.normalize(a, out=b),
        lambda: kiln.index_copy(a, 0, index, ones, out=b),
        lambda: kiln.index_reduce(ones, 0, index, a, "amax", out=b),
        lambda: kiln.scatter(ones, 0, wide, a, out=b),
        lambda: kiln.cumsum(a, 0, out=b),
    ):
        refused(call)
    assert x.tolist() == list(range(13))
    kiln.addmm(a, ones, ones, beta=0, out=b)  # which is not read
    assert b.tolist() == [[3.0] * 3] * 3
    x = kiln.zeros(4)
    assert kiln.logsumexp(x[:4].view(2, 2), 1, out=x[1:3]).exp().tolist() == pytest.approx([2, 2])
    assert kiln.special.ndtr(kiln.zeros(4)[:3], out=kiln.zeros(3)).tolist() == [0.5] * 3


def test_spectra_are_stored_in_their_kind_of_numbers():
    x = kiln.ones(4)
    for fn, given in (("rfft", x), ("fft", x), ("irfft", x * 1j), ("hfft2", kiln.ones(2, 4) * 1j)):
        real = fn in ("irfft", "hfft2")
        wrong = kiln.empty(0, dtype=kiln.complex64 if real else kiln.float32)
        with pytest.raises(RuntimeError, match="floating point" if real else "complex"):
            getattr(kiln.fft, fn)(given, out=wrong)
        wide = kiln.empty(0, dtype=kiln.float64 if real else kiln.complex128)
        assert getattr(kiln.fft, fn)(given, out=wide).dtype is wide.dtype


def test_outputs_that_no_kernel_fills_are_refused():
    x = kiln.ones(2, 3)
    for call in (
        lambda: kiln.cumsum(x, 0, dtype=kiln.bool),
        lambda: kiln.cumprod(x, 0, out=kiln.ones(2, 3) > 0),
        lambda: kiln.nansum(x, out=kiln.zeros((), dtype=kiln.int64)),
        lambda: kiln.nanmean(x, out=kiln.zeros((), dtype=kiln.complex64)),
    ):
        with pytest.raises(NotImplementedError, match="not implemented"):
            call()
    with pytest.raises(RuntimeError, match="as_tuple"):
        kiln.nonzero(x, as_tuple=True, out=kiln.zeros(0, dtype=kiln.int64))


def test_copies_are_stored_in_any_dtype():
    x, wide = kiln.eye(2) * 2, kiln.zeros(2, 2, dtype=kiln.float64)
    assert kiln.cholesky(x * 2, out=wide).tolist() == [[2, 0], [0, 2]]
    assert kiln.linalg.matrix_power(x, 1, out=wide).tolist() == [[2, 0], [0, 2]]
    with pytest.raises(RuntimeError, match="expected out="):
        kiln.linalg.matrix_power(x, 2, out=wide)
    whole = kiln.zeros(2, 2, dtype=kiln.int64), kiln.zeros(2, dtype=kiln.int64)
    assert kiln.lu(x, out=whole)[0].tolist() == [[2, 0], [0, 2]]


@pytest.mark.parametrize("n", [5, 200_000])
def test_quotients_of_half_floats_are_rounded_before_they_are_cut_off(n):
    x, y = (kiln.full((n,), v, dtype=kiln.bfloat16) for v in (36.0, 2.125))  # 16.94, or 17

    def cut(x, y):
        return kiln.div(x, y, rounding_mode="trunc")

    assert cut(x, y).tolist() == kiln.compile(cut)(x, y).tolist() == [17.0] * n


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


def test_what_expand_gave_is_written_to_where_elements_have_places_of_their_own():
    x = kiln.arange(6.0).reshape(2, 3)
    x.expand(1, 2, 3).add_(1)
    x[:1].expand(4, 3)[2].mul_(10)
    x[0].expand(5, 3)[1, 2] = 7
    assert x.tolist() == [[10, 20, 7], [4, 5, 6]]
    rows = x[:1].expand(4, 3)
    for call in (lambda: rows.add_(1), lambda: rows.copy_(kiln.zeros(4, 3)), lambda: rows.sqrt_()):
        refused(call)
    refused(lambda: rows.__setitem__(..., 1))
    refused(lambda: x.as_strided((2, 2), (0, 1)).add_(1))
    nothing = kiln.zeros(0, 1, 2).expand(0, 3, 2)  # seed 10009958
    assert nothing.eq_(1).add_(nothing).copy_(nothing) is nothing
    wrote = kiln.compile(lambda x: x.unfold(-1, 1, 2).eq_(1).sum() + x.sum())(kiln.zeros(0, 5))
    assert wrote == 0
    version = x._version
    assert rows.fill_(3).shape == (4, 3)
    assert x.tolist() == [[3, 3, 3], [4, 5, 6]]
    assert x._version > version
    rows.zero_()
    assert x[0].tolist() == [0, 0, 0]


def test_attention_without_a_dimension_of_heads_keeps_copies():
    q, k, v = (kiln.ones(2, 3, 4, requires_grad=True) for _ in range(3))
    a, b = q.clone(), k.clone()
    out = kiln.nn.functional.scaled_dot_product_attention(a, b, v)
    with kiln.no_grad():
        a.zero_()
        b.zero_()
    out.mul_(2)
    out.sum().backward()
    assert v.grad.tolist() == [[[2.0] * 4] * 3] * 2


@pytest.mark.parametrize("out", [kiln.empty(2), kiln.empty(0), (kiln.empty(0),)], ids=len)
def test_several_results_take_as_many_tensors(out):
    for call in (
        lambda: kiln.frexp(kiln.ones(3), out=out),
        lambda: kiln.linalg.qr(kiln.ones(3, 3), out=out),
    ):
        with pytest.raises(TypeError, match="tuple of 2 tensors"):
            call()


def test_what_a_number_is_divided_by_may_be_written_to():
    x = kiln.tensor([2.0, 4.0], requires_grad=True)
    y = x.clone()
    z = 8 / y
    y.add_(1)
    z.mul_(1)
    z.sum().backward()
    assert x.grad.tolist() == [-2, -0.5]
