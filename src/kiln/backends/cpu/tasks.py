"""Splitting a contraction into independent tasks, from its shape alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kiln.backends.cpu.text import ITEMSIZE, Text

if TYPE_CHECKING:
    from kiln.backends.cpu.gemm import Gemm

_SERIAL_FLOPS = 2 * 64**3
_TASK_FLOPS = 1 << 20


@dataclass(frozen=True)
class Share:
    """The half-open ranges (SSA names or numbers) that one task works on."""

    batch: tuple[str, str]
    rows: tuple[str, str]
    cols: tuple[str, str]


@dataclass(frozen=True)
class Grid:
    """Tasks laid out as batch x rows x columns of the result."""

    batch: int
    rows: int
    cols: int

    @property
    def ntasks(self) -> int:
        """How many there are."""
        return self.batch * self.rows * self.cols

    @staticmethod
    def choose(
        flops: int, batches: int, rows: int, cols: int, least_rows: int = 1, least_cols: int = 1,
        most_cols: int = 1 << 30,
    ) -> Grid:  # fmt: skip
        """The grid for work of ``flops`` over so many batches, row units and column units.

        Batches are split first, then columns, then rows. No task gets fewer than ``least_*`` units;
        columns are cut at most ``most_cols`` times.
        """
        by_batch, left = _by_batch(flops, batches)
        by_cols = max(1, min(left, cols // least_cols, most_cols))
        left = -(-left // by_cols)
        return Grid(by_batch, max(1, min(left, rows // least_rows)), by_cols)

    @staticmethod
    def cheapest(
        flops: int, batches: int, rows: int, cols: int, row_cost: float, col_cost: float
    ) -> Grid:
        """As `choose`, by what is read again: ``row_cost`` for each part of the rows, ``col_cost`` of the columns.

        Where the columns can't be cut any more, a quarter fewer tasks than wished for will do.
        """
        by_batch, left = _by_batch(flops, batches)
        found = []
        for n in range(1, min(left, cols) + 1):
            wish = -(-3 * left // 4) if n == cols else left
            m = max(1, min(-(-wish // n), rows))
            found.append((max(0, wish - m * n), m * row_cost + n * col_cost, Grid(by_batch, m, n)))
        return min(found, key=lambda x: x[:2])[2]

    def ranges(self, b: Text, batches: int, rows: int, cols: int) -> Share:
        """Write the code that finds what ``%task`` works on."""
        return ranges(b, (self.batch, self.rows, self.cols), (batches, rows, cols))


def ranges(b: Text, parts: Sequence[int | str], totals: Sequence[int | str]) -> Share:
    """Write the code that finds what ``%task`` works on, of so many batches, rows and columns in so many parts."""
    col = b.op(f"urem i64 %task, {parts[2]}")
    above = b.op(f"udiv i64 %task, {parts[2]}")
    row = b.op(f"urem i64 {above}, {parts[1]}")
    batch = b.op(f"udiv i64 {above}, {parts[1]}")
    shares = zip((batch, row, col), parts, totals, strict=True)
    return Share(*(part(b, index, n, total) for index, n, total in shares))


def parts(total: int, count: int) -> list[tuple[int, int]]:
    """The half-open ranges that ``part`` gives."""
    return [(total * i // count, total * (i + 1) // count) for i in range(count)]


def stretch(sizes: Sequence[float]) -> float:
    """How many times an even share tasks of these sizes take, claimed in order, on a few threads."""
    longest = []
    for threads in (2, 4, 8):
        busy = [0.0] * threads
        for size in sizes:
            busy[busy.index(min(busy))] += size
        longest.append(max(busy) * threads)
    return sum(longest) / len(longest) / sum(sizes)


def task_count(flops: int) -> int:
    """How many tasks to split work of ``flops`` into."""
    if flops <= _SERIAL_FLOPS:
        return 1
    return min(8 if flops < 1 << 30 else 16, max(2, flops // _TASK_FLOPS))


def _by_batch(flops: int, batches: int) -> tuple[int, int]:
    """Into how many parts to split the batches, and how many tasks to make of each."""
    target = task_count(flops)
    parts = max(1, min(batches, target))
    return parts, -(-target // parts)


def part(b: Text, index: str, parts: int | str, total: int | str) -> tuple[str, str]:
    """The half-open range of ``total`` that part ``index`` of so many is."""
    if parts == 1:
        return "0", str(total)
    low = b.op(f"udiv i64 {b.mul(index, total)}, {parts}")
    high = b.op(f"udiv i64 {b.mul(b.add(index, 1), total)}, {parts}")
    return low, high


def row_blocks(b: Text, rows: int, most: int) -> Iterator[tuple[bool, str, str]]:
    """Loop over blocks of at most so many rows, the higher ones by one row first.

    Gives whether a block is a higher one, its first row, and its number.
    """
    count = -(-rows // most)
    low, high_count = divmod(rows, count)
    for high, begin, end in ((True, 0, high_count), (False, high_count, count)):
        if begin < end:
            with b.loop(begin, end) as block:
                row = b.mul(block.index, low + high)
                yield high, row if high else b.add(row, high_count), block.index


def batch_pointers(b: Text, gemm: Gemm, pointers: list[str], index: str) -> list[str]:
    """C, A and B of the batch with linear number ``index``."""
    strides = (gemm.c_batch, gemm.a_batch, gemm.b_batch)
    dtypes = (gemm.c_dtype, gemm.a_dtype, gemm.b_dtype)
    offsets = ["0", "0", "0"]
    for axis in reversed(range(len(gemm.batch))):
        place = index
        if axis > 0:
            place = b.op(f"urem i64 {index}, {gemm.batch[axis]}")
            index = b.op(f"udiv i64 {index}, {gemm.batch[axis]}")
        offsets = [b.add(o, b.mul(place, s[axis])) for o, s in zip(offsets, strides, strict=True)]
    return [b.at(p, o, ITEMSIZE[d]) for p, o, d in zip(pointers, offsets, dtypes, strict=True)]
