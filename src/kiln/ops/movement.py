"""Movement: the same elements in another shape, order or place. View ops share memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided as _np_as_strided

from .. import dtypes as dt
from ..autograd.views import replay
from ..errors import KilnError, KilnIndexError, KilnValueError, describe
from ..shape import (
    Size,
    broadcast_shapes,
    index_int,
    norm_dim,
    norm_dims,
    numel,
    resolve_reshape,
    view_strides,
)
from ..tensor import Tensor
from .registry import METHODS, REGISTRY, Sample, VarInts, composition, method, op
from .samples import draw, rng, strided


def movement(**facts: Any) -> Any:
    """An op that moves elements without arithmetic."""
    return op(family="movement", exact=True, **facts)


def view(**facts: Any) -> Any:
    """A movement op whose result shares memory with its first argument."""
    return movement(view=True, check=False, **facts)


# ---------------------------------------------------------------- reshape


def _reshape_samples() -> Any:
    yield Sample((draw(rng(), (2, 6)), (3, 4)))
    yield Sample((draw(rng(), (2, 6)), (-1,)))
    yield Sample((strided(draw(rng(), (2, 6))), (4, 3)))
    yield Sample((draw(rng(), (2, 0)), (0, 5)))
    yield Sample((draw(rng(), (1,)), ()))
    yield Sample((draw(rng(), (2, 6)), (5, -1)), error=RuntimeError)
    yield Sample((draw(rng(), (2, 6)), (3, 5)), error=RuntimeError)


@view(
    infer=lambda input, shape: (Size(resolve_reshape(shape, numel(input.shape))), input.dtype),
    grad={"input": lambda g, in_shape: g.reshape(in_shape)}, samples=_reshape_samples,
)  # fmt: skip
def reshape(input: Tensor, *shape: VarInts) -> Tensor:
    """The elements, in row-major order, in another shape; one size may be -1. A view where possible."""
    return input.reshape(shape)


@method("view")
def view_method(self: Tensor, *shape: Any, size: Any = None) -> Tensor:
    """The same memory in another shape (one size may be -1), or with another dtype of equal width."""
    if len(shape) == 1 and isinstance(shape[0], dt.dtype):
        return _view_dtype(self, shape[0])
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape
    sizes = size if size is not None else sizes
    full = resolve_reshape(sizes, self.numel(), "view")
    if view_strides(self._a.shape, self.stride(), full) is None:
        raise KilnError(
            "view", "view size is not compatible with input tensor's size and stride "
            "(at least one dimension spans across two contiguous subspaces)",
            f"{describe(self)} with strides {self.stride()}, to {list(full)}", "use .reshape(...) instead",
        )  # fmt: skip
    return reshape(self, full)


def _view_dtype(x: Tensor, d: dt.dtype) -> Tensor:
    return x if x.dtype is d else bitcast(x, d)


def _bitcast_infer(input: Any, dtype: dt.dtype) -> tuple:
    if input.dtype.itemsize == dtype.itemsize:
        return input.shape, dtype
    shape = list(input.shape)
    ratio = input.dtype.itemsize / dtype.itemsize
    if not shape or shape[-1] * ratio != int(shape[-1] * ratio):
        raise KilnError(
            "view", f"the last dimension can't be reinterpreted as {dtype.name}", input,
            "its size in bytes must be a multiple of the new element size",
        )  # fmt: skip
    return Size([*shape[:-1], int(shape[-1] * ratio)]), dtype


@view(private=True, layout=True, infer=_bitcast_infer, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), dt.int64), grad=False), Sample((draw(rng(), (3, 4)), dt.int32), grad=False)]))  # fmt: skip
def bitcast(input: Tensor, dtype: dt.dtype) -> Tensor:
    """The same bytes seen as another dtype."""
    return input.view(dtype.np)


@composition(samples=lambda: iter([Sample((draw(rng(), (2, 3, 4)), 1)), Sample((draw(rng(), ()),)),
                                   Sample((draw(rng(), (2, 3, 4)), 0, -2)), Sample((draw(rng(), (2, 3)), 1, 0), error=RuntimeError)]))  # fmt: skip
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim merged into one."""
    shape = input._a.shape
    if not shape:
        return reshape(input, (1,))
    a, b = norm_dim(start_dim, len(shape), "flatten"), norm_dim(end_dim, len(shape), "flatten")
    if a > b:
        raise KilnError(
            "flatten", "flatten() has invalid args: start_dim cannot come after end_dim",
            f"start_dim={start_dim}, end_dim={end_dim}", "swap them",
        )  # fmt: skip
    if a == b:
        return input
    return reshape(input, (*shape[:a], numel(shape[a : b + 1]), *shape[b + 1 :]))


@composition(samples=lambda: iter([Sample((draw(rng(), (2, 12)), 1, (3, -1)))]))
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dimension split into several."""
    shape = input._a.shape
    d = norm_dim(dim, len(shape), "unflatten")
    return reshape(input, (*shape[:d], *resolve_reshape(sizes, shape[d], "unflatten"), *shape[d + 1 :]))


@composition(samples=lambda: iter([Sample((strided(draw(rng(), (2, 3))),))]))
def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension."""
    return reshape(input, (-1,))


