"""Einstein sums, as permutations, matrix products and sums."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import KilnError, describe
from ..shape import broadcast_shapes, numel
from ..tensor import CAPTURING, PLAIN, Tensor
from .registry import Sample, composition
from .samples import draw, rng

# Note [Sketches]
# What an equation comes to depends on shapes alone, and finding it takes longer than small products. So it is found
# for `Sketch`es, which have a tensor's shape and write down what is made of them, and kept by equation and shapes.

# Note [Labels]
# A dimension's label is any hashable value: a letter, the int of the sublist format, or ("...", i)
# for the i-th dimension, from the last, that an ellipsis stands for.

Labels = list[Any]


class Sketch:
    """A value that is known by its shape and its place in the list that `steps` lead to: see Note [Sketches].

    A step is a function of the value at a place and of one at another (None: of a further argument).
    """

    __slots__ = ("at", "shape", "steps")

    def __init__(self, shape: Sequence[int], at: int, steps: list[tuple]):
        self.shape, self.at, self.steps = tuple(shape), at, steps

    def _by(
        self, fn: Callable, shape: Sequence[int], argument: Any, other: int | None = None
    ) -> Any:
        self.steps.append((fn, self.at, other, argument))
        return Sketch(shape, _MOST + len(self.steps) - 1, self.steps)

    def _without(self, dims: Sequence[int]) -> list[int]:
        return [s for i, s in enumerate(self.shape) if i not in dims]

    def sum(self, dims: tuple[int, ...]) -> Any:
        return self._by(Tensor.sum, self._without(dims), dims)

    def squeeze(self, dims: tuple[int, ...]) -> Any:
        return self._by(Tensor.squeeze, self._without(dims), dims)

    def unsqueeze(self, dim: int) -> Any:
        return self._by(Tensor.unsqueeze, (*self.shape[:dim], 1, *self.shape[dim:]), dim)

    def permute(self, dims: list[int]) -> Any:
        return self._by(Tensor.permute, [self.shape[i] for i in dims], tuple(dims))

    def expand(self, shape: list[int]) -> Any:
        return self._by(Tensor.expand, shape, tuple(shape))

    def reshape(self, shape: list[int]) -> Any:
        same = self.shape == tuple(shape)
        return self if same else self._by(Tensor.reshape, shape, tuple(shape))

    def diagonal(self, offset: int, i: int, j: int) -> Any:
        shape = (*self._without((i, j)), self.shape[i])
        return self._by(_diagonal, shape, (offset, i, j))

    def __matmul__(self, other: Any) -> Any:
        return self._by(operator.matmul, (*self.shape[:-1], other.shape[-1]), None, other.at)

    def __mul__(self, other: Any) -> Any:
        return self._by(operator.mul, broadcast_shapes(self.shape, other.shape), None, other.at)


_MOST = 1 << 10
"""The place of the first value that a step makes; operands come before."""


def _diagonal(x: Tensor, which: tuple[int, int, int]) -> Tensor:
    return x.diagonal(*which)


def _sum_out(x: Tensor, labels: Labels, keep: Any) -> tuple[Tensor, Labels]:
    """Sum over the labels that are not in `keep`; integers then are int64, unless all have size 1."""
    gone = tuple(i for i, v in enumerate(labels) if v not in keep)
    if not gone:
        return x, labels
    rest = [v for v in labels if v in keep]
    if all(x.shape[i] == 1 for i in gone):
        return x.squeeze(gone), rest
    return x.sum(gone), rest


def _ordered(x: Tensor, labels: Labels, order: Labels) -> Tensor:
    perm = [labels.index(v) for v in order]
    return x if perm == list(range(len(perm))) else x.permute(perm)


def _stretched(x: Tensor, labels: Labels, sizes: dict[Any, Any]) -> Tensor:
    shape = [sizes.get(v, s) for v, s in zip(labels, x.shape, strict=True)]
    return x if tuple(shape) == tuple(x.shape) else x.expand(shape)


def contract(x: Tensor, a: Labels, y: Tensor, b: Labels, keep: Labels) -> Tensor:
    """The sum of products of two tensors over all labels but `keep`, in that order."""
    x, a = _sum_out(x, a, {v for v, n in zip(b, y.shape, strict=True) if n != 1} | {*keep})
    y, b = _sum_out(y, b, {v for v, n in zip(a, x.shape, strict=True) if n != 1} | {*keep})
    x, a = _sum_out(x, a, {*b, *keep})  # size 1 where the other's sum is done
    shared = [v for v in a if v in b]
    summed = [v for v in shared if v not in keep]
    if not summed:
        return _product(x, a, y, b, keep)
    batch = [v for v in shared if v in keep]
    left, right = [v for v in a if v not in shared], [v for v in b if v not in shared]
    sizes: dict[Any, Any] = {}
    for v in shared:
        s, t = x.shape[a.index(v)], y.shape[b.index(v)]
        sizes[v] = t if s == 1 else s
    x, y = _stretched(x, a, sizes), _stretched(y, b, sizes)
    sizes |= {v: x.shape[a.index(v)] for v in left} | {v: y.shape[b.index(v)] for v in right}

    def group(labels: Labels) -> Any:
        return numel(sizes[v] for v in labels)

    lead = [sizes[v] for v in batch]
    m = _ordered(x, a, batch + left + summed).reshape([*lead, group(left), group(summed)])
    n = _ordered(y, b, batch + summed + right).reshape([*lead, group(summed), group(right)])
    order = batch + left + right
    return _ordered((m @ n).reshape([sizes[v] for v in order]), order, keep)


def _product(x: Tensor, a: Labels, y: Tensor, b: Labels, keep: Labels) -> Tensor:
    """Elements multiplied, with no sum."""

    def aligned(t: Tensor, labels: Labels) -> Tensor:
        t = _ordered(t, labels, [v for v in keep if v in labels])
        for i, v in enumerate(keep):
            if v not in labels:
                t = t.unsqueeze(i)
        return t

    return aligned(x, a) * aligned(y, b)


def _refuse(what: str, received: Any) -> KilnError:
    return KilnError("einsum", what, received, "e.g. einsum('bij,bjk->bik', a, b)")


def _letters(text: str, equation: str) -> Labels:
    out: Labels = []
    i = 0
    text = text.replace(" ", "")
    while i < len(text):
        if text.startswith("...", i):
            if Ellipsis in out:
                raise _refuse("an ellipsis appears more than once for an operand", equation)
            out.append(Ellipsis)
            i += 3
            continue
        if not (text[i].isascii() and text[i].isalpha()):
            raise _refuse(
                f"invalid subscript '{text[i]}', subscripts must be in [a-zA-Z]", equation
            )
        out.append(text[i])
        i += 1
    return out


def _parse(equation: str) -> tuple[list[Labels], Labels | None]:
    left, arrow, right = equation.partition("->")
    terms = [_letters(t, equation) for t in left.split(",")]
    return terms, _letters(right, equation) if arrow else None


def _sublists(args: tuple) -> tuple[list[Tensor], list[Labels], Labels | None]:
    operands, terms = list(args[0 : len(args) - 1 : 2]), [list(t) for t in args[1::2]]
    return operands, terms, list(args[-1]) if len(args) % 2 else None


def _with_dims(labels: Labels, count: int) -> Labels:
    """The labels with an ellipsis replaced by `count` dimensions' own."""
    out: Labels = []
    for v in labels:
        out.extend([("...", i) for i in reversed(range(count))] if v is Ellipsis else [v])
    return out


