"""Rounding to a grid of integers and back, as quantised layers will: `fake_quantize_*`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import norm_dim
from ..tensor import Tensor
from .arithmetic import elementwise
from .creation import tensor
from .registry import Sample, composition
from .samples import draw, rng


def _levels(x: Any, scale: Any, zero_point: Any) -> Any:
    return (x * (1.0 / scale)).round() + zero_point


def _inside(
    g: Tensor, input: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int
) -> Tensor:
    level = _levels(input, scale, zero_point)
    return g * ((level >= low) & (level <= high))


def _op_samples() -> Iterator[Sample]:
    x, s, z = draw(rng(), (3, 4), 0.05, 0.95), np.array(0.1, np.float32), np.array(3.0, np.float32)
    yield Sample((x.astype(np.float32), s, z, 0, 7), grad=False)


@elementwise("same", name="fake_quantize", private=True, samples=_op_samples, grad={"input": _inside},
             body=lambda input, scale, zero_point, low, high: (
                 (_levels(input, scale, zero_point).clamp(low, high) - zero_point) * scale))  # fmt: skip
def fake_quantize_op(
    input: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int
) -> Tensor:
    """The nearest of the numbers (k - zero_point) * scale with low <= k <= high; gradients pass inside that range."""
    level = np.rint(input * (np.float32(1) / scale)) + zero_point
    return (np.clip(level, low, high) - zero_point) * scale


def _check(name: str, quant_min: int, quant_max: int) -> None:
    if quant_min > quant_max:
        raise KilnError(
            name,
            "`quant_min` should be less than or equal to `quant_max`.",
            f"{quant_min}, {quant_max}",
            "",
        )


def _tensor_samples() -> Iterator[Sample]:
    x = draw(rng(), (3, 4)).astype(np.float32)
    yield Sample((x, 0.1, 3, 0, 20), grad=False)
    yield Sample((x, np.array([0.2], np.float32), np.array([1], np.int32), -8, 7), grad=False)
    yield Sample((x, 0.1, 3, 5, 4), error=RuntimeError)
    yield Sample((x, 0.1, 30, 0, 20), error=RuntimeError)


@composition(method=False, samples=_tensor_samples)
def fake_quantize_per_tensor_affine(
    input: Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int
) -> Tensor:
    """input rounded to the numbers that integers from quant_min to quant_max stand for, with one scale.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.fake_quantize_per_tensor_affine.html
    """
    name = "fake_quantize_per_tensor_affine"
    _check(name, quant_min, quant_max)
    if not isinstance(zero_point, Tensor) and not quant_min <= zero_point <= quant_max:
        raise KilnError(
            name, "`zero_point` must be between `quant_min` and `quant_max`.", zero_point, ""
        )
    s, z = (
        x.reshape(()) if isinstance(x, Tensor) else tensor(float(x)) for x in (scale, zero_point)
    )
    return fake_quantize_op(input, s.to(input.dtype), z.to(input.dtype), quant_min, quant_max)


def _channel_samples() -> Iterator[Sample]:
    x, s, z = (
        draw(rng(), (3, 4)).astype(np.float32),
        np.array([0.1, 0.2, 0.3], np.float32),
        np.array([0, 1, 2], np.int32),
    )
    yield Sample((x, s, z, 0, 0, 20), grad=False)
    yield Sample((x, s, z, 1, 0, 20), error=RuntimeError)
    yield Sample((x, s, z + 30, 0, 0, 20), error=RuntimeError)


@composition(method=False, samples=_channel_samples)
def fake_quantize_per_channel_affine(
    input: Tensor, scale: Tensor, zero_point: Tensor, axis: int, quant_min: int, quant_max: int
) -> Tensor:
    """`fake_quantize_per_tensor_affine` with a scale and a zero point for each index of dimension `axis`."""
    name = "fake_quantize_per_channel_affine"
    _check(name, quant_min, quant_max)
    d = norm_dim(axis, input.ndim, name)
    for x in (scale, zero_point):
        if tuple(x.shape) != (input.shape[d],):
            raise KilnError(name, "dimensions of scale and zero-point are not consistent with input tensor",
                            describe((input, x)), f"one for each index of dimension {d}")  # fmt: skip
    if zero_point.dtype.category == dt.INT and bool(
        ((zero_point < quant_min) | (zero_point > quant_max)).any()
    ):
        raise KilnError(
            name,
            "`zero_point` must be between `quant_min` and `quant_max`.",
            describe(zero_point),
            "",
        )
    shape = [-1 if i == d else 1 for i in range(input.ndim)]
    s, z = (x.to(input.dtype).reshape(shape) for x in (scale, zero_point))
    return fake_quantize_op(input, s, z, quant_min, quant_max)
