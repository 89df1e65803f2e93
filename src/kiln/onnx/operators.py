"""Functions for models that are to be exported."""

from __future__ import annotations

from ..dtypes import int64
from ..ops.creation import tensor
from ..tensor import Tensor


def shape_as_tensor(x: Tensor) -> Tensor:
    """The sizes of a tensor, as a tensor."""
    return tensor(list(x.shape), dtype=int64)


def reshape_from_tensor_shape(x: Tensor, shape: Tensor) -> Tensor:
    """A tensor in a shape that a tensor holds."""
    return x.reshape(shape.tolist())
