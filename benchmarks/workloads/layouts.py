"""Between PyTorch's layouts, in which problems are kept, and those of JAX and TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

EMBEDDINGS = ("token.weight", "place")


def buffer(name: str) -> bool:
    """Whether a name is that of a buffer, which no optimizer touches."""
    return "running_" in name or name.endswith("num_batches_tracked")


def weight(name: str, a: np.ndarray) -> np.ndarray:
    """A parameter: convolutions to HWIO, matrices so that x @ w is the layer."""
    if a.ndim == 4:
        if name.startswith("generator"):  # transposed convolution: (in, out, h, w), flipped
            return np.ascontiguousarray(a[:, :, ::-1, ::-1].transpose(2, 3, 0, 1))
        return np.ascontiguousarray(a.transpose(2, 3, 1, 0))
    if a.ndim == 2 and name not in EMBEDDINGS:
        return np.ascontiguousarray(a.T)
    return a


def batch(a: np.ndarray) -> np.ndarray:
    """An input: images to NHWC."""
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)) if a.ndim == 4 else a


def back(a: Any) -> np.ndarray:
    """A result: images to NCHW."""
    a = np.asarray(a)
    return a.transpose(0, 3, 1, 2) if a.ndim == 4 else a


def weight_back(a: Any) -> np.ndarray:
    """The gradient of a convolution's weight to OIHW."""
    return np.asarray(a).transpose(3, 2, 0, 1)


def convolution_inputs(way: str) -> tuple[Callable[[Any], np.ndarray], ...]:
    """How the two inputs of a single convolution are turned."""
    return {
        "forward": (batch, lambda w: weight("", w)),
        "data": (lambda w: weight("", w), batch),
        "weight": (batch, batch),
    }[way]
