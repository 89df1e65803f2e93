"""Making arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import dtypes as dt
from ..device import as_device
from ..errors import KilnValueError
from ..ops import creation, joining, matrix
from ..ops.creation import full_op
from ..shape import Size
from ..tensor import Tensor
from ._array import Array, array
from ._dtypes import EVERY, Scalar, checked

Shape = int | Sequence[int]


def _size(shape: Shape) -> Size:
    return Size((shape,) if isinstance(shape, int) else shape)


def _dtype(dtype: Any, default: dt.dtype) -> dt.dtype:
    return default if dtype is None else dt.as_dtype(dtype)


def asarray(
    obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None
) -> Array:
    """An array of numbers, nested sequences of them, a buffer or another array; see `kiln.asarray`."""
    return array(creation.asarray(obj, dtype=dtype, device=device, copy=copy), obj)


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Array:
    """An array on the memory of any object that speaks DLPack, or a copy of it."""
    return array(creation.from_dlpack(x, device=device, copy=copy), x)


# ---------------------------------------------------------------- filled


def full(shape: Shape, fill_value: Scalar, *, dtype: Any = None, device: Any = None) -> Array:
    """An array of one value, by default of the value's dtype."""
    as_device(device)
    return array(full_op(_size(shape), fill_value, _dtype(dtype, dt.of_scalar(fill_value))))


def empty(shape: Shape, *, dtype: Any = None, device: Any = None) -> Array:
    """An array whose values are not specified."""
    return zeros(shape, dtype=dtype, device=device)


def zeros(shape: Shape, *, dtype: Any = None, device: Any = None) -> Array:
    """An array of zeros, by default of the default floating dtype."""
    return full(shape, 0, dtype=_dtype(dtype, dt.get_default_dtype()), device=device)


def ones(shape: Shape, *, dtype: Any = None, device: Any = None) -> Array:
    """An array of ones, by default of the default floating dtype."""
    return full(shape, 1, dtype=_dtype(dtype, dt.get_default_dtype()), device=device)


def full_like(x: Tensor, /, fill_value: Scalar, *, dtype: Any = None, device: Any = None) -> Array:
    """An array of one value with the shape and dtype of another."""
    checked("full_like", EVERY, x)
    return full(x.shape, fill_value, dtype=_dtype(dtype, x.dtype), device=device)


def empty_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Array:
    """An array like another whose values are not specified."""
    return full_like(x, 0, dtype=dtype, device=device)


def zeros_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Array:
    """An array of zeros like another."""
    return full_like(x, 0, dtype=dtype, device=device)


def ones_like(x: Tensor, /, *, dtype: Any = None, device: Any = None) -> Array:
    """An array of ones like another."""
    return full_like(x, 1, dtype=dtype, device=device)


# ---------------------------------------------------------------- counted


def arange(start: float, /, stop: float | None = None, step: float = 1, *, dtype: Any = None,
           device: Any = None) -> Array:  # fmt: skip
    """Numbers from start up to (not including) stop, step apart; none where the step leads away."""
    as_device(device)
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise KilnValueError("arange", "step must not be zero", f"step={step}", "")
    whole = all(isinstance(v, int) for v in (start, stop, step))
    d = _dtype(dtype, dt.int64 if whole else dt.get_default_dtype())
    n = -((start - stop) // step) if whole else math.ceil((stop - start) / step)
    return array(creation.arange_op(start, step, max(0, int(n)), d))


def linspace(start: complex, stop: complex, /, num: int, *, dtype: Any = None, device: Any = None,
             endpoint: bool = True) -> Array:  # fmt: skip
    """`num` numbers evenly from start to stop, which is among them if `endpoint`."""
    t = creation.linspace(start, stop, num + (not endpoint), dtype=dtype, device=device)
    return array(t if endpoint else t[:num])


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None
) -> Array:
    """A matrix with ones on the diagonal k columns right of the main one."""
    as_device(device)
    cols = n_rows if n_cols is None else n_cols
    k = max(-n_rows, min(k, cols))  # beyond these there is no diagonal
    at = creation.arange(n_rows).unsqueeze(1) + k == creation.arange(cols)
    return array(at.to(_dtype(dtype, dt.get_default_dtype())))


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> tuple[Array, ...]:
    """Coordinate arrays of the grid that 1-d arrays span."""
    return tuple(array(t, *arrays) for t in joining.meshgrid(*arrays, indexing=indexing))


def tril(x: Tensor, /, *, k: int = 0) -> Array:
    """The lower triangle of matrices, up to k columns right of the main diagonal."""
    return array(matrix.tril(checked("tril", EVERY, x), k), x)


def triu(x: Tensor, /, *, k: int = 0) -> Array:
    """The upper triangle of matrices, from k columns right of the main diagonal."""
    return array(matrix.triu(checked("triu", EVERY, x), k), x)
