"""Factorisations and what follows from them: inverse, determinants, equations, QR, eigenvalues, SVD.

Gradients follow https://people.maths.ox.ac.uk/gilesm/files/NA-08-01.pdf and, for complex matrices,
https://arxiv.org/abs/1909.02659. Matrices are the last two dimensions, all others are batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, describe
from ..shape import Size
from ..tensor import Tensor
from .dispatch import store_out
from .registry import FUNCTIONS, Sample, composition, method, op
from .samples import draw, rng
from .selection import where_op
from .views import adjoint

# ---------------------------------------------------------------- what all share


def check_matrix(name: str, A: Any, square: bool = False, floats: bool = True) -> tuple:
    """The shape of matrices of a float dtype; an error for anything else."""
    shape = tuple(A.shape)
    if len(shape) < 2:
        raise KilnError(name, f"The input tensor A must have at least 2 dimensions, got {len(shape)}",
                        describe(A), "")  # fmt: skip
    if floats and A.dtype.category < dt.FLOAT:
        raise KilnError(name, f"Expected a floating point or complex tensor as input, got {A.dtype.name}",
                        describe(A), "convert first: A.float()")  # fmt: skip
    if floats and A.dtype in (dt.float16, dt.bfloat16):
        raise KilnError(
            name,
            f"Low precision dtypes not supported, got {A.dtype.name}",
            describe(A),
            "A.float()",
        )
    if square and shape[-1] != shape[-2]:
        raise KilnError(name, f"A must be batches of square matrices, but they are {shape[-2]} by {shape[-1]} matrices",
                        describe(A), "")  # fmt: skip
    return shape


def _run(name: str, fn: Callable, *args: Any, **kwargs: Any) -> Any:
    """A NumPy routine, with its failure as an error of the op."""
    try:
        return fn(*args, **kwargs)
    except np.linalg.LinAlgError as e:
        raise KilnError(
            name, str(e), "a matrix without that factorisation", "check its rank and values"
        ) from None


def factorization(name: str, infer: Callable, samples: Callable, **facts: Any) -> Callable:
    """An op of `kiln.linalg` whose reference is a routine of LAPACK by way of NumPy."""
    facts.setdefault("namespace", "linalg")
    return op(
        name=name, infer=infer, samples=samples, method=False, family="factorization", **facts
    )


def well(r: np.random.Generator, *shape: int) -> np.ndarray:
    """Matrices far from singular, with singular values far from each other."""
    return draw(r, shape) + np.eye(*shape[-2:]) * (3 + np.arange(shape[-1]))


def _squares(*rest: Callable) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        r = rng(31)
        for shape in ((3, 3), (2, 3, 3), (1, 1), (0, 2, 2)):
            yield Sample((well(r, *shape), *(f(r, shape) for f in rest)))
        yield Sample((well(r, 3, 3) + 1j * draw(r, (3, 3)), *(f(r, (3, 3)) for f in rest)))
        yield Sample((draw(r, (2, 3)), *(f(r, (3, 3)) for f in rest)), error=RuntimeError)
        yield Sample((draw(r, (3,)), *(f(r, (3, 3)) for f in rest)), error=RuntimeError)
        yield Sample((np.eye(2, dtype=np.int64), *(f(r, (2, 2)) for f in rest)), error=RuntimeError)

    return samples


def _hermitian() -> Iterator[Sample]:
    r = rng(32)
    for shape in ((3, 3), (2, 3, 3), (1, 1)):
        a = well(r, *shape)
        yield Sample((a @ np.swapaxes(a, -1, -2),), grad=False)
    yield Sample((draw(r, (2, 3)),), error=RuntimeError)


def _square_rule(name: str) -> Callable:
    def infer(A: Any, *rest: Any) -> tuple:
        return Size(check_matrix(name, A, True)), A.dtype

    return infer


def _scalar_rule(name: str) -> Callable:
    def infer(A: Any) -> tuple:
        return Size(check_matrix(name, A, True)[:-2]), A.dtype

    return infer


def _diag(x: Tensor) -> Tensor:
    return FUNCTIONS["diag_embed"](x)


# ---------------------------------------------------------------- inverse and determinants


def _inv_grad(g: Tensor, out: Tensor) -> Tensor:
    turned = adjoint(out)
    return -(turned @ g @ turned)


def _singular() -> Iterator[Sample]:
    yield from _squares()()
    yield Sample((np.zeros((2, 2)),), error=RuntimeError)


@factorization("inv", _square_rule("inv"), _singular, grad={"A": _inv_grad}, out=True)
def inv(A: Tensor) -> Tensor:
    """The inverse of square matrices."""
    return _run("inv", np.linalg.inv, A)


@composition(samples=_singular)
def inverse(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The inverse of square matrices."""
    return inv(input, out=out)


