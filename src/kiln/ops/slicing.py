"""Slicing: parts of a tensor by ints, ranges and steps, and writing through such views."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import mode
from ..autograd.recorders import called
from ..autograd.tape import record_view
from ..autograd.views import Several, region, together
from ..errors import KilnError, KilnIndexError, KilnTypeError, KilnValueError, describe
from ..formats import contiguous_format
from ..shape import Size, index_int, norm_dim, numel
from ..sharing import watched, written
from ..tensor import CAPTURING, PLAIN, Tensor, _fresh, _new
from . import dispatch, storing
from .registry import LEADING, REGISTRY, Sample, composition, method
from .samples import draw, rng
from .views import movement, view

# ---------------------------------------------------------------- basic indexing


def normalize_index(index: Any, shape: Any, name: str = "index") -> tuple:
    """A basic index as a full tuple of ints, (start, stop, step) triples and None for new dimensions."""
    items = list(index) if isinstance(index, tuple) else [index]
    used = len([i for i in items if i is not None and i is not Ellipsis])
    if used > len(shape):
        raise KilnIndexError(
            name, f"too many indices for tensor of dimension {len(shape)}", f"{used} indices", ""
        )
    at = (
        next((j for j, i in enumerate(items) if i is Ellipsis), None) if len(items) > used else None
    )
    if at is None:
        items += [_ALL] * (len(shape) - used)
    else:
        items[at : at + 1] = [_ALL] * (len(shape) - used)
    out: list[Any] = []
    dim = 0
    for i in items:
        if i is None:
            out.append(None)
            continue
        n = shape[dim]
        if isinstance(i, slice):
            a, b, step = i.start, i.stop, i.step
            if a is None and b is None and step is None:
                out.append((0, n, 1))
            elif (
                step is None and n.__class__ is int
                and (a is None or a.__class__ is int) and (b is None or b.__class__ is int)
            ):  # fmt: skip
                a, b, step = i.indices(n)
                out.append((a, b if b > a else a, 1))
            else:
                bounds = (
                    None if v is None else index_int(v, name, "slice bound")
                    for v in (i.start, i.stop, i.step)
                )
                start, stop, step = (
                    slice(*bounds).indices(n) if (i.step is None or int(i.step) > 0) else (0, 0, -1)
                )
                if step <= 0:
                    raise KilnValueError(
                        name, "step must be greater than zero", f"step={i.step}",
                        "use flip for reversed order",
                    )  # fmt: skip
                out.append((start, max(stop, start), step))
        else:
            k = index_int(i, name, "an index")
            if not -n <= k < n:
                raise KilnIndexError(
                    name, f"index {k} is out of bounds for dimension {dim} with size {n}", f"index={k}",
                    f"valid indices are {-n} to {n - 1}" if n else "the dimension is empty",
                )  # fmt: skip
            out.append(k % n)
        dim += 1
    return tuple(out)


_ALL = slice(None)
_F32, _F64, _BOOL, _I64 = dt.float32.np, dt.float64.np, dt.bool_.np, dt.int64.np
_WORD = 2**63


def spelled_out(index: tuple, ndim: int) -> tuple | None:
    """An index with whole slices in place of its one ellipsis; None where it has several, or is too long."""
    at = [i is Ellipsis for i in index]
    j, slices = at.index(True), ndim + 1 + sum([i is None for i in index]) - len(index)
    if slices < 0 or at.count(True) > 1:
        return None
    return (*index[:j], *[_ALL] * slices, *index[j + 1 :])


def _untracked(x: Tensor) -> bool:
    """Whether neither a tensor nor what it is a view of has a history that writing to it would go on."""
    if x._base is None:
        return not x._rg
    return not _fresh(x)._rg and not x._base._rg


def written_at(x: Tensor, index: Any, value: Any) -> bool:
    """Write a tensor of x's dtype, or a number that this holds, at ints and slices, where nothing is to be recorded.

    False, and nothing done, for whatever else there is.
    """
    a, c = x._a, value.__class__
    if CAPTURING or x.__class__ not in PLAIN or a.__class__ is not np.ndarray:
        return False
    d = a.dtype
    if c in PLAIN:
        v = value._a
        if v.__class__ is not np.ndarray or v.dtype is not d or (value._ver is not None and value._ver is x._ver):  # fmt: skip
            return False
        tracked = mode.grad and not (_untracked(x) and _untracked(value))
    elif (
        (d is _F32 or d is _F64)
        and (c is float or c is int)
        and -dt.FLOAT32_MAX <= value <= dt.FLOAT32_MAX
    ) or (c is bool and d is _BOOL) or (c is int and (d is _I64 or d is _BOOL) and -_WORD <= value < _WORD):  # fmt: skip
        v = d.type(value)
        tracked = mode.grad and not _untracked(x)
    else:
        return False
    if tracked:
        return False
    for i in index if index.__class__ is tuple else (index,):
        if i.__class__ is int or i is Ellipsis:
            continue
        if i.__class__ is not slice or i.step is not None:
            return False
        if any(k is not None and k.__class__ is not int for k in (i.start, i.stop)):
            return False
    if watched:
        written(a)
    try:
        a[index] = v
    except (IndexError, ValueError):
        return False
    storing.bump(x)
    return True


def _as_slices(index: tuple) -> tuple:
    return tuple([slice(*i) if i.__class__ is tuple else i for i in index])


def _basic_shape(index: tuple) -> tuple[list, list]:
    """Shapes of the result and of the sliced tensor with all its dimensions."""
    out, full = [], []
    for i in index:
        if i is None:
            out.append(1)
        elif isinstance(i, tuple):
            n = max(0, -(-(i[1] - i[0]) // i[2]))
            out.append(n)
            full.append(n)
        else:
            full.append(1)
    return out, full


def _bounds(index: tuple) -> tuple[tuple, tuple, tuple]:
    parts = [i if isinstance(i, tuple) else (i, i + 1, 1) for i in index if i is not None]
    return tuple(p[0] for p in parts), tuple(p[1] for p in parts), tuple(p[2] for p in parts)


def _index_samples() -> Any:
    x = draw(rng(), (3, 4, 5))
    for index in (
        ((0, 3, 1), (1, 4, 2), (0, 5, 1)),
        (1, (0, 4, 1), None, 4),
        ((2, 2, 1), 0, 0),
        (0, 0, 0),
    ):
        yield Sample((x, index))


def _index_node(node: Any) -> str:
    """The last of the views that PyTorch makes one after the other."""
    sizes, last = iter(node.edges[0][2]), "Alias"
    for i in node.args[1]:
        if i is None:
            last = "Unsqueeze"
        elif i.__class__ is not tuple:
            last = "Select"
            next(sizes)
        elif i != (0, next(sizes), 1):
            last = "Slice"
    return last + "Backward0"


@view(
    node=("SelectBackward0", _index_node), private=True, infer=lambda input, index: (Size(_basic_shape(index)[0]), input.dtype),
    batch=lambda n, input, index: (input.tensor, ((0, n, 1), *index)),
    grad={"input": lambda g, in_shape, index: basic_index_grad(g, tuple(in_shape), index)},
    quick={"input": lambda g, in_shape, index: basic_index_grad.op.reference(g, in_shape, index)},
    part=lambda index: _as_slices(index),
    body=lambda input, index: slice_op(input, *_bounds(index)).reshape(tuple(_basic_shape(index)[0])),
    samples=_index_samples,
)  # fmt: skip
def basic_index(input: Tensor, index: tuple) -> Tensor:
    """Ints, slices and new dimensions, from `normalize_index`. A view."""
    return input[(*_as_slices(index), ...)]  # the Ellipsis keeps a 0-d result a view


_basic = basic_index.op  # type: ignore[attr-defined]


def _index_grad_body(grad: Tensor, size: tuple, index: tuple) -> Tensor:
    low, high, step = _bounds(index)
    full = grad.reshape(tuple(_basic_shape(index)[1]))
    if all(s == 1 for s in step):
        return pad_op(full, low, tuple(n - h for n, h in zip(size, high, strict=True)), 0)
    return view_update(grad.new_zeros(size), grad, (("basic_index", (index,)),))


@movement(
    private=True, infer=lambda grad, size, index: (Size(size), grad.dtype),
    batch=lambda n, grad, size, index: (grad.tensor, (n, *size), ((0, n, 1), *index)),
    grad={"grad": lambda g, index: basic_index(g, index)}, body=_index_grad_body,
    quick={"grad": lambda g, index: g[(*_as_slices(index), ...)]},
    samples=lambda: iter([Sample((draw(rng(), (3, 2)), (3, 4), ((0, 3, 1), (0, 4, 2)))),
                          Sample((draw(rng(), (2,)), (3, 4), (1, (1, 3, 1))))]),
)  # fmt: skip
def basic_index_grad(grad: Tensor, size: tuple, index: tuple) -> Tensor:
    """Zeros of `size` with `grad` at a basic index."""
    out = np.zeros(size, grad.dtype)
    out[_as_slices(index)] = grad
    return out


# ---------------------------------------------------------------- the primitives under it


@movement(
    private=True, name="slice",
    batch=lambda n, input, start, stop, step: (input.tensor, (0, *start), (n, *stop), (1, *step)),
    infer=lambda input, start, stop, step: (
        Size(max(0, -(-(b - a) // s)) for a, b, s in zip(start, stop, step, strict=True)), input.dtype),
    grad={"input": lambda g, input, start, stop, step: basic_index_grad(
        g, tuple(input.shape), tuple(zip(start, stop, step, strict=True)))},
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), (0, 1), (3, 4), (1, 2)))]),
)  # fmt: skip
def slice_op(input: Tensor, start: tuple, stop: tuple, step: tuple) -> Tensor:
    """start:stop:step in every dimension; the compiler's primitive under basic indexing."""
    return input[tuple(slice(*b) for b in zip(start, stop, step, strict=True))]


