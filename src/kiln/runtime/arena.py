"""Memory planning: offsets in one arena so that values that live at the same time don't overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ALIGN = 64


@dataclass(frozen=True)
class Interval:
    """A value of `size` bytes that lives from step `start` to step `end`, both included."""

    size: int
    start: int
    end: int


def held(values: Sequence[Interval]) -> np.ndarray:
    """How many bytes are in use at each step: no arena is smaller than the most of them."""
    bytes_at = np.zeros(max((v.end for v in values), default=-1) + 2, np.int64)
    for v in values:
        bytes_at[v.start] += aligned(v.size)
        bytes_at[v.end + 1] -= aligned(v.size)
    return np.cumsum(bytes_at)[:-1]


def aligned(size: int) -> int:
    """A size rounded up, so that the next value begins where it should."""
    return -(-size // ALIGN) * ALIGN


_ORDERS: tuple[Callable[[Interval], tuple[int, ...]], ...] = (
    lambda v: (-v.size, v.start),
    lambda v: (-v.size * (v.end - v.start + 1), v.start),
    lambda v: (-v.size.bit_length(), v.start - v.end),
)
"""Largest first, largest and longest-lived first, longest-lived first among those of like size."""


def plan(values: Sequence[Interval]) -> tuple[list[int], int]:
    """An offset for each value, and the arena's size in bytes.

    Each goes to the lowest offset that is free for its whole life, largest first; other orders are
    tried where that needs more than the most bytes held at once, which it does now and then by up to a tenth.
    """
    least = int(held(values).max(initial=0))
    best: tuple[list[int], int] | None = None
    for key in _ORDERS:
        found = _placed(values, sorted(range(len(values)), key=lambda i: key(values[i])))
        if best is None or found[1] < best[1]:
            best = found
        if best[1] == least:
            break
    assert best is not None
    return best


def _placed(values: Sequence[Interval], order: Sequence[int]) -> tuple[list[int], int]:
    """The values put in place in that order."""
    offsets = [0] * len(values)
    # of those placed so far: first and last step, first and last byte
    start, end, low, high = np.empty((4, len(values)), np.int64)
    total = 0
    for n, i in enumerate(order):
        v = values[i]
        size = aligned(v.size)
        at = 0
        (together,) = np.nonzero((start[:n] <= v.end) & (end[:n] >= v.start))
        if len(together):
            below = together[np.argsort(low[together], kind="stable")]
            # the lowest gap that is large enough lies behind the farthest reach of those below it
            reach = np.maximum.accumulate(np.concatenate(([0], high[below])))
            fits = reach + size <= np.append(low[below], np.iinfo(np.int64).max)
            at = int(reach[np.argmax(fits)])
        offsets[i] = at
        start[n], end[n], low[n], high[n] = v.start, v.end, at, at + size
        total = max(total, at + size)
    return offsets, total
