"""Matrix products and what is written in them: matmul and its relatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import record_binary
from ..errors import KilnError, KilnNotImplementedError, describe
from ..shape import Size, broadcast_shapes, norm_dim, numel
from ..tensor import CAPTURING, Tensor, wrap
from .dispatch import apply
from .registry import FUNCTIONS, REGISTRY, Sample, composition, op
from .samples import draw, rng, strided
from .storing import store_out

# ---------------------------------------------------------------- matmul


def _conj(x: Tensor) -> Tensor:
    return x.conj() if x._a.dtype.kind == "c" else x


def _turned(x: Tensor) -> Tensor:
    return _conj(x.transpose(-2, -1))


def _matrices(x: Tensor, y: Tensor) -> bool:
    """Whether these are real matrices of eager mode, of which either may be turned within a product."""
    a, b = x._a, y._a
    return (
        not CAPTURING and a.ndim == b.ndim == 2 and a.dtype is b.dtype and a.dtype in (_F32, _F64)
    )


def _matmul_grad_input(g: Tensor, in_shape: Any, other: Tensor) -> Tensor:
    if len(in_shape) == 2 and _matrices(g, other):
        return REGISTRY["linear"].fn(g, other)
    if len(in_shape) == 1:
        if other._a.ndim == 1:
            return g * _conj(other)
        return (_conj(other) @ g.unsqueeze(-1)).squeeze(-1)
    if other._a.ndim == 1:
        return g.unsqueeze(-1) * _conj(other)
    return g @ _turned(other)


def _matmul_grad_other(g: Tensor, in_shape: Any, input: Tensor) -> Tensor:
    n = input._a.ndim
    if len(in_shape) == 2 and _matrices(input, g):
        return REGISTRY["linear_weight_grad"].fn(input, g)
    if len(in_shape) == 1:
        if n == 1:
            return g * _conj(input)
        if n > 2:
            input, g = _rows(input), g.reshape(numel(g.shape))
        return _turned(input) @ g
    if n == 1:
        return _conj(input).unsqueeze(-1) * g.unsqueeze(-2)
    if len(in_shape) == 2 and n > 2:  # one product over all rows instead of a sum of products
        input, g = _rows(input), _rows(g)
    return _turned(input) @ g


def _quick_input(g: np.ndarray, in_shape: Any, other: np.ndarray) -> np.ndarray:
    if g.ndim == 2 and other.ndim == 2 and len(in_shape) == 2:
        return product(g, other.T)
    if len(in_shape) == 1:
        return g * other if other.ndim == 1 else np.matmul(other, g[..., None])[..., 0]
    if other.ndim == 1:
        return g[..., None] * other
    return _matmul.eager(g, other.swapaxes(-2, -1))


def _quick_other(g: np.ndarray, in_shape: Any, input: np.ndarray) -> np.ndarray:
    n = input.ndim
    if n == 2 and g.ndim == 2 and len(in_shape) == 2:
        return product(input.T, g)
    if len(in_shape) == 1:
        return g * input if n == 1 else np.matmul(_rows(input).T, g.reshape(-1))
    if n == 1:
        return input[:, None] * g[..., None, :]
    if len(in_shape) == 2 and n > 2:
        return product(_rows(input).T, _rows(g))
    return _matmul.eager(input.swapaxes(-2, -1), g)


def _rows(x: Any) -> Any:
    shape = x.shape
    return x.reshape((numel(shape[:-1]), shape[-1]))


def _text(shape: Sequence[Any]) -> str:
    return "x".join(map(str, shape))


def same_dtype(name: str, *tensors: Any) -> dt.dtype:
    d = tensors[0].dtype
    for t in tensors[1:]:
        if t.dtype is not d:
            raise KilnError(
                name, f"expected operands of the same dtype, but got {d.name} and {t.dtype.name}",
                describe(tensors), "convert one of them, e.g. a.to(b.dtype)",
            )  # fmt: skip
    return d


def _matmul_infer(input: Any, other: Any) -> tuple:
    a, b = input.shape, other.shape
    if not len(a) or not len(b):
        raise KilnError(
            "matmul",
            "both arguments need at least 1 dimension",
            describe((input, other)),
            "multiply scalars with *",
        )
    k = b[-2] if len(b) > 1 else b[0]
    if a[-1] != k:
        if len(a) == 1 and len(b) == 1:
            what = f"inconsistent tensor size, got {a[0]} and {k} elements"
        elif len(a) > 2 and len(b) > 2:
            what = f"expected size for first two dimensions of batch2 tensor to be: [{a[0]}, {a[-1]}] but got: [{b[0]}, {k}]"
        elif len(b) == 1:
            what = f"size mismatch, got mat ({_text(a[-2:])}) and vec ({k})"
        else:
            left = (numel(a[:-1]), a[-1]) if len(b) == 2 else a[-2:]
            left = (1, *left) if len(a) == 1 else left
            what = f"mat1 and mat2 shapes cannot be multiplied ({_text(left)} and {_text(b[-2:])})"
        raise KilnError(
            "matmul",
            what,
            f"a={describe(input)}, b={describe(other)}",
            "the inner sizes must be equal",
        )
    d = same_dtype("matmul", input, other)
    batch = broadcast_shapes(a[:-2], b[:-2], op="matmul")
    rows = (a[-2],) if len(a) > 1 else ()
    shape = Size((*batch, *rows, *((b[-1],) if len(b) > 1 else ())))
    if d is dt.bool_ and (k or not shape):
        raise KilnNotImplementedError(
            "matmul", "not implemented for bool", describe((input, other)), "convert with .float()"
        )
    return shape, d


def _matmul_samples() -> Iterator[Sample]:
    r = rng(20)
    for s, t in (((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 3), (3, 4)), ((2, 2, 3), (3, 4)),
                 ((2, 2, 3), (3,)), ((3,), (2, 3, 4)), ((2, 3), (5, 3, 4)), ((2, 1, 2, 3), (4, 3, 2)),
                 ((2, 2, 3), (2, 3, 2)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((0,), (0,)), ((0, 2, 3), (3, 4))):  # fmt: skip
        yield Sample((draw(r, s), draw(r, t)))
    yield Sample((strided(draw(r, (4, 3))), strided(draw(r, (3, 2)))))
    yield Sample((r.integers(-3, 4, (2, 3)), r.integers(-3, 4, (3, 2))), grad=False)
    for s, t in (
        ((2, 3), (4, 5)),
        ((3,), (4,)),
        ((2, 3), (4,)),
        ((), (3,)),
        ((2, 2, 3), (3, 3, 4)),
        ((2, 2, 3), (2, 4, 4)),
    ):
        yield Sample((draw(r, s), draw(r, t)), error=RuntimeError)
    yield Sample((draw(r, (2, 3)), draw(r, (3, 2)).astype(np.float32)), error=RuntimeError)


def _matmul_batch(n: int, input: Any, other: Any) -> Any:
    a, b = input.ndim, other.ndim
    if not other.batched and b <= 2:
        return input.tensor, other.tensor
    if not input.batched and a <= 2 and b >= 2:
        return input.tensor, other.tensor
    if not input.batched and a <= 2:  # rows by a matrix, rather than a matrix by each vector
        return other.tensor, input.tensor.mT if a == 2 else input.tensor
    x, y = input.front, other.front
    x = x.unsqueeze(-2) if a == 1 else x
    y = y.unsqueeze(-1) if b == 1 else y
    rank = max(x.ndim, y.ndim)
    x, y = (t.reshape((t.shape[0], *(1,) * (rank - t.ndim), *t.shape[1:])) for t in (x, y))
    return x * y if x.shape[-1] == 1 and x.dtype is not dt.bool_ else matmul_op(x, y)


def _matmul_node(node: Any) -> str:
    kinds = {(2, 2): "Mm", (2, 1): "Mv", (1, 1): "Dot", (3, 3): "Bmm"}
    return kinds.get((node.rank(0), node.rank(1)), "UnsafeView") + "Backward0"


@op(
    node=("MmBackward0", _matmul_node), name="matmul", private=True, family="contraction", check=False, infer=_matmul_infer, samples=_matmul_samples,
    batch=_matmul_batch,
    grad={"input": _matmul_grad_input, "other": _matmul_grad_other},
    quick={"input": _quick_input, "other": _quick_other},
)  # fmt: skip
def matmul_op(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product over the last two dimensions; see `matmul`."""
    if input.dtype is not other.dtype or (input.dtype.kind == "b" and input.shape[-1]):
        raise TypeError("operands of different dtypes, or bools")
    if other.ndim == 2 and input.ndim > 2:  # one product of many rows
        rows = input.reshape(numel(input.shape[:-1]), input.shape[-1])
        return np.matmul(rows, other).reshape(*input.shape[:-1], other.shape[1])
    return np.matmul(input, other)


