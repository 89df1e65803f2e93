"""Joining, flipping, repeating and padding: elements put together into a new tensor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.recorders import called
from ..autograd.tape import record
from ..errors import (
    KilnError,
    KilnIndexError,
    KilnNotImplementedError,
    KilnTypeError,
    KilnValueError,
    describe,
)
from ..formats import contiguous_format
from ..shape import Size, index_int, norm_dim, norm_dims
from ..tensor import CAPTURING, PLAIN, Tensor, wrap
from .dispatch import LARGE, expect_tensor
from .registry import Sample, VarInts, composition, method
from .rules import tied
from .samples import draw, rng
from .slicing import basic_index, narrow, pad_op, parts
from .views import expand, movement, reshape, unsqueeze

# ---------------------------------------------------------------- one after the other


def _cat_infer(tensors: Any, dim: int) -> tuple:
    if not isinstance(tensors, list | tuple):
        raise KilnTypeError(
            "cat", "argument 'tensors' must be a sequence of Tensors", describe(tensors), ""
        )
    if not len(tensors):
        raise KilnValueError("cat", "expected a non-empty list of Tensors", "[]", "")
    d = tensors[0].dtype
    for x in tensors[1:]:
        d = dt.promote_types(d, x.dtype)
    real = [x for x in tensors if not (len(x.shape) == 1 and x.shape[0] == 0)]
    if not real:
        return Size((0,)), d
    first = real[0].shape
    if not first:
        raise KilnError(
            "cat", "zero-dimensional tensor cannot be concatenated", describe(list(tensors)),
            "use stack",
        )  # fmt: skip
    at = norm_dim(dim, len(first), "cat")
    total: Any = 0
    for x in real:
        if len(x.shape) != len(first) or any(
            a != b for i, (a, b) in enumerate(zip(x.shape, first, strict=True)) if i != at
        ):
            raise KilnError(
                "cat", f"sizes of tensors must match except in dimension {at}", describe(list(tensors)),
                "they may differ only along dim",
            )  # fmt: skip
        total = total + x.shape[at]
    return Size((*first[:at], total, *first[at + 1 :])), d


def _cat_grad(g: Tensor, tensors_shape: Any, dim: int, needs: Sequence[int]) -> list[Any]:
    out, places, at = [None] * len(tensors_shape), [], 0
    d = norm_dim(dim, g._a.ndim)
    for i, shape in enumerate(tensors_shape):
        if len(shape) == 1 and shape[0] == 0:
            out[i] = g.new_zeros(0)
            continue
        if i in needs:
            places.append((i, (at, at + shape[d], 1)))
        at += shape[d]
    for (i, _), x in zip(places, parts(g, d, tuple([p for _, p in places])), strict=True):
        out[i] = x
    return out


def _quick_cat(g: np.ndarray, tensors_shape: Any, dim: int) -> list[np.ndarray]:
    lead, out, at = (slice(None),) * (dim % g.ndim), [], 0
    for shape in tensors_shape:
        if len(shape) == 1 and shape[0] == 0:
            out.append(g.reshape(-1)[:0])
            continue
        n = shape[dim]
        out.append(g[(*lead, slice(at, at + n))])
        at += n
    return out


def _cat_samples() -> Any:
    r = rng()
    yield Sample(([draw(r, (2, 3)), draw(r, (4, 3))],))
    yield Sample(([draw(r, (2, 3)), draw(r, (2, 0)), draw(r, (2, 1))], -1))
    yield Sample(([draw(r, (2, 3))], 1))
    yield Sample(([draw(r, (0,)), draw(r, (2, 3))], 0))
    yield Sample(([draw(r, (2, 3)), draw(r, (2, 4))],), error=RuntimeError)
    yield Sample(([],), error=ValueError)
    yield Sample((draw(r, (2, 3)),), error=TypeError)
    yield Sample(([draw(r, (2, 3))], 2), error=IndexError)


def _cat_batch(n: int, tensors: Any, dim: int) -> tuple:
    # an empty 1-d tensor joins anything, and only its dtype counts
    real = [x for x in tensors if x.shape != (0,)] or tensors[:1]
    d = reduce(dt.promote_types, (x.tensor.dtype for x in tensors))
    return [x.whole.to(d) for x in real], norm_dim(dim, real[0].ndim) + 1


@movement(lies="joined", check=False, infer=_cat_infer, grad={"tensors": _cat_grad}, quick={"tensors": _quick_cat}, batch=_cat_batch, method=False, out="apart cast", samples=_cat_samples,
          aliases=("concat", "concatenate"))  # fmt: skip
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along an existing dimension; dtypes promote."""
    own = tensors[0].dtype
    for x in tensors:
        if x.dtype is not own or own.isbuiltin != 1 or (x.ndim == 1 and not x.size):
            break
    else:
        r = np.concatenate(tensors, dim)
        return r if r.flags.c_contiguous else np.ascontiguousarray(r)
    real = [x for x in tensors if not (x.ndim == 1 and x.shape[0] == 0)]
    d = dt.OF_NUMPY[own]
    for x in tensors[1:]:
        if x.dtype is not own:
            d = dt.promote_types(d, dt.OF_NUMPY[x.dtype])
    parts = [dt.bits(x.astype(d.np, copy=False)) for x in real] or [np.zeros(0, d.np)]
    return np.ascontiguousarray(np.concatenate(parts, dim)).view(d.np)


