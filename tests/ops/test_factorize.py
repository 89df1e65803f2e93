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


def product(usv):
    """What U and V give together, which no phase of theirs changes."""
    return ((usv[0] @ usv[2]).abs() ** 3).sum() + usv[1].sum()


def factors(plu, w):
    return (plu[1].abs() ** 2).sum() + (plu[2].abs() * w[: plu[2].shape[0], None]).sum()


def lu_solved(m, a, w, **flags):
    packed, pivots = m.linalg.lu_factor(a)
    return (m.linalg.lu_solve(packed, pivots, a.conj() * a, **flags).abs() * w).sum()


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
    "svd both": lambda m, a, w: product(m.linalg.svd(a)),
    "qr wide": lambda m, a, w: project(m.linalg.qr(a[:2])[0], w) + m.linalg.qr(a[:2])[1].abs().sum(),
    "qr complete": lambda m, a, w: m.linalg.qr(a[:2], mode="complete")[1].abs().sum(),
    "eigvals": lambda m, a, w: (m.linalg.eigvals(a).abs() ** 3).sum(),
    "eig": lambda m, a, w: (m.linalg.eig(a)[1].abs() ** 2 * w).sum(),
    "lu": lambda m, a, w: factors(m.linalg.lu(a), w),
    "lu tall": lambda m, a, w: factors(m.linalg.lu(a[:, :2]), w),
    "lu wide": lambda m, a, w: factors(m.linalg.lu(a[:2]), w[:2]),
    "lu_factor": lambda m, a, w: (m.linalg.lu_factor(a)[0].abs() * w).sum(),
    "lu_solve": lambda m, a, w: lu_solved(m, a, w),
    "lu_solve right": lambda m, a, w: lu_solved(m, a, w, left=False),
    "lu_solve adjoint": lambda m, a, w: lu_solved(m, a, w, adjoint=True),
    "lu_solve right adjoint": lambda m, a, w: lu_solved(m, a, w, left=False, adjoint=True),
    "solve right": lambda m, a, w: (m.linalg.solve(a, a[:2].conj(), left=False).abs() * w).sum(),
    "triangular": lambda m, a, w: (m.linalg.solve_triangular(a, a[:2].conj(), upper=True, left=False).abs() * w).sum(),
    "unit triangular": lambda m, a, w: (m.linalg.solve_triangular(a, a.conj(), upper=False, unitriangular=True).abs() * w).sum(),
    "triangular_solve": lambda m, a, w: sum((x.abs() * w).sum() for x in m.triangular_solve(a.conj(), a, False, True)),
    "cholesky_solve": lambda m, a, w: (m.cholesky_solve(a, a.tril()).abs() * w).sum(),
    "cholesky_inverse": lambda m, a, w: (m.cholesky_inverse(a.triu(1) + a.diagonal().real.diag(), upper=True).abs() * w).sum(),
    "lstsq": lambda m, a, w: (m.linalg.lstsq(a[:, :2], a.conj())[0].abs() * w).sum(),
    "lstsq wide": lambda m, a, w: (m.linalg.lstsq(a[:2], a[:2].conj())[0].abs() * w).sum(),
    "residuals": lambda m, a, w: m.linalg.lstsq(a[:, :2], a.conj(), driver="gelsd")[1].sum(),
    "householder": lambda m, a, w: (m.linalg.householder_product(a, a[0, :2]).abs() * w).sum(),
    "ormqr": lambda m, a, w: (m.ormqr(a[:, :2], a[1, :2], a).abs() * w).sum(),
    "ormqr right": lambda m, a, w: (m.ormqr(a[:, :2], a[1, :2], a, False, True).abs() * w).sum(),
    "matrix_exp": lambda m, a, w: (m.matrix_exp(a * 0.3).abs() * w).sum(),
    "det": lambda m, a, w: (m.det(a) * m.logdet(a)).abs(),
    "pinv hermitian": lambda m, a, w: (m.linalg.pinv(hermitian(a), hermitian=True).abs() * w).sum(),
    "cond": lambda m, a, w: m.linalg.cond(a) + m.linalg.cond(a[:2], -2),
    "multi_dot": lambda m, a, w: m.linalg.multi_dot([a[0], a, a[:, :1], a[:1], a[2]]).abs(),
    "vander": lambda m, a, w: m.linalg.vander(a, N=4).abs().sum(),
    "tensorinv": lambda m, a, w: m.linalg.tensorinv(a[:, :, None], ind=1).abs().sum(),
    "qr old": lambda m, a, w: m.qr(a)[1].abs().sum() + m.svd(a)[1].sum(),
}  # fmt: skip


def derivatives(m, name, a, second):
    x, w = m.tensor(a).requires_grad_(), m.tensor([0.3, 1.1, 0.7], dtype=m.float64)
    (g,) = m.autograd.grad(CALLS[name](m, x, w), x, create_graph=second)
    if not second:
        return np.array(g.tolist())
    return np.array(m.autograd.grad((g.abs() ** 2).sum(), x)[0].tolist())


@pytest.mark.filterwarnings("ignore:.*is deprecated")
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


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_determinant_of_a_singular_matrix_has_a_gradient(rank):
    r = np.random.default_rng(4)
    a = r.standard_normal((3, rank)) @ r.standard_normal((rank, 3))
    got, want = kiln.tensor(a).requires_grad_(), torch.tensor(a).requires_grad_()
    kiln.det(got).backward()
    torch.det(want).backward()
    np.testing.assert_allclose(got.grad.numpy(), want.grad.numpy(), atol=1e-9)


@pytest.mark.parametrize("m", [kiln, torch], ids=["kiln", "torch"])
@pytest.mark.parametrize("call", [
    lambda m, a: m.linalg.svd(a)[0].real, lambda m, a: m.linalg.svd(a)[2].imag,
    lambda m, a: m.linalg.eigh(a)[1].real, lambda m, a: m.linalg.eig(a)[1].imag,
])  # fmt: skip
def test_a_function_of_phases_has_no_gradient(call, m):
    r = np.random.default_rng(5)
    a = m.tensor(r.standard_normal((3, 3)) + 1j * r.standard_normal((3, 3))).requires_grad_()
    for _ in range(5):  # however often it was called
        with pytest.raises(RuntimeError, match="phi"):
            call(m, a).sum().backward()


@pytest.mark.parametrize("call", [
    lambda a: kiln.linalg.qr(a, mode="r")[1], lambda a: kiln.linalg.qr(a.mT, mode="complete")[1],
])  # fmt: skip
def test_what_has_no_gradient_says_so(call):
    a = kiln.ones(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"differentiable|derivative"):
        call(a).sum().backward()