def _pad_infer(input: Any, low: tuple, high: tuple, value: Any) -> tuple:
    return Size(n + a + b for n, a, b in zip(input.shape, low, high, strict=True)), input.dtype


@movement(
    node="ConstantPadNdBackward0", private=True, name="pad", lies="channels", infer=_pad_infer,
    batch=lambda n, input, low, high, value: (input.tensor, (0, *low), (0, *high), value),
    grad={"input": lambda g, in_shape, low: basic_index(
        g, tuple((a, a + n, 1) for a, n in zip(low, in_shape, strict=True)))},
    samples=lambda: iter([Sample((draw(rng(), (2, 3)), (1, 0), (0, 2), 0.5)), Sample((draw(rng(), ()), (), (), 0)),
                          Sample((draw(rng(), (0, 2)), (1, 0), (1, 0), 0))]),
)  # fmt: skip
def pad_op(input: Tensor, low: tuple, high: tuple, value: Any) -> Tensor:
    """`low` and `high` elements of one value before and after each dimension (not negative)."""
    shape = tuple(n + a + b for n, a, b in zip(input.shape, low, high, strict=True))
    out = np.full(shape, value, input.dtype) if value else np.zeros(shape, input.dtype)
    out[tuple(slice(a, a + n) for a, n in zip(low, input.shape, strict=True))] = input
    return out