_matmul = matmul_op.op  # type: ignore[attr-defined]
_F32, _F64 = dt.float32.np, dt.float64.np
SMALL = 1 << 18
"""Elements of a times elements of b below which no product of floats is worth a native routine."""


MATRIX = 1 << 18
"""Elements of a matrix from where on NumPy's threads, which wait by spinning, lose."""
LEAST = 1 << 14
"""Products of elements of float matrices below which BLAS is quicker than a native routine."""


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`matmul` of float arrays of one dtype, of which small ones don't ask for a native routine."""
    n = a.size
    if a.ndim == b.ndim == 2:
        rows, cols = len(a), b.shape[1]
        few = (rows == 1 or cols == 1) and n < MATRIX > b.size
        if few or n * b.size < SMALL or n * cols < LEAST:
            # NumPy's older function is half a microsecond quicker, to the same product of BLAS's
            return a.dot(b)
    elif n * b.size < SMALL:
        return a.dot(b) if a.ndim < 3 > b.ndim else np.matmul(a, b)
    return _matmul.eager(a, b)


@composition(samples=_matmul_samples)
def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The matrix product: 1-d is a vector, 2-d a matrix, more dimensions are batches that broadcast."""
    if out is None and isinstance(input, Tensor) and isinstance(other, Tensor) and not CAPTURING:
        a, b = input._a, other._a
        d = a.dtype
        if 0 < a.ndim < 3 > b.ndim > 0 and d is b.dtype and (d is _F32 or d is _F64):
            try:
                t = wrap(np.asarray(product(a, b)))
            except Exception:
                return apply(_matmul, (input, other))  # which tells what is wrong
            if input._rg or other._rg or input._base is not None or other._base is not None:
                record_binary(_matmul, input, other, t)
            return t
    r = apply(_matmul, (input, other))
    return store_out(_matmul, r, out)


_MATRICES = (Tensor, np.ndarray)


def _operator(self: Tensor, other: Any) -> Any:
    return matmul(self, other) if isinstance(other, _MATRICES) else NotImplemented


def _reflected(self: Tensor, other: Any) -> Any:
    other = wrap(other) if isinstance(other, np.ndarray) else other
    return matmul(other, self) if isinstance(other, Tensor) else NotImplemented


Tensor.__matmul__ = _operator  # type: ignore[attr-defined]
Tensor.__rmatmul__ = _reflected  # type: ignore[attr-defined]
FUNCTIONS["linalg.matmul"] = matmul


# ---------------------------------------------------------------- products of given ranks


def _ranks(name: str, want: Sequence[int], *tensors: Tensor) -> None:
    """Raise unless each tensor has its number of dimensions."""
    for t, n in zip(tensors, want, strict=True):
        if t.ndim != n:
            kinds = {1: "a vector", 2: "a matrix", 3: "a batch of matrices (3D)"}
            raise KilnError(
                name,
                f"expected {kinds[n]}, got {t.ndim}D",
                describe(tensors),
                "use matmul for other ranks",
            )


def _pairs(*shapes: tuple, bad: tuple = ()) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        r = rng(21)
        for group in shapes:
            yield Sample(tuple(draw(r, s) for s in group))
        for group in bad:
            yield Sample(tuple(draw(r, s) for s in group), error=RuntimeError)

    return samples


@composition(samples=_pairs(((2, 3), (3, 4)), bad=(((2,), (2, 3)), ((2, 3), (2, 3)))))
def mm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The product of two matrices."""
    _ranks("mm", (2, 2), input, mat2)
    return matmul(input, mat2, out=out)