def _quick_stack(g: np.ndarray, dim: int) -> list[np.ndarray]:
    lead = (slice(None),) * dim
    return [g[(*lead, i, ...)] for i in range(g.shape[dim])]


def _stack_infer(tensors: Any, dim: int) -> tuple:
    shape = tensors[0].shape
    return Size((*shape[:dim], len(tensors), *shape[dim:])), reduce(dt.promote_types, (x.dtype for x in tensors))  # fmt: skip


@movement(
    private=True, name="stack_op", node="StackBackward0", lies="", check=False, infer=_stack_infer,
    body=lambda tensors, dim: cat([unsqueeze(x, dim) for x in tensors], dim),
    grad={"tensors": lambda g, dim: list(g.unbind(dim))}, quick={"tensors": _quick_stack},
    samples=lambda: iter([Sample(([draw(rng(), (2, 3)), draw(rng(1), (2, 3))], 1)), Sample(([draw(rng(), ())] * 3, 0))]),
)  # fmt: skip
def stack_op(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """`stack` of tensors of one shape along a dimension counted from the front."""
    first = tensors[0]
    d = first.dtype
    if d.kind in "fib":
        for x in tensors:
            if x.dtype is not d:
                break
        else:
            if not first.ndim:
                return np.array([x.item() for x in tensors], d)
            if not dim and first.ndim < 3 and first.size * len(tensors) < LARGE:
                return np.array(tensors, d)  # without a view of each
    if dim == first.ndim:
        return cat.op.eager(
            [np.ascontiguousarray(x).reshape(*first.shape, 1) for x in tensors], dim
        )
    # joined and then divided: images with their channels innermost keep them so
    r = cat.op.eager(tensors, dim)
    return r.reshape((*first.shape[:dim], len(tensors), *first.shape[dim:]))


@composition(method=False, samples=lambda: iter([
    Sample(([draw(rng(), (2, 3)), draw(rng(1), (2, 3))], 1)), Sample(([draw(rng(), ())],)),
    Sample(([draw(rng(), (2, 3)), draw(rng(1), (2, 4))],), error=RuntimeError)]))  # fmt: skip
def stack(tensors: Sequence[Tensor], dim: int = 0, *, out: Any = None) -> Tensor:
    """Tensors of one shape along a new dimension."""
    if not len(tensors):
        raise KilnError("stack", "stack expects a non-empty TensorList", "[]", "")
    try:
        shapes = [x._a.shape for x in tensors]
    except AttributeError:
        for x in tensors:
            expect_tensor("stack", x)
        raise
    first = shapes[0]
    for i, shape in enumerate(shapes):
        if shape != first:
            raise KilnError(
                "stack", "stack expects each tensor to be equal size, but got "
                f"{list(first)} at entry 0 and {list(shape)} at entry {i}", describe(list(tensors)), "",
            )  # fmt: skip
    d = norm_dim(dim, len(first) + 1, "stack")
    if not CAPTURING and out is None:
        # views of many small ones would take longer than the copy
        arrays, tracked = [], False
        for x in tensors:
            if x.__class__ not in PLAIN or x._a.__class__ is not np.ndarray:
                break
            arrays.append(x._a)
            tracked = tracked or x._rg or x._base is not None
        else:
            t = wrap(stack_op.op.reference(arrays, d))
            if tracked:
                record(stack_op.op, (list(tensors), d), (t,))
            return t
    return cat([unsqueeze(x, d) for x in tensors], d, out=out)


def _at_least(x: Tensor, n: int) -> Tensor:
    while x._a.ndim < n:
        x = unsqueeze(x, 0)
    return x


@composition(out="cast", method=False, aliases=("row_stack",), samples=lambda: iter([
    Sample(([draw(rng(), (3,)), draw(rng(1), (3,))],))]))  # fmt: skip
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors one below the other."""
    return cat([_at_least(x, 2) for x in tensors], 0)


@composition(out=True, method=False, samples=lambda: iter([
    Sample(([draw(rng(), (3,)), draw(rng(1), (3,))],))]))  # fmt: skip
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors side by side."""
    ts = [_at_least(x, 1) for x in tensors]
    if not ts:
        raise KilnError(
            "hstack", "hstack expects a non-empty TensorList", "()", "pass at least one tensor"
        )
    return cat(ts, 0 if ts[0]._a.ndim == 1 else 1)


# ---------------------------------------------------------------- flipping and rolling


@movement(
    lies="operands", infer=lambda input, dims: (norm_dims(dims, len(input.shape), "flip"), (input.shape, input.dtype))[1],
    grad={"input": lambda g, dims: g.flip(dims)},
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), (0, -1))), Sample((draw(rng(), ()), ())),
                          Sample((draw(rng(), (3, 4)), (0, 0)), error=RuntimeError), Sample((draw(rng(), (3,)), (1,)), error=IndexError)]),
)  # fmt: skip
def flip(input: Tensor, *dims: VarInts) -> Tensor:
    """The order reversed along the named dimensions, as a copy."""
    return np.flip(input, dims).copy()


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)),))]))
def fliplr(input: Tensor) -> Tensor:
    """`flip` along dimension 1."""
    return flip(input, (1,))


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)),))]))
def flipud(input: Tensor) -> Tensor:
    """`flip` along dimension 0."""
    return flip(input, (0,))


