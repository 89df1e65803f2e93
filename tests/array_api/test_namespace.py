"""`kiln.array_api`: what the standard's own suite does not look at (see tests/conformance/array_api.py for that)."""

from __future__ import annotations

import math

import numpy as np
import pytest

import kiln
import kiln.array_api as xp
from kiln.errors import KilnTypeError, KilnValueError


def test_a_tensor_names_the_namespace() -> None:
    x = kiln.ones(3)
    assert x.__array_namespace__() is xp
    assert x.__array_namespace__(api_version="2024.12") is xp
    with pytest.raises(KilnValueError, match="2030"):
        x.__array_namespace__(api_version="2030.12")


def test_functions_give_arrays_and_leave_their_arguments_as_they_are() -> None:
    x = kiln.ones(3)
    for y in (
        xp.asarray(x),
        xp.positive(x),
        xp.astype(x, xp.float32, copy=False),
        xp.reshape(x, (3,)),
    ):
        assert type(y) is xp.Array
        assert type(x) is kiln.Tensor
        y[0] = y[0] + 1  # the same memory
    assert x[0] == 5
    assert type(xp.asarray(x, copy=True)) is xp.Array
    assert type(x.relu()) is type(xp.asarray(x).relu()) is kiln.Tensor


def test_dtypes_promote_whatever_the_shapes() -> None:
    wide, narrow = xp.asarray(1.0, dtype=xp.float64), xp.ones((2,), dtype=xp.float32)
    assert (
        (wide + narrow).dtype
        == (narrow * wide).dtype
        == xp.where(narrow > 0, wide, narrow).dtype
        == xp.float64
    )
    assert (kiln.ones((), dtype=kiln.float64) + kiln.ones(2)).dtype is kiln.float32  # as in PyTorch
    assert (xp.ones((2,), dtype=xp.int8) + xp.ones((2,), dtype=xp.uint8)).dtype == xp.int16
    assert (2 * narrow).dtype == (narrow**2).dtype == xp.float32
    assert (narrow + 1j).dtype == xp.complex64


@pytest.mark.parametrize(
    "wrong",
    [
        lambda i, f, b: xp.add(i, f),
        lambda i, f, b: xp.multiply(i, 1.5),
        lambda i, f, b: xp.add(b, 1),
        lambda i, f, b: xp.equal(i, f),
        lambda i, f, b: xp.sqrt(i),
        lambda i, f, b: xp.sum(b),
        lambda i, f, b: xp.logical_and(i, i),
        lambda i, f, b: xp.stack([i, f]),
        lambda i, f, b: xp.result_type(1, 2.0),
        lambda i, f, b: xp.add(1, 2),
        lambda i, f, b: xp.astype(xp.astype(f, xp.complex64), xp.float32),
        lambda i, f, b: xp.asarray([1], dtype=xp.uint64) + i,
        lambda i, f, b: f.__iadd__(xp.astype(f, xp.float64)),
    ],
)
def test_what_the_standard_leaves_undefined_is_a_type_error(wrong: object) -> None:
    i, f, b = xp.asarray([1, 2]), xp.asarray([1.0, 2.0]), xp.asarray([True, False])
    with pytest.raises(KilnTypeError, match=r"received: "):
        wrong(i, f, b)  # type: ignore[operator]
    assert i[0] == 1
    assert f[0] == 1.0


def test_in_place_operators_keep_the_object_and_its_memory() -> None:
    x = xp.asarray([1.0, 2.0], dtype=xp.float64)
    alias, before = x[:1], id(x)
    x += xp.asarray(1.0, dtype=xp.float32)
    x **= 2
    assert id(x) == before
    assert type(x) is xp.Array
    assert x.tolist() == [4.0, 9.0]
    assert alias.tolist() == [4.0]


def test_size_is_a_number_and_pytorchs_method() -> None:
    x = xp.zeros((2, 3))
    assert x.size == 6
    assert x.size() == (2, 3)
    assert x.size(-1) == 3
    assert kiln.nn.Linear(3, 4)(x).shape == (2, 4)


def test_gradients_flow_through() -> None:
    x = kiln.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = xp.asarray(x)
    y = xp.sum(xp.where(y > 1, y**2, y) / xp.max(y)) + xp.linalg.vector_norm(y)
    y.backward()
    z = x.detach().requires_grad_()
    (kiln.where(z > 1, z**2, z) / z.max()).sum().add(z.norm()).backward()
    np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-6)


