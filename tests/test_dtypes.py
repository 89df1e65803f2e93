"""Element types: promotion, casting, limits."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
from kiln import dtypes as dt
from kiln.tensor import wrap


def test_dtypes_are_singletons():
    assert pickle.loads(pickle.dumps(kiln.float32)) is kiln.float32
    assert copy.deepcopy(kiln.bool) is kiln.bool
    assert kiln.float is kiln.float32
    assert kiln.long is kiln.int64
    assert repr(kiln.bfloat16) == "kiln.bfloat16"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (float, dt.float32), (int, dt.int64), (bool, dt.bool_), (complex, dt.complex64), ("int8", dt.int8),
        (np.float64, dt.float64), (np.dtype(">f4"), dt.float32), (dt.uint16, dt.uint16),
    ],
)  # fmt: skip
def test_as_dtype(given, expected):
    assert dt.as_dtype(given) is expected


@pytest.mark.parametrize("bad", ["float31", object, "U3", 3])
def test_what_is_not_a_dtype(bad):
    with pytest.raises(TypeError, match="not an element type"):
        dt.as_dtype(bad)


def test_default_dtype():
    kiln.set_default_dtype(kiln.float64)
    try:
        assert kiln.tensor(1.5).dtype is kiln.float64
        assert (kiln.tensor(1) * 1.5).dtype is kiln.float64
    finally:
        kiln.set_default_dtype(kiln.float32)
    with pytest.raises(TypeError, match="floating-point"):
        kiln.set_default_dtype(kiln.int64)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (dt.uint8, dt.int8, dt.int16), (dt.float16, dt.bfloat16, dt.float32), (dt.int64, dt.float16, dt.float16),
        (dt.float64, dt.complex64, dt.complex128), (dt.bool_, dt.uint8, dt.uint8), (dt.uint32, dt.int8, dt.int64),
    ],
)  # fmt: skip
def test_promotion(a, b, expected):
    assert kiln.promote_types(a, b) is expected
    assert kiln.promote_types(b, a) is expected


def test_dimensions_outrank_scalars():
    x = kiln.ones(3, dtype=kiln.float16)
    assert (x + 1.5).dtype is kiln.float16
    assert (x + kiln.tensor(1.5, dtype=kiln.float64)).dtype is kiln.float16
    assert (x + 1j).dtype is kiln.complex64
    assert (kiln.ones(3, dtype=kiln.int32) + 1.5).dtype is kiln.float32
    assert (kiln.ones(3, dtype=kiln.uint8) + 300).dtype is kiln.uint8


def test_limits():
    assert kiln.finfo(kiln.bfloat16).eps == 0.0078125
    assert kiln.finfo().max == np.finfo(np.float32).max
    assert kiln.iinfo(kiln.uint8).max == 255
    with pytest.raises(TypeError, match="iinfo"):
        kiln.finfo(kiln.int8)
    with pytest.raises(TypeError, match="finfo"):
        kiln.iinfo(kiln.float32)


@pytest.mark.peers
def test_promotion_is_torchs():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")

    def of(d):
        return getattr(torch, d.name)

    for a, b in itertools.product(dt.ALL, dt.ALL):
        try:
            want = torch.promote_types(of(a), of(b))
        except RuntimeError:  # torch has no promotion of uint16, uint32, uint64; Kiln has
            pass
        else:
            assert of(kiln.promote_types(a, b)) is want, (a, b)
        for x, y in itertools.product([(), (2,)], [(), (2,)]):
            left, right = wrap(np.zeros(x, a.np)), wrap(np.zeros(y, b.np))
            try:
                want = torch.result_type(torch.zeros(x, dtype=of(a)), torch.zeros(y, dtype=of(b)))
            except RuntimeError:
                continue
            if want is torch.complex32:  # half-precision complex numbers: Kiln takes the next wider
                want = torch.complex64
            assert of(kiln.result_type(left, right)) is want, (a, x, b, y)
        assert kiln.can_cast(a, b) == torch.can_cast(of(a), of(b)), (a, b)
    for d, s in itertools.product(dt.ALL, [True, 1, 1.5, 1j]):
        want = torch.result_type(torch.zeros(2, dtype=of(d)), s)
        if want is torch.complex32:
            want = torch.complex64
        assert of(kiln.result_type(wrap(np.zeros(2, d.np)), s)) is want, (d, s)


RUNS = pytest.mark.parametrize("run", [lambda f: f, kiln.compile], ids=["eager", "compiled"])
BYTES = kiln.tensor([1, 2, 44], dtype=kiln.uint8)


@RUNS
@pytest.mark.parametrize("by", [255, 256, 300, -1])
def test_integers_divide_as_floats_by_numbers_beyond_their_range(run, by):
    assert run(lambda x: x / by)(BYTES).tolist() == (BYTES.float() / by).tolist()
    assert run(lambda x: by / x)(BYTES).tolist() == (by / BYTES.float()).tolist()


@RUNS
def test_numbers_beyond_the_range_of_an_integer_wrap_in_arithmetic(run):
    """PyTorch's results."""
    assert run(lambda x: x + 300)(BYTES).tolist() == [45, 46, 88]
    assert run(lambda x: (x * 300).div(256 + 5, rounding_mode="floor"))(BYTES).tolist() == [
        8,
        17,
        28,
    ]
    assert run(lambda x: 300**x)(BYTES).tolist() == [44, 144, 0]
    assert run(lambda x: x.clamp(min=-255))(BYTES).tolist() == [1, 2, 44]
    assert run(lambda x: x.clone().fill_(-1))(BYTES).tolist() == [255] * 3