# ---------------------------------------------------------------- one dimension


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), 1, 1, 2)), Sample((draw(rng(), (3, 4)), -1, -2, 2)), Sample((draw(rng(), (3, 4)), 1, 3, 2), error=RuntimeError),
    Sample((draw(rng(), (3, 4)), 1, 4, 0)), Sample((draw(rng(), (3, 4)), 1, 5, 0), error=IndexError),
    Sample((draw(rng(), ()), 0, 0, 1), error=RuntimeError)]))  # fmt: skip
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`length` elements from `start` of one dimension. A view."""
    shape = input._a.shape
    if not shape:
        raise KilnError(
            "narrow", "narrow() cannot be applied to a 0-dim tensor", describe(input), ""
        )
    if isinstance(start, Tensor) and (start._a.ndim or start.dtype.category != dt.INT):
        raise KilnError("narrow", "start must be a 0-dim integral tensor", describe(start), "")
    d, start = norm_dim(dim, len(shape), "narrow"), int(start)
    n = shape[d]
    s = start + n if start < 0 else start
    if isinstance(n, int) and length >= 0 and not 0 <= s <= n:
        raise KilnIndexError(
            "narrow", f"start out of range (expected to be in range of [{-n}, {n}], but got {start})",
            describe(input), "",
        )  # fmt: skip
    if length < 0 or s < 0 or s + length > n:
        raise KilnError(
            "narrow", f"start ({start}) + length ({length}) exceeds dimension size ({n})",
            describe(input), "",
        )  # fmt: skip
    return parts(input, d, ((s, s + length, 1),))[0]


@composition(out=True, samples=lambda: iter([Sample((draw(rng(), (3, 4)), 1, 1, 2))]))
def narrow_copy(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """`narrow` with memory of its own."""
    return narrow(input, dim, start, length).clone(memory_format=contiguous_format)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), 1, -1)), Sample((draw(rng(), (3, 4)), 0, 3), error=IndexError)]))  # fmt: skip
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """One index of one dimension, which goes away. A view."""
    shape = input._a.shape
    if not shape:
        raise KilnIndexError(
            "select", "select() cannot be applied to a 0-dim tensor", describe(input), ""
        )
    d = norm_dim(dim, len(shape), "select")
    n, k = shape[d], index_int(index, "select", "index")
    if not -n <= k < n:
        raise KilnIndexError(
            "select", f"index {k} out of range for tensor of size {list(shape)} at dimension {d}",
            f"index={k}", "",
        )  # fmt: skip
    return parts(input, d, (k % n,))[0]


# ---------------------------------------------------------------- splitting


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), 1)), Sample((draw(rng(), (0, 2)),))]))  # fmt: skip
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along one dimension, as views."""
    if not input._a.ndim:
        raise KilnIndexError(
            "unbind", "dimension specified but the tensor has no dimensions", describe(input), ""
        )
    d = norm_dim(dim, input._a.ndim, "unbind")
    return _called(parts(input, d, range(input._a.shape[d]), True), "UnbindBackward0")


