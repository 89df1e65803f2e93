"""Sliding windows over NumPy arrays: what the references of convolution and pooling share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..errors import KilnError, KilnTypeError
from ..shape import index_int


def as_tuple(value: Any, n: int, op: str, name: str) -> tuple[int, ...]:
    """n integers from one integer, or from a sequence of one or n."""
    if isinstance(value, list | tuple):
        out = tuple(index_int(v, op, name) for v in value)
        if len(out) == 1:
            out *= n
        if len(out) != n:
            raise KilnError(
                op,
                f"expected {name} to be a single integer or a list of {n} values",
                f"{name}={value}",
                "",
            )
        return out
    if isinstance(value, bool):
        raise KilnTypeError(op, f"{name} must be an integer", repr(value), "")
    return (index_int(value, op, name),) * n


def span(kernel: int, dilation: int) -> int:
    """The input elements from the first to the last tap of a window."""
    return dilation * (kernel - 1) + 1


def out_size(size: Any, kernel: int, stride: int, dilation: int) -> Any:
    """How many windows fit into (padded) size."""
    room = size - span(kernel, dilation)
    return room // stride + 1 if stride != 1 else room + 1


def sliding(
    x: np.ndarray, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> np.ndarray:
    """A view (…, *out, *kernel) of the windows over the last len(kernel) dimensions."""
    n = len(kernel)
    lead, sizes, steps = x.shape[:-n], x.shape[-n:], x.strides[-n:]
    out = tuple(out_size(*a) for a in zip(sizes, kernel, stride, dilation, strict=True))
    strides = (
        *x.strides[:-n], *(s * t for s, t in zip(steps, stride, strict=True)),
        *(s * t for s, t in zip(steps, dilation, strict=True)),
    )  # fmt: skip
    return as_strided(x, (*lead, *out, *kernel), strides, writeable=False)


def taps(
    out: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple]:
    """For each position in the window, the slices of the input that it meets."""
    for at in product(*map(range, kernel)):
        yield tuple(
            slice(i * d, i * d + (o - 1) * s + 1, s)
            for i, d, o, s in zip(at, dilation, out, stride, strict=True)
        )


def overlap_add(
    grad: np.ndarray,
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> np.ndarray:
    """The transpose of `sliding`: windows (…, *out, *kernel) added up where they lie in (…, *sizes)."""
    n = len(kernel)
    lead, out = grad.shape[: -2 * n], grad.shape[-2 * n : -n]
    x = np.zeros((*lead, *sizes), grad.dtype)
    if grad.size:
        if out[-1] == 1 and kernel[-1] > 1:  # the last dimension's taps are apart: all at once
            spread = slice(0, span(kernel[-1], dilation[-1]), dilation[-1])
            for at, where in zip(
                np.ndindex(*kernel[:-1]), taps(out[:-1], kernel[:-1], stride[:-1], dilation[:-1]), strict=True
            ):  # fmt: skip
                x[(..., *where, spread)] += grad[(..., 0, *at, slice(None))]
            return x
        for at, where in zip(np.ndindex(*kernel), taps(out, kernel, stride, dilation), strict=True):
            x[(..., *where)] += grad[(..., *at)]
    return x


def padded(
    x: np.ndarray, padding: Sequence[int], value: Any = 0, extra: Sequence[int] | None = None
) -> np.ndarray:
    """x with `padding` elements of `value` around its last dimensions, `extra` more at their ends."""
    if not any(padding) and not (extra and any(extra)):
        return x
    n = len(padding)
    more = extra or (0,) * n
    shape = (
        *x.shape[:-n],
        *(s + 2 * p + e for s, p, e in zip(x.shape[-n:], padding, more, strict=True)),
    )
    out = np.zeros(shape, x.dtype) if value == 0 else np.full(shape, value, x.dtype)
    out[(..., *(slice(p, p + s) for s, p in zip(x.shape[-n:], padding, strict=True)))] = x
    return out


def cropped(x: np.ndarray, padding: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """The inverse of `padded`."""
    if tuple(x.shape[-len(padding) :]) == tuple(sizes):
        return x
    return x[(..., *(slice(p, p + s) for s, p in zip(sizes, padding, strict=True)))]
