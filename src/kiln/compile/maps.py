"""Index arithmetic: where an element of one node lies in another, as affine maps of loop indices.

An `Affine` is `offset + sum(strides[d] * i[d])` over the dims of a domain. A node is accessed at one
Affine per dimension; movement ops rewrite these, so that views cost nothing. Reshapes need division:
it is exact where the loop extents prove it, else `Split` says which loop to cut in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Affine(NamedTuple):
    """offset + sum(strides[d] * i[d])."""

    offset: int
    strides: tuple[int, ...]

    def scaled(self, factor: int, plus: int = 0) -> Affine:
        """factor * self + plus."""
        return Affine(self.offset * factor + plus, tuple(s * factor for s in self.strides))

    def added(self, other: Affine) -> Affine:
        """self + other."""
        return Affine(
            self.offset + other.offset,
            tuple(a + b for a, b in zip(self.strides, other.strides, strict=True)),
        )

    @property
    def fixed(self) -> bool:
        """Whether no loop moves it."""
        return not any(self.strides)


class Split(Exception):
    """Loop `dim` has to become two, the inner one of size `inner`."""

    def __init__(self, dim: int, inner: int):
        self.dim, self.inner = dim, inner


class NotAffine(Exception):
    """An access that no affine map of these loops describes."""


def identity(dims: Sequence[int], groups: Sequence[Sequence[int]]) -> tuple[Affine, ...]:
    """One Affine for each group of neighbouring loops, which together walk one dimension."""
    out = []
    for group in groups:
        strides = [0] * len(dims)
        n = 1
        for d in reversed(group):
            strides[d] = n if dims[d] > 1 else 0
            n *= dims[d]
        out.append(Affine(0, tuple(strides)))
    return tuple(out)


def constant(n_dims: int, value: int = 0) -> Affine:
    """The same number everywhere."""
    return Affine(value, (0,) * n_dims)


def span(a: Affine, dims: Sequence[int]) -> tuple[int, int]:
    """The smallest and largest value."""
    low = high = a.offset
    for s, n in zip(a.strides, dims, strict=True):
        if n > 1:
            low, high = (low + s * (n - 1), high) if s < 0 else (low, high + s * (n - 1))
    return low, high


def divide(a: Affine, by: int, dims: Sequence[int]) -> tuple[Affine, Affine]:
    """Quotient and remainder, both affine; raises Split or NotAffine where they are not."""
    if by == 0:  # nothing is ever read
        return constant(len(dims)), constant(len(dims))
    q, r = [0] * len(dims), [0] * len(dims)
    for d, s in enumerate(a.strides):
        if s % by == 0:
            q[d] = s // by
        else:
            r[d] = s
    q0, r0 = divmod(a.offset, by)
    rest = Affine(r0, tuple(r))
    low, high = span(rest, dims)
    if low < 0 or high >= by:
        for d, s in enumerate(r):
            if s > 0 and by % s == 0 and dims[d] > by // s and dims[d] % (by // s) == 0:
                raise Split(d, by // s)
        raise NotAffine
    return Affine(q0, tuple(q)), rest


def dot(access: Sequence[Affine], strides: Sequence[int], n_dims: int) -> Affine:
    """The position of an access in memory with these strides."""
    out = constant(n_dims)
    for a, s in zip(access, strides, strict=True):
        out = out.added(a.scaled(s))
    return out


def flatten(access: Sequence[Affine], shape: Sequence[int], n_dims: int) -> Affine:
    """The row-major position of an access in a shape."""
    out = constant(n_dims)
    for a, n in zip(access, shape, strict=True):
        out = out.scaled(n).added(a)
    return out


def reshape(
    access: Sequence[Affine], shape: Sequence[int], to: Sequence[int], dims: Sequence[int]
) -> tuple[Affine, ...]:
    """An access of `shape` as one of `to`, which has as many elements in the same order."""
    n = len(dims)
    out: list[Affine] = []
    i = j = 0
    while i < len(shape) or j < len(to):
        # the shortest run of dimensions on both sides with equal products
        ia, ja = i, j
        pa = pb = 1
        while True:
            if pa == pb and i > ia and j > ja:
                break
            if pa <= pb and i < len(shape):
                pa *= shape[i]
                i += 1
            elif j < len(to):
                pb *= to[j]
                j += 1
            elif i < len(shape):
                pa *= shape[i]
                i += 1
            else:
                break
        group, target = access[ia:i], to[ja:j]
        if len(group) == 1 and len(target) == 1:
            out.append(group[0])
            continue
        flat = flatten(group, shape[ia:i], n)
        parts: list[Affine] = []
        for size in reversed(target[1:]):
            if size == 1:
                parts.append(constant(n))
                continue
            flat, rest = divide(flat, size, dims)
            parts.append(rest)
        if target:
            parts.append(flat)
        out.extend(reversed(parts))
    return tuple(out)


def split_dims(
    dims: Sequence[int], groups: Sequence[Sequence[int]], cut: Split
) -> tuple[list[int], list[list[int]]]:
    """Loops and their groups after a loop has been cut in two."""
    d, inner = cut.dim, cut.inner
    new = [*dims[:d], dims[d] // inner, inner, *dims[d + 1 :]]
    out = []
    for g in groups:
        moved = []
        for x in g:
            moved += [x, x + 1] if x == d else [x + (x > d)]
        out.append(moved)
    return new, out
