"""What the ops of linear algebra share: checks, failures, named results, samples.

Matrices are the last two dimensions, all others are batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import mode
from ..errors import KilnError, KilnNotImplementedError, LinAlgError, describe
from ..shape import broadcast_shapes
from ..tensor import Tensor, differentiated
from .registry import FUNCTIONS, Sample, op
from .samples import draw, rng

# ---------------------------------------------------------------- checks


def check_matrix(
    name: str, A: Any, square: bool = False, floats: bool = True, halves: bool = False
) -> tuple:
    """The shape of matrices of a float dtype (of half ones where `halves`); an error for anything else."""
    shape = tuple(A.shape)
    if len(shape) < 2:
        raise KilnError(name, f"The input tensor A must have at least 2 dimensions, got {len(shape)}",
                        describe(A), "")  # fmt: skip
    if floats and A.dtype.category < dt.FLOAT:
        raise KilnNotImplementedError(
            name, f"Expected a floating point or complex tensor as input, got {A.dtype.name}",
            describe(A), "convert first: A.float()",
        )  # fmt: skip
    if floats and not halves and A.dtype in (dt.float16, dt.bfloat16):
        raise KilnNotImplementedError(name, f"Low precision dtypes not supported, got {A.dtype.name}",
                                      describe(A), "convert first: A.float()")  # fmt: skip
    if square and shape[-1] != shape[-2]:
        raise KilnError(name, f"A must be batches of square matrices, but they are {shape[-2]} by {shape[-1]} matrices",
                        describe(A), "")  # fmt: skip
    return shape


def check_same_dtype(name: str, A: Any, B: Any) -> None:
    """An error unless both have one dtype."""
    if A.dtype is not B.dtype:
        raise KilnError(name, f"Expected both tensors to have the same dtype, got {A.dtype.name} and {B.dtype.name}",
                        describe((A, B)), "convert one of them")  # fmt: skip


def check_pair(name: str, A: Any, B: Any, left: bool = True, square: bool = True) -> tuple:
    """The batch dimensions, broadcast, of A X = B (X A = B); an error where their sizes don't fit."""
    a, b = check_matrix(name, A, square), tuple(B.shape)
    check_same_dtype(name, A, B)
    if len(b) < 2:
        raise KilnError(name, f"The right side must have at least 2 dimensions, got {len(b)}",
                        describe((A, B)), "B.unsqueeze(-1)")  # fmt: skip
    if a[-2] != (b[-2] if left else b[-1]):
        raise KilnError(
            name, f"Incompatible shapes of A and B for the equation {'AX = B' if left else 'XA = B'} "
            f"({list(a)} and {list(b)})", describe((A, B)), "",
        )  # fmt: skip
    return broadcast_lead(name, A, B)


def broadcast_lead(name: str, A: Any, B: Any) -> tuple:
    """The batch dimensions of two tensors of matrices, broadcast."""
    return tuple(broadcast_shapes(A.shape[:-2], B.shape[:-2], op=name))


def is_vector(A: Any, B: Any) -> bool:
    """Whether the right side of A X = B is a vector for each matrix."""
    a, b = tuple(A.shape), tuple(B.shape)
    return len(b) == 1 or (len(a) - 1 == len(b) and b == a[:-1])


def tracked(*xs: Tensor) -> bool:
    """Whether gradients of a call with these will be asked for."""
    return mode.grad and any(map(differentiated, xs))


# ---------------------------------------------------------------- failures and results


def fail(name: str, info: Any, what: str, help: str, kind: type[KilnError] = LinAlgError) -> None:
    """A LinAlgError where an info of a batch is not 0; `{0}` in `what` is the first such."""
    bad = np.argwhere(np.asarray(info) != 0)
    if len(bad):
        at = tuple(bad[0])
        batch = f"(Batch element {at[0] if len(at) == 1 else at}): " if at else ""
        raise kind(name, batch + what.format(np.asarray(info)[at]), f"info={np.asarray(info).tolist()}",
                          help)  # fmt: skip


def run(name: str, fn: Callable, *args: Any, **kwargs: Any) -> Any:
    """A routine of LAPACK by way of NumPy, with its failure as an error of the op."""
    try:
        return fn(*args, **kwargs)
    except np.linalg.LinAlgError as e:
        raise LinAlgError(
            name, f"The algorithm failed to converge: {e}", describe(args[0]),
            "the matrix is ill-conditioned, has too many repeated values, or holds infinities or NaNs",
        ) from None  # fmt: skip


def factorization(name: str, infer: Callable, samples: Callable, **facts: Any) -> Callable:
    """An op of linear algebra; its public function, where it is not that itself, is a composition."""
    facts.setdefault("namespace", "linalg")
    return op(
        name=name, infer=infer, samples=samples, method=False, family="factorization", **facts
    )


# ---------------------------------------------------------------- small matrices


def diag(x: Tensor) -> Tensor:
    """Matrices with x on their diagonals."""
    return FUNCTIONS["diag_embed"](x)


def eye(n: int, like: Tensor, m: int | None = None) -> Tensor:
    """The identity in a tensor's dtype."""
    return FUNCTIONS["eye"](n, m, dtype=like.dtype)


# ---------------------------------------------------------------- samples


def well(r: np.random.Generator, *shape: int) -> np.ndarray:
    """Matrices far from singular, with singular values far from each other."""
    return draw(r, shape) + np.eye(*shape[-2:]) * (3 + np.arange(shape[-1]))


def squares(*rest: Callable, bad: bool = True) -> Callable[[], Iterator[Sample]]:
    """Square matrices, real and complex, batched and empty, each with what else a call takes."""

    def samples() -> Iterator[Sample]:
        r = rng(31)
        for shape in ((3, 3), (2, 3, 3), (1, 1), (0, 2, 2), (0, 0)):
            yield Sample((well(r, *shape), *(f(r, shape) for f in rest)))
        yield Sample((well(r, 3, 3) + 1j * draw(r, (3, 3)), *(f(r, (3, 3)) for f in rest)))
        if bad:
            yield Sample((draw(r, (2, 3)), *(f(r, (3, 3)) for f in rest)), error=RuntimeError)
            yield Sample((draw(r, (3,)), *(f(r, (3, 3)) for f in rest)), error=RuntimeError)
            ints = np.eye(2, dtype=np.int64)
            yield Sample((ints, *(f(r, (2, 2)) for f in rest)), error=RuntimeError)

    return samples


def hermitian() -> Iterator[Sample]:
    """Hermitian positive-definite matrices."""
    r = rng(32)
    for shape in ((3, 3), (2, 3, 3), (1, 1), (0, 0)):
        a = well(r, *shape)
        yield Sample((a @ np.swapaxes(a, -1, -2),), grad=False)
    yield Sample((draw(r, (2, 3)),), error=RuntimeError)


def rectangles() -> Iterator[Sample]:
    """Square, tall and wide matrices."""
    r = rng(37)
    for shape in ((3, 3), (4, 2), (2, 2, 3)):
        yield Sample((well(r, *shape),))
