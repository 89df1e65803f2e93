"""Scan kernels for every instruction set of this host, against NumPy's accumulations."""

import numpy as np
import pytest
from harness import levels
from nest_reference import DTYPE, launch, values
from tests.turns import in_turn

from kiln.backends.cpu.scan import Scan, emit
from kiln.compile.loopnest import DTYPES, FLOATS
from kiln.errors import KilnError


def check(isa, kind, shape, source, dtype):
    x = values(source, shape, -3, 3)
    if kind == "prod" and source in FLOATS:
        x = values(source, shape, 0.9, 1.1)
    out = np.zeros(shape, DTYPE[dtype])
    kernel = emit(Scan(kind, *shape, source, dtype), isa)
    launch(kernel, isa, [x, out], order=lambda n: reversed(range(n)))
    wide = (
        (np.float64 if kind == "sum" or dtype == "f64" else np.float32)
        if dtype in FLOATS
        else DTYPE[dtype]
    )
    f = np.cumsum if kind == "sum" else np.cumprod
    with np.errstate(over="ignore"):
        want = f(x.astype(DTYPE[dtype]).astype(wide), 1).astype(wide)
        if dtype == "bf16":
            want = want.astype(np.float32)
    np.testing.assert_array_equal(out, want.astype(DTYPE[dtype]))
    return kernel


SHAPES = [(1, 1, 1), (1, 50, 1), (11, 7, 1), (3, 9, 5), (2, 4, 37), (1, 6, 100), (0, 3, 2), (2, 0, 3), (2, 3, 0)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["sum", "prod"])
def test_shapes(isa, kind, shape):
    check(isa, kind, shape, "f32", "f32")
    check(isa, kind, shape, "i64", "i64")


@in_turn("isa", levels(), dtype=[d for d in DTYPES if d != "bool"])
def test_dtypes(isa, dtype):
    for kind in ("sum", "prod"):
        check(isa, kind, (3, 20, 1), dtype, dtype)
        check(isa, kind, (2, 20, 19), dtype, dtype)


@pytest.mark.parametrize("source", ["bool", "i8", "u8", "i32"])
def test_small_integers_into_i64(isa, source):
    check(isa, "sum", (3, 300, 1), source, "i64")
    check(isa, "sum", (2, 20, 19), source, "i64")


@pytest.mark.parametrize(
    "shape", [(997, 300, 1), (300, 31, 29), (1, 50, 5003), (5, 1, 60001)], ids=str
)
def test_several_tasks(isa, shape):
    assert check(isa, "sum", shape, "f32", "f32").ntasks > 1


def test_a_single_long_row_keeps_its_precision(isa):
    n = 200_000
    x, out = np.full(n, 0.1, np.float32), np.zeros(n, np.float32)
    launch(emit(Scan("sum", 1, n, 1, "f32", "f32"), isa), isa, [x, out])
    np.testing.assert_allclose(out[-1], n * np.float64(np.float32(0.1)), rtol=1e-7)


def test_bools_do_not_add(isa):
    with pytest.raises(KilnError, match="no sum of bool"):
        emit(Scan("sum", 1, 3, 1, "bool", "bool"), isa)
