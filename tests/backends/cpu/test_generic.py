"""Products whose sizes are arguments: against exact sums, at every level, inside their buffers, for every stride."""

from __future__ import annotations

import itertools
import threading

import ml_dtypes
import numpy as np
import pytest
from harness import guarded, levels, margins_untouched
from tests.turns import in_turn

from kiln.backends.cpu import cache, products
from kiln.backends.cpu.isa import host_isa
from kiln.config import context
from kiln.runtime import threads as pool

DTYPES = {
    "f32": np.float32, "f64": np.float64, "bf16": ml_dtypes.bfloat16, "i32": np.int32, "i8": np.int8,
}  # fmt: skip
LEVELS = [isa.name for isa in levels()]
rng = np.random.default_rng(0)


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product = products.find(a, b)
    assert product is not None
    return product(a, b)


@pytest.fixture(params=LEVELS)
def level(request):
    return request.param


@pytest.fixture(autouse=True)
def _at_the_level(level):
    with context(cpu_isa=level):
        yield


def whole(shape, dtype: str) -> np.ndarray:
    """Small whole numbers, of which sums are exact."""
    return rng.integers(-5, 6, shape).astype(DTYPES[dtype])


def check(a: np.ndarray, b: np.ndarray, dtype: str, accumulate: bool = False) -> np.ndarray:
    """Multiply into guarded memory and compare exactly."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    result = np.int32 if dtype == "i8" else DTYPES[dtype]
    out = guarded((*batch, a.shape[-2], b.shape[-1]), result)
    want = a.astype(np.float64) @ b.astype(np.float64)
    if accumulate:
        start = rng.integers(-9, 10, out.shape)
        out[...] = start
        want = want + start
    product = products.find(a, b, accumulate)
    assert product is not None
    product(a, b, out)
    want = want.astype(np.float32) if dtype == "bf16" else want
    np.testing.assert_array_equal(out.astype(np.float64), want.astype(result).astype(np.float64))
    assert margins_untouched(out)
    return out


SHAPES = [
    (1, 1, 1), (5, 7, 3), (16, 16, 16), (33, 50, 17), (64, 64, 64), (31, 129, 100), (1, 100, 50),
    (2, 333, 9), (4, 77, 100), (100, 1, 64), (37, 4, 130), (41, 97, 512), (210, 203, 1100), (8, 48, 600),
]  # fmt: skip


@in_turn("level", LEVELS, dtype=DTYPES)
@in_turn("forms", [(0, 3), (1, 2)], shape=SHAPES)
def test_transpositions(forms, shape, dtype):
    m, n, k = shape
    for form in forms:
        a = whole((k, m), dtype).T if form & 1 else whole((m, k), dtype)
        b = whole((n, k), dtype).T if form & 2 else whole((k, n), dtype)
        check(a, b, dtype, accumulate=bool(form & 1))


@in_turn("level", LEVELS, dtype=DTYPES)
def test_any_strides(dtype):
    base = whole((60, 90), dtype)
    a, b = base[::-2, ::-3], base.T[::3, ::2]
    check(a, b, dtype)
    check(a[:, :7], b[:7], dtype)
    check(np.broadcast_to(base[:1], (20, 90)), np.broadcast_to(base.T[:, :1], (90, 55)), dtype)
    check(base[:, 1:78], base.T[1:78, 3:58], dtype)


@in_turn("level", LEVELS, dtype=DTYPES)
def test_batches(dtype):
    a, b = whole((2, 3, 20, 33), dtype), whole((3, 33, 50), dtype)
    check(a, b, dtype)
    check(a, b[0], dtype)
    check(a[:, :1], b, dtype)
    check(a.transpose(1, 0, 2, 3)[::-1], b[:, None], dtype)
    check(a[0, 0], b, dtype)
    check(whole((40, 3, 64), dtype), whole((40, 64, 70), dtype), dtype)


@in_turn("level", LEVELS, dtype=["f32", "f64"])
def test_few_rows(dtype):
    """Every tile and blocks of them, last groups of columns that begin within the ones before, part of a vector left."""
    for rows, n, k in itertools.product(range(1, 21), (8, 11, 70), (16, 23, 129)):
        x, w, bias = whole((rows, k), dtype), whole((n, k), dtype), whole((n,), dtype)
        for start in (None, bias):
            got = products.few(x[None], w, start)
            if got is None:  # a level of few registers has kernels for fewer
                assert rows > 4
                continue
            want = x @ w.T if start is None else x @ w.T + start
            np.testing.assert_array_equal(got, want[None])
            plan, out = (
                products.FewRows(x, w, start is not None, host_isa()),
                guarded((rows, n), x.dtype),
            )
            plan.call.function(out, x, w, w if start is None else start)
            np.testing.assert_array_equal(out, want)
            assert margins_untouched(out)


def test_few_rows_are_not_taken_where_they_lie_otherwise():
    x, w, bias = whole((3, 32), "f32"), whole((40, 32), "f32"), whole((40,), "f32")
    assert products.few(x, w, bias) is not None
    for wrong in (
        (x[:, ::2], w[:, ::2].copy(), bias), (x, w.T.copy().T, bias), (x, w, whole((80,), "f32")[::2]),
        (x[:, :16].copy(), w, bias), (x[:0], w, bias), (x[:, :0], w[:, :0], None), (x, w[:3], bias[:3]),
    ):  # fmt: skip
        assert products.few(*wrong) is None


def test_nothing_is_compiled_for_a_shape_that_is_new():
    multiply(whole((9, 9), "f32"), whole((9, 9), "f32"))
    products.few(whole((3, 32), "f32"), whole((40, 32), "f32"), None)
    multiply(whole((9, 9), "f32"), whole((9, 9), "f32"))
    before = cache.stats.compiles
    for n in (11, 130, 517):
        check(whole((n, n + 1), "f32"), whole((n + 1, n + 2), "f32"), "f32")
        products.few(whole((3, n + 20), "f32"), whole((n, n + 20), "f32"), None)
    assert cache.stats.compiles == before


def test_the_same_bits_on_any_number_of_threads():
    a, b = rng.standard_normal((2, 300, 300))
    a, b = a.astype(np.float32), b.astype(np.float32)
    before, found = pool.get_num_threads(), set()
    try:
        for n in (1, 2, 3):
            pool.set_num_threads(n)
            few = products.few(a[:7], b, None)
            assert few is not None
            found.add((multiply(a, b).tobytes(), few.tobytes()))
    finally:
        pool.set_num_threads(before)
    assert len(found) == 1


def test_python_threads_that_multiply_the_same_shape_at_once():
    pairs = [(whole((130, 140), "f32"), whole((140, 150), "f32")) for _ in range(4)]
    wrong: list[int] = []

    def work(i: int) -> None:
        a, b = pairs[i]
        want = a @ b
        for _ in range(50):
            if not np.array_equal(multiply(a, b), want):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong


def test_what_has_no_kernel_is_not_taken():
    a = np.zeros((4, 4), np.float32)
    assert products.find(a.astype(np.int64), a.astype(np.int64)) is None
    assert products.find(a[:0], a) is None
    packed = np.zeros(16, [("x", "i1"), ("y", "f4")])["y"].reshape(4, 4)  # 5 bytes apart
    assert products.find(packed, packed) is None