FUNCTIONS["spmm"] = FUNCTIONS["dsmm"] = mm


@composition(
    samples=_pairs(
        ((2, 2, 3), (2, 3, 4)),
        bad=(((2, 3), (2, 3)), ((1, 2, 3), (2, 3, 4)), ((2, 2, 3), (2, 4, 4))),
    )
)
def bmm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The products of two batches of matrices, of equal length."""
    _ranks("bmm", (3, 3), input, mat2)
    if input.shape[0] != mat2.shape[0]:
        raise KilnError(
            "bmm",
            "batches of different length",
            describe((input, mat2)),
            "matmul broadcasts batches",
        )
    return matmul(input, mat2, out=out)


@composition(samples=_pairs(((2, 3), (3,)), bad=(((2, 3), (2,)), ((3,), (3,)))))
def mv(input: Tensor, vec: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The product of a matrix and a vector."""
    _ranks("mv", (2, 1), input, vec)
    return matmul(input, vec, out=out)


@composition(samples=_pairs(((3,), (3,)), ((0,), (0,)), bad=(((3,), (4,)), ((3, 1), (3,)))))
def dot(input: Tensor, tensor: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The sum of the products of two vectors."""
    _ranks("dot", (1, 1), input, tensor)
    return matmul(input, tensor, out=out)


@composition(samples=_pairs(((3,), (3,)), bad=(((3,), (4,)),)))
def vdot(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`dot` with the conjugate of the first vector."""
    _ranks("vdot", (1, 1), input, other)
    return matmul(_conj(input), other, out=out)


@composition(
    samples=_pairs(
        ((3, 2), (4, 2)), ((2,), (2,)), ((), (3,)), ((2, 2, 3), (3,)), bad=(((3, 2), (3, 4)),)
    )
)
def inner(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The sums of products over the last dimensions of both."""
    a, b = input.shape, other.shape
    if not len(a) or not len(b):
        r = input * other
    else:
        if a[-1] != b[-1]:
            raise KilnError(
                "inner", f"the last dimension must match but got shapes {list(a)} and {list(b)}",
                describe((input, other)), "transpose or reshape one of them",
            )  # fmt: skip
        r = tensordot(input, other, ([-1], [-1]))
    return store_out(_matmul, r, out, cast=not len(a) or not len(b))


@composition(aliases=("ger",), samples=_pairs(((3,), (2,)), ((0,), (2,)), bad=(((3,), (2, 2)),)))
def outer(input: Tensor, vec2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The matrix of all products of two vectors' elements."""
    _ranks("outer", (1, 1), input, vec2)
    r = apply(REGISTRY["mul"], (input.unsqueeze(1), vec2))  # large, whatever they are
    return store_out(REGISTRY["mul"], r, out, (input, vec2))


def chain_matmul(*matrices: Tensor, out: Tensor | None = None) -> Tensor:
    """The product of several matrices, in the order of least work."""
    if len(matrices) == 1 and isinstance(matrices[0], list | tuple):
        matrices = tuple(matrices[0])
    if not matrices:
        raise KilnError("chain_matmul", "Expected one or more matrices", "none", "")
    _ranks("chain_matmul", (2,) * len(matrices), *matrices)
    r = multi_dot(matrices) if len(matrices) > 1 else matrices[0].clone()
    return store_out(_matmul, r, out)


FUNCTIONS["chain_matmul"] = chain_matmul


@composition(namespace="linalg", method=False, samples=lambda: iter([
    Sample(([draw(rng(), (2, 3)), draw(rng(), (3, 4)), draw(rng(), (4,))],)),
    Sample(([draw(rng(), (3,)), draw(rng(), (3, 4)), draw(rng(), (4,))],)),
    Sample(([draw(rng(), (2, 3)), draw(rng(), (3, 5)), draw(rng(), (5, 2)), draw(rng(), (2, 4))],)),
    Sample(([draw(rng(), (2, 3)), draw(rng(), (4, 5))],), error=RuntimeError),
    Sample(([draw(rng(), (2, 3))],), error=RuntimeError),
    Sample(([draw(rng(), (2, 3)), draw(rng(), (3,)), draw(rng(), (3, 2))],), error=RuntimeError),
]))  # fmt: skip
def multi_dot(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """The product of several matrices, in the order of least work; the first and the last may be vectors."""
    xs = list(tensors)
    if len(xs) < 2:
        raise KilnError(
            "multi_dot", f"expected at least 2 tensors but got {len(xs)}", describe(xs), ""
        )
    same_dtype("multi_dot", *xs)
    row, column = xs[0].ndim == 1, xs[-1].ndim == 1
    xs[0] = xs[0].unsqueeze(0) if row else xs[0]
    xs[-1] = xs[-1].unsqueeze(1) if column else xs[-1]
    for i, x in enumerate(xs):
        if x.ndim != 2:
            raise KilnError("multi_dot", f"tensor {i} must be 2D (the first and the last may be 1D)",
                            describe(list(tensors)), "")  # fmt: skip
        if i and xs[i - 1].shape[1] != x.shape[0]:
            raise KilnError("multi_dot", f"tensors {i - 1} and {i} with shapes {list(xs[i - 1].shape)} and "
                            f"{list(x.shape)} cannot be multiplied", describe(list(tensors)), "")  # fmt: skip
    r = _chain(xs, _splits([x.shape[0] for x in xs] + [xs[-1].shape[1]]), 0, len(xs) - 1)
    r = r.squeeze(0) if row else r
    r = r.squeeze(-1) if column else r
    return store_out(_matmul, r, out)


def _splits(sizes: list[int]) -> dict[tuple[int, int], int]:
    """Where to cut each stretch of a product of matrices, so that its multiplications are fewest."""
    n = len(sizes) - 1
    cost = {(i, i): 0 for i in range(n)}
    cuts = {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            work = {
                k: cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1]
                for k in range(i, j)
            }
            cuts[i, j] = min(work, key=work.__getitem__)
            cost[i, j] = work[cuts[i, j]]
    return cuts


def _chain(xs: list[Tensor], cuts: dict, i: int, j: int) -> Tensor:
    if i == j:
        return xs[i]
    k = cuts[i, j]
    return matmul(_chain(xs, cuts, i, k), _chain(xs, cuts, k + 1, j))


@composition(out="cast", samples=_pairs(((2, 3), (4,)), ((), (2,)), ((2,), (2, 2, 2))))
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: each element of `input` times all of `other`, block by block."""
    n = max(len(input.shape), len(other.shape))
    a = (1,) * (n - len(input.shape)) + tuple(input.shape)
    b = (1,) * (n - len(other.shape)) + tuple(other.shape)
    left = input.reshape([s for size in a for s in (size, 1)])
    right = other.reshape([s for size in b for s in (1, size)])
    return apply(REGISTRY["mul"], (left, right)).reshape([x * y for x, y in zip(a, b, strict=True)])


@composition(samples=lambda: iter([
    Sample((draw(rng(), (2, 3)), draw(rng(), (3, 4)), 1)), Sample((draw(rng(), (2, 3)), draw(rng(), (3, 4)), 0)),
    Sample((draw(rng(), (2, 3, 4)), draw(rng(), (3, 4, 5)), 2)),
    Sample((draw(rng(), (2, 3)), draw(rng(), (4, 2)), ([0], [1]))),
    Sample((draw(rng(), (2, 3)), draw(rng(), (3, 4)), 2), error=RuntimeError),
    Sample((draw(rng(), (2, 3)), draw(rng(), (4, 2)), ([0, 1], [1])), error=RuntimeError),
]), method=False)  # fmt: skip
def tensordot(a: Tensor, b: Tensor, dims: Any = 2, out: Tensor | None = None) -> Tensor:
    """The sum of products over `dims`: the last of `a` with the first of `b`, or pairs ([…], […])."""
    na, nb = len(a.shape), len(b.shape)
    if isinstance(dims, int):
        if not 0 <= dims <= min(na, nb):
            raise KilnError("tensordot", f"dims must be in [0, {min(na, nb)}]", dims, "")
        da, db = list(range(na - dims, na)), list(range(dims))
    else:
        da, db = ([x] if isinstance(x, int) else list(x) for x in dims)
        if len(da) != len(db):
            raise KilnError(
                "tensordot", "both dimension lists should have same length", f"{da}, {db}", ""
            )
    da, db = [norm_dim(d, na, "tensordot") for d in da], [norm_dim(d, nb, "tensordot") for d in db]
    for i, j in zip(da, db, strict=True):
        if a.shape[i] != b.shape[j] and 1 not in (a.shape[i], b.shape[j]):
            raise KilnError(
                "tensordot", f"contracted dimensions need to match, but first has size {a.shape[i]} in dim {i} "
                f"and second has size {b.shape[j]} in dim {j}", describe((a, b)), "check dims=",
            )  # fmt: skip
    left = list(range(na))
    right = [na + j for j in range(nb)]
    for i, j in zip(da, db, strict=True):
        right[j] = i
    keep = [x for x in left if x not in da] + [x for x in right if x >= na]
    from .einsum import contract

    r = contract(a, left, b, right, keep)
    return store_out(_matmul, r.to(a.dtype) if a.dtype is b.dtype else r, out)
