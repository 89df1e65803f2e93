"""Helpers that distributions share: broadcasting, probabilities and logits, lazy properties, triangles."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import kiln

from ..autograd.modes import enable_grad
from ..errors import KilnValueError, describe
from ..ops.likelihood import log_inside
from ..tensor import Tensor, active_capture

euler_constant = 0.57721566490153286060


def broadcast_all(*values: Tensor | float) -> tuple[Tensor, ...]:
    """Tensors and numbers as tensors of one shape; numbers take the dtype of the first tensor.

    ValueError where a value is neither.
    """
    if values and all(v.__class__ is Tensor for v in values):
        tensors: Any = values
        shape = tensors[0]._a.shape
        if all(v._a.shape == shape for v in tensors):
            return tensors
    if not all(isinstance(v, Tensor | int | float) for v in values):
        raise KilnValueError(
            "broadcast_all", "Input arguments must all be instances of Number or Tensor", describe(values),
            "pass numbers or tensors",
        )  # fmt: skip
    tensors = [v for v in values if isinstance(v, Tensor)]
    if not tensors:
        return tuple([kiln.tensor(v, dtype=kiln.get_default_dtype()) for v in values])
    dtype = tensors[0].dtype
    return tuple(
        kiln.broadcast_tensors(
            *[v if isinstance(v, Tensor) else kiln.tensor(v, dtype=dtype) for v in values]
        )
    )


def sum_rightmost(value: Tensor, dim: int) -> Tensor:
    """The sum over the last `dim` dimensions."""
    return value.reshape((*value.shape[:-dim], -1)).sum(-1) if dim else value


_sum_rightmost = sum_rightmost


def standard_normal(shape: Any, like: Tensor) -> Tensor:
    """Normal numbers of mean 0 and variance 1 in the dtype of a tensor."""
    return kiln.randn(shape, dtype=like.dtype)


def _standard_normal(shape: Any, dtype: Any, device: Any) -> Tensor:
    """Normal numbers of mean 0 and variance 1, by the name that PyTorch's own distributions use."""
    return kiln.randn(shape, dtype=dtype, device=device)


def uniform_inside(shape: Any, like: Tensor) -> Tensor:
    """Uniform numbers in the open interval (0, 1), away from its ends by the dtype's resolution."""
    return clamp_probs(kiln.rand(shape, dtype=like.dtype))


def filled(like: Tensor, shape: Any, value: float) -> Tensor:
    """A tensor of one number in the dtype of another tensor."""
    return kiln.full(shape, value, dtype=like.dtype)


def logits_to_probs(logits: Tensor, is_binary: bool = False) -> Tensor:
    """Probabilities from log odds, or along the last dimension from log probabilities of any scale."""
    return logits.sigmoid() if is_binary else logits.softmax(-1)


@cache
def _resolution(dtype: Any) -> float:
    return kiln.finfo(dtype).eps


def clamp_probs(probs: Tensor) -> Tensor:
    """Probabilities away from 0 and 1 by the dtype's resolution."""
    eps = _resolution(probs.dtype)
    return probs.clamp(min=eps, max=1 - eps)


def probs_to_logits(probs: Tensor, is_binary: bool = False) -> Tensor:
    """Log odds, or log probabilities along the last dimension, of probabilities kept away from 0 and 1."""
    if not is_binary:
        return log_inside(probs, _resolution(probs.dtype))
    p = clamp_probs(probs)
    return p.log() - (-p).log1p()


class lazy_property:
    """A property that is computed once, with gradients, and then kept as an attribute.

    What `kiln.compile` captures is not kept: it belongs to one program.
    """

    def __init__(self, wrapped: Callable[[Any], Any]):
        self.wrapped = wrapped
        self.__doc__ = wrapped.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        with enable_grad():
            value = self.wrapped(instance)
        if active_capture() is None:
            setattr(instance, self.wrapped.__name__, value)
        return value


def _triangle(name: str, n: int, diag: int) -> np.ndarray:
    """Positions of a lower triangle in an n x n matrix, row by row."""
    if not -n <= diag < n:
        raise KilnValueError(name, f"diag ({diag}) provided is outside [{-n}, {n - 1}].", diag, "")
    rows, columns = np.tril_indices(n, diag)
    return rows * n + columns


def tril_matrix_to_vec(mat: Tensor, diag: int = 0) -> Tensor:
    """The lower triangles of square matrices, row by row, as vectors."""
    at = _triangle("tril_matrix_to_vec", mat.shape[-1], diag)
    return mat.flatten(-2).index_select(-1, kiln.from_numpy(at))


def vec_to_tril_matrix(vec: Tensor, diag: int = 0) -> Tensor:
    """Square matrices whose lower triangles, row by row, are vectors; 0 above."""
    size = vec.shape[-1]
    n = next((n for n in range(abs(diag), size + abs(diag) + 2) if len(np.tril_indices(n, diag)[0]) == size), None)  # fmt: skip
    if n is None:
        raise KilnValueError(
            "vec_to_tril_matrix",
            f"The size of last dimension is {size} which cannot be expressed as the lower triangular part of a square matrix.",
            describe(vec), "n (n + 1) / 2 numbers make a matrix of n rows",
        )  # fmt: skip
    source = np.full(n * n, size)
    source[_triangle("vec_to_tril_matrix", n, diag)] = np.arange(size)
    padded = kiln.nn.functional.pad(vec, (0, 1))
    return padded.index_select(-1, kiln.from_numpy(source)).unflatten(-1, (n, n))