def test_compiled_functions_use_the_namespace() -> None:
    def f(x: kiln.Tensor) -> kiln.Tensor:
        xp = x.__array_namespace__()
        z = (x - xp.mean(x, axis=0)) / xp.std(x, axis=0, correction=1)
        return xp.concat([z, xp.ones((1, 3))]) @ xp.matrix_transpose(z)

    x = kiln.tensor(np.random.default_rng(0).normal(size=(5, 3)), dtype=kiln.float32)
    np.testing.assert_allclose(kiln.compile(f)(x).numpy(), f(x).numpy(), rtol=1e-5, atol=1e-6)


def test_limits_are_of_dtypes() -> None:
    assert xp.finfo(xp.complex128).dtype is xp.float64
    assert xp.iinfo(xp.asarray([1], dtype=xp.uint16)).max == 65535
    assert xp.isdtype(xp.uint8, ("bool", "unsigned integer"))
    assert not xp.isdtype(xp.complex64, "real floating")
    assert xp.can_cast(xp.int8, xp.int16)
    assert not xp.can_cast(xp.int8, xp.float32)
    with pytest.raises(ValueError, match="integral"):
        xp.isdtype(xp.int8, "integer")


def test_signs_and_quotients_of_what_is_no_number_or_infinite() -> None:
    assert math.isnan(xp.sign(xp.asarray(math.nan)))
    assert xp.asarray(math.inf) // 2.0 == math.inf
    assert float(xp.asarray(1.0) // -math.inf) == 0.0
    assert math.copysign(1, float(xp.full((), -0.0))) == -1


@pytest.mark.parametrize("how", [lambda f: f, kiln.compile])
def test_a_remainder_of_zero_has_the_sign_of_the_divisor(how) -> None:
    x = xp.asarray([0.0, -0.0, 6.0, -6.0])
    for divisor in (3.0, -3.0):
        zeros = how(lambda x, d=divisor: x % d)(x)
        assert [math.copysign(1, z) for z in zeros.tolist()] == [math.copysign(1, divisor)] * 4


@pytest.mark.parametrize("dtype", [xp.complex64, xp.complex128])
def test_tanh_at_infinity_has_the_sign_of_the_imaginary_part(dtype) -> None:
    z = [
        complex(re, im)
        for re in (math.inf, -math.inf)
        for im in (1.0, 2.0, 5.0, -1.0, -2.0, 0.0, -0.0)
    ]
    for fn in (xp.tanh, kiln.compile(xp.tanh)):
        for x, y in zip(z, fn(xp.asarray(z, dtype=dtype)).tolist(), strict=True):
            assert (y.real, math.copysign(1, y.imag)) == (
                math.copysign(1, x.real),
                math.copysign(1, x.imag),
            )
            assert y.imag == 0


def test_complex_numbers_are_rounded_part_by_part() -> None:
    z = kiln.tensor([1.5 - 0.5j, -0.2 + 2.7j, math.inf + 1j])
    for fn in (xp.round, kiln.compile(xp.round)):
        y = fn(z)
        assert y.dtype is kiln.complex64
        np.testing.assert_array_equal(y.numpy(), np.round(z.numpy()))
        assert math.copysign(1, float(y[0].imag)) == -1


def test_complex_functions_at_zero_and_infinity() -> None:
    inf, nan = math.inf, math.nan
    z = kiln.tensor(
        np.array(
            [
                complex(inf, 0),
                complex(-inf, inf),
                complex(inf, nan),
                complex(nan, 0),
                complex(-0.0, 0),
                1e-9j,
            ]
        )
    )
    out = kiln.expm1(z).numpy()
    np.testing.assert_array_equal(out.real[:5], [inf, -1, inf, nan, 0])
    np.testing.assert_array_equal(out.imag[[0, 3, 4]], [0, 0, 0])
    np.testing.assert_allclose(out[5], np.expm1(1e-9j), rtol=1e-12)
    assert not np.signbit(
        kiln.sgn(kiln.tensor(np.array([complex(-0.0, -0.0)]))).numpy().view(float)
    ).any()


def test_unsigned_integers_add_up_unsigned() -> None:
    x = xp.asarray([2**63, 2**62], dtype=xp.uint64)
    assert xp.sum(x).dtype == xp.cumulative_sum(x).dtype == xp.uint64
    assert int(xp.sum(x)) == 2**63 + 2**62
    assert int(xp.prod(xp.asarray([2**31, 6], dtype=xp.uint32))) == 3 * 2**32
    assert xp.arange(2**63, 2**63 + 3, dtype=xp.uint64).tolist() == [2**63, 2**63 + 1, 2**63 + 2]


def test_each_nan_is_a_value_of_its_own() -> None:
    found = xp.unique_all(xp.asarray([[math.nan, 2.0], [1.0, math.nan]]))
    assert found.values.tolist()[:2] == [1.0, 2.0]
    assert found.indices.tolist() == [2, 1, 0, 3]
    assert found.counts.tolist() == [1, 1, 1, 1]
    assert found.inverse_indices.shape == (2, 2)


def test_solving_for_stacks_of_matrices_not_of_vectors() -> None:
    a = xp.stack([xp.eye(2), 2 * xp.eye(2)])
    b = xp.asarray([[1.0, 2.0], [3.0, 4.0]])
    assert xp.linalg.solve(a, b).tolist() == [b.tolist(), (b / 2.0).tolist()]
    assert xp.linalg.solve(a, b[0]).tolist() == [[1.0, 2.0], [0.5, 1.0]]
    assert xp.linalg.solve(xp.ones((1, 1, 1)), xp.ones((1,))).shape == (1, 1)


def test_dlpack_shares_and_copies() -> None:
    x = xp.asarray([1, 2, 3])
    assert np.from_dlpack(x).tolist() == [1, 2, 3]
    a = np.arange(3.0)
    y, z = xp.from_dlpack(a), xp.from_dlpack(a, copy=True, device=kiln.device("cpu"))
    a[0] = 7
    assert (float(y[0]), float(z[0])) == (7.0, 0.0)
    with pytest.raises(ValueError, match="copy"):
        xp.asarray([1, 2], copy=False)
    with pytest.raises(ValueError, match="copy"):
        xp.reshape(xp.zeros((2, 3)).T, (6,), copy=False)


def test_dtypes_and_devices_are_told() -> None:
    info = xp.__array_namespace_info__()
    assert info.default_dtypes()["indexing"] is xp.int64
    assert set(info.dtypes(kind="unsigned integer")) == {"uint8", "uint16", "uint32", "uint64"}
    assert info.devices() == (info.default_device(),)
    assert all(hasattr(xp, name) for name in xp.__all__)


def test_operators_do_as_pytorchs_where_the_standard_defines_nothing() -> None:
    i, f, b = xp.asarray([1, 2]), xp.asarray([1.5, 2.0]), xp.asarray([True, False])
    assert (i + f).tolist() == [2.5, 4.0]
    assert (f * b).tolist() == (b * f).tolist() == [1.5, 0.0]
    assert (i == f).tolist() == [False, True]
    assert (f == None) is False  # noqa: E711
    assert (
        kiln.nn.functional.cross_entropy(xp.asarray([[1.0, 2.0]]), xp.asarray([1])).dtype
        is kiln.float32
    )


def test_one_program_of_many_functions() -> None:
    """What capture makes of the namespace's own code is what it does in eager mode."""

    def many(x: kiln.Tensor, i: kiln.Tensor) -> list[kiln.Tensor]:
        x, i = xp.asarray(x), xp.asarray(i)
        y = xp.asarray(x, copy=True)
        y[::-2, 1] = xp.asarray([1.0, 2.0])
        y += 1
        y *= xp.asarray(2.0, dtype=xp.float32)
        u = xp.astype(i, xp.uint16)
        return [
            y, x[::-1, ::-2], x[i, 0], x[0], xp.sum(u, axis=0), xp.prod(u), xp.sum(x, axis=(), dtype=xp.float64),
            xp.max(x, axis=(0, 1)), xp.std(x, axis=1, keepdims=True), xp.any(x > 1, axis=0), xp.count_nonzero(x, axis=1),
            xp.cumulative_sum(u, include_initial=True), xp.sort(x, axis=0, descending=True), xp.argsort(x), xp.argmax(x, axis=1),
            xp.take(x, i, axis=0), xp.take_along_axis(x, xp.argsort(x, axis=0) - 3, axis=0), xp.clip(x, max=0.5, min=x * 0.5 - 1.0),
            xp.searchsorted(xp.sort(x[0]), x[1]), xp.roll(x, (1, -1), axis=(0, 1)), xp.repeat(x, 2, axis=1), xp.tile(x, (2, 1, 1)),
            xp.diff(x, append=xp.zeros((3, 1))), xp.concat([x, x], axis=None), xp.expand_dims(x, (0, -1)), xp.sign(x) // xp.e,
            xp.linalg.vecdot(x, x), xp.linalg.matrix_norm(x), xp.linalg.trace(u[:, None] * u), xp.fft.rfft(x, n=6),
            xp.isin(i, 1), xp.broadcast_to(xp.arange(2, dtype=xp.int8), (3, 2)), xp.eye(2, 3, k=1), xp.linspace(0, 1, 4, endpoint=False),
        ]  # fmt: skip

    r = np.random.default_rng(0)
    given = kiln.tensor(r.normal(size=(3, 4)), dtype=kiln.float32), kiln.tensor([2, 0, 1])
    for got, want in zip(kiln.compile(many)(*given), many(*given), strict=True):
        assert got.dtype is want.dtype
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)
