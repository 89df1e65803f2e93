"""Range checks of index buffers for every instruction set of this host."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nest_reference import DTYPE, isas, launch, rng

from kiln.backends.cpu.check import Check, emit
from kiln.compile.loopnest import INTS
from kiln.errors import KilnError


@pytest.fixture(params=isas(), ids=lambda i: i.name)
def isa(request):
    return request.param


def run(isa, x, low, high, flag=(0, 0), **more):
    flag = np.array(flag, np.int64)
    dtype = next(k for k in INTS if DTYPE[k] == x.dtype)
    launch(emit(Check(len(x), dtype, low, high, **more), isa), isa, [x, flag])
    return tuple(flag.tolist())


@pytest.mark.parametrize("dtype", sorted(INTS))
@pytest.mark.parametrize("n", [1, 7, 16, 100])
def test_first_offender_is_told(isa, dtype, n):
    x = rng().integers(3, 90, n).astype(DTYPE[dtype])
    assert run(isa, x, 3, 90) == (0, 0)
    for low, high in ((3, 40), (50, 90), (20, 30), (91, 100)):
        bad = [int(v) for v in x if not low <= v < high]
        assert run(isa, x, low, high) == ((1, bad[0]) if bad else (0, 0))


def test_negative_and_extreme_values(isa):
    for dtype in (np.int32, np.int64):
        info = np.iinfo(dtype)
        for bad in (-1, -11, info.min, info.max, 10):
            x = np.arange(10).astype(dtype)
            x[6] = bad
            assert run(isa, x, 0, 10) == (1, bad)
            ok = -10 <= bad < 10
            assert run(isa, x, -10, 10) == ((0, 0) if ok else (1, bad))


def test_ranges_beyond_the_dtype(isa):
    x = np.array([-128, 127], np.int8)
    assert run(isa, x, -1000, 1000) == (0, 0)
    assert run(isa, x, 0, 1000) == (1, -128)
    assert run(isa, x, -1000, 127) == (1, 127)
    assert run(isa, x, 0, 0) == (1, -128)
    assert run(isa, np.zeros(0, np.int64), 0, 0) == (0, 0)


def test_an_earlier_finding_stays_and_codes_tell_checks_apart(isa):
    x = np.array([1, 2, 30], np.int64)
    assert run(isa, x, 0, 10, code=7) == (7, 30)
    assert run(isa, x, 0, 10, flag=(3, -5), code=7) == (3, -5)
    launch_at = emit(Check(2, "i64", 0, 10, offset=1), isa)
    flag = np.zeros(2, np.int64)
    launch(launch_at, isa, [np.array([99, 1, 2]), flag])
    assert flag.tolist() == [0, 0]


def test_floats_are_no_indices(isa):
    with pytest.raises(KilnError, match="integers"):
        emit(Check(3, "f32", 0, 3), isa)