@composition(fused="move", samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), 2)), Sample((draw(rng(), (3, 4)), (1, -2), (0, 1))),
    Sample((draw(rng(), (3, 4)), 3, 0)), Sample((draw(rng(), ()), 0, 0), error=IndexError),
]))  # fmt: skip
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements shifted cyclically along dimensions (or through all elements in order)."""
    if dims is None:
        return reshape(roll(reshape(input, (-1,)), shifts, 0), input._a.shape)
    steps = shifts if isinstance(shifts, list | tuple) else (shifts,)
    places = dims if isinstance(dims, list | tuple) else (dims,)
    if len(steps) != len(places):
        raise KilnError(
            "roll", "shifts and dimensions must align", f"shifts={shifts}, dims={dims}", ""
        )
    rolled = input
    for s, d in zip(steps, places, strict=True):
        d = norm_dim(d, input._a.ndim, "roll")
        if not input._a.ndim:
            raise KilnIndexError(
                "roll",
                f"dimension {d} of a tensor without dimensions",
                describe(input),
                "leave out dims",
            )
        n = input._a.shape[d]
        if n and s % n:
            k = n - s % n
            rolled = cat([narrow(rolled, d, k, n - k), narrow(rolled, d, 0, k)], d)
    return input.clone(memory_format=contiguous_format) if rolled is input else rolled


# ---------------------------------------------------------------- repeating


@method("repeat")
def repeat(self: Tensor, *rest: Any, repeats: Any = None) -> Tensor:
    """The tensor copied repeats[i] times along dimension i; more repeats than dimensions add leading ones."""
    r = rest if repeats is None else (repeats,)
    r = tuple(r[0]) if len(r) == 1 and isinstance(r[0], list | tuple) else r
    if len(r) < self._a.ndim:
        raise KilnError(
            "repeat", "number of dimensions of repeat dims can not be smaller than number of dimensions of tensor",
            f"repeats={list(r)} for {describe(self)}", "",
        )  # fmt: skip
    x = _at_least(self, len(r))
    shape = x._a.shape
    pairs = [v for n in shape for v in (1, n)]
    wide = [v for n, k in zip(shape, r, strict=True) for v in (k, n)]
    whole = tuple(n * k for n, k in zip(shape, r, strict=True))
    return called(reshape(expand(reshape(x, pairs), wide), whole).clone(), "RepeatBackward0")


@composition(fused="move", samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), (2,))), Sample((draw(rng(), (3,)), (2, 2)))]))  # fmt: skip
def tile(input: Tensor, *rest: Any, dims: Any = None) -> Tensor:
    """`repeat`, with missing leading repeats taken as 1."""
    r = rest if dims is None else (dims,)
    r = tuple(r[0]) if len(r) == 1 and isinstance(r[0], list | tuple) else r
    return repeat(input, (1,) * (input._a.ndim - len(r)) + tuple(r))


@composition(method=False, samples=lambda: iter([
    Sample((draw(rng(), (3,)), draw(rng(1), (4,)), draw(rng(2), ()))),
    Sample((draw(rng(), (3,)), draw(rng(1), (4,)), draw(rng(2), (2,))), {"indexing": "xy"}),
    Sample(([draw(rng(), (3,)), draw(rng(1), ())],), {"indexing": "xy"}),
    Sample((draw(rng(), (3, 1)),), error=RuntimeError),
]))  # fmt: skip
def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Coordinate tensors of the grid spanned by 1-d tensors; indexing "ij" (default) or "xy"."""
    alone = len(tensors) == 1 and isinstance(tensors[0], list | tuple)
    ts = list(tensors[0] if alone else tensors)
    if indexing not in (None, "ij", "xy"):
        raise KilnError("meshgrid", "indexing must be 'ij' or 'xy'", repr(indexing), "")
    for x in ts:
        if x._a.ndim > 1:
            raise KilnError("meshgrid", "expected 0-d or 1-d tensors", describe(ts), "")
    swap = indexing == "xy" and len(ts) > 1
    if swap:
        ts[0], ts[1] = ts[1], ts[0]
    shape = [x.numel() for x in ts]
    out = [
        expand(reshape(x, [-1 if j == i else 1 for j in range(len(ts))]), shape)
        for i, x in enumerate(ts)
    ]
    if swap:
        out[0], out[1] = out[1], out[0]
    return tuple(out)