def _slogdet_grad(gs: Any, A: Tensor, outs: Any) -> Tensor:
    g = gs[1]
    turned = adjoint(inv(A))
    out = turned * g[..., None, None] if g is not None else None
    if gs[0] is not None and A.is_complex():  # the phase turns with the imaginary part of the trace
        spin = (gs[0] * outs[0].conj()).imag * 1j
        part = turned * spin[..., None, None]
        out = part if out is None else out + part
    return out


@factorization(
    "slogdet", lambda A: [(Size(check_matrix("slogdet", A, True)[:-2]), A.dtype), (Size(A.shape[:-2]), A.dtype.to_real())],
    _squares(), grad={"A": _slogdet_grad}, result_names="sign logabsdet", out=True,
)  # fmt: skip
def slogdet(A: Tensor) -> Tensor:
    """The sign (or phase) of the determinant and the logarithm of its absolute value."""
    sign, size = np.linalg.slogdet(A)
    return np.asarray(sign), np.asarray(size)


def _det_grad(g: Tensor, A: Tensor, out: Tensor) -> Tensor:
    scale = g * (out.conj() if out.is_complex() else out)
    return adjoint(inv(A)) * scale[..., None, None]


@factorization("det", _scalar_rule("det"), _squares(), grad={"A": _det_grad}, out=True)
def det(A: Tensor) -> Tensor:
    """The determinant of square matrices. Its gradient needs them not to be singular."""
    return np.asarray(np.linalg.det(A))


@composition(samples=_squares())
def logdet(input: Tensor) -> Tensor:
    """The logarithm of the determinant; NaN where that is negative."""
    sign, size = slogdet(input)
    if input.is_complex():
        return sign.log() + size
    return where_op(sign == -1, float("nan"), size)


# ---------------------------------------------------------------- equations


def _is_vector(A: Any, B: Any) -> bool:
    return len(B.shape) == 1 or (
        len(A.shape) - 1 == len(B.shape) and tuple(B.shape) == tuple(A.shape[:-1])
    )


def _solve_infer(A: Any, B: Any) -> tuple:
    a, b = check_matrix("solve", A, True), tuple(B.shape)
    vector = _is_vector(A, B)
    b = (*b, 1) if vector else b
    if len(b) < 2 or b[-2] != a[-1]:
        raise KilnError("solve", f"Incompatible shapes of A and B for the equation AX = B ({list(a)} and {list(B.shape)})",
                        describe((A, B)), "")  # fmt: skip
    if A.dtype is not B.dtype:
        raise KilnError("solve", f"Expected A and B to have the same dtype, got {A.dtype.name} and {B.dtype.name}",
                        describe((A, B)), "")  # fmt: skip
    lead = np.broadcast_shapes(a[:-2], b[:-2])
    return Size((*lead, *b[-2 : -1 if vector else None])), A.dtype


def _solve_grad(g: Tensor, A: Tensor, B: Tensor, out: Tensor, needs: tuple) -> tuple:
    gb = solve_op(adjoint(A), g)
    if not needs[0]:
        return None, gb
    left, x = (gb.unsqueeze(-1), out.unsqueeze(-1)) if _is_vector(A, B) else (gb, out)
    return -(left @ adjoint(x)), gb


def _solve_samples() -> Iterator[Sample]:
    r = rng(33)
    for a, b in (
        ((3, 3), (3, 2)),
        ((3, 3), (3,)),
        ((2, 3, 3), (2, 3, 2)),
        ((2, 3, 3), (2, 3)),
        ((2, 3, 3), (3, 4)),
    ):
        yield Sample((well(r, *a), draw(r, b)))
    yield Sample((well(r, 3, 3), draw(r, (2, 2))), error=RuntimeError)
    yield Sample((np.zeros((2, 2)), draw(r, (2, 2))), error=RuntimeError)
    yield Sample((draw(r, (2, 3)), draw(r, (2, 2))), error=RuntimeError)