def _squeeze_samples() -> Any:
    yield Sample((draw(rng(), (2, 1, 3, 1)),))
    yield Sample((draw(rng(), (2, 1, 3, 1)), 1))
    yield Sample((draw(rng(), (2, 1, 3, 1)), (1, -1)))
    yield Sample((draw(rng(), ()), 0))
    yield Sample((draw(rng(), (2,)), 3), error=IndexError)


@composition(samples=_squeeze_samples)
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without the dimensions of size 1 (all of them, or those named)."""
    shape = input._a.shape
    drop = norm_dims(dim, len(shape), "squeeze")
    return reshape(input, tuple(s for i, s in enumerate(shape) if s != 1 or i not in drop))


@composition(samples=lambda: iter([Sample((draw(rng(), (2, 3)), 1)), Sample((draw(rng(), ()), -1)),
                                   Sample((draw(rng(), (2, 3)), 4), error=IndexError)]))  # fmt: skip
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of size 1 inserted at `dim`."""
    shape = input._a.shape
    d = norm_dim(dim, len(shape) + 1, "unsqueeze")
    return reshape(input, (*shape[:d], 1, *shape[d:]))


@method("view_as")
def view_as(self: Tensor, other: Tensor) -> Tensor:
    """This memory in the shape of another tensor."""
    return view_method(self, other._a.shape)


@method("reshape_as")
def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """These elements in the shape of another tensor."""
    return reshape(self, other._a.shape)


# ---------------------------------------------------------------- order of dimensions


def _permute_infer(input: Any, dims: Any) -> tuple:
    n = len(input.shape)
    if len(dims) != n:
        raise KilnError(
            "permute", f"the number of dims ({len(dims)}) does not match the tensor's ({n})",
            f"dims={tuple(dims)}", "name every dimension once",
        )  # fmt: skip
    order = tuple(norm_dim(d, n, "permute") for d in dims)
    if len(set(order)) != n:
        raise KilnError("permute", "duplicate dims are not allowed", f"dims={tuple(dims)}", "")
    return Size(input.shape[d] for d in order), input.dtype


def _inverse(dims: Sequence[int]) -> tuple[int, ...]:
    out = [0] * len(dims)
    for i, d in enumerate(dims):
        out[d % len(dims)] = i
    return tuple(out)


@view(
    infer=_permute_infer, grad={"input": lambda g, dims: g.permute(_inverse(dims))},
    samples=lambda: iter([
        Sample((draw(rng(), (2, 3, 4)), (2, 0, 1))), Sample((draw(rng(), (2, 3)), (-1, 0))), Sample((draw(rng(), ()), ())),
        Sample((draw(rng(), (2, 3)), (0, 0)), error=RuntimeError), Sample((draw(rng(), (2, 3)), (0,)), error=RuntimeError),
    ]),
)  # fmt: skip
def permute(input: Tensor, *dims: VarInts) -> Tensor:
    """The dimensions in another order. A view."""
    return input.transpose(dims)


@composition(aliases=("swapaxes", "swapdims"), samples=lambda: iter([
    Sample((draw(rng(), (2, 3, 4)), 0, -1)), Sample((draw(rng(), ()), 0, -1)), Sample((draw(rng(), (2, 3)), 0, 2), error=IndexError)]))  # fmt: skip
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged. A view."""
    n = input._a.ndim
    a, b = norm_dim(dim0, n, "transpose"), norm_dim(dim1, n, "transpose")
    order = list(range(n))
    if n:
        order[a], order[b] = b, a
    return permute(input, order)


@composition(samples=lambda: iter([Sample((draw(rng(), (2, 3)),)), Sample((draw(rng(), (2,)),)),
                                   Sample((draw(rng(), (2, 3, 4)),), error=RuntimeError)]))  # fmt: skip
def t(input: Tensor) -> Tensor:
    """A matrix transposed; tensors of fewer dimensions as they are."""
    n = input._a.ndim
    if n > 2:
        raise KilnError("t", f"t() expects a tensor with <= 2 dimensions, but self is {n}D", input, "use transpose")
    return permute(input, (1, 0)) if n == 2 else input


@composition(aliases=("moveaxis",), samples=lambda: iter([Sample((draw(rng(), (2, 3, 4)), (0, 1), (-1, 0)))]))
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved from their places to others, the rest in order."""
    n = input._a.ndim
    src = norm_dims(source if isinstance(source, list | tuple) else (source,), n, "movedim")
    dst = norm_dims(destination if isinstance(destination, list | tuple) else (destination,), n, "movedim")
    if len(src) != len(dst):
        raise KilnError("movedim", "source and destination differ in length", f"{source}, {destination}", "")
    order: list[int] = [-1] * n
    for s, d in zip(src, dst, strict=True):
        order[d] = s
    rest = iter(i for i in range(n) if i not in src)
    return permute(input, [next(rest) if o < 0 else o for o in order])


Tensor.T = property(lambda self: permute(self, tuple(reversed(range(self._a.ndim)))), doc="The dimensions reversed.")  # type: ignore[attr-defined]
Tensor.mT = property(lambda self: transpose(self, -2, -1), doc="The last two dimensions exchanged.")  # type: ignore[attr-defined]


# ---------------------------------------------------------------- broadcasting