def parts(
    input: Tensor, d: int, places: Sequence[Any], several: bool = False
) -> tuple[Tensor, ...]:
    """The views at several ints or (start, stop, step) triples of one dimension; marked so where one call gives them."""
    a = input._a
    if CAPTURING or a.__class__ is not np.ndarray:
        whole = tuple([(0, n, 1) for n in a.shape])
        found = tuple([basic_index(input, (*whole[:d], i, *whole[d + 1 :])) for i in places])
        return together(found) if several else found
    views = []
    short = input._base is None and input.__class__ in PLAIN
    if short:
        ver, tied = input._ver, mode.grad
        if ver is None:
            ver = input._ver = [0, 0]
        seen = ver[1]
    find = _placed if 1 < len(places) <= _FEW else _placed.__wrapped__
    for index, place, link in find(a.shape, d, places, several):
        r = a[index]
        if not short:
            views.append(dispatch.view(_basic, (input, place), r))
            continue
        out = _new(Tensor)
        out._a, out._ver, out._base, out._seen = r, ver, input, seen
        out._fn = out._grad = out._hooks = None
        out._idx = 0
        out._rg = False
        out._view = link if tied else None
        if input._rg:
            record_view(_basic, input, (input, place), out)
        views.append(out)
    found = tuple(views)
    return found if short or not several else together(found)


_FEW = 64  # places of a call that is kept in mind


@lru_cache(1024)
def _placed(shape: tuple[int, ...], d: int, places: Sequence[Any], several: bool) -> list[tuple]:
    """For each place of one dimension the index of an array, of a tensor, and the chain of views to what lies there."""
    whole = tuple([(0, n, 1) for n in shape])
    before, after, lead = whole[:d], whole[d + 1 :], (_ALL,) * d
    found = []
    for i in places:
        place = (*before, i, *after)
        link = ((_basic.name, Several((place,)) if several else (place,)),)
        found.append(((*lead, slice(*i) if i.__class__ is tuple else i, ...), place, link))
    return found


