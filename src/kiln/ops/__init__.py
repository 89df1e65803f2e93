"""What tensors can do: the op registry and one file per family."""

from . import (  # noqa: F401
    activation,
    convolution,
    creation,
    einsum,
    elementwise,
    indexing,
    linalg,
    loss,
    matrix,
    movement,
    pooling,
    reduction,
    statistics,
)
