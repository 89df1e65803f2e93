"""Views: the same elements under another shape or order of dimensions, sharing memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.recorders import called
from ..errors import KilnError, describe
from ..shape import (
    Size,
    behind,
    broadcast_shapes,
    norm_dim,
    norm_dims,
    numel,
    resolve_reshape,
    view_strides,
)
from ..tensor import CAPTURING, Tensor
from . import dispatch
from .registry import LEADING, Sample, VarInts, composition, method, op
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
    node="ViewBackward0", infer=lambda input, shape: (Size(resolve_reshape(shape, numel(input.shape))), input.dtype),
    batch=lambda n, input, shape: (input.tensor, (n, *resolve_reshape(shape, input.size))),
    grad={"input": lambda g, in_shape: g.reshape(in_shape)}, samples=_reshape_samples,
    quick={"input": lambda g, in_shape: g.reshape(in_shape)},
)  # fmt: skip
def reshape(input: Tensor, *shape: VarInts) -> Tensor:
    """The elements, in row-major order, in another shape; one size may be -1. A view where possible."""
    return input.reshape(shape)


_reshape = reshape.op  # type: ignore[attr-defined]


@method("view")
def view_method(self: Tensor, *shape: Any, size: Any = None, dtype: Any = None) -> Tensor:
    """The same memory in another shape (one size may be -1), or with another dtype of equal width."""
    if len(shape) == 1 and isinstance(shape[0], dt.dtype):
        dtype = shape[0]
    if dtype is not None:
        return _view_dtype(self, dtype)
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape
    sizes = size if size is not None else sizes
    a = self._a
    if not CAPTURING and a.__class__ is np.ndarray:
        try:
            sizes = tuple(sizes)
            r = a.reshape(sizes) if a.flags.c_contiguous else a.reshape(sizes, copy=False)
        except Exception:  # told below, in this method's name
            pass
        else:
            return dispatch.view(_reshape, (self, sizes), r)
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


@view(private=True, layout=True, batch=LEADING, infer=_bitcast_infer, samples=lambda: iter([
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
    return reshape(
        input, (*shape[:d], *resolve_reshape(sizes, shape[d], "unflatten"), *shape[d + 1 :])
    )


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
    kept = tuple([s for i, s in enumerate(shape) if s != 1 or i not in drop])
    out = dispatch.view(_reshape, (input, kept))
    how = 0 if dim is None else 2 if isinstance(dim, list | tuple) else 1
    return called(out, f"SqueezeBackward{how}") if out._fn is not None else out


@composition(samples=lambda: iter([Sample((draw(rng(), (2, 3)), 1)), Sample((draw(rng(), ()), -1)),
                                   Sample((draw(rng(), (2, 3)), 4), error=IndexError)]))  # fmt: skip
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a dimension of size 1 inserted at `dim`."""
    a = input._a
    shape = a.shape
    d = norm_dim(dim, len(shape) + 1, "unsqueeze")
    shape = (*shape[:d], 1, *shape[d:])
    plain = a.__class__ is np.ndarray and len(shape) <= 64 and not CAPTURING
    r = a.reshape(shape) if plain else None
    out = dispatch.view(_reshape, (input, shape), r)
    return called(out, "UnsqueezeBackward0") if out._fn is not None else out


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
    batch=lambda n, input, dims: (input.tensor, (0, *behind(dims, input.ndim))),
    infer=_permute_infer, grad={"input": lambda g, dims: g.permute(_inverse(dims))},
    quick={"input": lambda g, dims: g.transpose(_inverse(dims))},
    samples=lambda: iter([
        Sample((draw(rng(), (2, 3, 4)), (2, 0, 1))), Sample((draw(rng(), (2, 3)), (-1, 0))), Sample((draw(rng(), ()), ())),
        Sample((draw(rng(), (2, 3)), (0, 0)), error=RuntimeError), Sample((draw(rng(), (2, 3)), (0,)), error=RuntimeError),
    ]),
)  # fmt: skip
def permute(input: Tensor, *dims: VarInts) -> Tensor:
    """The dimensions in another order. A view."""
    return input.transpose(dims)


_permute = permute.op  # type: ignore[attr-defined]


@lru_cache(256)
def _exchanged(n: int, a: int, b: int) -> tuple[int, ...]:
    """The order of n dimensions with two of them exchanged; none where there are no such two."""
    if not (-n <= a < n and -n <= b < n):
        return ()
    order = list(range(n))
    order[a], order[b] = order[b], order[a]
    return tuple(order)


@composition(aliases=("swapdims",), samples=lambda: iter([
    Sample((draw(rng(), (2, 3, 4)), 0, -1)), Sample((draw(rng(), ()), 0, -1)), Sample((draw(rng(), (2, 3)), 0, 2), error=IndexError)]))  # fmt: skip
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged. A view."""
    x = input._a
    n = x.ndim
    if x.__class__ is np.ndarray and dim0.__class__ is dim1.__class__ is int:
        order = _exchanged(n, dim0, dim1)
        if order:
            return called(
                dispatch.view(_permute, (input, order), x.transpose(order)), "TransposeBackward0"
            )
    a, b = norm_dim(dim0, n, "transpose"), norm_dim(dim1, n, "transpose")
    order = list(range(n))
    if n:
        order[a], order[b] = b, a
    return called(dispatch.view(_permute, (input, tuple(order))), "TransposeBackward0")


@composition()
def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """`transpose`, under NumPy's names."""
    return transpose(input, axis0, axis1)


@composition(samples=lambda: iter([Sample((draw(rng(), (2, 3)),)), Sample((draw(rng(), (2,)),)),
                                   Sample((draw(rng(), (2, 3, 4)),), error=RuntimeError)]))  # fmt: skip
