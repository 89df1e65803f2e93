"""Dropout and noise: in training alone.

https://keras.io/api/layers/regularization_layers/
"""

from __future__ import annotations

import math
from typing import Any

from ...nn import functional as F
from ...ops.creation import ones
from ...ops.drawing import randn
from ...tensor import Tensor
from .. import regularizers
from ..layer import Layer


class Dropout(Layer):
    """Zeros at a `rate`, the rest by 1 / (1 - rate); where `noise_shape` is 1 one draw holds for a whole dimension."""

    supports_masking = True

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **common: Any) -> None:  # fmt: skip
        super().__init__(**common)
        self.rate, self.noise_shape, self.seed = rate, noise_shape, seed

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training or not self.rate:
            return inputs
        shape = self.noise(inputs)
        if shape is None:
            return F.dropout(inputs, self.rate, True)
        return inputs * F.dropout(ones(*shape, dtype=inputs.dtype), self.rate, True)

    def noise(self, x: Tensor) -> Any:
        """The shape of what is drawn; None for that of the input."""
        return None if self.noise_shape is None else [n if s is None else s for s, n in zip(self.noise_shape, x.shape, strict=True)]  # fmt: skip


class _Channels(Dropout):
    def __init__(self, rate: float, data_format: str | None = None, seed: int | None = None, **common: Any) -> None:  # fmt: skip
        super().__init__(rate, None, seed, **common)
        self.data_format = data_format or "channels_last"

    def noise(self, x: Tensor) -> Any:
        n = x.ndim - 2
        if self.data_format == "channels_first":
            return (*x.shape[:2], *(1,) * n)
        return (x.shape[0], *(1,) * n, x.shape[-1])


class SpatialDropout1D(_Channels):
    """Whole channels of steps."""


class SpatialDropout2D(_Channels):
    """Whole channels of pictures."""


class SpatialDropout3D(_Channels):
    """Whole channels of volumes."""


class AlphaDropout(Layer):
    """Dropout that leaves mean and variance as they are, for `selu`."""

    supports_masking = True

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **common: Any) -> None:  # fmt: skip
        super().__init__(**common)
        self.rate, self.noise_shape, self.seed = rate, noise_shape, seed

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        return F.alpha_dropout(inputs, self.rate, training)


class GaussianNoise(Layer):
    """Normal noise added."""

    supports_masking = True

    def __init__(self, stddev: float, seed: int | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.stddev, self.seed = stddev, seed

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        return (
            inputs + randn(*inputs.shape, dtype=inputs.dtype) * self.stddev
            if training and self.stddev
            else inputs
        )


class GaussianDropout(Layer):
    """Normal noise of mean 1 and variance rate / (1 - rate) multiplied."""

    supports_masking = True

    def __init__(self, rate: float, seed: int | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.rate, self.seed = rate, seed

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training or not self.rate:
            return inputs
        return inputs * (
            1 + randn(*inputs.shape, dtype=inputs.dtype) * math.sqrt(self.rate / (1 - self.rate))
        )


class ActivityRegularization(Layer):
    """The inputs, of which a penalty is added to the loss."""

    supports_masking = True

    def __init__(self, l1: float = 0.0, l2: float = 0.0, **common: Any) -> None:
        super().__init__(activity_regularizer=regularizers.L1L2(l1, l2), **common)
        self.l1, self.l2 = l1, l2

    def call(self, inputs: Tensor) -> Tensor:
        return inputs


__all__ = [
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout1D", "SpatialDropout2D",
    "SpatialDropout3D",
]  # fmt: skip