def _expand_sizes(shape: Any, sizes: Any) -> tuple:
    lead = len(sizes) - len(shape)
    if lead < 0:
        raise KilnError(
            "expand", f"the number of sizes provided ({len(sizes)}) must be greater or equal to the "
            f"number of dimensions in the tensor ({len(shape)})", f"sizes={list(sizes)}", "",
        )  # fmt: skip
    out = []
    for i, s in enumerate(sizes):
        old = shape[i - lead] if i >= lead else 1
        if i < lead and not isinstance(s, int):
            out.append(s)
            continue
        if s == -1 and i >= lead:
            s = old
        if (old != 1 and s != old) or (isinstance(s, int) and s < 0):
            raise KilnError(
                "expand", f"the expanded size of the tensor ({s}) must match the existing size ({old}) "
                f"at non-singleton dimension {i}", f"sizes {list(sizes)} for {list(shape)}",
                "only dimensions of size 1 can be expanded",
            )  # fmt: skip
        out.append(s)
    return tuple(out)


def _broadcast(a: np.ndarray, shape: tuple) -> np.ndarray:
    if a.shape == shape:
        return a
    if a.dtype.isbuiltin == 1 and a.flags.c_contiguous and a.size:
        # several times quicker than np.broadcast_to, which builds an iterator
        lead = len(shape) - a.ndim
        strides = (0,) * lead + tuple(
            0 if n == 1 and m != 1 else s for n, m, s in zip(a.shape, shape[lead:], a.strides, strict=True)
        )
        out = np.ndarray(shape, a.dtype, a, 0, strides)
        out.flags.writeable = False
        return out
    return np.broadcast_to(a, shape)


@view(
    infer=lambda input, sizes: (Size(_expand_sizes(input.shape, sizes)), input.dtype),
    grad={"input": lambda g: g},  # the engine sums over broadcast dimensions
    samples=lambda: iter([
        Sample((draw(rng(), (3, 1)), (3, 4))), Sample((draw(rng(), (3, 1)), (2, -1, 4))), Sample((draw(rng(), ()), (2, 3))),
        Sample((draw(rng(), (1,)), (0,))), Sample((draw(rng(), (3, 1)), (4, 4)), error=RuntimeError),
    ]),
)  # fmt: skip
def expand(input: Tensor, *sizes: VarInts) -> Tensor:
    """Dimensions of size 1 repeated without copying; -1 keeps a size. A read-only view."""
    return _broadcast(input, _expand_sizes(input.shape, sizes))


@method("expand_as")
def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """This tensor broadcast to the shape of another."""
    return expand(self, other._a.shape)


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 1)), (2, 3, 4)))]))
def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """`expand` to a shape."""
    return expand(input, tuple(size))


