"""Factorisations that `numpy.linalg` lacks, on batches of NumPy arrays: LU, LDL, substitution, exponentials.

Matrices that are not small, or stand alone, are LAPACK's (`_calls`) where NumPy's library has it; many small
ones are eliminated in NumPy, all of them at once. Matrices are the last two dimensions. What LAPACK stores (unit diagonals left out, row exchanges
counted from 1, the step at which a factorisation broke down) is stored in the same way here.
"""

from __future__ import annotations

import math

import numpy as np

from . import _calls

Array = np.ndarray
LARGE = 32
"""Rows from where on a call for each of many matrices costs less than elimination of all at once; substitution is less work."""
NARROW, PANEL = 8, 16
"""Rows that are substituted and columns that are eliminated one by one: wider blocks are halved, their bulk is a product."""


def size1(x: Array) -> Array:
    """What LAPACK compares to choose a pivot: |x|, |re| + |im| for complex numbers."""
    return abs(x.real) + abs(x.imag) if x.dtype.kind == "c" else abs(x)


def batched(x: Array, k: int = 2) -> Array:
    """The dimensions before the last `k` as one."""
    return x.reshape(math.prod(x.shape[:-k]), *x.shape[x.ndim - k :])


def turned(x: Array, conj: bool = True) -> Array:
    """Matrices transposed, and conjugated."""
    x = np.swapaxes(x, -1, -2)
    return x.conj() if conj and x.dtype.kind == "c" else x


# ---------------------------------------------------------------- substitution


def substitute(a: Array, b: Array, upper: bool, unit: bool = False) -> Array:
    """X of A X = B for triangular A, of which one triangle is read; zeros on the diagonal give inf and NaN."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    n, k = b.shape[-2:]
    if lead == b.shape[:-2] and a.shape[:-2] == (1,) * (a.ndim - 2) and b.ndim > 2:
        # one matrix for many right sides: all of them are columns of one
        columns = np.moveaxis(b, -2, 0).reshape(n, math.prod(lead) * k)
        x = substitute(a.reshape(n, n), columns, upper, unit)
        return np.ascontiguousarray(np.moveaxis(x.reshape(n, *lead, k), 0, -2))
    x = np.array(np.broadcast_to(b, (*lead, n, k)), order="C")
    with np.errstate(all="ignore"):
        _substitute(a, x, upper, unit)
    return x


def _large(name: str, x: Array, rows: int, least: int = LARGE) -> bool:
    """Whether LAPACK is to be called for each of these matrices."""
    return rows >= (least if math.prod(x.shape[:-2]) > 1 else 1) and _calls.has(name, x)


def _substitute(a: Array, x: Array, upper: bool, unit: bool) -> None:
    n, k = x.shape[-2:]
    if k and a.dtype is x.dtype and x.flags.c_contiguous and _large("trsm", x, n, 4 * LARGE):
        one, factors = np.ones(1, x.dtype), np.broadcast_to(a, (*x.shape[:-1], n))
        for where in np.ndindex(x.shape[:-2]):  # X^T A^T = B^T
            factor = np.ascontiguousarray(factors[where])
            _calls.call("trsm", "R", "L" if upper else "U", "N", "U" if unit else "N", k, n, one, factor, n, x[where], k)  # fmt: skip
        return
    if n > NARROW:
        h = n // 2
        first, second = (slice(h, n), slice(0, h)) if upper else (slice(0, h), slice(h, n))
        _substitute(a[..., first, first], x[..., first, :], upper, unit)
        x[..., second, :] -= a[..., second, first] @ x[..., first, :]
        _substitute(a[..., second, second], x[..., second, :], upper, unit)
        return
    for i in range(n - 1, -1, -1) if upper else range(n):
        known = slice(i + 1, n) if upper else slice(0, i)
        row = x[..., i, :]
        if i != (n - 1 if upper else 0):
            row -= (a[..., i : i + 1, known] @ x[..., known, :])[..., 0, :]
        if not unit:
            row /= a[..., i, i, None]


# ---------------------------------------------------------------- LU


def lu(a: Array) -> tuple[Array, Array, Array]:
    """L and U of P L U in one matrix, row exchanges from 1, and the first zero on U's diagonal (0: none)."""
    *lead, m, n = a.shape
    k = min(m, n)
    x = np.array(batched(a), order="C")
    swaps = np.empty((len(x), k), np.int32)
    if x.size and _large("getrf", x, k):
        for matrix, exchanges in zip(x, swaps, strict=True):
            turned, order = np.array(matrix.T, order="C"), _calls.integers(k)
            _calls.call("getrf", m, n, turned, m, order, _calls.integers())
            matrix[...], exchanges[...] = turned.T, order - 1
    elif x.size:
        with np.errstate(all="ignore"):
            _eliminate(x, swaps)
    x = x.reshape(a.shape)
    return x, swaps.reshape(*lead, k) + np.int32(1), first(x.diagonal(0, -2, -1) == 0)


