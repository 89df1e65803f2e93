"""LAPACK's threads: one for matrices that are not large, and as many as before afterwards."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
from kiln.ops import _blas

pytestmark = pytest.mark.skipif(_blas._controls() is None, reason="a BLAS without such controls")


@pytest.fixture
def threads():
    get, put = _blas._controls()
    before = get()
    put(2)
    yield get
    put(before)


def test_one_thread_for_what_is_not_large(threads):
    seen = _blas.alone(lambda a: threads())
    assert seen(np.zeros((3, 64, 64))) == 1
    assert seen(np.zeros((4096, 8))) == 1
    assert seen(np.zeros((_blas.LARGE, _blas.LARGE))) == threads()


def test_all_threads_are_back_after_a_call_that_fails_too(threads):
    before = threads()
    kiln.linalg.svd(kiln.randn(4, 5))
    assert threads() == before
    with pytest.raises(RuntimeError):
        kiln.linalg.cholesky(-kiln.eye(3))
    assert threads() == before