@composition(method=False, samples=None)
def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors expanded to their common shape."""
    ts = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors
    shape = broadcast_shapes(*[x._a.shape for x in ts], op="broadcast_tensors")
    return tuple(expand(x, shape) for x in ts)


@method("sum_to_size")
def sum_to_size(self: Tensor, *size: Any) -> Tensor:
    """Summed over the dimensions that broadcasting `size` to this shape would repeat."""
    shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], list | tuple) else size
    lead = self._a.ndim - len(shape)
    if broadcast_shapes(shape, self._a.shape, op="sum_to_size") != self._a.shape:
        raise KilnError("sum_to_size", "size is not expandable to the tensor's", f"{list(shape)}, {describe(self)}", "")
    dims = tuple(range(lead)) + tuple(i + lead for i, s in enumerate(shape) if s == 1 and self._a.shape[i + lead] != 1)
    return reshape(self.sum(dims, True) if dims else self, shape)


# ---------------------------------------------------------------- basic indexing


def normalize_index(index: Any, shape: Any, name: str = "index") -> tuple:
    """A basic index as a full tuple of ints, (start, stop, step) triples and None for new dimensions."""
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(1 for i in items if i is not None and i is not Ellipsis)
    if used > len(shape):
        raise KilnIndexError(
            name, f"too many indices for tensor of dimension {len(shape)}", f"{used} indices", ""
        )
    if Ellipsis in [i for i in items if i is Ellipsis]:
        at = next(j for j, i in enumerate(items) if i is Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(shape) - used)
    else:
        items += [slice(None)] * (len(shape) - used)
    out: list[Any] = []
    dim = 0
    for i in items:
        if i is None:
            out.append(None)
            continue
        n = shape[dim]
        if isinstance(i, slice):
            if i == slice(None):
                out.append((0, n, 1))
            else:
                bounds = (None if v is None else index_int(v, name, "slice bound") for v in (i.start, i.stop, i.step))
                start, stop, step = slice(*bounds).indices(n) if (i.step is None or int(i.step) > 0) else (0, 0, -1)
                if step <= 0:
                    raise KilnValueError(
                        name, "step must be greater than zero", f"step={i.step}", "use flip for reversed order"
                    )
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


def _as_slices(index: tuple) -> tuple:
    return tuple(slice(*i) if isinstance(i, tuple) else i for i in index)


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
    for index in (((0, 3, 1), (1, 4, 2), (0, 5, 1)), (1, (0, 4, 1), None, 4), ((2, 2, 1), 0, 0), (0, 0, 0)):
        yield Sample((x, index))


@view(
    private=True, infer=lambda input, index: (Size(_basic_shape(index)[0]), input.dtype),
    grad={"input": lambda g, in_shape, index: basic_index_grad(g, tuple(in_shape), index)},
    body=lambda input, index: slice_op(input, *_bounds(index)).reshape(tuple(_basic_shape(index)[0])),
    samples=_index_samples,
)  # fmt: skip
def basic_index(input: Tensor, index: tuple) -> Tensor:
    """Ints, slices and new dimensions, from `normalize_index`. A view."""
    return input[(*_as_slices(index), ...)]  # the Ellipsis keeps a 0-d result a view


def _index_grad_body(grad: Tensor, size: tuple, index: tuple) -> Tensor:
    low, high, step = _bounds(index)
    full = grad.reshape(tuple(_basic_shape(index)[1]))
    if all(s == 1 for s in step):
        return pad_op(full, low, tuple(n - h for n, h in zip(size, high, strict=True)), 0)
    return view_update(grad.new_zeros(size), grad, (("basic_index", (index,)),))


@movement(
    private=True, infer=lambda grad, size, index: (Size(size), grad.dtype),
    grad={"grad": lambda g, index: basic_index(g, index)}, body=_index_grad_body,
    samples=lambda: iter([Sample((draw(rng(), (3, 2)), (3, 4), ((0, 3, 1), (0, 4, 2)))),
                          Sample((draw(rng(), (2,)), (3, 4), (1, (1, 3, 1))))]),
)  # fmt: skip
def basic_index_grad(grad: Tensor, size: tuple, index: tuple) -> Tensor:
    """Zeros of `size` with `grad` at a basic index."""
    out = np.zeros(size, grad.dtype)
    out[_as_slices(index)] = grad
    return out


@movement(
    private=True, name="slice",
    infer=lambda input, start, stop, step: (
        Size(max(0, -(-(b - a) // s)) for a, b, s in zip(start, stop, step, strict=True)), input.dtype),
    grad={"input": lambda g, input, start, stop, step: basic_index_grad(
        g, tuple(input.shape), tuple(zip(start, stop, step, strict=True)))},
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), (0, 1), (3, 4), (1, 2)))]),
)  # fmt: skip
def slice_op(input: Tensor, start: tuple, stop: tuple, step: tuple) -> Tensor:
    """start:stop:step in every dimension; the compiler's primitive under basic indexing."""
    return input[tuple(slice(*b) for b in zip(start, stop, step, strict=True))]


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), 1, 1, 2)), Sample((draw(rng(), (3, 4)), -1, -2, 2)), Sample((draw(rng(), (3, 4)), 1, 3, 2), error=RuntimeError)]))  # fmt: skip
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`length` elements from `start` of one dimension. A view."""
    shape = input._a.shape
    d, start = norm_dim(dim, len(shape), "narrow"), int(start)
    n = shape[d]
    s = start + n if start < 0 else start
    if length < 0 or s < 0 or s + length > n:
        raise KilnError(
            "narrow", f"start ({start}) + length ({length}) exceeds dimension size ({n})", describe(input), ""
        )
    return basic_index(input, tuple((s, s + length, 1) if i == d else (0, m, 1) for i, m in enumerate(shape)))


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), 1, -1)), Sample((draw(rng(), (3, 4)), 0, 3), error=IndexError)]))  # fmt: skip
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """One index of one dimension, which goes away. A view."""
    shape = input._a.shape
    if not shape:
        raise KilnIndexError("select", "select() cannot be applied to a 0-dim tensor", describe(input), "")
    d = norm_dim(dim, len(shape), "select")
    n, k = shape[d], index_int(index, "select", "index")
    if not -n <= k < n:
        raise KilnIndexError(
            "select", f"index {k} out of range for tensor of size {list(shape)} at dimension {d}", f"index={k}", ""
        )
    return basic_index(input, tuple(k % n if i == d else (0, m, 1) for i, m in enumerate(shape)))


# ---------------------------------------------------------------- splitting


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), 1)), Sample((draw(rng(), (0, 2)),))]))
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along one dimension, as views."""
    if not input._a.ndim:
        raise KilnError("unbind", "dimension specified but the tensor has no dimensions", describe(input), "")
    return tuple(select(input, dim, i) for i in range(input._a.shape[norm_dim(dim, input._a.ndim, "unbind")]))


def _pieces(input: Tensor, sizes: Sequence[int], dim: int) -> tuple[Tensor, ...]:
    out, at = [], 0
    for n in sizes:
        out.append(narrow(input, dim, at, n))
        at += n
    return tuple(out)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (5, 2)), 2)), Sample((draw(rng(), (5, 2)), (1, 4))), Sample((draw(rng(), (2, 5)), 2, -1)),
    Sample((draw(rng(), (5, 2)), (1, 3)), error=RuntimeError)]))  # fmt: skip
def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0, *, split_size: Any = None) -> tuple[Tensor, ...]:
    """Views of equal size (the last may be smaller), or of the given sizes, along one dimension."""
    d = norm_dim(dim, tensor._a.ndim, "split")
    n = tensor._a.shape[d]
    s = split_size_or_sections if split_size is None else split_size
    if isinstance(s, list | tuple):
        if sum(s) != n or any(x < 0 for x in s):
            raise KilnError(
                "split", f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at "
                f"dimension {d})", f"split_sizes={list(s)}", "",
            )  # fmt: skip
        return _pieces(tensor, s, d)
    s = index_int(s, "split", "split_size")
    if s < 0 or (s == 0 and n):
        raise KilnError("split", "split_size must be positive", f"split_size={s}", "")
    if s == 0 or n == 0:
        return (narrow(tensor, d, 0, n),)
    return _pieces(tensor, [min(s, n - i) for i in range(0, n, s)], d)


