"""Functions of `keras.ops` that move elements and leave them as they are: other shapes, orders, parts and places."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

import kiln as K

from ..nn import functional as F
from ..tensor import Tensor
from .dtypes import array
from .symbolic import op


@op
def reshape(x: Any, newshape: Any) -> Tensor:
    """In another shape; one size may be -1."""
    return array(x).reshape(tuple(newshape) if not isinstance(newshape, int) else (newshape,))


@op
def transpose(x: Any, axes: Any = None) -> Tensor:
    """Dimensions in another order, reversed without one."""
    x = array(x)
    return x.permute(*(range(x.ndim - 1, -1, -1) if axes is None else axes))


@op
def squeeze(x: Any, axis: Any = None) -> Tensor:
    """Without dimensions of 1."""
    return array(x).squeeze() if axis is None else array(x).squeeze(axis)


@op
def expand_dims(x: Any, axis: Any) -> Tensor:
    """With a dimension of 1."""
    x = array(x)
    for a in [axis] if isinstance(axis, int) else sorted(axis):
        x = x.unsqueeze(a)
    return x


@op
def concatenate(xs: Any, axis: int = 0) -> Tensor:
    """One behind the other."""
    return K.cat([array(x) for x in xs], axis)


@op
def stack(x: Any, axis: int = 0) -> Tensor:
    """Along a new dimension."""
    return K.stack([array(v) for v in x], axis)


@op
def unstack(x: Any, num: int | None = None, axis: int = 0) -> Any:
    """The parts along a dimension."""
    return list(array(x).unbind(axis))


@op
def split(x: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    """So many parts, or parts between places."""
    return list(K.tensor_split(array(x), indices_or_sections, axis))


@op
def repeat(x: Any, repeats: Any, axis: int | None = None) -> Tensor:
    """Each element several times."""
    return array(x).repeat_interleave(repeats, axis)


@op
def tile(x: Any, repeats: Any) -> Tensor:
    """All of it several times."""
    return array(x).tile((repeats,) if isinstance(repeats, int) else tuple(repeats))


@op
def flip(x: Any, axis: Any = None) -> Tensor:
    """Backwards."""
    x = array(x)
    return x.flip(list(range(x.ndim)) if axis is None else axis)


@op
def roll(x: Any, shift: Any, axis: Any = None) -> Tensor:
    """Moved round."""
    return array(x).roll(shift, axis)


@op
def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Tensor:
    """With values before and after each dimension."""
    x = array(x)
    width = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2)).tolist()
    flat = [p for pair in reversed(width) for p in pair]
    return F.pad(x, flat, mode, constant_values) if mode == "constant" else F.pad(x, flat, mode)


@op
def broadcast_to(x: Any, shape: Any) -> Tensor:
    """Spread over a shape."""
    return array(x).broadcast_to(tuple(shape))


@op
def moveaxis(x: Any, source: Any, destination: Any) -> Tensor:
    """A dimension in another place."""
    return array(x).movedim(source, destination)


@op
def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """Two dimensions in each other's place."""
    return array(x).transpose(axis1, axis2)


@op
def ravel(x: Any) -> Tensor:
    """In one dimension."""
    return array(x).flatten()


@op
def diag(x: Any, k: int = 0) -> Tensor:
    """The diagonal of a matrix, or the matrix of a diagonal."""
    return K.diag(array(x), k)


@op
def tril(x: Any, k: int = 0) -> Tensor:
    """What is on and below a diagonal."""
    return array(x).tril(k)


@op
def triu(x: Any, k: int = 0) -> Tensor:
    """What is on and above a diagonal."""
    return array(x).triu(k)


@op
def get_item(x: Any, key: Any) -> Tensor:
    """x[key]."""
    return array(x)[tuple(key) if isinstance(key, list) else key]


@op
def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """Elements, or what stands along `axis`, by place."""
    x, at = array(x), array(indices).long()
    if axis is None:
        return x.flatten()[at]
    return x.movedim(axis, 0)[at % x.shape[axis]].movedim(tuple(range(at.ndim)), tuple(range(axis % x.ndim, axis % x.ndim + at.ndim)))  # fmt: skip


@op
def take_along_axis(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """One element for each of a tensor of places."""
    return K.take_along_dim(array(x), array(indices).long(), axis)


@op
def scatter(indices: Any, values: Any, shape: Any) -> Tensor:
    """Zeros of a shape with values at places (…, dimensions)."""
    values = array(values)
    return scatter_update(values.new_zeros(tuple(shape)), indices, values, True)


@op
def scatter_update(inputs: Any, indices: Any, updates: Any, accumulate: bool = False) -> Tensor:
    """With other values at places (…, dimensions)."""
    at = array(indices).long()
    return array(inputs).index_put(tuple(at.movedim(-1, 0).unbind(0)), array(updates), accumulate)


@op
def slice(inputs: Any, start_indices: Any, shape: Any) -> Tensor:
    """A part of a shape from a place on."""
    return array(inputs)[tuple(builtins.slice(int(a), int(a) + int(n)) for a, n in zip(start_indices, shape, strict=True))]  # fmt: skip


@op
def slice_update(inputs: Any, start_indices: Any, updates: Any) -> Tensor:
    """With another part from a place on."""
    out, updates = array(inputs).clone(), array(updates)
    out[tuple(builtins.slice(int(a), int(a) + n) for a, n in zip(start_indices, updates.shape, strict=True))] = updates  # fmt: skip
    return out


@op
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The diagonal of two dimensions."""
    return array(x).diagonal(offset, axis1, axis2)


@op
def hstack(xs: Any) -> Tensor:
    """Side by side."""
    return K.hstack([array(x) for x in xs])


@op
def vstack(xs: Any) -> Tensor:
    """One above the other."""
    return K.vstack([array(x) for x in xs])


__all__ = [
    n for n, f in list(globals().items()) if hasattr(f, "__wrapped__") and not n.startswith("_")
]  # pyright: ignore[reportUnsupportedDunderAll]
