"""Cross products of vectors, and distances between rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnIndexError, KilnNotImplementedError, describe
from ..shape import Size, broadcast_shapes, norm_dim
from ..tensor import Tensor
from .linalg import same_dtype
from .numpy_names import numpy_names
from .reduction import accurate_sum, sum_op
from .registry import FUNCTIONS, REGISTRY, Sample, composition, op
from .samples import draw, rng
from .selection import where_op
from .statistics import norm_op
from .storing import store_out


def _cross(input: Tensor, other: Tensor, dim: int) -> Tensor:
    if dt.bool_ in (input.dtype, other.dtype):
        raise KilnNotImplementedError(
            "cross", "not implemented for bool", describe((input, other)), ""
        )
    same_dtype("cross", input, other)
    if input.ndim != other.ndim:
        raise KilnError("cross", "inputs must have the same number of dimensions",
                        describe((input, other)), "unsqueeze one of them")  # fmt: skip
    shape = broadcast_shapes(input.shape, other.shape, op="cross")
    if not shape:
        raise KilnIndexError(
            "cross", f"dimension {dim} of a tensor without dimensions", describe(input), ""
        )
    d = norm_dim(dim, len(shape), "cross")
    for x in (input, other):
        if x.shape[d] != 3:
            raise KilnError(
                "cross",
                f"inputs dimension {dim} must have length 3",
                describe((input, other)),
                "choose another dim",
            )
    return input.roll(-1, d) * other.roll(-2, d) - input.roll(-2, d) * other.roll(-1, d)


def _cross_samples() -> Iterator[Sample]:
    r = rng(23)
    yield Sample((draw(r, (3,)), draw(r, (3,))))
    yield Sample((draw(r, (2, 3)), draw(r, (1, 3)), -1))
    yield Sample((draw(r, (3, 2)), draw(r, (3, 2))), {"dim": 0})
    yield Sample((draw(r, (3, 2)), draw(r, (3, 2))), {"dim": 1}, error=RuntimeError)


@composition(samples=_cross_samples)
def cross(
    input: Tensor, other: Tensor, dim: int | None = None, *, out: Tensor | None = None
) -> Tensor:
    """The cross product along `dim`, by default the first one of size 3."""
    if dim is None:
        sizes = [i for i, s in enumerate(input.shape) if s == 3]
        if not sizes:
            raise KilnError(
                "cross", "no dimension of size 3 in input", describe(input), "pass dim="
            )
        dim = sizes[0]
    return store_out(REGISTRY["gather"], _cross(input, other, dim), out, (input, other))


def _linalg_cross(
    input: Tensor, other: Tensor, *, dim: int = -1, out: Tensor | None = None
) -> Tensor:
    """The cross product along `dim`."""
    return store_out(REGISTRY["gather"], _cross(input, other, dim), out, (input, other))


FUNCTIONS["linalg.cross"] = numpy_names(_linalg_cross)


def _cdist_infer(x1: Any, x2: Any, p: float = 2.0) -> tuple:
    a, b = x1.shape, x2.shape
    if len(a) < 2 or len(b) < 2:
        raise KilnError(
            "cdist", "needs tensors of at least 2 dimensions", describe((x1, x2)), "x.unsqueeze(0)"
        )
    if a[-1] != b[-1]:
        raise KilnError(
            "cdist",
            f"both need the same number of columns, got {a[-1]} and {b[-1]}",
            describe((x1, x2)),
            "",
        )
    if x1.dtype.category != dt.FLOAT:
        raise KilnError(
            "cdist",
            "only supports floating-point dtypes",
            describe((x1, x2)),
            "convert with .float()",
        )
    if p < 0:
        raise KilnError("cdist", "only supports non-negative p values", p, "")
    return Size((*broadcast_shapes(a[:-2], b[:-2], op="cdist"), a[-2], b[-2])), same_dtype(
        "cdist", x1, x2
    )


def _pull(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """The gradient of distances |x - y| to x."""
    zero = out == 0
    w = where_op(zero, 0, g / where_op(zero, 1, out))
    return x * sum_op(w, -1, True) - w @ y


def _cdist_samples() -> Iterator[Sample]:
    r = rng(24)
    yield Sample((draw(r, (3, 4)), draw(r, (5, 4))))
    yield Sample((draw(r, (2, 3, 4)), draw(r, (5, 4))))
    yield Sample((draw(r, (0, 4)), draw(r, (5, 4))))
    yield Sample((np.ones((2, 3)), np.ones((2, 3))), grad=False)
    yield Sample((draw(r, (3, 4)), draw(r, (5, 3))), error=RuntimeError)
    yield Sample((draw(r, (3,)), draw(r, (5, 3))), error=RuntimeError)


@op(
    node="CdistBackward0", name="euclidean_distances", private=True, infer=_cdist_infer, samples=_cdist_samples,
    body=lambda x1, x2: norm_op(x1.unsqueeze(-2) - x2.unsqueeze(-3), 2, -1, False),
    grad={
        "x1": lambda g, x1, x2, out: _pull(g, x1, x2, out),
        "x2": lambda g, x1, x2, out: _pull(g.transpose(-2, -1), x2, x1, out.transpose(-2, -1)),
    },
)  # fmt: skip
def euclidean_distances(x1: Tensor, x2: Tensor) -> Tensor:
    """The distances between all rows of two matrices (or batches of them)."""
    rows = [x1[..., i : i + 1, :] - x2 for i in range(x1.shape[-2])]
    shape = (*np.broadcast_shapes(x1.shape[:-2], x2.shape[:-2]), x1.shape[-2], x2.shape[-2])
    out = np.empty(shape, x1.dtype)
    for i, d in enumerate(rows):
        out[..., i, :] = np.sqrt(accurate_sum(d * d, -1))
    return out


@composition(method=False, samples=lambda: iter([
    *_cdist_samples(), Sample((draw(rng(), (3, 4)), draw(rng(1), (5, 4)), 1.0)),
    Sample((draw(rng(), (3, 4)), draw(rng(1), (5, 4)), 3.0)),
]))  # fmt: skip
def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """The p-norm distances between all rows of two matrices (or batches of them)."""
    _cdist_infer(x1, x2, p)
    if p == 2:
        return euclidean_distances(x1, x2)
    return norm_op(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1, False)