@composition(samples=lambda: iter([Sample((draw(rng(), (5, 2)), 2)), Sample((draw(rng(), (5, 2)), (1, 4)))]))
def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """`split` into the given sizes."""
    return split(input, split_sizes, dim)


METHODS["split"] = Tensor.split  # type: ignore[attr-defined]


@composition(samples=lambda: iter([Sample((draw(rng(), (5, 2)), 3)), Sample((draw(rng(), (2, 7)), 3, 1)),
                                   Sample((draw(rng(), (5, 2)), 0), error=RuntimeError)]))  # fmt: skip
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size along one dimension (the last may be smaller)."""
    if chunks <= 0:
        raise KilnError("chunk", "chunk expects chunks to be greater than 0", f"chunks={chunks}", "")
    n = input._a.shape[norm_dim(dim, input._a.ndim, "chunk")]
    if n == 0:
        return _pieces(input, [0] * chunks, dim)
    return split(input, -(-n // chunks), dim)


@composition(samples=lambda: iter([Sample((draw(rng(), (7, 2)), 3)), Sample((draw(rng(), (7, 2)), (1, 4)))]))
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of nearly equal size, or cut at the given indices, along one dimension."""
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
    return tuple(narrow(input, d, a, max(0, b - a)) for a, b in zip(cuts, cuts[1:], strict=False))


# ---------------------------------------------------------------- joining


def _cat_infer(tensors: Any, dim: int) -> tuple:
    if not len(tensors):
        raise KilnError("cat", "expected a non-empty list of Tensors", "[]", "")
    d = tensors[0].dtype
    for x in tensors[1:]:
        d = dt.promote_types(d, x.dtype)
    real = [x for x in tensors if not (len(x.shape) == 1 and x.shape[0] == 0)]
    if not real:
        return Size((0,)), d
    first = real[0].shape
    if not first:
        raise KilnError("cat", "zero-dimensional tensor cannot be concatenated", describe(list(tensors)), "use stack")
    at = norm_dim(dim, len(first), "cat")
    total: Any = 0
    for x in real:
        if len(x.shape) != len(first) or any(a != b for i, (a, b) in enumerate(zip(x.shape, first, strict=True)) if i != at):
            raise KilnError(
                "cat", f"sizes of tensors must match except in dimension {at}", describe(list(tensors)),
                "they may differ only along dim",
            )  # fmt: skip
        total = total + x.shape[at]
    return Size((*first[:at], total, *first[at + 1 :])), d


def _cat_grad(g: Tensor, tensors: Any, dim: int) -> list[Tensor]:
    out, at = [], 0
    for x in tensors:
        if x._a.ndim == 1 and x._a.shape[0] == 0:
            out.append(x.new_zeros(0))
            continue
        n = x._a.shape[norm_dim(dim, x._a.ndim)]
        out.append(narrow(g, dim, at, n))
        at += n
    return out


def _cat_samples() -> Any:
    r = rng()
    yield Sample(([draw(r, (2, 3)), draw(r, (4, 3))],))
    yield Sample(([draw(r, (2, 3)), draw(r, (2, 0)), draw(r, (2, 1))], -1))
    yield Sample(([draw(r, (2, 3))], 1))
    yield Sample(([draw(r, (0,)), draw(r, (2, 3))], 0))
    yield Sample(([draw(r, (2, 3)), draw(r, (2, 4))],), error=RuntimeError)
    yield Sample(([],), error=RuntimeError)
    yield Sample(([draw(r, (2, 3))], 2), error=IndexError)


@movement(infer=_cat_infer, grad={"tensors": _cat_grad}, method=False, out=True, samples=_cat_samples,
          aliases=("concat", "concatenate"))  # fmt: skip
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along an existing dimension; dtypes promote."""
    real = [x for x in tensors if not (x.ndim == 1 and x.shape[0] == 0)]
    d = dt.OF_NUMPY[tensors[0].dtype]
    for x in tensors[1:]:
        d = dt.promote_types(d, dt.OF_NUMPY[x.dtype])
    return np.concatenate([x.astype(d.np, copy=False) for x in real] or [np.zeros(0, d.np)], dim)


@composition(method=False, samples=lambda: iter([
    Sample(([draw(rng(), (2, 3)), draw(rng(1), (2, 3))], 1)), Sample(([draw(rng(), ())],)),
    Sample(([draw(rng(), (2, 3)), draw(rng(1), (2, 4))],), error=RuntimeError)]))  # fmt: skip
def stack(tensors: Sequence[Tensor], dim: int = 0, *, out: Any = None) -> Tensor:
    """Tensors of one shape along a new dimension."""
    if not len(tensors):
        raise KilnError("stack", "stack expects a non-empty TensorList", "[]", "")
    first = tensors[0]._a.shape
    for i, x in enumerate(tensors):
        if x._a.shape != first:
            raise KilnError(
                "stack", "stack expects each tensor to be equal size, but got "
                f"{list(first)} at entry 0 and {list(x._a.shape)} at entry {i}", describe(list(tensors)), "",
            )  # fmt: skip
    d = norm_dim(dim, len(first) + 1, "stack")
    return cat([unsqueeze(x, d) for x in tensors], d, out=out)


def _at_least(x: Tensor, n: int) -> Tensor:
    while x._a.ndim < n:
        x = unsqueeze(x, 0)
    return x


@composition(method=False, aliases=("row_stack",), samples=lambda: iter([Sample(([draw(rng(), (3,)), draw(rng(1), (3,))],))]))
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors one below the other."""
    return cat([_at_least(x, 2) for x in tensors], 0)


