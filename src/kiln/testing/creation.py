"""`make_tensor`: tensors of random elements for tests."""

from __future__ import annotations

import math
from typing import Any

from .. import dtypes as dt
from ..autograd.modes import no_grad
from ..device import as_device
from ..errors import KilnTypeError, KilnValueError
from ..ops.creation import empty
from ..ops.registry import FUNCTIONS
from ..tensor import Tensor


def make_tensor(
    *shape: Any,
    dtype: dt.dtype,
    device: Any = "cpu",
    low: float | None = None,
    high: float | None = None,
    requires_grad: bool = False,
    noncontiguous: bool = False,
    exclude_zero: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """A tensor of elements drawn evenly from [low, high), -9 to 9 (integers to 10) where they aren't given.

    `noncontiguous` leaves gaps between elements, `exclude_zero` has no zeros. Errors: KilnValueError for an empty
    range or NaN limits, KilnTypeError for an unknown dtype. Source: torch.testing.make_tensor.
    """
    as_device(device)
    size = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    d = dt.as_dtype(dtype)
    if noncontiguous and memory_format is not None:
        raise KilnValueError(
            "make_tensor", "noncontiguous and memory_format exclude each other", memory_format, ""
        )
    low, high = _limits(d, low, high)
    doubled = (
        (*size[:-1], 2 * size[-1])
        if noncontiguous and size and math.prod(size) > 1
        else tuple(size)
    )
    with no_grad():
        if d is dt.bool_:
            out = FUNCTIONS["randint"](0, 2, doubled).to(d)
        elif d.category == dt.INT:
            out = FUNCTIONS["randint"](
                int(low), max(int(high), int(low) + 1), doubled, dtype=dt.int64
            ).to(d)
        elif d.is_complex:
            parts = [_drawn(doubled, low, high, d.to_real()) for _ in range(2)]
            out = FUNCTIONS["complex"](*parts)
        else:
            out = _drawn(doubled, low, high, d)
        if doubled != tuple(size):
            out = out[..., ::2]
        if exclude_zero and d is not dt.bool_:
            out.masked_fill_(out == 0, 1 if d.category == dt.INT else dt.finfo(d).tiny)
    if memory_format is not None:
        out = out.clone(memory_format=memory_format)
    return out.requires_grad_(requires_grad)


def _drawn(size: tuple[int, ...], low: float, high: float, d: dt.dtype) -> Tensor:
    wide = dt.float64 if d is dt.float64 else dt.float32
    return empty(size, dtype=wide).uniform_(low, high).clamp_(low, high).to(d)


def _limits(d: dt.dtype, low: float | None, high: float | None) -> tuple[float, float]:
    if d is dt.bool_:
        least, most = 0.0, 2.0
    elif d.category == dt.INT:
        info = dt.iinfo(d)
        least, most = float(info.min), float(info.max)
    elif d.category in (dt.FLOAT, dt.COMPLEX):
        found = dt.finfo(d.to_real())
        least, most = found.min, found.max
    else:
        raise KilnTypeError("make_tensor", "no such dtype", d, "")
    usual = (
        (0.0, 2.0)
        if d is dt.bool_
        else (-9.0 if least < 0 else 0.0, 10.0 if d.category == dt.INT else 9.0)
    )
    a, b = usual[0] if low is None else low, usual[1] if high is None else high
    if math.isnan(a) or math.isnan(b):
        raise KilnValueError(
            "make_tensor", "`low` and `high` cannot be NaN", f"low={low}, high={high}", ""
        )
    if a >= b and not (a == b and d.category >= dt.FLOAT):
        raise KilnValueError(
            "make_tensor", "`low` must be less than `high`", f"low={low}, high={high}", ""
        )
    return max(a, least), min(b, most)