def _labelled(terms: list[Labels], operands: list[Tensor]) -> tuple[list[Labels], int]:
    """Labels for every dimension of every operand, and the most dimensions that an ellipsis has."""
    named, width = [], 0
    for k, (labels, x) in enumerate(zip(terms, operands, strict=True)):
        n = len(x.shape) - (len(labels) - (Ellipsis in labels))
        if n < 0 or (n and Ellipsis not in labels):
            raise _refuse(
                f"the number of subscripts ({len(labels)}) does not match the number of dimensions "
                f"({len(x.shape)}) for operand {k}", describe(x),
            )  # fmt: skip
        width = max(width, n)
        named.append(_with_dims(labels, n))
    return named, width


def _output(terms: list[Labels], given: Labels | None, width: int) -> Labels:
    flat = [v for labels in terms for v in labels]
    dots = [("...", i) for i in reversed(range(width))]
    if given is None:
        return dots + sorted(
            v for v in set(flat) if not isinstance(v, tuple) and flat.count(v) == 1
        )
    out = _with_dims(given, width)
    for v in out:
        if out.count(v) > 1:
            raise _refuse(f"output subscript {v} appears more than once in the output", given)
        if v not in flat:
            raise _refuse(
                f"output subscript {v} does not appear in the equation for any input operand", given
            )
    return out