@composition(method=False, samples=lambda: iter([Sample(([draw(rng(), (3,)), draw(rng(1), (3,))],))]))
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors side by side."""
    ts = [_at_least(x, 1) for x in tensors]
    return cat(ts, 0 if ts[0]._a.ndim == 1 else 1)


# ---------------------------------------------------------------- repeating, flipping, padding


@movement(
    infer=lambda input, dims: (norm_dims(dims, len(input.shape), "flip"), (input.shape, input.dtype))[1],
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


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), 2)), Sample((draw(rng(), (3, 4)), (1, -2), (0, 1)))]))
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements shifted cyclically along dimensions (or through all elements in order)."""
    if dims is None:
        return reshape(roll(reshape(input, (-1,)), shifts, 0), input._a.shape)
    steps = shifts if isinstance(shifts, list | tuple) else (shifts,)
    places = dims if isinstance(dims, list | tuple) else (dims,)
    if len(steps) != len(places):
        raise KilnError("roll", "shifts and dimensions must align", f"shifts={shifts}, dims={dims}", "")
    for s, d in zip(steps, places, strict=True):
        n = input._a.shape[norm_dim(d, input._a.ndim, "roll")]
        if n and s % n:
            k = n - s % n
            input = cat([narrow(input, d, k, n - k), narrow(input, d, 0, k)], d)
    return input.clone() if not steps or input.numel() == 0 else input


@method("repeat")
def repeat(self: Tensor, *repeats: Any) -> Tensor:
    """The tensor copied repeats[i] times along dimension i; more repeats than dimensions add leading ones."""
    r = tuple(repeats[0]) if len(repeats) == 1 and isinstance(repeats[0], list | tuple) else repeats
    if len(r) < self._a.ndim:
        raise KilnError(
            "repeat", "number of dimensions of repeat dims can not be smaller than number of dimensions of tensor",
            f"repeats={list(r)} for {describe(self)}", "",
        )  # fmt: skip
    x = _at_least(self, len(r))
    shape = x._a.shape
    pairs = [v for n in shape for v in (1, n)]
    wide = [v for n, k in zip(shape, r, strict=True) for v in (k, n)]
    return reshape(expand(reshape(x, pairs), wide), tuple(n * k for n, k in zip(shape, r, strict=True))).clone()


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), (2,))), Sample((draw(rng(), (3,)), (2, 2)))]))
def tile(input: Tensor, *dims: Any) -> Tensor:
    """`repeat`, with missing leading repeats taken as 1."""
    r = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    return repeat(input, (1,) * (input._a.ndim - len(r)) + tuple(r))


def _pad_infer(input: Any, low: tuple, high: tuple, value: Any) -> tuple:
    return Size(n + a + b for n, a, b in zip(input.shape, low, high, strict=True)), input.dtype


@movement(
    private=True, name="pad", infer=_pad_infer,
    grad={"input": lambda g, input, low: basic_index(
        g, tuple((a, a + n, 1) for a, n in zip(low, input.shape, strict=True)))},
    samples=lambda: iter([Sample((draw(rng(), (2, 3)), (1, 0), (0, 2), 0.5)), Sample((draw(rng(), ()), (), (), 0)),
                          Sample((draw(rng(), (0, 2)), (1, 0), (1, 0), 0))]),
)  # fmt: skip
def pad_op(input: Tensor, low: tuple, high: tuple, value: Any) -> Tensor:
    """`low` and `high` elements of one value before and after each dimension (not negative)."""
    shape = tuple(n + a + b for n, a, b in zip(input.shape, low, high, strict=True))
    out = np.full(shape, value, input.dtype) if value else np.zeros(shape, input.dtype)
    out[tuple(slice(a, a + n) for a, n in zip(low, input.shape, strict=True))] = input
    return out


def _pad_samples() -> Any:
    x = draw(rng(), (2, 3, 5))
    yield Sample((x, (1, 2)))
    yield Sample((x, (1, 2, 0, 1), "constant", 3.0))
    yield Sample((x, (-1, 2)))
    for mode in ("reflect", "replicate", "circular"):
        yield Sample((x, (2, 1), mode))
    yield Sample((x, (1,)), error=RuntimeError)


