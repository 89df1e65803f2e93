"""Sort kernels for every instruction set of this host, against NumPy's stable sort."""

import numpy as np
import pytest
from harness import levels
from nest_reference import DTYPE, launch, rng, values
from tests.turns import in_turn

from kiln.backends.cpu.sort import Sort, emit
from kiln.compile.loopnest import DTYPES, FLOATS
from kiln.errors import KilnError


def order_of(x, descending):
    x = x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x
    if not descending:
        return np.argsort(x, axis=1, kind="stable")
    return x.shape[1] - 1 - np.argsort(x[:, ::-1], axis=1, kind="stable")[:, ::-1]


def check(isa, x, dtype, descending, keep=None):
    rows, n = x.shape
    k = n if keep is None else keep
    out, where = np.zeros((rows, k), x.dtype), np.full((rows, k), -1)
    kernel = emit(Sort(rows, n, dtype, descending, keep), isa)
    launch(kernel, isa, [x, out, where], order=lambda n: reversed(range(n)))
    want = order_of(x, descending)[:, :k]
    np.testing.assert_array_equal(where, want)
    bits = f"u{x.dtype.itemsize}"
    np.testing.assert_array_equal(
        out.view(bits), np.take_along_axis(np.ascontiguousarray(x).view(bits), want, 1)
    )
    return kernel


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 16, 33, 64, 129, 300, 1000])
def test_any_length(isa, n, descending):
    x = np.round(values("f32", (4, n)), 1)  # with equal ones
    check(isa, x, "f32", descending)


@in_turn("isa", levels(), descending=[False, True], dtype=DTYPES)
def test_dtypes(isa, dtype, descending):
    for n in (20, 400):
        check(isa, values(dtype, (3, n)), dtype, descending)
        if dtype not in FLOATS and dtype != "bool":
            info = np.iinfo(DTYPE[dtype])
            x = rng().integers(info.min, info.max, (2, n), DTYPE[dtype], endpoint=True)
            check(isa, x, dtype, descending)


@pytest.mark.parametrize("dtype", sorted(FLOATS))
def test_nans_zeros_and_infinities(isa, dtype):
    special = np.array(
        [np.nan, -np.nan, 0.0, -0.0, np.inf, -np.inf, 1e-7, -1e-7, 3.0], DTYPE[dtype]
    )
    for n in (31, 500):
        x = special[rng().integers(0, len(special), (5, n))]
        check(isa, x, dtype, False)
        check(isa, x, dtype, True)


def test_first_few_only(isa):
    for n, keep in ((10, 3), (64, 1), (700, 5), (700, 0)):
        check(isa, values("f32", (6, n)), "f32", True, keep)


def test_several_tasks(isa):
    assert check(isa, values("f32", (3000, 16)), "f32", True, 2).ntasks > 1
    assert check(isa, rng().integers(0, 9, (50, 1000)), "i64", False).ntasks > 1


def test_nothing_to_sort(isa):
    check(isa, np.zeros((0, 5), np.float32), "f32", False)
    check(isa, np.zeros((5, 0), np.float32), "f32", False)
    with pytest.raises(KilnError, match="row"):
        emit(Sort(1, 3, "f32", keep=4), isa)