def _called(found: tuple[Tensor, ...], name: str) -> tuple[Tensor, ...]:
    if found and found[0]._fn is not None:
        for x in found:
            called(x, name)
    return found


def _pieces(input: Tensor, sizes: Sequence[int], dim: int, several: bool = False) -> tuple[Tensor, ...]:  # fmt: skip
    ends = list(accumulate(sizes))
    places = tuple([(b - n, b, 1) for b, n in zip(ends, sizes, strict=True)])
    return parts(input, dim, places, several)


@lru_cache(1024)
def _even(n: int, size: int) -> tuple:
    """The places of pieces of one size, the last of which may be smaller."""
    return tuple([(i, min(i + size, n), 1) for i in range(0, n, size)])


@composition(samples=lambda: iter([
    Sample((draw(rng(), (5, 2)), 2)), Sample((draw(rng(), (5, 2)), (1, 4))), Sample((draw(rng(), (2, 5)), 2, -1)),
    Sample((draw(rng(), (5, 2)), (1, 3)), error=RuntimeError)]))  # fmt: skip
def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of equal size (the last may be smaller), or of the given sizes, along one dimension."""
    return _split(tensor, split_size_or_sections, dim, True)


@method("split")
def _split_method(self: Tensor, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of equal size (the last may be smaller), or of the given sizes, along one dimension."""
    return _split(self, split_size, dim, True)


def _split(tensor: Tensor, s: Any, dim: int, several: bool = False) -> tuple[Tensor, ...]:
    d = norm_dim(dim, tensor._a.ndim, "split")
    n = tensor._a.shape[d]
    if isinstance(s, list | tuple):
        if sum(s) != n or any(x < 0 for x in s):
            raise KilnError(
                "split", f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at "
                f"dimension {d})", f"split_sizes={list(s)}", "",
            )  # fmt: skip
        return _called(_pieces(tensor, s, d, several), "SplitWithSizesBackward0")
    s = index_int(s, "split", "split_size")
    if s < 0 or (s == 0 and n):
        raise KilnError("split", "split_size must be positive", f"split_size={s}", "")
    if s == 0 or n == 0:
        whole = (narrow(tensor, d, 0, n),)
        return together(whole) if several else whole
    known = n.__class__ is int and n <= _FEW * s
    pieces = parts(tensor, d, (_even if known else _even.__wrapped__)(n, s), several)
    return _called(pieces, "SplitBackward0")


@composition(samples=lambda: iter([
    Sample((draw(rng(), (5, 2)), (2, 3))), Sample((draw(rng(), (5, 2)), (1, 4))),
    Sample((draw(rng(), (5, 2)), 2), error=TypeError)]))  # fmt: skip
