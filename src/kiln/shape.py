"""Shapes: sizes, dimensions by number, broadcasting, and symbolic sizes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import naming
from .errors import KilnError, KilnIndexError, KilnTypeError

MOST_DIMS = 64  # of a tensor, in NumPy and in PyTorch


class Size(tuple):
    """A shape: a tuple of sizes with `numel()`; whole numbers of other kinds, tensors of one too, become ints."""

    __slots__ = ()

    def __new__(cls, sizes: Iterable[Any] = ()) -> Self:
        """The shape of these sizes. KilnTypeError for what is no whole number."""
        out = tuple.__new__(cls, sizes)
        for s in out:
            if s.__class__ is not int and s.__class__ is not Dim:
                return tuple.__new__(cls, [_whole(i, s) for i, s in enumerate(out)])
        return out

    def numel(self) -> int:
        """The number of elements."""
        return numel(self)

    def __repr__(self) -> str:
        return f"{naming.name}.Size([{', '.join(map(str, self))}])"

    def __getitem__(self, i: Any) -> Any:
        out = tuple.__getitem__(self, i)
        return Size(out) if isinstance(i, slice) else out

    def __add__(self, other: Any) -> Size:
        return Size(tuple.__add__(self, tuple(other)))

    def __mul__(self, n: Any) -> Size:
        return Size(tuple.__mul__(self, n))

    __rmul__ = __mul__


def _whole(i: int, s: Any) -> Any:
    if s.__class__ is int or isinstance(s, Dim):
        return s
    try:
        return operator.index(s)
    except TypeError:
        raise KilnTypeError(
            "Size", f"expected int at position {i}, but got: {type(s).__name__}", repr(s), ""
        ) from None


def numel(shape: Iterable[Any]) -> Any:
    """The product of the sizes."""
    n: Any = 1
    for s in shape:
        n = n * s
    return n


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a row-major array."""
    out, n = [], 1
    for s in reversed(shape):
        out.append(n)
        n *= max(s, 1)
    return tuple(reversed(out))