def first(bad: Array) -> Array:
    """The number of the first True in each row, from 1; 0 where there is none."""
    if not bad.shape[-1]:
        return np.zeros(bad.shape[:-1], np.int32)
    return np.where(bad.any(-1), bad.argmax(-1) + 1, 0).astype(np.int32)


def _eliminate(x: Array, swaps: Array) -> Array:
    """Overwrite x[batch, m, n] with its factors; the order in which its rows are afterwards."""
    _batch, m, n = x.shape
    k = min(m, n)
    if k <= PANEL:
        return _eliminate_columns(x, swaps)
    h = k // 2
    left, right = x[:, :, :h], x[:, :, h:]
    order = _eliminate(left, swaps[:, :h])
    right[...] = arrange(right, order)
    _reduce(left[:, :h], right[:, :h])
    right[:, h:] -= left[:, h:] @ right[:, :h]
    lower = _eliminate(right[:, h:], swaps[:, h:])
    left[:, h:] = arrange(left[:, h:], lower)
    swaps[:, h:] += h
    order[:, h:] = np.take_along_axis(order[:, h:], lower, 1)
    return order


def _eliminate_columns(x: Array, swaps: Array) -> Array:
    batch, m, n = x.shape
    every = np.arange(batch)
    order = np.tile(np.arange(m), (batch, 1))
    t = np.ascontiguousarray(np.swapaxes(x, 1, 2))  # columns, the long side, lie contiguous
    for j in range(min(m, n)):
        best = size1(t[:, j, j:]).argmax(1) + j
        swaps[:, j] = best
        for rows in (t, order):
            rows[every, ..., best], rows[..., j] = rows[..., j].copy(), rows[every, ..., best]
        pivot = t[:, j, j, None]
        below = t[:, j, j + 1 :]
        below /= np.where(pivot == 0, 1, pivot)
        t[:, j + 1 :, j + 1 :] -= t[:, j + 1 :, j, None] * below[:, None]
    x[...] = np.swapaxes(t, 1, 2)
    return order


def _reduce(low: Array, x: Array) -> None:
    """Overwrite x with L^-1 x, for unit lower L whose elements are at most pivots: blocks of it may be inverted."""
    n = low.shape[-1]
    if n <= PANEL:
        x[...] = np.linalg.inv(np.tril(low, -1) + np.eye(n, dtype=low.dtype)) @ x
        return
    h = n // 2
    _reduce(low[:, :h, :h], x[:, :h])
    x[:, h:] -= low[:, h:, :h] @ x[:, :h]
    _reduce(low[:, h:, h:], x[:, h:])


def arrange(x: Array, order: Array) -> Array:
    """The rows of x[batch, m, n] in the order of order[batch, m]."""
    if len(x) == 1:
        return x[:, order[0]]
    return np.take_along_axis(x, order[:, :, None], 1)


def lu_solve(LU: Array, pivots: Array, b: Array) -> Array:
    """X of A X = B from A's LU factorisation."""
    lead = np.broadcast_shapes(LU.shape[:-2], b.shape[:-2])
    b = np.broadcast_to(b, (*lead, *b.shape[-2:]))
    order = np.broadcast_to(permutation(pivots, LU.shape[-1]), (*lead, LU.shape[-1]))
    half = substitute(LU, np.take_along_axis(b, order[..., None], -2), False, True)
    return substitute(LU, half, True)


def permutation(pivots: Array, m: int) -> Array:
    """The row that stands at each place after the exchanges of an LU: B[p] = P^T B."""
    lists = np.tile(np.arange(m), (math.prod(pivots.shape[:-1]), 1)).tolist()
    for order, exchanges in zip(lists, batched(pivots, 1).tolist(), strict=True):
        for i, p in enumerate(exchanges):
            order[i], order[p - 1] = order[p - 1], order[i]
    return np.array(lists, np.int64).reshape(*pivots.shape[:-1], m)


# ---------------------------------------------------------------- Cholesky


def cholesky(a: Array) -> tuple[Array, Array]:
    """L of A = L L^H as far as it goes, and the order of the first minor that is not positive (0: none)."""
    info = np.zeros(a.shape[:-2], np.int32)
    if a.size and _large("potrf", a, a.shape[-1]):
        out = np.tril(a)
        for where in np.ndindex(info.shape):
            failed = _calls.integers()
            _calls.call("potrf", "U", a.shape[-1], out[where], a.shape[-1], failed)
            info[where] = failed[0]
        if not info.any() and np.isfinite(out).all():
            return out, info
        info[...] = 0
    try:
        out = np.linalg.cholesky(a)
        if np.isfinite(out).all():
            return out, info
    except np.linalg.LinAlgError:
        pass
    out = np.tril(a)
    with np.errstate(all="ignore"):
        for where in np.ndindex(info.shape):
            info[where] = _cholesky_columns(out[where])
    return out, info


