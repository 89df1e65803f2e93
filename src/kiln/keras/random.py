"""Random tensors under `keras.random`'s names; with a seed (a number, or a SeedGenerator, which moves on) a stream of their own.

https://keras.io/api/random/
"""

from __future__ import annotations

from typing import Any

import kiln as K

from ..random import Generator
from ..tensor import Tensor
from .dtypes import array, to_dtype


class SeedGenerator:
    """A stream of numbers that goes on from call to call."""

    def __init__(self, seed: int | None = None, name: str | None = None) -> None:
        self.generator = None if seed is None else Generator().manual_seed(seed)


def _of(seed: Any) -> Any:
    if isinstance(seed, SeedGenerator):
        return seed.generator
    return None if seed is None else Generator().manual_seed(int(seed))


def normal(shape: Any, mean: float = 0.0, stddev: float = 1.0, dtype: Any = None, seed: Any = None) -> Tensor:  # fmt: skip
    """Normal."""
    return K.randn(*shape, dtype=to_dtype(dtype), generator=_of(seed)) * stddev + mean


def uniform(shape: Any, minval: float = 0.0, maxval: float = 1.0, dtype: Any = None, seed: Any = None) -> Tensor:  # fmt: skip
    """Evenly from `minval` to `maxval`."""
    return K.rand(*shape, dtype=to_dtype(dtype), generator=_of(seed)) * (maxval - minval) + minval


def truncated_normal(shape: Any, mean: float = 0.0, stddev: float = 1.0, dtype: Any = None, seed: Any = None) -> Tensor:  # fmt: skip
    """Normal, without what is more than two standard deviations from the mean."""
    from ..nn.init import trunc_normal_

    return trunc_normal_(K.empty(*shape, dtype=to_dtype(dtype)), mean, stddev, mean - 2 * stddev, mean + 2 * stddev, _of(seed))  # fmt: skip


def randint(shape: Any, minval: int, maxval: int, dtype: Any = "int32", seed: Any = None) -> Tensor:
    """Whole numbers from `minval` to below `maxval`."""
    return K.randint(minval, maxval, tuple(shape), generator=_of(seed)).to(to_dtype(dtype))


def categorical(logits: Any, num_samples: int, dtype: Any = "int32", seed: Any = None) -> Tensor:
    """Class numbers (rows, num_samples) by logits (rows, classes)."""
    return K.multinomial(array(logits).softmax(-1), num_samples, True, generator=_of(seed)).to(to_dtype(dtype))  # fmt: skip


def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Tensor:
    """Zeros at a rate, the rest by 1 / (1 - rate)."""
    x = array(inputs)
    return x * (K.rand(*(noise_shape or x.shape), generator=_of(seed)) >= rate).to(x.dtype) / (1 - rate)  # fmt: skip


def shuffle(x: Any, axis: int = 0, seed: Any = None) -> Tensor:
    """What stands along an axis in another order."""
    x = array(x)
    return x.index_select(axis, K.randperm(x.shape[axis], generator=_of(seed)))


__all__ = ["SeedGenerator", "categorical", "dropout", "normal", "randint", "shuffle", "truncated_normal", "uniform"]  # fmt: skip
