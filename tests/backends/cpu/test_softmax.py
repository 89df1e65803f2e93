"""Softmax along rows of any number and length: one kernel for all, at each instruction set."""

import numpy as np
import pytest

import kiln
from kiln.backends.cpu import one_op, softmax
from kiln.config import context
from kiln.nn import functional as F

SHAPES = [(3, 1), (2, 5), (7, 16), (5, 17), (33, 1000), (4, 3, 65), (700, 50)]
TOLERANCE = {"float32": 2e-5, "float64": 2e-13}


def references(x, g):
    with np.errstate(all="ignore"):
        s = x - x.max(-1, keepdims=True)
        e = np.exp(s)
        p = e / e.sum(-1, keepdims=True)
        log = s - np.log(e.sum(-1, keepdims=True))
        return p, log, p * (g - (p * g).sum(-1, keepdims=True)), g - p * g.sum(-1, keepdims=True)


def run(kind, x, y=None):
    return softmax.prepared(kind, x.shape, x.dtype)(x, x if y is None else y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_any_length(isa, dtype):
    r = np.random.default_rng(0)
    bound = TOLERANCE[dtype]
    with context(cpu_isa=isa.name):
        for shape in SHAPES:
            x, g = (3 * r.standard_normal(shape).astype(dtype) for _ in range(2))
            p, log, dp, dlog = references(x, g)
            for kind, given, want in (
                ("softmax", (x,), p), ("log_softmax", (x,), log),
                ("softmax_grad", (g, p), dp), ("log_softmax_grad", (g, log), dlog),
            ):  # fmt: skip
                got = run(kind, *given)
                assert (got.dtype, got.shape) == (want.dtype, want.shape)
                np.testing.assert_allclose(got, want, bound, 10 * bound, err_msg=f"{kind} {shape}")


def test_what_is_no_number():
    x = np.zeros((5, 37), np.float32)
    x[0] = -np.inf
    x[1, 3], x[2, 36], x[3, 5] = np.nan, -np.inf, np.inf
    for kind, want in zip(("softmax", "log_softmax"), references(x, x), strict=False):
        np.testing.assert_allclose(run(kind, x), want, 1e-6)


@pytest.mark.parametrize("fn", [F.softmax, F.log_softmax], ids=["softmax", "log_softmax"])
def test_eager_mode_uses_them_forward_and_backward(fn):
    r = np.random.default_rng(1)

    def steps(n):
        x = kiln.from_numpy(r.standard_normal((8, 64, n), np.float32)).requires_grad_()
        y = fn(x, -1)
        y.backward(x.detach().cos())
        return [x.detach(), y.detach().numpy(), x.grad.numpy()]

    before = set(one_op.shelf.made)
    for n in (37, 64, 91):
        x, y, grad = steps(n)
        with context(eager="reference"):
            x.requires_grad_()
            want = fn(x, -1)
            want.backward(x.detach().cos())
        np.testing.assert_allclose(y, want.detach().numpy(), 1e-5, 1e-6)
        np.testing.assert_allclose(grad, x.grad.numpy(), 1e-4, 1e-6)
    assert not {k[0] for k in set(one_op.shelf.made) - before if "softmax" in k[0]}
