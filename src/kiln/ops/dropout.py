"""Dropout: elements or whole channels zeroed at random in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..device import META
from ..errors import KilnError, KilnValueError, describe
from ..random import default_generator
from ..shape import Size, numel
from ..tensor import CAPTURING, Tensor
from .creation import empty, full_op
from .drawing import sample, sample_like
from .mersenne import draws
from .random import draw, primitive, random_bits, reached, states, stream_words
from .registry import Sample, composition


def _mask_body(state: Tensor, size: Any, p: float, dtype: dt.dtype) -> Tensor:
    return (random_bits(state, size) >= _threshold(p)).to(dtype) * (1.0 / (1.0 - p))


def _threshold(p: float) -> int:
    return min(round(p * 2**32), 2**32 - 1)


@primitive("dropout_mask", body=_mask_body, infer=lambda state, size, p, dtype: (Size(size), dtype),
            samples=states(((5,), 0.5, dt.float32), ((2, 3), 0.1, dt.float64), ((3,), 0.9, dt.bfloat16)))  # fmt: skip
def dropout_mask(state: Tensor, size: Sequence[int], p: float, dtype: dt.dtype) -> Tensor:
    """0 with probability p, else 1 / (1 - p)."""
    kept = stream_words(state, numel(size)) >= np.uint32(_threshold(p))
    scale = np.array(1.0 / (1.0 - p), np.float64 if dtype is dt.float64 else np.float32).astype(
        dtype.np
    )
    return np.where(kept, scale, dtype.np.type(0)).reshape(size)


def _probability(name: str, p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise KilnValueError(
            name, f"dropout probability has to be between 0 and 1, but got {p}", p, ""
        )


def _mask(input: Tensor, p: float, shape: Any = None) -> Tensor:
    """What to multiply with so that elements, or those of a shape, are dropped with probability p."""
    if p == 1.0:
        return full_op((), 0, input.dtype)
    if input.dtype.category < dt.FLOAT:
        raise KilnError(
            "dropout",
            f"result type Float can't be cast to {input.dtype.name}",
            input.dtype,
            "convert the input",
        )
    if input.is_meta or reached(None).stream == "torch":
        return _trials(input, p, shape, 1.0 - p)
    shape = input._a.shape if shape is None else shape
    return draw(None, numel(shape), dropout_mask, shape, p, input.dtype.to_real())


def _kept(input: Tensor, p: float, shape: Any = None) -> Tensor:
    """0 where an element, or one of a shape, is dropped with probability p, else 1."""
    if reached(None).stream != "torch":
        return _mask(input, p, shape) * (1.0 - p)
    return _trials(input, p, shape, 1.0)


def _trials(input: Tensor, p: float, shape: Any, scale: float) -> Tensor:
    """0 with probability p, else 1 / scale, by PyTorch's stream; nothing is drawn for tensors without data."""
    a = input._a
    d = input.dtype.to_real()
    if not CAPTURING and shape is None and a.__class__ is np.ndarray and a.flags.c_contiguous:
        return draws(default_generator.state, "bernoulli", a.shape, d, (), (1.0 - p, scale))
    if input.is_meta:
        return empty(a.shape if shape is None else shape, dtype=d, device=META)
    if shape is None:
        return sample_like(input, None, "bernoulli", 1.0 - p, scale, dtype=d)
    return sample(None, "bernoulli", shape, d, 1.0 - p, scale)


def _times(input: Tensor, mask: Any, inplace: bool) -> Tensor:
    return input.mul_(mask) if inplace else input * mask


def _dropout_samples() -> Iterator[Sample]:
    x = np.arange(24.0).reshape(2, 3, 4)
    yield Sample((x, 0.5, False))
    yield Sample((x, 0.0))
    yield Sample((x, 1.0))
    yield Sample((x, 1.5), error=ValueError)


@composition(namespace="F", samples=_dropout_samples)
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training, each element is 0 with probability p and multiplied by 1 / (1 - p) otherwise."""
    _probability("dropout", p)
    if not training or p == 0.0 or input._a.size == 0:
        return input
    return _times(input, _mask(input, p), inplace)


def _channels(name: str, input: Tensor, unbatched: int, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a mask with one element for each channel."""
    shape = input._a.shape
    n = len(shape)
    if n not in ranks:
        raise KilnError(
            name,
            f"expected an input of {ranks[0]} or {ranks[-1]} dimensions, got {n}",
            describe(input),
            "",
        )
    keep = 1 if n == unbatched else 2
    return tuple(s if i < keep else 1 for i, s in enumerate(shape))


def _channel_dropout(name: str, unbatched: int, ranks: tuple[int, ...], doc: str) -> Callable:
    def channelwise(
        input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        _probability(name, p)
        shape = _channels(name, input, unbatched, ranks)
        if not training or p == 0.0 or input._a.size == 0:
            return input
        return _times(input, _mask(input, p, shape), inplace)

    channelwise.__name__, channelwise.__doc__ = name, doc
    return composition(namespace="F", samples=_dropout_samples if 3 in ranks else None)(channelwise)


dropout1d = _channel_dropout(
    "dropout1d", 2, (2, 3), "Dropout of whole channels of (N, C, L) or (C, L)."
)
dropout2d = _channel_dropout(
    "dropout2d", 0, (2, 3, 4, 5), "Dropout of whole channels of (N, C, H, W)."
)
dropout3d = _channel_dropout(
    "dropout3d", 4, (2, 3, 4, 5), "Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W)."
)

_SELU_FLOOR = 1.7580993408473766  # the limit of -SELU(x) for x towards -infinity: scale * alpha


def _alpha(name: str, input: Tensor, p: float, shape: Any, inplace: bool) -> Tensor:
    """Elements dropped to SELU's floor, then scaled and shifted to keep mean and variance."""
    if p == 1.0:
        return _times(input, full_op((), 0, input.dtype), inplace)
    kept = _kept(input, p, shape)
    a = 1.0 / math.sqrt((_SELU_FLOOR**2 * p + 1.0) * (1.0 - p))
    shift = (kept - 1.0) * (_SELU_FLOOR * a) + _SELU_FLOOR * a * p
    r = _times(input, kept * a, inplace)
    return r.add_(shift) if inplace else r + shift


@composition(namespace="F", samples=_dropout_samples)
def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Dropout for SELU networks that keeps mean and variance (Klambauer et al., 2017)."""
    _probability("alpha_dropout", p)
    if not training or p == 0.0 or input._a.size == 0:
        return input
    return _alpha("alpha_dropout", input, p, None, inplace)


@composition(namespace="F", samples=_dropout_samples)
def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """`alpha_dropout` of whole channels."""
    _probability("feature_alpha_dropout", p)
    if not training or p == 0.0 or input._a.size == 0:
        return input
    shape = _channels("feature_alpha_dropout", input, 0, tuple(range(2, 9)))
    return _alpha("feature_alpha_dropout", input, p, shape, inplace)