def t(input: Tensor) -> Tensor:
    """A matrix transposed; tensors of fewer dimensions as they are."""
    n = input._a.ndim
    if n > 2:
        raise KilnError(
            "t", f"t() expects a tensor with <= 2 dimensions, but self is {n}D", input,
            "use transpose",
        )  # fmt: skip
    return called(permute(input, (1, 0)), "TBackward0") if n == 2 else input


@composition(aliases=("moveaxis",), samples=lambda: iter([
    Sample((draw(rng(), (2, 3, 4)), (0, 1), (-1, 0)))]))  # fmt: skip
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Dimensions moved from their places to others, the rest in order."""
    n = input._a.ndim
    src = norm_dims(source if isinstance(source, list | tuple) else (source,), n, "movedim")
    dst = norm_dims(
        destination if isinstance(destination, list | tuple) else (destination,), n, "movedim"
    )
    if len(src) != len(dst):
        raise KilnError(
            "movedim", "source and destination differ in length", f"{source}, {destination}", ""
        )
    order: list[int] = [-1] * n
    for s, d in zip(src, dst, strict=True):
        order[d] = s
    rest = iter(i for i in range(n) if i not in src)
    return permute(input, [next(rest) if o < 0 else o for o in order])


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (2, 3, 4)) * (1 + 2j),)), Sample((draw(rng(), (3,)),), error=RuntimeError),
]))  # fmt: skip
def adjoint(input: Tensor, _name: str = "adjoint") -> Tensor:
    """The last two dimensions exchanged, and conjugated where complex."""
    n = input._a.ndim
    if n == 1 or (_name == "H" and n not in (0, 2)):
        raise KilnError(
            _name, f"expected a matrix, got {n}D", describe(input), "use x.mH for batches"
        )
    turned = transpose(input, -2, -1) if n else input
    return turned.conj() if input.is_complex() else turned


Tensor.T = property(  # type: ignore[attr-defined]
    lambda self: permute(self, tuple(reversed(range(self._a.ndim)))), doc="The dimensions reversed."
)
Tensor.H = property(lambda self: adjoint(self, "H"), doc="A matrix transposed and conjugated.")  # type: ignore[attr-defined]
Tensor.mH = property(
    lambda self: adjoint(self), doc="The last two dimensions exchanged, conjugated."
)  # type: ignore[attr-defined]
Tensor.mT = property(lambda self: transpose(self, -2, -1), doc="The last two dimensions exchanged.")  # type: ignore[attr-defined]


# ---------------------------------------------------------------- broadcasting


def _expand_sizes(shape: Any, sizes: Any) -> tuple:
    if not shape and not [s for s in sizes if s.__class__ is not int or s < 0]:
        return tuple(sizes)
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


def broadcast_array(a: np.ndarray, shape: tuple) -> np.ndarray:
    if a.shape == shape:
        return a
    if a.size and a.size == math.prod(shape):  # nothing is repeated, so it may be written to
        lead = len(shape) - a.ndim
        outer = a.shape[0] * a.strides[0] if a.ndim else 0
        strides = (outer,) * lead + a.strides
        if a.dtype.isbuiltin == 1 and a.flags.c_contiguous:
            return np.ndarray(shape, a.dtype, a, 0, strides)
        return np.lib.stride_tricks.as_strided(a, shape, strides)
    if a.dtype.isbuiltin == 1 and a.flags.c_contiguous and a.size:
        # several times quicker than np.broadcast_to, which builds an iterator
        lead = len(shape) - a.ndim
        strides = (0,) * lead + tuple(
            0 if n == 1 and m != 1 else s
            for n, m, s in zip(a.shape, shape[lead:], a.strides, strict=True)
        )
        out = np.ndarray(shape, a.dtype, a, 0, strides)
        out.flags.writeable = False
        return out
    return np.broadcast_to(a, shape)


def _expand_batch(n: int, input: Any, sizes: Any) -> tuple:
    sizes = _expand_sizes(input.shape, sizes)
    return input.aligned(len(sizes)), (n, *sizes)


@view(
    infer=lambda input, sizes: (Size(_expand_sizes(input.shape, sizes)), input.dtype),
    batch=_expand_batch,
    grad={"input": lambda g: g}, quick={"input": lambda g: g},  # the engine sums over broadcast dimensions
    samples=lambda: iter([
        Sample((draw(rng(), (3, 1)), (3, 4))), Sample((draw(rng(), (3, 1)), (2, -1, 4))), Sample((draw(rng(), ()), (2, 3))),
        Sample((draw(rng(), (1,)), (0,))), Sample((draw(rng(), (3, 1)), (4, 4)), error=RuntimeError),
    ]),
)  # fmt: skip
def expand(input: Tensor, *sizes: VarInts) -> Tensor:
    """Dimensions of size 1 repeated without copying; -1 keeps a size. A view, read-only where it repeats."""
    return broadcast_array(input, _expand_sizes(input.shape, sizes))


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
    if not shape:
        return self.sum()
    lead = self._a.ndim - len(shape)
    if broadcast_shapes(shape, self._a.shape, op="sum_to_size") != self._a.shape:
        raise KilnError(
            "sum_to_size", "size is not expandable to the tensor's",
            f"{list(shape)}, {describe(self)}", "",
        )  # fmt: skip
    dims = tuple(range(lead)) + tuple(
        i + lead for i, s in enumerate(shape) if s == 1 and self._a.shape[i + lead] != 1
    )
    return reshape(self.sum(dims, True) if dims else self, shape)