@factorization("solve", _solve_infer, _solve_samples, grad={("A", "B"): _solve_grad}, private=True)
def solve_op(A: Tensor, B: Tensor) -> Tensor:
    """The solution X of A X = B."""
    if _is_vector(A, B):
        return _run("solve", np.linalg.solve, A, B[..., None])[..., 0]
    return _run("solve", np.linalg.solve, A, B)


@composition(namespace="linalg", method=False, samples=_solve_samples)
def solve(A: Tensor, B: Tensor, *, left: bool = True, out: Tensor | None = None) -> Tensor:
    """The solution X of A X = B, or of X A = B where `left` is False; B may be a vector."""
    if left:
        return store_out(solve_op.op, solve_op(A, B), out)
    return store_out(solve_op.op, solve_op(A.mT, B.mT).mT, out)


def _triangular_samples() -> Iterator[Sample]:
    r = rng(34)
    for a, b in (((3, 3), (3, 2)), ((2, 3, 3), (2, 3, 2))):
        for upper in (True, False):
            yield Sample((well(r, *a), draw(r, b)), {"upper": upper})
    yield Sample((well(r, 3, 3), draw(r, (3, 2))), {"upper": True, "unitriangular": True})
    yield Sample((well(r, 3, 3), draw(r, (2, 3))), {"upper": False, "left": False})


