"""Tensors put together from others and taken apart: blocks, products of lists, parts written into copies."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnTypeError, describe
from ..formats import contiguous_format
from ..shape import norm_dim
from ..tensor import Tensor, wrap
from .joining import cat, meshgrid, stack
from .registry import FUNCTIONS, Sample, composition
from .samples import draw, rng
from .slicing import parts_named, tensor_split


def _listed(tensors: tuple) -> tuple[list[Tensor], bool]:
    """The tensors of `f(a, b)` and `f([a, b])`, and whether there is only one of them alone."""
    if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
        return list(tensors[0]), False
    return list(tensors), len(tensors) == 1


# ---------------------------------------------------------------- at least so many dimensions


def _at_least(n: int, lift: Callable[[Tensor], Tensor]) -> Any:
    def fn(*tensors: Any) -> Any:
        given, alone = _listed(tensors)
        out = tuple(x if x.ndim >= n else lift(x) for x in given)
        return out[0] if alone else out

    fn.__name__, fn.__doc__ = f"atleast_{n}d", f"Each tensor with at least {n} dimensions."
    return composition(method=False, samples=lambda: iter([
        Sample((draw(rng(), s),)) for s in ((), (3,), (2, 3), (2, 3, 4))
    ] + [Sample(([draw(rng(), ()), draw(rng(), (3,))],))]))(fn)  # fmt: skip


atleast_1d = _at_least(1, lambda x: x.reshape(1))
atleast_2d = _at_least(2, lambda x: x.reshape(1, -1) if x.numel() else x.unsqueeze(0))
atleast_3d = _at_least(3, lambda x: atleast_2d(x).unsqueeze(-1))


# ---------------------------------------------------------------- joining


@composition(method=False, samples=lambda: iter([
    Sample(([draw(rng(), (3,)), draw(rng(1), (3, 2))],)), Sample(([draw(rng(), ()), draw(rng(1), ())],)),
    Sample(([draw(rng(), (3,)), draw(rng(1), (4,))],), error=RuntimeError),
]))  # fmt: skip
def column_stack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """The tensors side by side, vectors as columns."""
    return cat([x.reshape(x.numel(), 1) if x.ndim <= 1 else x for x in tensors], 1, out=out)


@composition(
    method=False,
    samples=lambda: iter(
        [Sample(([draw(rng(), s), draw(rng(1), s)],)) for s in ((3,), (2, 3), (2, 3, 2))]
    ),
)
def dstack(tensors: Sequence[Tensor], *, out: Tensor | None = None) -> Tensor:
    """The tensors one behind the other, along the third dimension."""
    return cat([atleast_3d(x) for x in tensors], 2, out=out)


@composition(method=False, samples=lambda: iter([
    Sample((draw(rng(), (2, 3)), draw(rng(1), (2,)), draw(rng(2), ()))), Sample((draw(rng(), (0, 2)), draw(rng(1), (1, 1)))),
    Sample((draw(rng(), (2, 2, 2)),), error=RuntimeError),
]))  # fmt: skip
def block_diag(*tensors: Tensor) -> Tensor:
    """The matrices along the diagonal of one that is zero elsewhere; vectors are rows."""
    given, _ = _listed(tensors)
    for i, x in enumerate(given):
        if x.ndim > 2:
            raise KilnError("block_diag", f"Input tensors must have 2 or fewer dimensions. Input {i} has {x.ndim}",
                            describe(x), "")  # fmt: skip
    blocks = [atleast_2d(x) for x in given]
    width = sum(x.shape[1] for x in blocks)
    at, rows = 0, []
    for x in blocks:
        rows.append(FUNCTIONS["nn.functional.pad"](x, (at, width - at - x.shape[1])))
        at += x.shape[1]
    return cat(rows, 0) if rows else FUNCTIONS["zeros"]((1, 0))


@composition(method=False, samples=lambda: iter([
    Sample((draw(rng(), (3,)), draw(rng(1), (2,)))), Sample((draw(rng(), (3,)),)),
    Sample((draw(rng(), (2, 2)), draw(rng(), (2,))), error=RuntimeError),
]))  # fmt: skip
def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All choices of one element from each vector, a row for each."""
    given, _ = _listed(tensors)
    for x in given:
        if x.ndim != 1:
            raise KilnError("cartesian_prod", "Expect a 1D vector", describe(x), "")
    if len(given) == 1:
        return given[0]
    return stack([x.flatten() for x in meshgrid(*given, indexing="ij")], 1)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (4,)), n, again)) for n in (0, 1, 2, 3) for again in (False, True)
] + [Sample((draw(rng(), (2, 2)),), error=RuntimeError)]))  # fmt: skip
def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All choices of `r` elements of a vector, in order."""
    if input.ndim != 1:
        raise KilnError("combinations", "Expect a 1D vector", describe(input), "")
    if r == 0:
        return input.new_zeros(0)
    if r == 2:
        pairs = np.triu_indices(input.shape[0], 0 if with_replacement else 1)
        return input[wrap(np.stack(pairs, 1))]
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    at = np.array(list(choose(range(input.shape[0]), r)), np.int64).reshape(-1, r)
    return input[wrap(at)]


# ---------------------------------------------------------------- splitting


def _splitter(name: str, least: int, dim: Callable[[Tensor], int]) -> Any:
    def fn(input: Tensor, indices_or_sections: Any = None, **named: Any) -> tuple[Tensor, ...]:
        indices_or_sections = parts_named(name, indices_or_sections, named)
        if input.ndim < least:
            raise KilnError(name, f"requires a tensor with at least {least} dimension, but got a tensor with "
                            f"{input.ndim} dimensions!", describe(input), "")  # fmt: skip
        d = dim(input)
        n = indices_or_sections
        if not isinstance(n, int | list | tuple | Tensor):
            raise KilnTypeError(name, f"expected a number of sections or indices, not {type(n).__name__}",
                                describe(n), f"e.g. {name}(x, 2) or {name}(x, [1, 3])")  # fmt: skip
        if isinstance(n, int) and (n <= 0 or input.shape[d] % n):
            raise KilnError(name, f"attempted to split along dimension {d}, but the size of the dimension "
                            f"{input.shape[d]} is not divisible by the split_size {n}!", describe(input), "tensor_split")  # fmt: skip
        return tensor_split(input, n, d)

    fn.__name__, fn.__doc__ = (
        name,
        f"Views of equal parts, or of the parts between indices, along dimension {least - 1}.",
    )
    return composition(samples=lambda: iter([
        Sample((draw(rng(), (4, 4, 4)), 2)), Sample((draw(rng(), (4, 4, 4)), [1, 3])),
        Sample((draw(rng(), (4, 4, 4)), 3), error=RuntimeError), Sample((draw(rng(), ()), 2), error=RuntimeError),
    ]))(fn)  # fmt: skip


hsplit = _splitter("hsplit", 1, lambda x: 0 if x.ndim == 1 else 1)
vsplit = _splitter("vsplit", 2, lambda x: 0)
dsplit = _splitter("dsplit", 3, lambda x: 2)


# ---------------------------------------------------------------- parts written into a copy


def _scattered(name: str, input: Tensor, src: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    out = input.clone()
    part = view(out)
    if part.shape != src.shape:
        raise KilnError(name, f"expected src to have a size equal to the slice of self. src size = {list(src.shape)}, "
                        f"slice size = {list(part.shape)}", describe((input, src)), "")  # fmt: skip
    part.copy_(src)
    return out


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)), 0, 1)), Sample((draw(rng(), (3, 4)), draw(rng(1), (3,)), -1, -1)),
    Sample((draw(rng(), (3, 4)), draw(rng(1), (3,)), 0, 1), error=RuntimeError),
]))  # fmt: skip
def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy with `src` in place of `input.select(dim, index)`."""
    return _scattered("select_scatter", input, src, lambda x: x.select(dim, index))


