"""Layer norm of rows of any number and length, and its gradients: one kernel for all, at each instruction set."""

import numpy as np
import pytest

import kiln
from kiln.backends.cpu import layer_norm, one_op
from kiln.config import context
from kiln.nn import functional as F

SHAPES = [((3, 5), 1), ((7, 16), 1), ((5, 17), 1), ((700, 50), 1), ((4, 3, 65), 2), ((2, 2000), 1)]
EPS = 1e-3


def references(x, g, w, b, last):
    x, g = x.astype(np.float64), g.astype(np.float64)
    rest = tuple(range(x.ndim - last))
    dims = tuple(range(x.ndim - last, x.ndim))
    centered = x - x.mean(dims, keepdims=True)
    rstd = 1 / np.sqrt((centered**2).mean(dims, keepdims=True) + EPS)
    xhat, h = centered * rstd, g * w
    inner = (h * xhat).mean(dims, keepdims=True)
    dx = (h - h.mean(dims, keepdims=True) - xhat * inner) * rstd
    return xhat * w + b, dx, (g * xhat).sum(rest), g.sum(rest)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
def test_rows_of_any_length(isa, weighted, dtype):
    r = np.random.default_rng(0)
    bound = {"float32": 2e-5, "float64": 1e-13}[dtype]
    with context(cpu_isa=isa.name):
        for shape, last in SHAPES:
            x, g = (1 + 3 * r.standard_normal(shape).astype(dtype) for _ in range(2))
            w, b = (r.standard_normal(shape[-last:]).astype(dtype) for _ in range(2))
            given = (w, b) if weighted else (None, None)
            y, *wanted = references(x, g, w if weighted else 1, b if weighted else 0, last)
            norm = layer_norm.prepared(shape, last, weighted, weighted, EPS, x.dtype)
            found = [norm(x, *given)]
            found += layer_norm.backward(g, x, last, given[0], EPS)
            for got, want in zip(found, (y, *wanted), strict=True):
                if got is not None:
                    assert (got.dtype, got.shape) == (x.dtype, want.shape)
                    np.testing.assert_allclose(got, want, bound, bound * np.abs(want).max())
            assert (found[2] is None) == (not weighted)


@pytest.mark.parametrize("wanted", ["xwb", "x", "w", "wb", "xb", "b"])
@pytest.mark.parametrize("affine", ["wb", "w", "b", ""])
def test_eager_mode_gives_what_the_reference_gives(wanted, affine):
    r = np.random.default_rng(1)
    given = {
        "x": r.standard_normal((64, 9, 37), np.float32),
        "w": r.standard_normal((9, 37), np.float32) if "w" in affine else None,
        "b": r.standard_normal((9, 37), np.float32) if "b" in affine else None,
    }
    if not any(given[n] is not None for n in wanted):
        return
    g = kiln.from_numpy(r.standard_normal((64, 9, 37), np.float32))

    def run():
        ts = {n: None if a is None else kiln.from_numpy(a) for n, a in given.items()}
        for n in wanted:
            if ts[n] is not None:
                ts[n].requires_grad_()
        y = F.layer_norm(ts["x"], (9, 37), ts["w"], ts["b"], EPS)
        y.backward(g)
        return [y.detach(), *(t.grad for t in ts.values() if t is not None and t.grad is not None)]

    before = set(one_op.shelf.made)
    found = run()
    if affine != "b" and wanted[0] == "x":
        assert set(one_op.shelf.made) == before  # nothing was compiled for these sizes
    with context(eager="reference"):
        want = run()
    for a, b in zip(found, want, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-3, 1e-5 * float(b.abs().max()))
