"""Parts of matrices: diagonals and triangles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.recorders import called
from ..device import as_device
from ..errors import KilnError, describe
from ..formats import contiguous_format
from ..meta import makes
from ..shape import Size, behind, norm_dim
from ..tensor import Tensor, wrap
from .creation import arange
from .joining import pad
from .reduction import sum_op
from .registry import FUNCTIONS, LEADING, REGISTRY, Sample, composition, op
from .samples import draw, rng, strided
from .selection import where_op
from .storing import store_out

# ---------------------------------------------------------------- diagonals


def _diagonal_size(rows: int, columns: int, offset: int) -> int:
    n = min(rows + min(offset, 0), columns - max(offset, 0))
    return n if n > 0 else 0


def _two_dims(name: str, dim1: int, dim2: int, n: int) -> tuple[int, int]:
    a, b = norm_dim(dim1, n, name), norm_dim(dim2, n, name)
    if a == b:
        raise KilnError(
            name, f"diagonal dimensions cannot be identical {dim1}, {dim2}", f"{n} dimensions", ""
        )
    return a, b


def _diagonal_infer(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> tuple:
    shape = input.shape
    a, b = _two_dims("diagonal", dim1, dim2, len(shape))
    rest = [s for i, s in enumerate(shape) if i not in (a, b)]
    return Size((*rest, _diagonal_size(shape[a], shape[b], offset))), input.dtype


def _diagonal_body(input: Tensor, offset: int, dim1: int, dim2: int) -> Tensor:
    n = len(input.shape)
    a, b = _two_dims("diagonal", dim1, dim2, n)
    x = input.permute([*(i for i in range(n) if i not in (a, b)), a, b])
    *lead, rows, columns = x.shape
    k = _diagonal_size(rows, columns, offset)
    start = offset if offset >= 0 else -offset * columns
    flat = x.reshape((*lead, rows * columns))
    return (
        flat[..., start : start + (k - 1) * (columns + 1) + 1 : columns + 1] if k else flat[..., :0]
    )


def _diagonal_grad(g: Tensor, shape: Any, offset: int, dim1: int, dim2: int) -> Tensor:
    return embed_diagonal(g, shape, offset, *_two_dims("diagonal", dim1, dim2, len(shape)))


def _diagonal_samples() -> Iterator[Sample]:
    r = rng(30)
    for offset in (0, 1, -1, 5):
        yield Sample((draw(r, (3, 4)), offset))
    yield Sample((draw(r, (2, 3, 4)), 1, 0, -1))
    yield Sample((draw(r, (2, 3, 4)), 0, 2, 1))
    yield Sample((draw(r, (0, 3)),))
    yield Sample((strided(draw(r, (4, 3))), -1))
    yield Sample((draw(r, (3,)),), error=IndexError)
    yield Sample((draw(r, (3, 3)), 0, 0, -2), error=RuntimeError)


@op(
    family="movement", exact=True, view=True, check=False, infer=_diagonal_infer, body=_diagonal_body,
    batch=lambda n, input, offset, dim1, dim2: (input.tensor, offset, *behind((dim1, dim2), input.ndim)),
    grad={"input": lambda g, in_shape, offset, dim1, dim2: _diagonal_grad(g, in_shape, offset, dim1, dim2)},
    samples=_diagonal_samples,
)  # fmt: skip
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of dim1 and dim2 as the last dimension, `offset` columns to the right. A view."""
    out = input.diagonal(offset, dim1, dim2)
    out.flags.writeable = input.flags.writeable
    return out


def _embed_body(input: Tensor, size: Any, offset: int, dim1: int, dim2: int) -> Tensor:
    # each element begins a row of columns + 1: laid end to end these put it on the diagonal
    n = len(size)
    *lead, k = input.shape
    rows, columns = size[dim1], size[dim2]
    start = offset if offset >= 0 else -offset * columns
    end = rows * columns - start
    x = pad(input.unsqueeze(-1), (0, columns)).reshape((*lead, k * (columns + 1)))
    x = x[..., :end] if k * (columns + 1) > end else x
    x = pad(x, (start, end - x.shape[-1])).reshape((*lead, rows, columns))
    order = [i for i in range(n) if i not in (dim1, dim2)] + [dim1, dim2]
    return x.permute([order.index(i) for i in range(n)])


