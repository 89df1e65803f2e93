"""Factorisations by what they mean, on sizes past the blocks of the algorithms, and how they fail."""

from __future__ import annotations

import numpy as np
import pytest

import kiln

DTYPES = [kiln.float32, kiln.float64, kiln.complex64, kiln.complex128]
SHAPES = [(1, 1), (9, 9), (40, 25), (25, 40), (3, 33, 33), (2, 0, 3), (0, 4, 4)]


def matrices(shape, d, seed=0):
    r = np.random.default_rng(seed)
    a = r.standard_normal(shape)
    if d.is_complex:
        a = a + 1j * r.standard_normal(shape)
    return kiln.tensor(a, dtype=d)


def close(got, want, d, scale=50):
    assert got.dtype is want.dtype
    assert got.shape == want.shape
    tolerance = kiln.finfo(d).eps * scale * max(1, *want.shape)
    np.testing.assert_allclose(
        got.numpy(), want.numpy(), rtol=0, atol=tolerance * max(1, abs(want.numpy()).max(initial=0))
    )


@pytest.mark.parametrize("d", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lu_multiplies_to_its_matrix(shape, d):
    a = matrices(shape, d)
    p, l, u = kiln.linalg.lu(a)
    close(p @ l @ u, a, d)
    assert (l.abs() <= np.sqrt(2) + 1e-6).all(), "pivots are not the largest of their columns"
    packed, pivots, info = kiln.linalg.lu_factor_ex(a)
    assert pivots.dtype is kiln.int32
    assert info.dtype is kiln.int32
    assert not info.any()
    for x, y in zip(kiln.lu_unpack(packed, pivots), (p, l, u), strict=True):
        close(x, y, d)


@pytest.mark.parametrize("d", DTYPES, ids=str)
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("adjoint", [True, False])
def test_lu_solve_solves(d, left, adjoint):
    a, b = matrices((2, 20, 20), d), matrices((3, 1, 20, 5) if left else (3, 1, 5, 20), d, 1)
    x = kiln.linalg.lu_solve(*kiln.linalg.lu_factor(a), b, left=left, adjoint=adjoint)
    m = a.mH if adjoint else a
    close(m @ x if left else x @ m, b.expand(3, 2, *b.shape[-2:]), d, 5000)


@pytest.mark.parametrize("d", DTYPES, ids=str)
@pytest.mark.parametrize("hermitian", [True, False])
@pytest.mark.parametrize("n", [1, 2, 9, 30])
def test_ldl_solves_indefinite_equations(d, hermitian, n):
    a, b = matrices((2, n, n), d), matrices((n, 3), d, 1)
    a = a + (a.mH if hermitian else a.mT)
    a.diagonal(0, -2, -1).mul_(0.01)  # so that blocks of 2 are needed
    packed, pivots = kiln.linalg.ldl_factor(a, hermitian=hermitian)
    assert n == 1 or (pivots < 0).any()
    x = kiln.linalg.ldl_solve(packed, pivots, b, hermitian=hermitian)
    close(a @ x, b.expand(2, n, 3), d, 5000)


@pytest.mark.parametrize("d", DTYPES, ids=str)
@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_triangular_equations(d, upper, unit, left):
    a = matrices((2, 30, 30), d) * 0.1 + kiln.eye(30, dtype=d)
    b = matrices((30, 4) if left else (4, 30), d, 1)
    x = kiln.linalg.solve_triangular(a, b, upper=upper, left=left, unitriangular=unit)
    t = a.triu() if upper else a.tril()
    if unit:
        t.diagonal(0, -2, -1).fill_(1)
    close(t @ x if left else x @ t, b.expand(2, *b.shape), d, 500)


@pytest.mark.parametrize("d", DTYPES, ids=str)
def test_reflections_make_q(d):
    a = matrices((2, 9, 5), d)
    packed, tau = kiln.geqrf(a)
    q = kiln.linalg.householder_product(packed, tau)
    close(q @ packed[..., :5, :].triu(), a, d)
    close(q.mH @ q, kiln.eye(5, dtype=d).expand(2, 5, 5), d)
    b = matrices((2, 9, 4), d, 1)
    close(kiln.ormqr(packed, tau, b, transpose=True)[..., :5, :], q.mH @ b, d)
    close(kiln.ormqr(packed, tau, b.mH, left=False)[..., :5], b.mH @ q, d)


def test_exponentials_of_large_and_small_matrices():
    a = kiln.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=kiln.float64)
    angles = kiln.tensor([0.0, 1e-9, 0.3, 3.0, 50.0], dtype=kiln.float64)
    got = kiln.linalg.matrix_exp(a * angles[:, None, None])
    want = kiln.stack(
        [
            kiln.stack([angles.cos(), -angles.sin()], -1),
            kiln.stack([angles.sin(), angles.cos()], -1),
        ],
        -2,
    )
    np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-12)