@composition(namespace="F", samples=_pad_samples)
def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Tensor:
    """Elements added (or, where negative, cut) around the last dimensions, given from the last backwards.

    `mode` is "constant" (with `value`, default 0), "reflect", "replicate" or "circular".
    """
    p = [index_int(v, "pad", "pad") for v in pad]
    n = input._a.ndim
    if len(p) % 2 or len(p) // 2 > n:
        raise KilnError(
            "pad", "padding length must be divisible by 2 and at most twice the number of dimensions",
            f"pad={p} for {describe(input)}", "give (left, right) pairs from the last dimension backwards",
        )  # fmt: skip
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise KilnError("pad", "unknown padding mode", repr(mode), "constant, reflect, replicate or circular")
    if mode != "constant":
        if value not in (None, 0, 0.0):
            raise KilnValueError("pad", f'padding mode "{mode}" doesn\'t take in value argument', f"value={value}", "")
        for i in range(len(p) // 2):
            input = _pad_mode(input, n - 1 - i, p[2 * i], p[2 * i + 1], mode)
        return input
    low, high = [0] * n, [0] * n
    for i in range(len(p) // 2):
        low[n - 1 - i], high[n - 1 - i] = p[2 * i], p[2 * i + 1]
    if any(v < 0 for v in p):
        cut = []
        for d, size in enumerate(input._a.shape):
            a, b = max(0, -low[d]), size - max(0, -high[d])
            if b < a:
                raise KilnError("pad", "the padding cuts more than there is", f"pad={p} for {describe(input)}", "")
            cut.append((a, b, 1))
        input = basic_index(input, tuple(cut))
        low, high = [max(v, 0) for v in low], [max(v, 0) for v in high]
    if not any(low) and not any(high):
        return input.clone()
    return pad_op(input, tuple(low), tuple(high), 0 if value is None else value)


def _pad_mode(x: Tensor, d: int, left: int, right: int, mode: str) -> Tensor:
    n = x._a.shape[d]
    limit = {"reflect": n - 1, "circular": n}.get(mode)
    if limit is not None and max(left, right) > limit:
        raise KilnError(
            "pad", f"{mode} padding must be {'less than' if mode == 'reflect' else 'at most'} the input dimension",
            f"padding ({left}, {right}) at dimension {d} of {describe(x)}", "",
        )  # fmt: skip
    middle = narrow(x, d, max(0, -left), n - max(0, -left) - max(0, -right))
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


@composition(method=False, samples=None)
def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Coordinate tensors of the grid spanned by 1-d tensors; indexing "ij" (default) or "xy"."""
    ts = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else list(tensors)
    if indexing not in (None, "ij", "xy"):
        raise KilnError("meshgrid", "indexing must be 'ij' or 'xy'", repr(indexing), "")
    for x in ts:
        if x._a.ndim > 1:
            raise KilnError("meshgrid", "expected 0-d or 1-d tensors", describe(ts), "")
    swap = indexing == "xy" and len(ts) > 1
    if swap:
        ts[0], ts[1] = ts[1], ts[0]
    shape = [x.numel() for x in ts]
    out = [expand(reshape(x, [-1 if j == i else 1 for j in range(len(ts))]), shape) for i, x in enumerate(ts)]
    if swap:
        out = [transpose(o, 0, 1) for o in out]
        out[0], out[1] = out[1], out[0]
    return tuple(out)


# ---------------------------------------------------------------- arbitrary strides, windows of one dimension


@view(
    infer=lambda input, size, stride, storage_offset: (Size(size), input.dtype),
    layout=True,
    grad={"input": lambda g, input, size, stride, storage_offset: as_strided_grad(
        g, tuple(input.shape), tuple(size), tuple(stride), storage_offset or 0)},
    samples=lambda: iter([Sample((draw(rng(), (4, 4)), (2, 3), (4, 1), 1)), Sample((draw(rng(), (6,)), (4, 3), (1, 1)))]),
)  # fmt: skip
def as_strided(input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """A view with given strides and offset, in elements, on the tensor's memory."""
    root = input
    while isinstance(root.base, np.ndarray) and root.base.dtype == input.dtype:
        root = root.base
    n = input.itemsize
    flat = root.reshape(-1) if root.flags.c_contiguous else root
    if storage_offset is None:
        start = (input.__array_interface__["data"][0] - flat.__array_interface__["data"][0]) // n
    else:
        start = storage_offset
    last = start + sum((s - 1) * st for s, st in zip(size, stride, strict=True))
    if start < 0 or (0 not in size and last >= flat.size) or any(st < 0 for st in stride):
        raise KilnError(
            "as_strided", "the view reaches outside the tensor's memory",
            f"size={list(size)}, stride={list(stride)}, storage_offset={start}", f"there are {flat.size} elements",
        )  # fmt: skip
    return _np_as_strided(flat[start:], size, [s * n for s in stride])


@movement(private=True, infer=lambda grad, input_size, size, stride, offset: (Size(input_size), grad.dtype),
    grad={"grad": lambda g, size, stride, offset: as_strided(g.contiguous(), size, stride, offset)},
    samples=lambda: iter([Sample((draw(rng(), (2, 3)), (4, 4), (2, 3), (4, 1), 1))]))  # fmt: skip
def as_strided_grad(grad: Tensor, input_size: tuple, size: tuple, stride: tuple, offset: int) -> Tensor:
    """Zeros of a contiguous `input_size` with `grad` added at each place of a strided view."""
    out = np.zeros(numel(input_size), grad.dtype)
    where = np.full(size, offset)
    for i, (n, s) in enumerate(zip(size, stride, strict=True)):
        where = where + (np.arange(n) * s).reshape([-1 if j == i else 1 for j in range(len(size))])
    np.add.at(out, where, grad)
    return out.reshape(input_size)


def _unfold_infer(input: Any, dimension: int, size: int, step: int) -> tuple:
    d = norm_dim(dimension, len(input.shape), "unfold")
    n = input.shape[d] if input.shape else 1
    if size > n or size < 0 or step <= 0:
        raise KilnError(
            "unfold", f"maximum size for tensor at dimension {d} is {n}, and step must be positive",
            f"size={size}, step={step}", "",
        )  # fmt: skip
    shape = list(input.shape)
    if shape:
        shape[d] = (n - size) // step + 1
    return Size([*shape, size]), input.dtype


def _unfold_grad(g: Tensor, input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    d = norm_dim(dimension, input._a.ndim)
    out = input.new_zeros(input._a.shape)
    for k in range(size):
        at = tuple((k, k + (g._a.shape[d] - 1) * step + 1, step) if i == d else (0, m, 1)
                   for i, m in enumerate(input._a.shape))  # fmt: skip
        out = out + basic_index_grad(select(g, -1, k), tuple(input._a.shape), at)
    return out


def _unfold_body(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    d = norm_dim(dimension, len(input.shape))
    n = (input.shape[d] - size) // step + 1
    cols = [slice_op(input, tuple(k if i == d else 0 for i in range(len(input.shape))),
                     tuple(k + (n - 1) * step + 1 if i == d else m for i, m in enumerate(input.shape)),
                     tuple(step if i == d else 1 for i in range(len(input.shape)))) for k in range(size)]  # fmt: skip
    return stack(cols, -1)


@view(infer=_unfold_infer, grad={"input": _unfold_grad}, body=_unfold_body, name="unfold_dim", private=True,
      samples=lambda: iter([Sample((draw(rng(), (3, 7)), 1, 3, 2)), Sample((draw(rng(), (7,)), 0, 2, 1)),
                            Sample((draw(rng(), (3,)), 0, 4, 1), error=RuntimeError)]))  # fmt: skip
def unfold_dim(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements, `step` apart, of one dimension, as a new last dimension. A view."""
    if not input.ndim:
        return input.reshape(1)[:size]
    d = dimension % input.ndim
    n = (input.shape[d] - size) // step + 1
    shape = (*input.shape[:d], n, *input.shape[d + 1 :], size)
    s = input.strides
    return _np_as_strided(input, shape, (*s[:d], s[d] * step, *s[d + 1 :], s[d]))


@method("unfold")
def unfold_method(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements, `step` apart, of one dimension, as a new last dimension. A view."""
    return unfold_dim(self, dimension, size, step)


# ---------------------------------------------------------------- writing through views


def replay_chain(x: Any, chain: tuple) -> Any:
    """The view of `x` that a chain of (op, arguments) describes, on raw arrays."""
    for name, rest in chain:
        x = REGISTRY[name].reference(x, *rest)
    return x


@movement(
    private=True, infer=lambda input, value, chain: (input.shape, input.dtype),
    grad={
        "input": lambda g, value, chain: view_update(g, value.new_zeros(value.shape), chain),
        "value": lambda g, chain: replay(g, chain),
    },
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), draw(rng(1), (2, 3)),
                                  (("permute", ((1, 0),)), ("basic_index", (((0, 4, 2), (0, 3, 1)),)))))]),
)  # fmt: skip
def view_update(input: Tensor, value: Tensor, chain: tuple) -> Tensor:
    """A copy of `input` in which the view described by `chain` holds `value`."""
    out = np.array(input, order="C")
    region = replay_chain(out, chain)
    region[...] = value
    return out