@RUNS
@pytest.mark.parametrize("fn", [
    lambda x: x.clamp(max=300), lambda x: x.clamp(-256, 3), lambda x: x.clone().clamp_(max=300), lambda x: x**300,
    lambda x: x.clone().fill_(300), lambda x: x.clone().__setitem__(0, 300), lambda x: x.clone().fill_(float("nan")),
    lambda x: x.masked_fill(x > 1, 300), lambda x: x**-1,
])  # fmt: skip
def test_numbers_that_are_no_elements_of_an_integer_dtype_are_refused(run, fn):
    with pytest.raises(RuntimeError, match=r"without overflow|negative integer powers"):
        run(fn)(BYTES)


def test_numbers_beside_integers_and_floats():
    small, large = kiln.tensor([3, 100], dtype=kiln.int8), kiln.tensor([3, 2**62])
    assert (small < 300).tolist() == [True, False]  # 300 is 44 there
    assert (large + 1).tolist() == [4, 2**62 + 1]
    assert (large + 2.0).dtype is kiln.float32
    assert (large * True).dtype is kiln.int64
    assert (large / 2).dtype is kiln.float32
    with pytest.raises(TypeError):
        kiln.maximum(large, 2)
    assert kiln.tensor([1.0, -9.0]).clamp(-1, 0.1).dtype is kiln.float32


def _half(a, d):
    with np.errstate(over="ignore"):
        return a.astype(d.np).astype(np.float32)


@in_turn("d", [kiln.float16, kiln.bfloat16], count=[300, 200_000])
def test_numbers_beside_half_floats_keep_their_digits_in_products_only(d, count):
    a = np.random.default_rng(0).standard_normal(count).astype(np.float32) * 3
    x, a, n = kiln.tensor(a).to(d), _half(a, d), np.float32(0.7)
    held = _half(n, d)  # the number as a half float
    zero_d = kiln.tensor(0.7)
    cases = [
        (lambda x: x * 0.7, a * n),
        (lambda x: 0.7 * x, a * n),
        (lambda x: x / 0.7, a / n),
        (lambda x: x * zero_d, a * n),
        (lambda x: zero_d * x, a * held),
        (lambda x: 0.7 / x, _half(1 / a, d) * n),
        (lambda x: x.clone().mul_(0.7), a * n),
        (lambda x: x.clone().div_(0.7), a / n),
        (lambda x: x + 0.7, a + held),
        (lambda x: x.clone().sub_(0.7), a - held),
        (lambda x: x % 0.7, np.remainder(a, held)),
        (lambda x: x + zero_d, a + held),
        (lambda x: x.add(x, alpha=0.7), a + a * held),
        (lambda x: kiln.rsub(x, x, alpha=0.7), a - a * held),
        (lambda x: x < 0.7, a < held),
    ]
    for i, (fn, want) in enumerate(cases):
        want = want if want.dtype == bool else _half(want, d)
        for run in (fn, kiln.compile(fn)):
            if i == 5 and run is not fn:
                continue  # in one kernel 1 / x is not rounded in between
            got = run(x)
            assert got.dtype is (kiln.bool if want.dtype == bool else d)
            got = got.numpy() if want.dtype == bool else got.float().numpy()
            assert (got != want).mean() < 5e-3, (i, run is fn)  # a multiply-add rounds once