SINGULAR = kiln.tensor([[1.0, 2.0], [2.0, 4.0]])


@pytest.mark.parametrize("call", [
    lambda a: kiln.linalg.inv(a), lambda a: kiln.inverse(a), lambda a: kiln.linalg.inv_ex(a, check_errors=True),
    lambda a: kiln.linalg.solve(a, a), lambda a: kiln.linalg.solve(a, a, left=False),     lambda a: kiln.linalg.solve_ex(a, a, check_errors=True), lambda a: kiln.linalg.matrix_power(a, -1),
    lambda a: kiln.linalg.cholesky(-a), lambda a: kiln.linalg.cholesky_ex(-a, upper=True, check_errors=True),
    lambda a: kiln.linalg.ldl_factor(a * 0), lambda a: kiln.linalg.lstsq(a * kiln.tensor([1.0, 0.0]), a, driver="gels"),
    lambda a: kiln.linalg.svd(a * np.nan), lambda a: kiln.linalg.pinv(a * np.nan),
])  # fmt: skip
@pytest.mark.parametrize("batch", [False, True])
def test_failures_are_of_one_class(call, batch):
    a = kiln.stack([SINGULAR, SINGULAR]) if batch else SINGULAR
    with pytest.raises(kiln.linalg.LinAlgError) as e:
        call(a)
    assert isinstance(e.value, RuntimeError)
    assert "received: " in str(e.value)


def test_infos_say_where_it_failed():
    good = kiln.tensor([[2.0, 1.0], [1.0, 2.0]])
    a = kiln.stack([good, SINGULAR, good * 0])
    assert kiln.linalg.inv_ex(a).info.tolist() == [0, 2, 1]
    assert kiln.linalg.solve_ex(a, a).info.tolist() == [0, 2, 1]
    assert kiln.linalg.lu_factor_ex(a).info.tolist() == [0, 2, 1]
    assert kiln.linalg.ldl_factor_ex(a).info.tolist() == [0, 2, 1]
    l, info = kiln.linalg.cholesky_ex(
        kiln.stack([good, -good, kiln.tensor([[1.0, 2.0], [2.0, 1.0]])])
    )
    assert info.tolist() == [0, 1, 2]
    assert info.dtype is kiln.int32
    close(l[0] @ l[0].mT, good, kiln.float32)
    close(kiln.linalg.inv_ex(a).inverse[0] @ good, kiln.eye(2), kiln.float32)
    with pytest.raises(kiln.linalg.LinAlgError, match="Batch element 1"):
        kiln.linalg.inv(a)


def test_results_have_names_and_fill_out():
    a = kiln.eye(3) * 2 + 1
    for name, fields in {
        "lu": "P L U", "lu_factor": "LU pivots", "lu_factor_ex": "LU pivots info", "qr": "Q R", "svd": "U S Vh",
        "eigh": "eigenvalues eigenvectors", "eig": "eigenvalues eigenvectors", "slogdet": "sign logabsdet",
        "inv_ex": "inverse info", "cholesky_ex": "L info", "ldl_factor": "LD pivots", "ldl_factor_ex": "LD pivots info",
    }.items():  # fmt: skip
        fn = getattr(kiln.linalg, name)
        want = fn(a)
        assert want._fields == tuple(fields.split())
        out = tuple(x.new_empty((0,)) for x in want)
        fn(a, out=out)
        for x, y in zip(out, want, strict=True):
            assert (x == y).all()