def dummy_array(shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """An order in memory as a dummy array over one byte; its strides count elements."""
    if len(shape) > MOST_DIMS:
        raise KilnError(
            "shape",
            f"only tensors with up to {MOST_DIMS} dims are supported",
            f"{len(shape)} dims",
            "reshape to fewer dims",
        )
    return as_strided(np.zeros(1, np.uint8), shape, strides)


def index_int(x: Any, op: str, name: str) -> int:
    """An integer argument; anything with `__index__` except bool-like tensors is taken."""
    try:
        return operator.index(x)
    except TypeError:
        raise KilnTypeError(
            op, f"{name} must be an integer", repr(x), f"pass {name}=int(…)"
        ) from None


def norm_dim(dim: Any, ndim: int, op: str = "dim") -> int:
    """A dimension counted from the front; 0-d tensors accept -1 and 0."""
    if dim.__class__ is int and -ndim <= dim < ndim:
        return dim + ndim if dim < 0 else dim
    d = index_int(dim, op, "dim")
    n = max(ndim, 1)
    if not -n <= d < n:
        raise KilnIndexError(
            op, f"dimension out of range (expected to be in [{-n}, {n - 1}])", f"dim={d}",
            f"the tensor has {ndim} dimensions",
        )  # fmt: skip
    return d + n if d < 0 else d


def norm_dims(dim: Any, ndim: int, op: str = "dim") -> tuple[int, ...]:
    """Distinct dimensions from an int, a sequence, or None (all of them)."""
    if dim is None:
        return tuple(range(ndim))
    if isinstance(dim, list | tuple):
        out = tuple(norm_dim(d, ndim, op) for d in dim)
        if len(set(out)) != len(out):
            raise KilnError(
                op, "a dimension appears twice", f"dim={tuple(dim)}", "name each one once"
            )
        return out if ndim else ()
    d = norm_dim(dim, ndim, op)
    return (d,) if ndim else ()


def behind(dims: Iterable[Any], ndim: int) -> tuple[int, ...]:
    """The dimensions of one of a batch as dimensions of the batch, which has one more in front."""
    return tuple(norm_dim(d, ndim) + 1 for d in dims)


def broadcast_shapes(*shapes: Any, op: str = "broadcast_shapes") -> Size:
    """The common shape of operands aligned at their last dimensions; sizes of 1 stretch."""
    if int in map(type, shapes):
        shapes = tuple((s,) if isinstance(s, int) else s for s in shapes)
    n = max((len(s) for s in shapes), default=0)
    out: list[Any] = [1] * n
    for s in shapes:
        for i, size in enumerate(s, n - len(s)):
            if size != 1 and size != out[i]:
                if out[i] != 1:
                    raise KilnError(
                        op, f"sizes {out[i]} and {size} differ at dimension {i} and neither is 1",
                        ", ".join(str(list(x)) for x in shapes),
                        "shapes are aligned at their last dimension; reshape or unsqueeze one operand",
                    )  # fmt: skip
                out[i] = size
    return Size(out)


def resolve_reshape(shape: Sequence[Any], count: Any, op: str = "reshape") -> tuple[Any, ...]:
    """The shape with its -1 filled in so that it holds `count` elements."""
    dims = [s if isinstance(s, Dim) else index_int(s, op, "shape") for s in shape]
    holes = [i for i, s in enumerate(dims) if not isinstance(s, Dim) and s == -1]
    known = numel(s for i, s in enumerate(dims) if i not in holes)
    ok = len(holes) <= 1 and all(isinstance(s, Dim) or s >= -1 for s in dims)
    if ok and holes:
        ok = known != 0 and count % known == 0
        if ok:
            dims[holes[0]] = count // known
    elif ok:
        ok = known == count
    if not ok:
        raise KilnError(
            op, f"shape '{list(shape)}' is invalid for input of size {count}", f"shape={list(shape)}",
            "the product of the sizes must equal the number of elements; at most one size may be -1",
        )  # fmt: skip
    return tuple(dims)


class Dim:
    """A symbolic size: an integer polynomial over named sizes, each at least 1.

    Supports +, -, * with ints and Dims, and exact `//` and `%` where they come out even. Equal
    polynomials compare equal and hash alike; `bind` gives the number for known sizes.

    >>> n = Dim("n"); (2 * n + n).bind(n=4)
    12
    """

    __slots__ = ("terms",)

    def __init__(self, name: str | None = None, terms: dict[tuple[str, ...], int] | None = None):
        self.terms = terms if terms is not None else {(name,): 1} if name else {}

    @staticmethod
    def _terms(x: Any) -> dict[tuple[str, ...], int] | None:
        if isinstance(x, Dim):
            return x.terms
        return ({(): int(x)} if x else {}) if isinstance(x, int) else None

    @staticmethod
    def _make(terms: dict[tuple[str, ...], int]) -> Any:
        terms = {k: v for k, v in terms.items() if v}
        if not terms:
            return 0
        return terms[()] if set(terms) == {()} else Dim(terms=terms)

    def __add__(self, other: Any) -> Any:
        b = self._terms(other)
        if b is None:
            return NotImplemented
        out = dict(self.terms)
        for k, v in b.items():
            out[k] = out.get(k, 0) + v
        return self._make(out)

    __radd__ = __add__

    def __neg__(self) -> Any:
        return self._make({k: -v for k, v in self.terms.items()})

    def __sub__(self, other: Any) -> Any:
        return self + -other if self._terms(other) is not None else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        b = self._terms(other)
        if b is None:
            return NotImplemented
        out: dict[tuple[str, ...], int] = {}
        for k1, v1 in self.terms.items():
            for k2, v2 in b.items():
                k = tuple(sorted(k1 + k2))
                out[k] = out.get(k, 0) + v1 * v2
        return self._make(out)

    __rmul__ = __mul__

    def _divide(self, other: Any) -> dict[tuple[str, ...], int] | None:
        """Terms of self / other where other is one term and divides every one of ours."""
        b = self._terms(other)
        if not b or len(b) != 1:
            return None
        ((key, factor),) = b.items()
        out = {}
        for k, v in self.terms.items():
            rest = list(k)
            for name in key:
                if name not in rest:
                    return None
                rest.remove(name)
            if v % factor:
                return None
            out[tuple(rest)] = v // factor
        return out

    def __floordiv__(self, other: Any) -> Any:
        out = self._divide(other)
        if out is None:
            raise KilnError(
                "Dim", "this symbolic size does not divide evenly", f"{self} // {other}",
                "mark the dimension static, or make its size a multiple",
            )  # fmt: skip
        return self._make(out)

    def __mod__(self, other: Any) -> int:
        rest = self - (self // other) * other  # raises unless it is even
        return int(rest)

    def __eq__(self, other: object) -> bool:
        return self.terms == self._terms(other)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def bind(self, **sizes: int) -> int:
        """The number that this size has for the given named sizes."""
        total = 0
        for names, factor in self.terms.items():
            for name in names:
                factor *= sizes[name]
            total += factor
        return total

    def __repr__(self) -> str:
        def term(names: tuple[str, ...], factor: int) -> str:
            parts = ([] if factor == 1 and names else [str(factor)]) + list(names)
            return "*".join(parts)

        return " + ".join(term(k, v) for k, v in sorted(self.terms.items(), reverse=True))


def view_strides(
    shape: Sequence[int], strides: Sequence[int], to: Sequence[int]
) -> tuple[int, ...] | None:
    """Strides with which memory of (shape, strides) shows the shape `to`; None where it must be copied."""
    if numel(shape) == 0:
        return contiguous_strides(to)
    old = [(s, st) for s, st in zip(shape, strides, strict=True) if s != 1]
    out: list[int] = []
    sizes = list(to)
    # merge neighbours whose memory is one run, from the back, and cut the runs to the new sizes
    i = len(old) - 1
    j = len(sizes) - 1
    while j >= 0 and i >= 0:
        run, step = old[i]
        while i > 0 and old[i - 1][1] == old[i][1] * old[i][0]:
            i -= 1
            run *= old[i][0]
        i -= 1
        filled = 1
        while j >= 0 and (filled < run or sizes[j] == 1):
            out.append(step * filled)
            filled *= sizes[j]
            j -= 1
        if filled != run:
            return None
    while j >= 0:
        out.append(1)
        j -= 1
    return tuple(reversed(out))
