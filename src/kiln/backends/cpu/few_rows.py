"""Few rows times the rows of a matrix, x @ w.T + bias, with sizes as arguments: one object for each dtype.

What a decoding step's linear layers are. Vectors run along both operands' rows as they lie, so nothing is packed,
which for few rows takes longer than multiplying, and a group's sums are added up lane by lane together.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import tasks
from .isa import Isa
from .kernel import Kernel
from .microkernel import ARG_A, ARG_B, ARG_C, ARG_EXTRA, ARG_WORKSPACE
from .text import COMPUTE, ITEMSIZE, Text, fma, load_vector, ramp_mask, store_vector

ARG_BIAS = ARG_WORKSPACE
WORDS = "rows", "n", "k", "parts", "biased"
"""What follows the pointers of the result, x, w and the bias in the argument block, 64 bits each."""
_BLOCKS = 4  # of rows, each of which reads w: from five on packing it pays


def _tiles(isa: Isa) -> dict[int, tuple[int, ...]]:
    """How many rows of x tiles have, by how many of w they go along at once."""
    return {8: (1, 2), 4: (3, 4, 5)} if isa.n_vregs >= 32 else {4: (1, 2)}


def most_rows(isa: Isa) -> int:
    """Of how many rows the largest tile is."""
    return max(map(max, _tiles(isa).values()))


def fits(rows: int, n: int, k: int, dtype: str, isa: Isa) -> bool:
    """Whether the form is for so many rows of x and of w, of k elements."""
    return (
        rows <= _BLOCKS * most_rows(isa)
        and n >= max(_tiles(isa))
        and k >= isa.lanes(ITEMSIZE[dtype])
    )


def emit(dtype: str, isa: Isa) -> Kernel:
    """The kernel of float32 or float64."""
    return _Writer(dtype, isa).kernel()


@dataclass(frozen=True)
class _Cell:
    """A sum: of which row of x and which of w, counted within the tile."""

    row: int
    col: int


class _Writer:
    def __init__(self, dtype: str, isa: Isa):
        self.dtype, self.isa, self.b = dtype, isa, Text()
        self.size, self.element = ITEMSIZE[dtype], COMPUTE[dtype]
        self.lanes = isa.lanes(self.size)
        self.vector = f"<{self.lanes} x {self.element}>"
        self.symbol = f"few_rows_{dtype}_{isa.name}"

    def kernel(self) -> Kernel:
        """All of it."""
        b, most = self.b, most_rows(self.isa)
        with b.function(self.symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            words = [
                b.op(f"load i64, ptr {b.at('%args', ARG_EXTRA + i, 8)}") for i in range(len(WORDS))
            ]
            rows, n, k, parts, biased = words
            for columns, counts in _tiles(self.isa).items():
                last = rows if counts[-1] == most else str(counts[-1])
                low, high = (
                    b.op(f"icmp ule i64 {x}, {y}") for x, y in ((counts[0], rows), (rows, last))
                )
                with b.when(b.op(f"and i1 {low}, {high}")):
                    self._groups(columns, counts, rows, n, k, parts, biased)
        for columns, counts in _tiles(self.isa).items():
            for count in counts:
                self._tile(count, columns)
        return Kernel(b.module(), self.symbol)

    def _groups(
        self, columns: int, counts: tuple[int, ...], rows: str, n: str, k: str, parts: str, biased: str
    ) -> None:  # fmt: skip
        """Groups of so many rows of w: the last one ends with w, and may begin within the one before."""
        b = self.b
        c, x, w, bias = (b.argument("%args", slot) for slot in (ARG_C, ARG_A, ARG_B, ARG_BIAS))
        groups = b.op(f"udiv i64 {b.add(n, columns - 1)}, {columns}")
        blocks = b.op(f"udiv i64 {b.add(rows, counts[-1] - 1)}, {counts[-1]}")
        last = b.op(f"sub i64 {n}, {columns}")
        with b.loop(*tasks.part(b, "%task", parts, groups)) as group:
            col = b.least(b.mul(group.index, columns), last)
            along = b.at(w, b.mul(col, k), self.size)
            with b.loop(0, blocks) as block:
                low, high = (
                    b.op(f"udiv i64 {b.mul(at, rows)}, {blocks}")
                    for at in (block.index, b.add(block.index, 1))
                )
                size = b.op(f"sub i64 {high}, {low}")
                target = b.at(c, b.add(b.mul(low, n), col), self.size)
                source = b.at(x, b.mul(low, k), self.size)
                for count in counts:
                    with b.when(b.op(f"icmp eq i64 {size}, {count}")):
                        b.emit(
                            f"call void @{self.symbol}.{count}x{columns}(ptr {target}, ptr {source}, ptr {along}, "
                            f"ptr {b.at(bias, col, self.size)}, i64 {n}, i64 {k}, i64 {biased})"
                        )

    def _tile(self, rows: int, columns: int) -> None:
        """Define so many rows of x times so many of w."""
        b = self.b
        params = [("ptr noalias", "c"), ("ptr noalias readonly", "x"), ("ptr noalias readonly", "w"),
                  ("ptr readonly", "bias"), ("i64", "n"), ("i64", "k"), ("i64", "biased")]  # fmt: skip
        # rows are the low digit: the sums of a row then end in neighbouring lanes (see `_folded`)
        cells = [_Cell(i, j) for j in range(columns) for i in range(rows)]
        with b.function(f"{self.symbol}.{rows}x{columns}", params, internal=True):
            starts = {
                name: [b.at(f"%{name}", b.mul(i, "%k"), self.size) for i in range(count)]
                for name, count in (("x", rows), ("w", columns))
            }

            def step(k: str, sums: list[str], mask: str | None) -> list[str]:
                xs, ws = (
                    [load_vector(b, b.at(p, k, self.size), self.dtype, self.lanes, mask) for p in starts[name]]
                    for name in ("x", "w")
                )  # fmt: skip
                return [
                    fma(b, xs[cell.row], ws[cell.col], s, self.element, self.lanes, self.isa.has_fma)
                    for cell, s in zip(cells, sums, strict=True)
                ]  # fmt: skip

            whole = b.op(f"and i64 %k, {-self.lanes}")
            zero = [(self.vector, "zeroinitializer")] * len(cells)
            with b.loop(0, whole, self.lanes, zero) as loop:
                loop.next = step(loop.index, list(loop.carried), None)
            sums = list(loop.final)
            left = b.op(f"sub i64 %k, {whole}")
            before, some, after = b.block, b.new_label("some"), b.new_label("after")
            b.emit(f"br i1 {b.op(f'icmp sgt i64 {left}, 0')}, label %{some}, label %{after}")
            b.label(some)
            more = step(whole, sums, ramp_mask(b, self.lanes, left))
            end = b.block
            b.emit(f"br label %{after}")
            b.label(after)
            sums = [
                b.op(f"phi {self.vector} [ {s}, %{before} ], [ {m}, %{end} ]")
                for s, m in zip(sums, more, strict=True)
            ]
            self._store(self._folded(dict(zip(cells, sums, strict=True))), rows, columns)

    def _folded(self, sums: dict[_Cell, str]) -> dict[_Cell, tuple[str, int]]:
        """The vectors of sums added up: in which vector, and which of its lanes, each then is.

        Halves are added to halves, of two vectors at once, whose sums then share one; the order is the same for all.
        """
        lanes, width = self.lanes, self.lanes
        vectors = [(value, [cell]) for cell, value in sums.items()]
        while width > 1:
            half, joined = width // 2, []
            for i in range(0, len(vectors), 2):
                (x, a), (y, c) = vectors[i], vectors[min(i + 1, len(vectors) - 1)]
                segments = [(o, s) for o in (0, lanes) for s in range(0, lanes, width)]
                owners = [*a, *c]
                if width * self.size <= 16:  # within 128 bits, where shuffles are cheap
                    per = 16 // (width * self.size)
                    order = [
                        o * len(a) + s + t
                        for s in range(0, len(a), per)
                        for o in (0, 1)
                        for t in range(per)
                    ]
                    segments, owners = [segments[j] for j in order], [owners[j] for j in order]
                low, high = (
                    self._shuffle(x, y, [o + s + at + t for o, s in segments for t in range(half)])
                    for at in (0, half)
                )
                joined.append((self.b.op(f"fadd {self.vector} {low}, {high}"), owners))
            vectors, width = joined, half
        found: dict[_Cell, tuple[str, int]] = {}
        for value, owners in vectors:
            for lane, cell in enumerate(owners):
                found.setdefault(cell, (value, lane))
        return found

    def _shuffle(self, x: str, y: str, lanes: list[int]) -> str:
        mask = ", ".join(f"i32 {lane}" for lane in lanes)
        return self.b.op(
            f"shufflevector {self.vector} {x}, {self.vector} {y}, <{len(lanes)} x i32> <{mask}>"
        )

    def _store(self, sums: dict[_Cell, tuple[str, int]], rows: int, columns: int) -> None:
        """Store each row's sums, with the bias added where there is one."""
        b = self.b
        vector = f"<{columns} x {self.element}>"
        values = []
        for i in range(rows):
            value = ""
            places = [sums[_Cell(i, j)] for j in range(columns)]
            for source in dict.fromkeys(v for v, _ in places):
                mine = [lane if v == source else None for v, lane in places]
                part = self._picked(source, mine)
                value = part if not value else self._merged(value, part, mine, vector)
            values.append(value)
        before, some, after = b.block, b.new_label("biased"), b.new_label("store")
        b.emit(f"br i1 {b.op('icmp ne i64 %biased, 0')}, label %{some}, label %{after}")
        b.label(some)
        bias = load_vector(b, "%bias", self.dtype, columns)
        more = [b.op(f"fadd {vector} {v}, {bias}") for v in values]
        b.emit(f"br label %{after}")
        b.label(after)
        pairs = zip(values, more, strict=True)
        out = [b.op(f"phi {vector} [ {v}, %{before} ], [ {w}, %{some} ]") for v, w in pairs]
        for i, value in enumerate(out):
            store_vector(b, value, b.at("%c", b.mul(i, "%n"), self.size), self.dtype, columns)

    def _picked(self, source: str, lanes: list[int | None]) -> str:
        mask = ", ".join("i32 poison" if lane is None else f"i32 {lane}" for lane in lanes)
        return self.b.op(
            f"shufflevector {self.vector} {source}, {self.vector} poison, <{len(lanes)} x i32> <{mask}>"
        )

    def _merged(self, value: str, part: str, lanes: list[int | None], vector: str) -> str:
        n = len(lanes)
        mask = ", ".join(f"i32 {j if lane is None else n + j}" for j, lane in enumerate(lanes))
        return self.b.op(f"shufflevector {vector} {value}, {vector} {part}, <{n} x i32> <{mask}>")