def _cholesky_columns(x: Array) -> int:
    """Overwrite x with L, up to the pivot that is not positive: its number from 1."""
    for j in range(len(x)):
        pivot = x[j, j].real - np.vdot(x[j, :j], x[j, :j]).real
        x[j, j] = pivot
        if not pivot > 0:
            return j + 1
        x[j, j] = math.sqrt(pivot)
        x[j + 1 :, j] = (x[j + 1 :, j] - x[j + 1 :, :j] @ x[j, :j].conj()) / x[j, j]
    return 0


# ---------------------------------------------------------------- LDL

GROWTH = (1 + math.sqrt(17)) / 8
"""The share of the largest element that a pivot may have, which bounds growth best (Bunch and Kaufman, 1977)."""


def ldl(a: Array, hermitian: bool) -> tuple[Array, Array, Array]:
    """L and D of A = L D L^T in one matrix (its lower triangle is read), exchanges as LAPACK's sytrf tells
    them (negative in pairs for 2x2 blocks of D), and the first zero on D's diagonal (0: none)."""
    outs = (np.zeros_like(a), np.zeros(a.shape[:-1], np.int32), np.zeros(a.shape[:-2], np.int32))
    hermitian = hermitian and a.dtype.kind == "c"
    name = "hetrf" if hermitian else "sytrf"
    if a.size and _calls.has(name, a):
        n = a.shape[-1]
        for where in np.ndindex(outs[2].shape):
            turned, order, info = (
                np.array(a[where].T, order="C"),
                _calls.integers(n),
                _calls.integers(),
            )
            _calls.working(name, a.dtype, ("L", n, turned, n, order), (info,))
            outs[0][where], outs[1][where], outs[2][where] = np.tril(turned.T), order, info[0]
        return outs
    with np.errstate(all="ignore"):
        for where in np.ndindex(outs[2].shape):
            outs[2][where] = _ldl(a[where], hermitian, outs[0][where], outs[1][where])
    return outs


def _ldl(a: Array, hermitian: bool, out: Array, pivots: Array) -> int:
    n, k, info = len(a), 0, 0
    low = np.tril(a, -1)
    s = low + turned(low, hermitian)  # what is left to eliminate, both triangles of it
    s[range(n), range(n)] = a.diagonal().real if hermitian else a.diagonal()
    while k < n:
        best, step = _ldl_pivot(s[k:, k:])
        best += k
        at = k + step - 1
        if best != at:
            s[[at, best], k:] = s[[best, at], k:]
            s[k:, [at, best]] = s[k:, [best, at]]
        end = k + step
        block, column = s[k:end, k:end], s[end:, k:end]
        if step == 1:
            pivots[k] = best + 1
            info = info or (k + 1 if s[k, k] == 0 else 0)
            factor = column if s[k, k] == 0 else column / s[k, k]
        else:
            pivots[k:end] = -(best + 1)
            factor = np.linalg.solve(block.T, column.T).T
        s[end:, end:] -= factor @ s[k:end, end:]
        out[k:end, k:end] = np.tril(block)
        out[end:, k:end] = factor
        k = end
    return info


def _ldl_pivot(s: Array) -> tuple[int, int]:
    """The row to bring to the front of what is left, and the size of D's next block."""
    size = size1(s[:, 0])
    own = size[0]
    if len(s) == 1 or not size.any():
        return 0, 1
    row = int(size[1:].argmax()) + 1
    largest = size[row]
    if own >= GROWTH * largest:
        return 0, 1
    others = size1(s[:, row])
    diagonal = others[row]
    others[row] = 0
    widest = others.max()
    if own * widest >= GROWTH * largest * largest:
        return 0, 1
    return (row, 1) if diagonal >= GROWTH * widest else (row, 2)


def ldl_solve(ld: Array, pivots: Array, b: Array, hermitian: bool) -> Array:
    """X of A X = B from A's LDL factorisation."""
    lead = np.broadcast_shapes(ld.shape[:-2], b.shape[:-2])
    x = np.array(np.broadcast_to(b, (*lead, *b.shape[-2:])), order="C")
    ld = np.broadcast_to(ld, (*lead, *ld.shape[-2:]))
    pivots = np.broadcast_to(pivots, (*lead, pivots.shape[-1]))
    hermitian = hermitian and ld.dtype.kind == "c"
    with np.errstate(all="ignore"):
        for where in np.ndindex(*lead):
            _ldl_solve(ld[where], pivots[where].tolist(), x[where], hermitian)
    return x