@composition(out=True, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (3, 2)), 1, 0, 4, 2)), Sample((draw(rng(), (3, 4)), draw(rng(1), (2, 4)), 0, 1)),
    Sample((draw(rng(), (3, 4)), draw(rng(1), (3, 3)), 1, 0, 2), error=RuntimeError),
]))  # fmt: skip
def slice_scatter(input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None,
                  step: int = 1) -> Tensor:  # fmt: skip
    """A copy with `src` in place of the slice start:end:step of one dimension."""
    lead = (slice(None),) * norm_dim(dim, input.ndim, "slice_scatter")
    return _scattered("slice_scatter", input, src, lambda x: x[(*lead, slice(start, end, step))])


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (3,)))), Sample((draw(rng(), (3, 4)), draw(rng(1), (2,)), -1)),
    Sample((draw(rng(), (2, 3, 3)), draw(rng(1), (2, 2)), 1, 1, 2)), Sample((draw(rng(), (3, 4)), draw(rng(1), (2,))), error=RuntimeError),
]))  # fmt: skip
def diagonal_scatter(
    input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """A copy with `src` on a diagonal."""
    return _scattered("diagonal_scatter", input, src, lambda x: x.diagonal(offset, dim1, dim2))


# ---------------------------------------------------------------- turning, places


@composition(samples=lambda: iter([
    *(Sample((draw(rng(), (3, 4)), k)) for k in range(-1, 5)), Sample((draw(rng(), (2, 3, 4)), 1, (2, 0))),
    Sample((draw(rng(), (3, 4)), 1, (0, 0)), error=RuntimeError), Sample((draw(rng(), (3,)),), error=RuntimeError),
]))  # fmt: skip
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turned by `k` times 90 degrees in the plane of two dimensions, from the first towards the second."""
    if len(dims) != 2 or input.ndim < 2:
        raise KilnError(
            "rot90",
            "expected two rotation dims and at least two dimensions",
            describe(input),
            f"dims={dims}",
        )
    a, b = (norm_dim(d, input.ndim, "rot90") for d in dims)
    if a == b:
        raise KilnError("rot90", f"expected rotation dims to be different, but got dim0 = {a} and dim1 = {b}",
                        describe(input), "")  # fmt: skip
    if k % 4 == 0:
        return input.clone(memory_format=contiguous_format)
    if k % 4 == 1:
        return input.flip(b).transpose(a, b).clone()
    return input.flip(a, b) if k % 4 == 2 else input.flip(a).transpose(a, b).clone()


@composition(method=False, samples=lambda: iter([
    Sample((np.array([5, 7, 11]), (3, 4)), grad=False), Sample((np.array([[0], [5]]), (2, 3)), grad=False),
    Sample((np.array([1.0]), (3, 4)), error=TypeError),
]))  # fmt: skip
def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """The coordinates, in a tensor of this shape, of flat indices."""
    if indices.dtype.category != dt.INT:
        raise KilnTypeError(
            "unravel_index", "expected 'indices' to be integer dtype", describe(indices), ""
        )
    sizes = [shape] if isinstance(shape, int) else [int(s) for s in shape]
    indices = indices.long()
    out = []
    for s in reversed(sizes):
        out.append(indices % s)
        indices = indices.div(s, rounding_mode="floor")
    return tuple(reversed(out))