def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """`split` into the given sizes."""
    if not isinstance(split_sizes, list | tuple):
        raise KilnTypeError(
            "split_with_sizes",
            "split_sizes must be a sequence of ints",
            repr(split_sizes),
            "use split",
        )
    return split(input, split_sizes, dim)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (5, 2)), 3)), Sample((draw(rng(), (2, 7)), 3, 1)),
    Sample((draw(rng(), (5, 2)), 0), error=RuntimeError)]))  # fmt: skip
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size along one dimension (the last may be smaller)."""
    return _chunk(input, chunks, dim, True)


def _chunk(input: Tensor, chunks: int, dim: int, several: bool = False) -> tuple[Tensor, ...]:
    if chunks <= 0:
        raise KilnError(
            "chunk", "chunk expects chunks to be greater than 0", f"chunks={chunks}", ""
        )
    n = input._a.shape[norm_dim(dim, input._a.ndim, "chunk")]
    if n == 0:
        return _pieces(input, [0] * chunks, dim, several)
    return _split(input, -(-n // chunks), dim, several)


@composition()
def unsafe_split(
    tensor: Tensor, split_size: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """`split` into views that autograd lets one write to, each as if it were alone."""
    return _split(tensor, split_size, dim)


@composition()
def unsafe_split_with_sizes(
    input: Tensor, split_sizes: Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """`split_with_sizes` into views that autograd lets one write to, each as if it were alone."""
    return _split(input, split_sizes, dim)


@composition()
def unsafe_chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """`chunk` into views that autograd lets one write to, each as if it were alone."""
    return _chunk(input, chunks, dim)


def parts_named(name: str, given: Any, named: dict[str, Any]) -> Any:
    """What cuts a tensor, under whichever of its names it was given; TypeError unless it was given once."""
    found = [] if given is None else [given]
    found += [
        named.pop(k) for k in ("sections", "indices", "tensor_indices_or_sections") if k in named
    ]
    if named or len(found) != 1:
        raise KilnTypeError(
            name, "expected either sections or indices", ", ".join(named) or f"{len(found)} of them",
            f"e.g. {name}(x, sections=2) or {name}(x, indices=[1, 3])",
        )  # fmt: skip
    return found[0]


@composition(samples=lambda: iter([
    Sample((draw(rng(), (7, 2)), 3)), Sample((draw(rng(), (7, 2)), (1, 4)))]))  # fmt: skip
def tensor_split(
    input: Tensor, indices_or_sections: Any = None, dim: int = 0, *, axis: Any = None, **named: Any
) -> tuple[Tensor, ...]:
    """Views of nearly equal size, or cut at the given indices, along one dimension.

    By keyword they are also `sections`, `indices` or `tensor_indices_or_sections`.
    """
    if axis is not None:
        dim = axis
    if named or indices_or_sections is None:
        indices_or_sections = parts_named("tensor_split", indices_or_sections, named)
    d = norm_dim(dim, input._a.ndim, "tensor_split")
    n = input._a.shape[d]
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = indices_or_sections.tolist()
    if isinstance(indices_or_sections, int):
        k = indices_or_sections
        if k <= 0:
            raise KilnError("tensor_split", "number of sections must be larger than 0", f"{k}", "")
        sizes = [n // k + (i < n % k) for i in range(k)]
        return _pieces(input, sizes, d)
    cuts = [0, *(min(max(c + n if c < 0 else c, 0), n) for c in indices_or_sections), n]
    return tuple(narrow(input, d, a, max(0, b - a)) for a, b in pairwise(cuts))


# ---------------------------------------------------------------- writing through views


def replay_chain(x: Any, chain: tuple) -> Any:
    """The view of `x` that a chain of (op, arguments) describes, on raw arrays."""
    for name, rest in chain:
        x = REGISTRY[name].reference(x, *rest)
    return x


def _update_batch(n: int, input: Any, value: Any, chain: tuple) -> tuple | None:
    one = SimpleNamespace(shape=input.shape, dtype=input.tensor.dtype, tensor=None)
    batched = []
    for name, rest in chain:
        view = REGISTRY[name]
        one.ndim, one.size = len(one.shape), numel(one.shape)
        if view.batch is None:
            return None
        now = (one, *rest) if view.batch == LEADING else view.batch(n, one, *rest)
        batched.append((name, tuple(now[1:])))
        assert view.infer is not None
        one.shape, one.dtype = view.infer(one, *rest)
    return input.whole, value.aligned(len(one.shape)), tuple(batched)


@movement(
    private=True, infer=lambda input, value, chain: (input.shape, input.dtype),
    batch=_update_batch,
    grad={
        "input": lambda g, value, chain: view_update(g, value.new_zeros(value.shape), chain),
        "value": lambda g, chain: region(g, chain),
    },
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), draw(rng(1), (2, 3)),
                                  (("permute", ((1, 0),)), ("basic_index", (((0, 4, 2), (0, 3, 1)),)))))]),
)  # fmt: skip
def view_update(input: Tensor, value: Tensor, chain: tuple) -> Tensor:
    """A copy of `input` in which the view described by `chain` holds `value`."""
    out = np.array(input, order="C")
    region = replay_chain(out, chain)
    if region.size:  # an expanded one is not writable
        region[...] = value
    return out
