"""Memory planning: offsets in one arena so that values that live at the same time don't overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALIGN = 64


@dataclass(frozen=True)
class Interval:
    """A value of `size` bytes that lives from step `start` to step `end`, both included."""

    size: int
    start: int
    end: int


def plan(values: Sequence[Interval]) -> tuple[list[int], int]:
    """An offset for each value, and the arena's size in bytes.

    Largest first, each at the lowest offset that is free for its whole life: within a few percent
    of the lower bound on training steps, and never more than the sum.
    """
    offsets = [0] * len(values)
    # of those placed so far: first and last step, first and last byte
    start, end, low, high = np.empty((4, len(values)), np.int64)
    total = 0
    largest_first = sorted(range(len(values)), key=lambda i: (-values[i].size, values[i].start))
    for n, i in enumerate(largest_first):
        v = values[i]
        size = -(-v.size // ALIGN) * ALIGN
        at = 0
        (together,) = np.nonzero((start[:n] <= v.end) & (end[:n] >= v.start))
        if len(together):
            order = together[np.argsort(low[together], kind="stable")]
            # the lowest gap that is large enough lies behind the farthest reach of those below it
            reach = np.maximum.accumulate(np.concatenate(([0], high[order])))
            fits = reach + size <= np.append(low[order], np.iinfo(np.int64).max)
            at = int(reach[np.argmax(fits)])
        offsets[i] = at
        start[n], end[n], low[n], high[n] = v.start, v.end, at, at + size
        total = max(total, at + size)
    return offsets, total
