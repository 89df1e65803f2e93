"""Memory planning: offsets in one arena so that values that live at the same time don't overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    placed: list[tuple[int, int, Interval]] = []
    total = 0
    for i in sorted(range(len(values)), key=lambda i: (-values[i].size, values[i].start)):
        v = values[i]
        size = -(-v.size // ALIGN) * ALIGN
        at = 0
        for lo, hi, _other in sorted(
            (p for p in placed if p[2].start <= v.end and v.start <= p[2].end), key=lambda p: p[0]
        ):
            if at + size <= lo:
                break
            at = max(at, hi)
        offsets[i] = at
        placed.append((at, at + size, v))
        total = max(total, at + size)
    return offsets, total