def _ldl_solve(ld: Array, pivots: list[int], x: Array, hermitian: bool) -> None:
    steps, k = [], 0
    while k < len(ld):  # forward: exchanges, L, D
        end = k + (1 if pivots[k] > 0 else 2)
        exchange = [end - 1, abs(pivots[k]) - 1]
        x[exchange] = x[exchange[::-1]]
        x[end:] -= ld[end:, k:end] @ x[k:end]
        if end - k == 1:
            x[k] /= ld[k, k]
        else:
            corner = ld[k + 1, k]
            d = np.array(
                [[ld[k, k], corner.conj() if hermitian else corner], [corner, ld[k + 1, k + 1]]]
            )
            x[k:end] = np.linalg.solve(d, x[k:end])
        steps.append((k, end, exchange))
        k = end
    for k, end, exchange in reversed(steps):  # back: L^T, exchanges
        x[k:end] -= turned(ld[end:, k:end], hermitian) @ x[end:]
        x[exchange] = x[exchange[::-1]]


# ---------------------------------------------------------------- QR and least squares


def qr(a: Array) -> tuple[Array, Array]:
    """R on and above the diagonal with the reflections' vectors below it, and their factors tau."""
    *lead, m, n = a.shape
    if not a.size or not _calls.has("geqrf", a):
        packed, tau = np.linalg.qr(a, mode="raw")
        return np.ascontiguousarray(np.swapaxes(packed, -1, -2), a.dtype), tau.astype(
            a.dtype, copy=False
        )
    out, tau = np.empty(a.shape, a.dtype), np.empty((*lead, min(m, n)), a.dtype)
    for where in np.ndindex(*lead):
        packed = np.array(a[where].T, order="C")
        _calls.working("geqrf", a.dtype, (m, n, packed, m, tau[where]), (_calls.integers(),))
        out[where] = packed.T
    return out, tau


def least_squares(a: Array, b: Array, rcond: float) -> tuple[Array, Array] | None:
    """The smallest solutions and the ranks, by QR with exchanges of columns; None where there is no gelsy."""
    *lead, m, n = a.shape
    k = b.shape[-1]
    if not a.size or not k or not _calls.has("gelsy", a):
        return None
    own, lead = tuple(lead), np.broadcast_shapes(tuple(lead), b.shape[:-2])
    a, b = np.broadcast_to(a, (*lead, m, n)), np.broadcast_to(b, (*lead, m, k))
    out, ranks, largest = np.empty((*lead, n, k), a.dtype), np.empty(lead, np.int64), max(m, n)
    real = np.empty(2 * n, a.real.dtype)
    more = (real,) if a.dtype.kind == "c" else ()
    for where in np.ndindex(*lead):
        left, x = np.array(a[where].T, order="C"), np.zeros((k, largest), a.dtype)
        x[:, :m] = b[where].T
        rank, limit = _calls.integers(), np.array([rcond], real.dtype)
        args = (m, n, k, left, m, x, largest, _calls.integers(n), limit, rank)
        _calls.working("gelsy", a.dtype, args, (*more, _calls.integers()))
        out[where], ranks[where] = x[:, :n].T, rank[0]
    return out, ranks[tuple(slice(1) if s == 1 else slice(None) for s in own)]


# ---------------------------------------------------------------- exponentials


def matrix_exp(a: Array) -> Array:
    """e to the power of matrices: scaling, the [13/13] Padé approximant, squaring (Higham, 2005)."""
    n = a.shape[-1]
    x = batched(a)
    if not x.size:
        return a.copy()
    norms = abs(x).sum(-2).max(-1)
    finite = np.where(np.isfinite(norms), norms, 0)
    squarings = np.maximum(np.frexp(finite / 5.371920351148152)[1], 0)
    x = x * np.ldexp(1.0, -squarings).astype(norms.dtype)[:, None, None]
    one = np.eye(n, dtype=a.dtype)
    c = [math.factorial(26 - i) / math.factorial(13 - i) / math.factorial(i) for i in range(14)]
    x2 = x @ x
    x4 = x2 @ x2
    x6 = x4 @ x2
    odd = x @ (
        x6 @ (c[13] * x6 + c[11] * x4 + c[9] * x2) + c[7] * x6 + c[5] * x4 + c[3] * x2 + c[1] * one
    )
    even = (
        x6 @ (c[12] * x6 + c[10] * x4 + c[8] * x2) + c[6] * x6 + c[4] * x4 + c[2] * x2 + c[0] * one
    )
    out = np.linalg.solve(even - odd, even + odd)
    for i in range(int(squarings.max())):
        more = squarings > i
        out[more] = out[more] @ out[more]
    out[~np.isfinite(norms)] = np.nan
    return out.reshape(a.shape)