# ---------------------------------------------------------------- padding


def _pad_samples() -> Any:
    x = draw(rng(), (2, 3, 5))
    yield Sample((x, (1, 2)))
    yield Sample((x, (1, 2, 0, 1), "constant", 3.0))
    yield Sample((x, (-1, 2)))
    for mode in ("reflect", "replicate", "circular"):
        yield Sample((x, (2, 1), mode))
        yield Sample((x, (-1, 1), mode))
        yield Sample((x[0, 0], (1, 1), mode), error=NotImplementedError)
        yield Sample((x[None], (1, 1), mode), error=NotImplementedError)
        yield Sample((x, (), mode), error=NotImplementedError)
    yield Sample((x > 0, (1, 1), "circular"), grad=False)
    for mode in ("reflect", "replicate"):
        yield Sample((x > 0, (1, 1), mode), error=NotImplementedError)
        yield Sample((x[:0], (1, 1), mode))
        yield Sample((x[:, :0], (1, 1), mode), error=RuntimeError)
    yield Sample((x, (1,)), error=RuntimeError)


_PADS = {"reflect": "ReflectionPad", "replicate": "ReplicationPad"}
"""The names of PyTorch's nodes by mode."""


@composition(fused="move", namespace="F", samples=_pad_samples)
def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Tensor:
    """Elements added (or, where negative, cut) around the last dimensions, given from the last backwards.

    `mode` is "constant" (with `value`, default 0), "reflect", "replicate" or "circular"; the latter three pad
    the last one, two or three dimensions of a tensor that has one or two more.
    """
    p = [index_int(v, "pad", "pad") for v in pad]
    n = input._a.ndim
    if len(p) % 2 or len(p) // 2 > n:
        raise KilnError(
            "pad", "padding length must be divisible by 2 and at most twice the number of dimensions",
            f"pad={p} for {describe(input)}", "give (left, right) pairs from the last dimension backwards",
        )  # fmt: skip
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise KilnNotImplementedError(
            "pad", "unknown padding mode", repr(mode), "constant, reflect, replicate or circular"
        )
    if mode != "constant":
        if value not in (None, 0, 0.0):
            raise KilnValueError(
                "pad", f'padding mode "{mode}" doesn\'t take in value argument', f"value={value}", "",
            )  # fmt: skip
        if len(p) not in (2, 4, 6) or n - len(p) // 2 not in (1, 2):
            raise KilnNotImplementedError(
                "pad", f"padding size {len(p)} is not supported for {n}-d input", describe(input),
                "pad the last 1, 2 or 3 dimensions of (C, …) or (N, C, …)",
            )  # fmt: skip
        if mode != "circular" and 0 in input._a.shape[n - len(p) // 2 - 1 :]:
            raise KilnError(
                "pad", f"expected {len(p) // 2 + 1} or {len(p) // 2 + 2} dimensions, of which only the batch's may be empty",
                describe(input), "",
            )  # fmt: skip
        if input.dtype is dt.bool_ and mode != "circular":
            raise KilnNotImplementedError("pad", f"{mode} padding is not defined for bool tensors",
                                          describe(input), "convert it first")  # fmt: skip
        out = input
        for i in range(len(p) // 2):
            out = _pad_mode(out, n - 1 - i, p[2 * i], p[2 * i + 1], mode)
        return out if mode == "circular" else tied(out, f"{_PADS[mode]}{len(p) // 2}D", input)
    low, high = [0] * n, [0] * n
    for i in range(len(p) // 2):
        low[n - 1 - i], high[n - 1 - i] = p[2 * i], p[2 * i + 1]
    if any(v < 0 for v in p):
        cut = []
        for d, size in enumerate(input._a.shape):
            a, b = max(0, -low[d]), size - max(0, -high[d])
            if b < a:
                raise KilnError(
                    "pad", "the padding cuts more than there is", f"pad={p} for {describe(input)}", "",
                )  # fmt: skip
            cut.append((a, b, 1))
        input = basic_index(input, tuple(cut))
        low, high = [max(v, 0) for v in low], [max(v, 0) for v in high]
    if not any(low) and not any(high):
        return input.clone()
    return pad_op(
        input,
        tuple(low),
        tuple(high),
        0 if value is None else dt.element(value, input.dtype, "pad"),
    )


def _pad_mode(x: Tensor, d: int, left: int, right: int, mode: str) -> Tensor:
    n = x._a.shape[d]
    limit = {"reflect": n - 1, "circular": n}.get(mode)
    if limit is not None and max(left, right) > limit:
        raise KilnError(
            "pad", f"{mode} padding must be {'less than' if mode == 'reflect' else 'at most'} the input dimension",
            f"padding ({left}, {right}) at dimension {d} of {describe(x)}", "",
        )  # fmt: skip
    middle = narrow(x, d, max(0, -left), n - max(0, -left) - max(0, -right))
    if mode == "circular":  # wraps around what is left of it
        x, n = middle, middle._a.shape[d]
    parts = [middle]
    if left > 0:
        first = {"reflect": lambda: flip(narrow(x, d, 1, left), (d,)), "circular": lambda: narrow(x, d, n - left, left),
                 "replicate": lambda: _repeat_dim(narrow(x, d, 0, 1), d, left)}[mode]()  # fmt: skip
        parts.insert(0, first)
    if right > 0:
        last = {"reflect": lambda: flip(narrow(x, d, n - 1 - right, right), (d,)), "circular": lambda: narrow(x, d, 0, right),
                "replicate": lambda: _repeat_dim(narrow(x, d, n - 1, 1), d, right)}[mode]()  # fmt: skip
        parts.append(last)
    return cat(parts, d) if len(parts) > 1 else middle


def _repeat_dim(x: Tensor, d: int, n: int) -> Tensor:
    return expand(x, [n if i == d else -1 for i in range(x._a.ndim)])
