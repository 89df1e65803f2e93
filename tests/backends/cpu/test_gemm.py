"""Matrix products against NumPy in float64: every form, stride pattern, dtype and level."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest
from harness import address, guarded, levels, margins_untouched, run, run_threaded, strides, unique
from tests.turns import in_turn

from kiln.backends.cpu.gemm import Gemm, emit, pack_ahead
from kiln.backends.cpu.microkernel import Site
from kiln.backends.cpu.tasks import Grid
from kiln.backends.cpu.text import Text, load_scalar, load_vector, splat
from kiln.errors import KilnError

DTYPES = {"f32": np.float32, "f64": np.float64, "bf16": ml_dtypes.bfloat16}
TOLERANCE = {"f32": 2e-6, "f64": 1e-14, "bf16": 1e-2}
rng = np.random.default_rng(0)


def random(shape, dtype: str) -> np.ndarray:
    return rng.standard_normal(shape).astype(DTYPES[dtype])


def check(isa, a, b, dtypes=("f32", "f32", "f32"), c=None, epilogue=None, extra=(), want=None):
    """Multiply (batch..., m, k) by (batch..., k, n) and compare."""
    *batch, m, k = a.shape
    n = b.shape[-1]
    out = guarded((*batch, m, n), DTYPES[dtypes[2]]) if c is None else c
    sa, sb, sc = strides(a), strides(b), strides(out)
    gemm = Gemm(
        m, n, k, sa[-2:], sb[-2:], sc[-2:], *dtypes,
        tuple(batch), sa[:-2], sb[:-2], sc[:-2], epilogue,
    )  # fmt: skip
    run(emit(gemm, isa, unique(gemm, isa.name)), isa, [out, a, b, *extra])
    if want is None:
        want = a.astype(np.float64) @ b.astype(np.float64)
    scale = np.sqrt(max(k, 1)) * (
        8 if epilogue else 4
    )  # epilogues double the product, and its error
    assert np.abs(out.astype(np.float64) - want).max(initial=0) <= TOLERANCE[dtypes[2]] * scale
    if c is None:
        assert margins_untouched(out)
    return out


def operand(rows: int, cols: int, transposed: bool, dtype: str = "f32") -> np.ndarray:
    return random((cols, rows), dtype).T if transposed else random((rows, cols), dtype)


SHAPES = [
    (1, 1, 1), (5, 7, 3), (16, 16, 16), (33, 50, 17), (64, 64, 64), (31, 129, 100),
    (1, 100, 50), (2, 333, 9), (3, 64, 8), (3, 40, 27), (4, 77, 100), (4, 3, 40),
    (100, 1, 64), (101, 2, 65), (37, 4, 130), (6, 1, 5),
]  # fmt: skip


# each pair has each operand as it is and transposed
FORMS = list(itertools.product(levels(), [(0, 3), (1, 2)]))


@in_turn("isa,forms", FORMS, shape=SHAPES)
def test_transpositions(isa, forms, shape):
    m, n, k = shape
    for form in forms:
        check(isa, operand(m, k, bool(form & 1)), operand(k, n, bool(form & 2)))


@in_turn("isa", levels(), form=range(4))
def test_large_enough_for_every_level_of_blocking(isa, form):
    # more than one block of K, of rows, of packed A, and B too large to be read raw
    check(isa, operand(210, 1100, bool(form & 1)), operand(1100, 203, bool(form & 2)))


@in_turn(
    "isa,forms", FORMS, shape=[(9, 30, 20), (60, 70, 500), (1, 50, 30), (3, 9, 40), (50, 2, 33)]
)
def test_f64(isa, forms, shape):
    m, n, k = shape
    for form in forms:
        a, b = operand(m, k, bool(form & 1), "f64"), operand(k, n, bool(form & 2), "f64")
        check(isa, a, b, ("f64",) * 3)


@in_turn(
    "isa,forms",
    FORMS,
    out=("f32", "bf16"),
    shape=[(9, 30, 20), (60, 70, 500), (1, 50, 40), (50, 2, 33)],
)
def test_bf16(isa, forms, out, shape):
    m, n, k = shape
    for form in forms:
        a, b = operand(m, k, bool(form & 1), "bf16"), operand(k, n, bool(form & 2), "bf16")
        check(isa, a, b, ("bf16", "bf16", out))
    check(isa, operand(m, k, False, "f32"), operand(k, n, False, "bf16"), ("f32", "bf16", out))


@in_turn(
    "isa,forms",
    FORMS,
    shape=[(40, 100, 64), (20, 49, 2), (210, 30, 36), (300, 120, 600)],
    out=("f32", "bf16"),
)
def test_bf16_sums_of_whole_numbers_are_exact(isa, forms, shape, out):
    m, n, k = shape
    for form in forms:
        a, b = (
            np.sign(operand(rows, cols, bool(form & bit), "f32")).astype(DTYPES["bf16"])
            for rows, cols, bit in ((m, k, 1), (k, n, 2))
        )
        got = check(isa, a, b, ("bf16", "bf16", out))
        want = (a.astype(np.float32) @ b.astype(np.float32)).astype(DTYPES[out])
        np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


def test_bf16_where_pairs_are_torn(isa):
    """An odd depth, odd rows, odd batches, and memory that ends with the operand."""
    for k, gap, batch in ((33, 0, 0), (34, 1, 0), (34, 0, 1), (34, 1, 1)):
        for form in range(4):
            shapes = [(3, 30, k + gap), (3, k + gap, 60)]
            shapes = [
                s[:1] + s[:0:-1] if form & bit else s for s, bit in zip(shapes, (1, 2), strict=True)
            ]
            flat = [random(3 * (s[1] * s[2] + batch), "bf16").reshape(3, -1) for s in shapes]
            a, b = (
                f[:, : s[1] * s[2]].reshape(s) if not batch else
                np.lib.stride_tricks.as_strided(f, s, (f.strides[0], s[2] * 2, 2))
                for f, s in zip(flat, shapes, strict=True)
            )  # fmt: skip
            a = (a.transpose(0, 2, 1) if form & 1 else a)[:, :, :k]
            b = (b.transpose(0, 2, 1) if form & 2 else b)[:, :k]
            check(isa, a, b, ("bf16", "bf16", "f32"))


@in_turn(
    "isa,forms",
    FORMS,
    shape=[(9, 30, 20), (60, 49, 500), (1, 50, 40), (50, 2, 33), (300, 130, 64), (5, 3, 0)],
)
def test_i8_is_exact(isa, forms, shape):
    m, n, k = shape
    for form in forms:
        a, b = (
            rng.integers(-128, 128, (c, r) if form & bit else (r, c)).astype(np.int8)
            for r, c, bit in ((m, k, 1), (k, n, 2))
        )
        a, b = (a.T if form & 1 else a), (b.T if form & 2 else b)
        a[:1], b[:, :1] = -128, -128
        out = guarded((m, n), np.int32)
        gemm = Gemm(m, n, k, strides(a), strides(b), strides(out), "i8", "i8", "i32")
        run(emit(gemm, isa, unique(gemm, isa.name)), isa, [out, a, b])
        np.testing.assert_array_equal(out, a.astype(np.int32) @ b.astype(np.int32))
        assert margins_untouched(out)


def test_i8_at_any_address(isa):
    # groups of four begin wherever a view of bytes does
    data = rng.integers(-128, 128, 40 * 64 + 3).astype(np.int8)
    b = rng.integers(-128, 128, (64, 50)).astype(np.int8)
    for start in range(4):
        a = data[start : start + 40 * 64].reshape(40, 64)
        out = guarded((40, 50), np.int32)
        gemm = Gemm(40, 50, 64, strides(a), strides(b), strides(out), "i8", "i8", "i32")
        run(emit(gemm, isa, unique(gemm, isa.name)), isa, [out, a, b])
        np.testing.assert_array_equal(out, a.astype(np.int32) @ b.astype(np.int32))


def test_bf16_rounding_keeps_nan_and_infinity(isa):
    a = np.array([[np.nan, 0], [np.inf, 0], [-np.inf, 1], [1, 2**-9]], np.float32)
    out = guarded((4, 2), DTYPES["bf16"])
    gemm = Gemm(4, 2, 2, (2, 1), (2, 1), (2, 1), "f32", "f32", "bf16")
    run(emit(gemm, isa, unique("nan", isa.name)), isa, [out, a, np.ones((2, 2), np.float32)])
    want = a.sum(1).astype(DTYPES["bf16"]).astype(np.float32)
    np.testing.assert_array_equal(out.astype(np.float32), np.stack([want, want], 1))


def test_zero_negative_and_odd_strides(isa):
    base = random((60, 90), "f32")
    a, b = base[::-2, ::-3], base.T[::3, ::2]  # 30 x 30 each
    check(isa, a, b)
    check(isa, np.broadcast_to(base[:1], (20, 90)), np.broadcast_to(base.T[:, :1], (90, 25)))
    check(isa, a[:2], b)
    wide = np.full((30, 3, 60), -77, np.float32)
    check(isa, a, b, c=wide[:, 1, ::2])
    assert (wide[:, 0] == -77).all()
    assert (wide[:, 2] == -77).all()
    assert (wide[..., 1::2] == -77).all()
    check(isa, a, b, c=np.zeros((30, 30), np.float32).T)
    check(isa, a[:, :0], b[:0], c=np.zeros((30, 30), np.float32).T)


@pytest.mark.parametrize("shape", [(0, 5, 5), (5, 0, 5), (5, 6, 0), (1, 40, 0), (0, 0, 0)], ids=str)
def test_empty(isa, shape):
    m, n, k = shape
    check(isa, np.zeros((m, k), np.float32), np.zeros((k, n), np.float32))


def test_batches(isa):
    a, b = random((3, 4, 10, 20), "f32"), random((3, 4, 20, 30), "f32")
    check(isa, a, b)
    check(isa, a, np.broadcast_to(b[:1, :1], b.shape))
    check(isa, a.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), b)
    check(isa, np.broadcast_to(a[:, :1], a.shape), b.transpose(0, 1, 3, 2).copy().swapaxes(2, 3))
    check(isa, random((5, 1, 20), "f32"), random((5, 20, 30), "f32"))
    check(isa, random((5, 64, 33), "f32"), random((5, 33, 70), "f32"))
    check(isa, a[:0], b[:0])


@dataclass(frozen=True)
class Affine:
    """value * scale + row[batch, r] + column[c] + residual[batch, r, c]"""

    rows: int
    columns: int
    heavy: bool = False
    dtype: str = "f32"

    def emit(self, b: Text, site: Site) -> str:
        row, column, residual = (site.extra(b, i) for i in range(3))
        size = 8 if self.dtype == "f64" else 4
        line = b.add(b.mul(site.batch, self.rows), site.row)
        scalar = load_scalar(b, b.at(row, line, size), self.dtype)
        two = b.op(f"fadd {site.vtype} {site.value}, {site.value}")
        wide = splat(b, scalar, site.element, site.lanes)
        first = b.op(f"fadd {site.vtype} {two}, {wide}")
        columns = load_vector(b, b.at(column, site.col, size), self.dtype, site.lanes, site.mask)
        place = b.at(residual, b.add(b.mul(line, self.columns), site.col), size)
        more = load_vector(b, place, self.dtype, site.lanes, site.mask)
        second = b.op(f"fadd {site.vtype} {first}, {columns}")
        return b.op(f"fadd {site.vtype} {second}, {more}")


@in_turn(
    "isa,dtype",
    list(itertools.product(levels(), ("f32", "f64"))),
    shape=[(30, 50, 20), (130, 100, 900), (2, 70, 20), (3, 9, 40), (50, 2, 33), (7, 20, 0)],
    heavy=(False, True),
)
def test_epilogue(isa, dtype, shape, heavy):
    m, n, k = shape
    a, b = random((2, m, k), dtype), random((2, n, k), dtype).swapaxes(1, 2)
    row, col, res = random((2, m), dtype), random((n,), dtype), random((2, m, n), dtype)
    want = 2 * (a.astype(np.float64) @ b) + row[..., None] + col + res
    epilogue = Affine(m, n, heavy, dtype)
    check(isa, a, b, (dtype,) * 3, None, epilogue, (row, col, res), want)
    check(isa, a, np.ascontiguousarray(b), (dtype,) * 3, None, epilogue, (row, col, res), want)


@in_turn(
    "isa,form", [(levels()[k % len(levels())], k % 4) for k in range(4 * len(levels()))],
    shape=[(32, 1024, 65), (33, 95, 402), (7, 129, 1000), (5, 300, 100)], dtype=DTYPES,
)  # fmt: skip
def test_an_operand_packed_ahead(isa, shape, dtype, form):
    m, n, k = shape
    a, b = operand(m, k, bool(form & 1), dtype), operand(k, n, bool(form & 2), dtype)
    res = random((2, m, n), dtype if dtype == "f64" else "f32")
    out = guarded((2, m, n), DTYPES[dtype])
    many = np.stack([a, a * 2])
    sa = strides(many)
    epilogue = Affine(m, n, False, dtype) if dtype != "bf16" else None
    gemm = Gemm(m, n, k, sa[1:], strides(b), (n, 1), dtype, dtype, dtype, (2,), sa[:1], (0,), (m * n,), epilogue)  # fmt: skip
    packing = pack_ahead(gemm, isa, unique("pack", gemm, isa.name))
    assert packing is not None
    raw = guarded((packing[1] + 64,), np.int8)
    where = -address(raw) % 64
    packed = raw[where : where + packing[1]]
    run(packing[0], isa, [np.zeros(1), np.zeros(1), b], workspace=packed)
    assert margins_untouched(raw)
    assert (raw[where + packing[1] :] == -77).all()
    row, col = random((2, m), dtype), random((n,), dtype)
    gemm = replace(gemm, ahead=True)
    run(emit(gemm, isa, unique(gemm, isa.name)), isa, [out, many, packed, row, col, res])
    want = many.astype(np.float64) @ b.astype(np.float64)
    if epilogue is not None:
        want = 2 * want + row[..., None] + col + res
    assert np.abs(out.astype(np.float64) - want).max() <= TOLERANCE[dtype] * np.sqrt(k) * 12
    assert margins_untouched(out)


def test_nothing_is_packed_ahead_without_need(isa):
    small, few = (40, 30, 20), (1, 900, 900)
    for m, n, k in (small, few):
        assert pack_ahead(Gemm(m, n, k, (k, 1), (n, 1), (n, 1)), isa, "none") is None
    each = Gemm(40, 300, 300, (300, 1), (300, 1), (300, 1), batch=(2,), a_batch=(0,), b_batch=(9,), c_batch=(12000,))  # fmt: skip
    assert pack_ahead(each, isa, "none") is None


def test_same_bits_on_any_number_of_threads():
    isa = levels()[-1]
    a, b = random((300, 400), "f32"), random((260, 400), "f32").T
    gemm = Gemm(300, 260, 400, strides(a), strides(b), (260, 1))
    kernel = emit(gemm, isa, unique("threads", isa.name))
    assert kernel.ntasks > 1
    results = []
    for count in (1, 2, 5):
        out = np.zeros((300, 260), np.float32)
        run_threaded(kernel, isa, [out, a, b], count)
        results.append(out.tobytes())
    assert len(set(results)) == 1


def test_split_and_workspace_depend_on_the_shape_alone():
    isa = levels()[-1]
    small = emit(Gemm(32, 32, 32, (32, 1), (32, 1), (32, 1)), isa, "s")
    large = emit(Gemm(512, 512, 512, (512, 1), (512, 1), (512, 1)), isa, "s")
    assert small.ntasks == 1
    assert large.ntasks >= 4
    assert small.workspace_bytes == 0


def test_tasks_read_little_again():
    # few rows: each task has columns of its own; few columns: each has rows of its own
    wide = Grid.cheapest(1 << 27, 1, 16, 64, row_cost=4096, col_cost=128)
    tall = Grid.cheapest(1 << 27, 1, 512, 3, row_cost=128, col_cost=4096)
    assert (wide.rows, wide.cols) == (1, 8)
    assert (tall.rows, tall.cols) == (8, 1)
    # too few rows to cut: columns are, whatever that reads again
    assert Grid.cheapest(1 << 24, 1, 1, 32, row_cost=1, col_cost=1000).ntasks == 8


def test_impossible_products_are_errors():
    isa = levels()[-1]
    with pytest.raises(KilnError, match="dtype"):
        emit(Gemm(2, 2, 2, (2, 1), (2, 1), (2, 1), "f64", "f32", "f32"), isa, "s")
    with pytest.raises(KilnError, match="batch"):
        emit(Gemm(2, 2, 2, (2, 1), (2, 1), (2, 1), batch=(3,)), isa, "s")
