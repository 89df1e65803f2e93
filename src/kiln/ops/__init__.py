"""What tensors can do: the op registry and one file per family."""

from . import (  # noqa: F401
    activation,
    convolution,
    creation,
    einsum,
    elementwise,
    embedding,
    indexing,
    linalg,
    loss,
    matrix,
    movement,
    normalization,
    pooling,
    random,
    reduction,
    resampling,
    scan,
    sorting,
    statistics,
)
