"""All parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import KilnTypeError, describe
from ...ops.joining import cat
from ...tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters flattened into one vector."""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Give parameters the values of a vector, in order."""
    if not isinstance(vec, Tensor):
        raise KilnTypeError("vector_to_parameters", "expected a Tensor", describe(vec))
    start = 0
    for p in parameters:
        n = p.numel()
        p.data = vec[start : start + n].reshape(p.shape).detach().clone()
        start += n


__all__ = ["parameters_to_vector", "vector_to_parameters"]
