"""Shapes and order: what moves elements without computing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import dtypes as dt
from .. import shape as shapes
from ..errors import KilnError, KilnIndexError, KilnValueError, describe
from ..ops import indexing, joining, selection, views
from ..ops.registry import FUNCTIONS
from ..tensor import Tensor
from ._array import Array, array, position
from ._dtypes import EVERY, INT, checked, common_dtype, operand

Axes = int | tuple[int, ...]


def broadcast_shapes(*shapes_: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that arrays of these shapes broadcast to."""
    try:
        return tuple(shapes.broadcast_shapes(*shapes_))
    except KilnError as e:
        raise KilnValueError(e.op, e.what, e.received, e.help) from None


def broadcast_arrays(*arrays: Tensor) -> tuple[Array, ...]:
    """The arrays as views of their common shape."""
    shape = broadcast_shapes(*(x.shape for x in arrays))
    return tuple(broadcast_to(x, shape) for x in arrays)


def broadcast_to(x: Tensor, /, shape: tuple[int, ...]) -> Array:
    """The array as a view of a larger shape."""
    return array(checked("broadcast_to", EVERY, x).expand(tuple(shape)), x)


def concat(arrays: Sequence[Tensor], /, *, axis: int | None = 0) -> Array:
    """Arrays joined along an axis, or all their elements if it is None."""
    d = common_dtype("concat", *arrays)
    parts = [operand(x, d) for x in arrays]
    if axis is None:
        parts, axis = [x.reshape(-1) for x in parts], 0
    return array(joining.cat(parts, axis), *arrays)


def stack(arrays: Sequence[Tensor], /, *, axis: int = 0) -> Array:
    """Arrays of one shape joined along a new axis."""
    d = common_dtype("stack", *arrays)
    return array(joining.stack([operand(x, d) for x in arrays], axis))


def unstack(x: Tensor, /, *, axis: int = 0) -> tuple[Array, ...]:
    """The slices along an axis."""
    return tuple(map(array, checked("unstack", EVERY, x).unbind(axis)))


def expand_dims(x: Tensor, /, axis: Axes) -> Array:
    """The array with axes of size 1 at these places of the result."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    n = checked("expand_dims", EVERY, x).ndim + len(axes)
    at = {shapes.norm_dim(a, n, "expand_dims") for a in axes}
    if len(at) < len(axes):
        raise KilnValueError("expand_dims", "an axis appears twice", f"axis={axis}", "name each once")  # fmt: skip
    rest = iter(x.shape)
    return array(x.reshape([1 if i in at else next(rest) for i in range(n)]), x)


def squeeze(x: Tensor, /, axis: Axes) -> Array:
    """The array without these axes, whose size must be 1."""
    axes = shapes.norm_dims(axis, checked("squeeze", EVERY, x).ndim, "squeeze")
    if any(x.shape[a] != 1 for a in axes):
        raise KilnValueError("squeeze", "only axes of size 1 can be removed", f"{describe(x)}, axis={axis}", "")  # fmt: skip
    return array(x.reshape([n for i, n in enumerate(x.shape) if i not in axes]), x)


def flip(x: Tensor, /, *, axis: Axes | None = None) -> Array:
    """The elements in reverse order along axes, by default all."""
    return array(joining.flip(x, shapes.norm_dims(axis, checked("flip", EVERY, x).ndim, "flip")), x)


def moveaxis(x: Tensor, source: Axes, destination: Axes, /) -> Array:
    """The array with some axes at other places."""
    return array(views.movedim(checked("moveaxis", EVERY, x), source, destination), x)


def permute_dims(x: Tensor, /, axes: tuple[int, ...]) -> Array:
    """The array with its axes in another order."""
    return array(checked("permute_dims", EVERY, x).permute(tuple(axes)), x)


def matrix_transpose(x: Tensor, /) -> Array:
    """The last two axes exchanged."""
    return array(checked("matrix_transpose", EVERY, x).transpose(-2, -1), x)


def reshape(x: Tensor, /, shape: tuple[int, ...], *, copy: bool | None = None) -> Array:
    """The elements in another shape; a view where possible, always or never by `copy`."""
    checked("reshape", EVERY, x)
    if copy:
        x = x.clone()
    elif copy is False and x.is_contiguous() is False:
        try:
            return array(x.view(tuple(shape)), x)
        except KilnError as e:
            raise KilnValueError("reshape", "this shape needs a copy", e.received, "copy=None copies where it must") from None  # fmt: skip
    return array(x.reshape(tuple(shape)), x)


def roll(x: Tensor, /, shift: Axes, *, axis: Axes | None = None) -> Array:
    """The elements shifted cyclically along axes, or through all of them in order."""
    checked("roll", EVERY, x)
    if isinstance(axis, tuple) and isinstance(shift, int):
        shift = (shift,) * len(axis)
    return array(joining.roll(x, shift, axis), x)


def repeat(x: Tensor, repeats: int | Tensor, /, *, axis: int | None = None) -> Array:
    """Each element repeated, along an axis or in the flattened array."""
    checked("repeat", EVERY, x)
    times = position(checked("repeat", INT, repeats)) if isinstance(repeats, Tensor) else repeats
    return array(FUNCTIONS["repeat_interleave"](x, times, axis), x)


def tile(x: Tensor, repetitions: tuple[int, ...], /) -> Array:
    """The array laid out repeatedly along each axis."""
    return array(joining.tile(checked("tile", EVERY, x), tuple(repetitions)), x)


# ---------------------------------------------------------------- indexing


def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Array:
    """The slices at integer indices of an axis, which may be left out for 1-d arrays."""
    checked("take", EVERY, x)
    checked("take", INT, indices)
    if axis is None and x.ndim != 1:
        raise KilnIndexError("take", "axis must be given for arrays of several dimensions", describe(x), "take(x, indices, axis=0)")  # fmt: skip
    at = shapes.norm_dim(axis or 0, x.ndim, "take")
    return array(indexing.getitem(x, (slice(None),) * at + (position(indices),)))


def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Array:
    """The elements at the indices of an axis, one for each place of the others."""
    checked("take_along_axis", EVERY, x)
    at = shapes.norm_dim(axis, x.ndim, "take_along_axis")
    i = checked("take_along_axis", INT, indices).to(dt.int64)
    i = selection.where_op(i < 0, i + x.shape[at], i)
    return array(FUNCTIONS["take_along_dim"](x, i, at))


def diff(
    x: Tensor, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None
) -> Array:
    """The n-th differences of neighbours along an axis."""
    checked("diff", EVERY, x)
    ends = [None if e is None else operand(e, x.dtype) for e in (prepend, append)]
    return array(FUNCTIONS["diff"](x, n, axis, *ends), x)