def _without_repeats(x: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
    """Repeated labels taken on the diagonal."""
    labels = list(labels)
    for v in dict.fromkeys(labels):
        while labels.count(v) > 1:
            i = labels.index(v)
            j = labels.index(v, i + 1)
            if x.shape[i] != x.shape[j]:
                raise _refuse(
                    f"subscript {v} is repeated but the sizes don't match, {x.shape[j]} != {x.shape[i]}",
                    describe(x),
                )
            x = x.diagonal(0, i, j)
            labels = [w for k, w in enumerate(labels) if k not in (i, j)] + [v]
    return x, labels


def _check_sizes(terms: list[Labels], operands: list[Tensor]) -> None:
    sizes: dict[Any, Any] = {}
    for k, (labels, x) in enumerate(zip(terms, operands, strict=True)):
        for v, s in zip(labels, x.shape, strict=True):
            old = sizes.get(v, 1)
            if old != 1 and s != 1 and s != old:
                raise _refuse(
                    f"subscript {v} has size {s} for operand {k} which does not broadcast with previously seen size {old}",
                    describe(operands),
                )
            sizes[v] = s if old == 1 else old


def _samples() -> Iterator[Sample]:
    r = rng(25)
    for equation, *shapes in (
        ("ij,jk->ik", (2, 3), (3, 4)), ("ij->ji", (2, 3)), ("ii->i", (3, 3)), ("ii", (3, 3)), ("ij->", (2, 3)),
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("...ij,...jk->...ik", (2, 3, 4), (4, 5)), ("i,j", (2,), (3,)),
        ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)), ("ij,ij->ij", (2, 1), (2, 3)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
        ("i...->...", (2, 3)), ("ba", (2, 3)), ("i,i,i->", (3,), (3,), (3,)), ("iij,jk->ik", (2, 2, 3), (3, 4)), ("ij,jk->ik", (2, 1), (3, 4)),
    ):  # fmt: skip
        yield Sample((equation, *(draw(r, s) for s in shapes)))
    for equation, *shapes in (("ij,jk", (2, 3), (4, 5)), ("ij,jk->ikk", (2, 3), (3, 5)), ("ij->iz", (2, 3)),
                              ("ijk", (2, 3)), ("i,j", (2,)), ("ii->i", (2, 3)), ("i1", (2, 2))):  # fmt: skip
        yield Sample((equation, *(draw(r, s) for s in shapes)), error=RuntimeError)


@composition(method=False, samples=_samples)
def einsum(*args: Any) -> Tensor:
    """The sum of products that an equation names: `einsum('bij,bjk->bik', a, b)`.

    Takes ellipses, repeated subscripts, an implicit output, and the sublist format
    `einsum(a, [0, 1], b, [1, 2], [0, 2])`. Operands are contracted from left to right.
    """
    equation = args[0]
    if not isinstance(equation, str):
        return _evaluated(*_sublists(args))
    operands = list(args[1:])
    if len(operands) == 1 and isinstance(operands[0], Sequence):
        return einsum(equation, *operands[0])
    if not CAPTURING and all(
        x.__class__ in PLAIN and x._a.__class__ is np.ndarray for x in operands
    ):
        try:
            steps, last = _steps(equation, tuple([x._a.shape for x in operands]))
        except KilnError:  # told below, of tensors
            pass
        else:
            values = dict(enumerate(operands))
            for i, (fn, at, other, argument) in enumerate(steps, _MOST):
                values[i] = fn(values[at], argument if other is None else values[other])
            return values[last]
    terms, given = _parse(equation)
    return _evaluated(operands, terms, given)


@lru_cache(1024)
def _steps(equation: str, shapes: tuple) -> tuple[list[tuple], int]:
    """What an equation of operands of these shapes comes to, and where the result is."""
    steps: list[tuple] = []
    operands: list[Any] = [Sketch(s, i, steps) for i, s in enumerate(shapes)]
    terms, given = _parse(equation)
    return steps, _evaluated(operands, terms, given).at


def _evaluated(operands: list[Any], terms: list[Labels], given: Labels | None) -> Any:
    """The sum of products of tensors, or of sketches, with labels."""
    if len(terms) != len(operands):
        raise _refuse(
            f"{len(terms)} operands are named and {len(operands)} were given", describe(operands)
        )
    named, width = _labelled(terms, operands)
    out = _output(named, given, width)
    pairs = [_without_repeats(x, labels) for x, labels in zip(operands, named, strict=True)]
    operands, named = [x for x, _ in pairs], [labels for _, labels in pairs]
    _check_sizes(named, operands)
    x, labels = operands[0], named[0]
    for k in range(1, len(operands)):
        later = {*out, *(v for rest in named[k + 1 :] for v in rest)}
        keep = [v for v in dict.fromkeys([*labels, *named[k]]) if v in later]
        if k == len(operands) - 1:
            keep = [v for v in out if v in keep]
        x = contract(x, labels, operands[k], named[k], keep)
        labels = keep
    gone = tuple(i for i, v in enumerate(labels) if v not in out)
    x = x.sum(gone) if gone else x
    return _ordered(x, [v for v in labels if v in out], out)


einsum.unpacks = (
    True  # a sequence of operands is a call with each of them: who answers sees that one
)