def test_a_number_over_a_tensor_keeps_one_over_it():
    x = kiln.tensor([2.0, 4.0], requires_grad=True)
    y = x * 1
    z = 3 / y
    y.zero_()  # 1 / y is what the gradient needs
    z.sum().backward()
    assert x.grad.tolist() == [-0.75, -0.1875]
    assert (1 / kiln.tensor([2, 4])).tolist() == [0.5, 0.25]
    assert math.isnan((0.0 / kiln.tensor(0.0)).item())
    with pytest.raises(TypeError):
        "a" / kiln.ones(2)


WRITES = {
    "fill_": lambda x, v: x.fill_(v), "ints": lambda x, v: x.__setitem__(0, v), "mask": lambda x, v: x.__setitem__(x > 0, v),
    "masked_fill": lambda x, v: x.masked_fill(x > 0, v), "index_fill": lambda x, v: x.index_fill(0, kiln.tensor([0]), v),
    "full": lambda x, v: kiln.full((2,), v, dtype=x.dtype), "where": lambda x, v: kiln.where(x > 0, x, v),
    "pad": lambda x, v: kiln.nn.functional.pad(x, (1, 1), value=v), "diagonal": lambda x, v: x.view(2, 2).fill_diagonal_(v),
}  # fmt: skip


@pytest.mark.parametrize("write", WRITES)
def test_a_number_past_float32_is_not_written_as_infinity(write):
    """PyTorch asks so of float32 (and complex64) alone."""
    x = kiln.ones(4)
    for value in (1e39, -1e39):
        with pytest.raises(RuntimeError, match="without overflow"):
            WRITES[write](x, value)
        with pytest.raises(RuntimeError, match="without overflow"):
            kiln.compile(WRITES[write])(x.clone(), value)
        assert (x == 1).all()
        assert x._version == 0
    for value in (float("inf"), -float("inf"), float("nan"), 3.4e38, True, 7):
        WRITES[write](kiln.ones(4), value)
    for wide in (kiln.float64, kiln.float16, kiln.bfloat16):
        WRITES[write](kiln.ones(4, dtype=wide), 1e39)
    assert kiln.tensor(1e39) == float("inf")
    assert (x + 1e39).isinf().all()


@pytest.mark.parametrize("compiled", [False, True])
def test_factors_of_sums_are_of_the_sums_kind(compiled):
    x, y = kiln.tensor([1, 2]), kiln.tensor([1.0, 2.0])
    calls = [
        lambda x, a: x.add(x, alpha=a), lambda x, a: x.sub(x, alpha=a), lambda x, a: x.add(1, alpha=a),
        lambda x, a: x.add_(x, alpha=a), lambda x, a: x.sub_(1, alpha=a), lambda x, a: kiln.rsub(x, x, alpha=a),
    ]  # fmt: skip
    for call in calls:
        run = kiln.compile(call) if compiled else call
        with pytest.raises(RuntimeError, match="must not be a floating point"):
            run(x, 0.5)
        with pytest.raises(RuntimeError, match="must not be a complex"):
            run(y, 2j)
        assert x.tolist() == [1, 2]
        assert y.tolist() == [1, 2]
    assert kiln.add(x, y, alpha=0.5).tolist() == [1.5, 3]