def test_ranks_and_pseudo_inverses_take_tolerances():
    a = kiln.diag(kiln.tensor([10.0, 1.0, 0.01]))
    rank = kiln.linalg.matrix_rank
    assert [
        rank(a).item(),
        rank(a, atol=0.5).item(),
        rank(a, rtol=0.5).item(),
        rank(a, 0.05).item(),
    ] == [3, 2, 1, 2]
    both = kiln.stack([a, a])
    assert rank(both, atol=kiln.tensor([0.001, 2.0])).tolist() == [3, 1]
    assert rank(-both, hermitian=True, rtol=0.05).tolist() == [2, 2]
    inverse = kiln.linalg.pinv(both, atol=kiln.tensor([0.001, 2.0]), rtol=0.0)
    close(inverse.diagonal(0, -2, -1), kiln.tensor([[0.1, 1, 100], [0.1, 0, 0]]), kiln.float32)


def test_low_rank_decompositions_find_what_is_there():
    kiln.manual_seed(0)
    a = matrices((2, 30, 3), kiln.float64) @ matrices((2, 3, 20), kiln.float64, 1)
    for x in (a, a.mT):
        u, s, v = kiln.svd_lowrank(x, q=3)
        close(u * s.unsqueeze(-2) @ v.mT, x, kiln.float64)
        u, s, v = kiln.pca_lowrank(x, q=4)
        close(u * s.unsqueeze(-2) @ v.mT, x - x.mean(-2, keepdim=True), kiln.float64)
    with pytest.raises(ValueError, match="min"):
        kiln.pca_lowrank(a, q=50)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("general", [True, False])
def test_lobpcg_finds_extreme_pairs(largest, general):
    kiln.manual_seed(0)
    a, b = matrices((2, 30, 30), kiln.float64), matrices((2, 30, 30), kiln.float64, 1)
    a, b = a @ a.mT, b @ b.mT + kiln.eye(30, dtype=kiln.float64) if general else None
    e, x = kiln.lobpcg(a, k=3, B=b, largest=largest, tol=1e-10)
    bx = b @ x if general else x
    np.testing.assert_allclose((a @ x).numpy(), (bx * e.unsqueeze(-2)).numpy(), atol=1e-5)
    all_values = kiln.linalg.eigvals(kiln.linalg.solve(b, a) if general else a).real.sort(
        -1, largest
    )[0]
    np.testing.assert_allclose(e.numpy(), all_values[..., :3].numpy(), rtol=1e-7)


def test_lobpcg_has_eighs_gradient():
    kiln.manual_seed(0)
    a = matrices((12, 12), kiln.float64)
    a = (a @ a.mT).requires_grad_()
    e, x = kiln.lobpcg(a, k=2, tol=1e-12)
    (got,) = kiln.autograd.grad((x**4).sum() + e.sum(), a)
    values, vectors = kiln.linalg.eigh(a)
    (want,) = kiln.autograd.grad((vectors[:, -2:] ** 4).sum() + values[-2:].sum(), a)
    np.testing.assert_allclose(got.numpy(), (want + want.mT).numpy() / 2, atol=1e-6)


def test_a_tracker_watches_and_stops():
    seen = []

    def tracker(worker):
        seen.append(worker.ivars["istep"])
        worker.bvars["force_stop"] = len(seen) == 3

    a = matrices((30, 30), kiln.float64)
    kiln.lobpcg(a @ a.mT, k=1, tol=0.0, tracker=tracker)
    assert seen == [0, 1, 2]