@composition(namespace="linalg", method=False, samples=_triangular_samples)
def solve_triangular(A: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False,
                     out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The solution X of A X = B (X A = B) for triangular A, of which the other triangle is not read."""
    A = A.triu(1 if unitriangular else 0) if upper else A.tril(-1 if unitriangular else 0)
    if unitriangular:
        A = A + FUNCTIONS["eye"](A.shape[-1], dtype=A.dtype)
    return solve(A, B, left=left, out=out)


# ---------------------------------------------------------------- Cholesky, QR


def _phi(x: Tensor) -> Tensor:
    """The lower triangle with half of the diagonal."""
    return x.tril() - _diag(x.diagonal(0, -2, -1)) * 0.5


def _cholesky_grad(g: Tensor, out: Tensor) -> Tensor:
    upper = adjoint(out)
    middle = upper @ g
    middle = (middle.tril() + adjoint(middle.tril(-1))) * 0.5
    return solve_op(upper, adjoint(solve_op(upper, adjoint(middle))))


def _definite() -> Iterator[Sample]:
    yield from _hermitian()
    yield Sample((-np.eye(2),), error=RuntimeError)


@factorization(
    "cholesky", _square_rule("cholesky"), _definite, grad={"A": _cholesky_grad}, private=True
)
def cholesky_op(A: Tensor) -> Tensor:
    """The lower triangular L of A = L L^H."""
    return _run("cholesky", np.linalg.cholesky, A)


@composition(namespace="linalg", method=False, samples=_definite)
def cholesky(A: Tensor, *, upper: bool = False, out: Tensor | None = None) -> Tensor:
    """The triangular factor of Hermitian positive-definite matrices: A = L L^H, or U^H U."""
    r = cholesky_op(A)
    return store_out(cholesky_op.op, adjoint(r) if upper else r, out)


def _qr_infer(A: Any, mode: str = "reduced") -> list:
    if mode not in ("reduced", "complete", "r"):
        raise KilnError("qr", f"received unrecognized mode '{mode}' but expected one of 'reduced' (default), "
                        "'r', or 'complete'", repr(mode), "")  # fmt: skip
    *lead, m, n = check_matrix("qr", A)
    k = m if mode == "complete" else min(m, n)
    q = (0,) if mode == "r" else (*lead, m, k)
    return [(Size(q), A.dtype), (Size((*lead, k, n)), A.dtype)]


def _qr_grad(gs: Any, outs: Any, mode: str) -> Tensor:
    q, r = outs
    gq, gr = gs
    m, n = q.shape[-2:] if mode != "r" else (0, 0), r.shape[-1]
    if mode == "r" or (mode == "complete" and m[0] > n) or r.shape[-2] < n:
        raise KilnNotImplementedError(
            "qr", "the gradient needs mode='reduced' and at least as many rows as columns",
            f"mode={mode!r}, R={describe(r)}", "",
        )  # fmt: skip
    middle: Any = 0
    if gr is not None:
        middle = r @ adjoint(gr)
    if gq is not None:
        middle = middle - adjoint(gq) @ q
    lower = _phi(middle)
    full = q @ (lower + adjoint(lower) if not q.is_complex() else _hermitian_part(middle))
    full = full if gq is None else full + gq
    return adjoint(solve_op(r, adjoint(full)))


def _hermitian_part(x: Tensor) -> Tensor:
    """The lower triangle and its adjoint, with the real part of the diagonal."""
    low = x.tril(-1)
    return low + adjoint(low) + _diag(x.diagonal(0, -2, -1).real).to(x.dtype)


def _qr_samples() -> Iterator[Sample]:
    r = rng(35)
    for shape in ((3, 3), (4, 3), (2, 4, 2)):
        yield Sample((well(r, *shape),), grad=False)
    yield Sample((well(r, 4, 3),), {"mode": "complete"}, grad=False)
    yield Sample((well(r, 3, 3),), {"mode": "x"}, error=RuntimeError)
    yield Sample((draw(r, (3,)),), error=RuntimeError)


@factorization("qr", _qr_infer, _qr_samples, grad={"A": _qr_grad}, result_names="Q R", out=True)
def qr(A: Tensor, mode: str = "reduced") -> Tensor:
    """A = Q R with orthonormal columns in Q and upper triangular R."""
    if mode == "r":
        return np.empty((0,), A.dtype), np.linalg.qr(A, mode="r")
    return tuple(np.linalg.qr(A, mode=mode))


# ---------------------------------------------------------------- eigenvalues and singular values


def _eigh_infer(A: Any, UPLO: str = "L") -> list:
    shape = check_matrix("eigh", A, True)
    return [(Size(shape[:-1]), A.dtype.to_real()), (Size(shape), A.dtype)]


def _eigh_grad(gs: Any, outs: Any) -> Tensor:
    values, vectors = outs
    gl, gv = gs
    turned = adjoint(vectors)
    middle: Any = 0
    if gv is not None:
        apart = values.unsqueeze(-2) - values.unsqueeze(-1)
        n = values.shape[-1]
        same = FUNCTIONS["eye"](n, dtype=dt.bool_)
        middle = where_op(same, 0, (turned @ gv) / where_op(same, 1, apart))
    if gl is not None:
        middle = middle + _diag(gl).to(vectors.dtype)
    return vectors @ middle @ turned


@factorization(
    "eigh",
    _eigh_infer,
    _hermitian,
    grad={"A": _eigh_grad},
    result_names="eigenvalues eigenvectors",
    out=True,
)
def eigh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues, ascending, and eigenvectors of Hermitian matrices, of which one triangle is read."""
    return tuple(_run("eigh", np.linalg.eigh, A, UPLO))


@composition(namespace="linalg", method=False, samples=_hermitian)
def eigvalsh(A: Tensor, UPLO: str = "L", *, out: Tensor | None = None) -> Tensor:
    """The eigenvalues of Hermitian matrices, ascending."""
    return store_out(eigh.op, eigh(A, UPLO)[0], out)


def _svd_infer(A: Any, full_matrices: bool = True) -> list:
    *lead, m, n = check_matrix("svd", A)
    k = min(m, n)
    u, v = (m, n) if full_matrices else (k, k)
    return [
        (Size((*lead, m, u)), A.dtype),
        (Size((*lead, k)), A.dtype.to_real()),
        (Size((*lead, v, n)), A.dtype),
    ]


def _svd_grad(gs: Any, outs: Any) -> Tensor:
    u, s, vh = outs
    k = s.shape[-1]
    gu, gs_, gvh = gs
    if gu is None and gvh is None:
        return (u[..., :k] * gs_.unsqueeze(-2)) @ vh[..., :k, :]
    u, vh = u[..., :k], vh[..., :k, :]
    gu = None if gu is None else gu[..., :k]
    gv = None if gvh is None else adjoint(gvh[..., :k, :])
    v = adjoint(vh)
    row, column = s.unsqueeze(-2), s.unsqueeze(-1)
    same = FUNCTIONS["eye"](k, dtype=dt.bool_)
    gap = where_op(same, 1, (row - column) * (row + column))
    middle: Any = _diag(gs_).to(u.dtype) if gs_ is not None else 0
    if gu is not None:
        x = adjoint(u) @ gu
        middle = middle + where_op(same, 0, (x - adjoint(x)) / gap) * row
    if gv is not None:
        x = vh @ gv
        middle = middle + where_op(same, 0, (x - adjoint(x)) / gap) * column
    out = u @ middle @ vh
    if gu is not None and u.shape[-2] > k:
        rest = gu - u @ (adjoint(u) @ gu)
        out = out + (rest / row) @ vh
    if gv is not None and v.shape[-2] > k:
        rest = gv - v @ (vh @ gv)
        out = out + u @ adjoint(rest / row)
    return out


def _svd_samples() -> Iterator[Sample]:
    r = rng(36)
    for shape in ((3, 3), (4, 2), (2, 3, 2)):
        for full in (True, False):
            yield Sample((well(r, *shape), full), grad=False)
    yield Sample((draw(r, (3,)),), error=RuntimeError)


@factorization(
    "svd", _svd_infer, _svd_samples, grad={"A": _svd_grad}, private=True, result_names="U S Vh"
)
def svd_op(A: Tensor, full_matrices: bool = True) -> Tensor:
    """A = U diag(S) Vh."""
    return tuple(_run("svd", np.linalg.svd, A, full_matrices))


@composition(namespace="linalg", method=False, samples=_svd_samples)
def svd(
    A: Tensor, full_matrices: bool = True, *, driver: str | None = None, out: Any = None
) -> Any:
    """A = U diag(S) Vh: orthonormal U and V, singular values S in descending order."""
    return store_out(svd_op.op, svd_op(A, full_matrices), out)


def values_samples() -> Iterator[Sample]:
    r = rng(37)
    for shape in ((3, 3), (4, 2), (2, 2, 3)):
        yield Sample((well(r, *shape),))


@composition(namespace="linalg", method=False, samples=values_samples)
def svdvals(A: Tensor, *, driver: str | None = None, out: Tensor | None = None) -> Tensor:
    """The singular values, in descending order."""
    return store_out(svd_op.op, svd_op(A, False)[1], out)


def _pinv_infer(A: Any, rtol: Any, hermitian: bool) -> tuple:
    *lead, m, n = check_matrix("pinv", A)
    return Size((*lead, n, m)), A.dtype


def _pinv_grad(g: Tensor, A: Tensor, out: Tensor) -> Tensor:
    p, gh = adjoint(out), adjoint(g)
    first = p @ g @ p
    left = (gh @ out) @ p
    right = p @ (out @ gh)
    return -first + (left - A @ (out @ left)) + (right - (right @ out) @ A)


@factorization("pinv", _pinv_infer, lambda: iter([Sample((well(rng(), 3, 2), None, False)), Sample((well(rng(), 2, 2, 3), None, False))]),
               grad={"A": _pinv_grad}, private=True)  # fmt: skip
def pinv_op(A: Tensor, rtol: Any, hermitian: bool) -> Tensor:
    """The pseudo-inverse."""
    if rtol is None:
        rtol = np.finfo(A.dtype).eps * max(A.shape[-2:])
    return _run("pinv", np.linalg.pinv, A, rtol, hermitian)


@composition(namespace="linalg", method=False, samples=values_samples)
def pinv(A: Tensor, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None,
         out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The Moore-Penrose pseudo-inverse; singular values below `rtol` times the largest count as 0."""
    if atol is not None:
        raise KilnNotImplementedError(
            "pinv", "only rtol is a threshold here", f"atol={atol}", "use rtol="
        )
    return store_out(pinv_op.op, pinv_op(A, rtol if rcond is None else rcond, hermitian), out)


# ---------------------------------------------------------------- names outside kiln.linalg


for _fn in (det, slogdet):
    FUNCTIONS[_fn.__name__] = _fn
    method(_fn.__name__)(_fn)


@composition(samples=values_samples)
def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """The pseudo-inverse; singular values below `rcond` times the largest count as 0."""
    return pinv(input, rcond)