@op(
    private=True, node="DiagEmbedBackward0", family="movement", exact=True, check=False, body=_embed_body,
    infer=lambda input, size, offset, dim1, dim2: (Size(size), input.dtype),
    batch=lambda n, input, size, offset, dim1, dim2: (input.tensor, (n, *size), offset, dim1 + 1, dim2 + 1),
    grad={"input": lambda g, offset, dim1, dim2: diagonal(g, offset, dim1, dim2)},
    samples=lambda: iter([
        Sample((draw(rng(), (3,)), (3, 4), 1, 0, 1)), Sample((draw(rng(), (2, 2)), (3, 2, 4), -1, 0, 2)),
        Sample((draw(rng(), (2,)), (4, 3), -1, 1, 0)), Sample((draw(rng(), (0,)), (2, 2), 3, 0, 1)),
    ]),
)  # fmt: skip
def embed_diagonal(input: Tensor, size: Any, offset: int, dim1: int, dim2: int) -> Tensor:
    """Zeros of a size with the last dimension of `input` on the diagonal of dim1 and dim2, both not negative."""
    out = np.zeros(size, input.dtype)
    diagonal = out.diagonal(offset, dim1, dim2)
    diagonal.flags.writeable = True
    diagonal[...] = input
    return out


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3,)),)), Sample((draw(rng(), (2, 3)), 1)), Sample((draw(rng(), (2, 3)), -1, 0, 2)),
    Sample((draw(rng(), (0,)),)), Sample((draw(rng(), (2,)), 0, 1, 1), error=RuntimeError),
]))  # fmt: skip
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Square matrices with the last dimension of `input` on a diagonal."""
    n = len(input.shape) + 1
    a, b = _two_dims("diag_embed", dim1, dim2, n)
    size = input.shape[-1] + abs(offset)
    lead = iter(input.shape[:-1])
    shape = [size if i in (a, b) else next(lead) for i in range(n)]
    return embed_diagonal(input, shape, offset, a, b)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3,)),)), Sample((draw(rng(), (3,)), -1)), Sample((draw(rng(), (3, 4)), 1)),
    Sample((draw(rng(), (2, 2, 2)),), error=RuntimeError),
]))  # fmt: skip
def diag(input: Tensor, diagonal: int = 0, *, out: Tensor | None = None) -> Tensor:
    """The matrix with a vector on its diagonal, or the diagonal of a matrix as a vector."""
    n = len(input.shape)
    if n not in (1, 2):
        raise KilnError(
            "diag",
            f"supports 1D or 2D tensors, got {n}D",
            describe(input),
            "use diagonal or diag_embed",
        )
    r = diag_embed(input, diagonal) if n == 1 else diagonal_copy(input, diagonal)
    return store_out(REGISTRY["diagonal"], r, out)


@composition(out=True, method=False, samples=_diagonal_samples)
def diagonal_copy(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """`diagonal` in memory of its own."""
    return diagonal(input, offset, dim1, dim2).clone(memory_format=contiguous_format)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3,)),)), Sample((draw(rng(), (2, 3)),)), Sample((draw(rng(), (2, 3)), 1)),
]))  # fmt: skip
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with all elements on its diagonal."""
    return diag_embed(input.reshape(-1), offset)


def _diagonal_of(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The diagonals of the last two dimensions. A view."""
    return diagonal(A, offset, dim1, dim2)


FUNCTIONS["linalg.diagonal"] = _diagonal_of


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 3)),)), Sample((draw(rng(), (2, 3)),)), Sample((np.arange(6).reshape(2, 3),), grad=False),
    Sample((draw(rng(), (3,)),), error=RuntimeError),
]))  # fmt: skip
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if len(input.shape) != 2:
        raise KilnError(
            "trace",
            f"expected a matrix, but got tensor with dim {len(input.shape)}",
            describe(input),
            "",
        )
    return called(sum_op(diagonal(input), None, False), "TraceBackward0")


# ---------------------------------------------------------------- triangles


def _triangle_infer(input: Any, diagonal: int = 0) -> tuple:
    if len(input.shape) < 2:
        raise KilnError(
            "tril", "input tensor must have at least 2 dimensions", describe(input), "unsqueeze it"
        )
    return input.shape, input.dtype


def _triangle_samples() -> Iterator[Sample]:
    r = rng(31)
    for diagonal in (0, 1, -2, 7):
        yield Sample((draw(r, (3, 4)), diagonal))
    yield Sample((draw(r, (2, 3, 3)),))
    yield Sample((draw(r, (0, 3)),))
    yield Sample((r.integers(0, 2, (3, 3)) > 0,), grad=False)
    yield Sample((np.array([[1.0, np.nan], [np.inf, 2.0]]),), grad=False)
    yield Sample((draw(r, (3,)),), error=RuntimeError)


def _distance(input: Tensor) -> Tensor:
    """Column number minus row number."""
    rows, columns = input.shape[-2:]
    return arange(columns) - arange(rows).unsqueeze(1)


@op(
    exact=True, inplace=True, out=True, batch=LEADING, infer=_triangle_infer, samples=_triangle_samples,
    grad={"input": lambda g, diagonal: tril(g, diagonal)},
    body=lambda input, diagonal: where_op(_distance(input) <= diagonal, input, input.new_zeros(())),
)  # fmt: skip
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, up to `diagonal` columns right of the main one; zeros above."""
    return np.tril(input, diagonal)


@op(
    exact=True, inplace=True, out=True, batch=LEADING, infer=_triangle_infer, samples=_triangle_samples,
    grad={"input": lambda g, diagonal: triu(g, diagonal)},
    body=lambda input, diagonal: where_op(_distance(input) >= diagonal, input, input.new_zeros(())),
)  # fmt: skip
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, from `diagonal` columns right of the main one; zeros below."""
    return np.triu(input, diagonal)


def _triangle_places(row: int, col: int, offset: int, lower: bool, dtype: Any) -> Tensor:
    edge = np.clip(np.arange(row) + offset + lower, 0, col)  # where each row changes sides
    first, count = (0, edge) if lower else (edge, col - edge)
    n = int(count.sum())
    out = np.empty((2, n), dt.as_dtype(dtype).np)
    out[0] = np.repeat(np.arange(row), count)
    ahead = np.cumsum(count) - count - first
    np.subtract(np.arange(n), np.repeat(ahead, count), out[1], casting="unsafe")
    return wrap(out)


@makes
def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = dt.int64, layout: Any = None, device: Any = None,
    requires_grad: bool = False, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """Rows and columns, as a 2 x n tensor, of a matrix's lower triangle."""
    as_device(device)
    return _triangle_places(row, col, offset, True, dtype)


@makes
def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: Any = dt.int64, layout: Any = None, device: Any = None,
    requires_grad: bool = False, pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """Rows and columns, as a 2 x n tensor, of a matrix's upper triangle."""
    as_device(device)
    return _triangle_places(row, col, offset, False, dtype)


FUNCTIONS["tril_indices"], FUNCTIONS["triu_indices"] = tril_indices, triu_indices