# ---------------------------------------------------------------- complex views


@composition(method=False, samples=None)
def real(input: Tensor) -> Tensor:
    """The real part, a view; a real tensor itself."""
    return real_part(input) if input.is_complex() else input


@composition(method=False, samples=None)
def imag(input: Tensor) -> Tensor:
    """The imaginary part of a complex tensor, a view."""
    if not input.is_complex():
        raise KilnError("imag", "imag is not implemented for tensors with non-complex dtypes", describe(input), "")
    return imag_part(input)


def _part_infer(input: Any) -> tuple:
    return input.shape, input.dtype.to_real()


def _complex_sample() -> Any:
    yield Sample((draw(rng(), (3, 4)) + 1j * draw(rng(1), (3, 4)),))


@view(private=True, infer=_part_infer, grad={"input": lambda g: g + 0j}, samples=_complex_sample)
def real_part(input: Tensor) -> Tensor:
    """The real part of a complex tensor. A view."""
    return input.real


@view(private=True, infer=_part_infer, grad={"input": lambda g: g * 1j}, samples=_complex_sample)
def imag_part(input: Tensor) -> Tensor:
    """The imaginary part of a complex tensor. A view."""
    return input.imag


@op(family="elementwise", promote="same", name="conj", check=False, samples=_complex_sample,
    grad={"input": lambda g: g.conj()})  # fmt: skip
def conj(input: Tensor) -> Tensor:
    """The complex conjugate."""
    return np.conj(input)


@composition(samples=None, method=False)
def view_as_real(input: Tensor) -> Tensor:
    """A complex tensor as real pairs in a new last dimension."""
    if not input.is_complex():
        raise KilnError("view_as_real", "only complex tensors can be seen as real pairs", describe(input), "")
    return stack([real_part(input), imag_part(input)], -1)


@composition(samples=None, method=False)
def view_as_complex(input: Tensor) -> Tensor:
    """Real pairs in the last dimension as complex numbers."""
    if not input._a.ndim or input._a.shape[-1] != 2:
        raise KilnError("view_as_complex", "the last dimension must have size 2", describe(input), "")
    return select(input, -1, 0) + select(input, -1, 1) * 1j


Tensor.real = property(real, doc="The real part, a view; a real tensor itself.")  # type: ignore[attr-defined]
Tensor.imag = property(imag, doc="The imaginary part of a complex tensor, a view.")  # type: ignore[attr-defined]
