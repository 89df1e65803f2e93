"""LAPACK in NumPy's library gives what elimination in NumPy gives, for every dtype; without it nothing is missing."""

from __future__ import annotations

import numpy as np
import pytest

from kiln.ops import _calls, _lapack

DTYPES = {"f": 1e-4, "d": 1e-11, "F": 1e-4, "D": 1e-11}


def draw(dtype: str, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape)
    x = x + 1j * rng.standard_normal(shape) if dtype.isupper() else x
    return (x / shape[-1]).astype(dtype) + 2 * np.eye(*shape[-2:], dtype=dtype)


def swapped(x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2)


CALLS = {
    "lu": lambda a: _lapack.lu(a),
    "qr": lambda a: _lapack.qr(a),
    "ldl": lambda a: _lapack.ldl(a[..., : a.shape[-1], :] + swapped(a[..., : a.shape[-1], :]), False),
    "ldl hermitian": lambda a: _lapack.ldl(swapped(a).conj() @ a, True),
    "cholesky": lambda a: _lapack.cholesky(swapped(a).conj() @ a),
    "substitute up": lambda a: _lapack.substitute(a[..., : a.shape[-1], :], swapped(a)[..., :3], True),
    "substitute down": lambda a: _lapack.substitute(a[..., : a.shape[-1], :], swapped(a)[..., :3], False, True),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (40, 36), (2, 36, 36), (0, 3, 3)])
def test_with_and_without_lapack(name, shape, dtype, monkeypatch):
    a = draw(dtype, *shape)
    outs = []
    for _ in range(2):
        r = CALLS[name](a)
        outs.append(r if isinstance(r, tuple) else (r,))
        monkeypatch.setattr(_calls, "has", lambda *_: False)
    for x, y in zip(*outs, strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=DTYPES[dtype], atol=DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 6), (40, 40)])
def test_least_squares_of_full_and_of_low_rank(shape, dtype):
    a = draw(dtype, *shape)
    if not _calls.has("gelsy", a):
        pytest.skip("NumPy's library has no LAPACK under the names that are known")
    b = swapped(a)[..., :2] if shape[-1] == shape[-2] else draw(dtype, *shape[:-1], 2)
    for full in (True, False):
        if not full:
            a[..., 0] = a[..., 1]
        x, rank = _lapack.least_squares(a, b, 1e-5)
        want = np.linalg.pinv(a, rcond=1e-5) @ b
        np.testing.assert_allclose(x, want, rtol=DTYPES[dtype] * 10, atol=DTYPES[dtype] * 10)
        assert (rank == min(shape[-2:]) - (not full and shape[-2] >= shape[-1])).all()


def test_what_breaks_down_is_told_where():
    singular = np.zeros((3, 3))
    assert _lapack.lu(singular)[2] == 1
    assert _lapack.cholesky(-np.eye(3))[1] == 1
    assert _lapack.ldl(singular, False)[2] == 1
    x = _lapack.substitute(singular, np.ones((3, 1)), True)
    assert not np.isfinite(x).any()
