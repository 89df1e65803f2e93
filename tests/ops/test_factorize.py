"""Gradients through factorisations, by functions of them that do not depend on signs and phases."""

from __future__ import annotations

import numpy as np
import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers


def hermitian(a):
    return a @ a.mH + a.new_ones(a.shape[-1]).diag() * 2


def project(q, w):
    """A number that depends on the space that the columns span, each by itself."""
    return ((q.abs() ** 2) * w[: q.shape[-1]]).sum()


CALLS = {
    "cholesky": lambda m, a, w: (m.linalg.cholesky(hermitian(a)).abs() * w).sum(),
    "cholesky upper": lambda m, a, w: (m.linalg.cholesky(hermitian(a), upper=True).abs() * w).sum(),
    "eigh values": lambda m, a, w: (m.linalg.eigh(hermitian(a))[0] * w).sum(),
    "eigh vectors": lambda m, a, w: project(m.linalg.eigh(hermitian(a))[1], w),
    "eigvalsh": lambda m, a, w: (m.linalg.eigvalsh(hermitian(a)) * w).sum(),
    "svd values": lambda m, a, w: (m.linalg.svdvals(a) * w).sum(),
    "svd left": lambda m, a, w: project(m.linalg.svd(a, full_matrices=False)[0], w),
    "svd right": lambda m, a, w: project(m.linalg.svd(a, full_matrices=False)[2].mH, w),
    "svd tall": lambda m, a, w: project(m.linalg.svd(a[:, :2], full_matrices=False)[0], w),
    "svd wide": lambda m, a, w: project(m.linalg.svd(a[:2], full_matrices=False)[2].mH, w),
    "qr R": lambda m, a, w: (m.linalg.qr(a)[1].abs() * w).sum(),
    "qr Q": lambda m, a, w: project(m.linalg.qr(a)[0], w),
    "qr tall": lambda m, a, w: project(m.linalg.qr(a[:, :2])[0], w) + m.linalg.qr(a[:, :2])[1].abs().sum(),
    "slogdet": lambda m, a, w: m.linalg.slogdet(a)[1] * w[0],
    "pinv": lambda m, a, w: (m.linalg.pinv(a[:, :2]).abs() * w).sum(),
    "nuclear": lambda m, a, w: m.linalg.matrix_norm(a, "nuc"),
}  # fmt: skip


def derivatives(m, name, a, second):
    x, w = m.tensor(a).requires_grad_(), m.tensor([0.3, 1.1, 0.7], dtype=m.float64)
    (g,) = m.autograd.grad(CALLS[name](m, x, w), x, create_graph=second)
    if not second:
        return np.array(g.tolist())
    return np.array(m.autograd.grad((g.abs() ** 2).sum(), x)[0].tolist())


@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_torchs(name, complex, second):
    r = np.random.default_rng(3)
    a = r.standard_normal((3, 3)) + np.diag([2.0, 4.0, 6.0])
    if complex:
        a = a + 1j * r.standard_normal((3, 3))
    got, want = derivatives(kiln, name, a, second), derivatives(torch, name, a, second)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def test_what_has_no_gradient_says_so():
    a = kiln.ones(2, 3, requires_grad=True)
    with pytest.raises(NotImplementedError, match="gradient needs"):
        kiln.linalg.qr(a)[1].sum().backward()
