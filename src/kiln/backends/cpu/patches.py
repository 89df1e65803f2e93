"""Image patches as the K x N operand of a product: columns are output pixels, rows (c, ky, kx).

A panel is cut out of the image on the fly, so the whole matrix of patches never exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kiln.backends.cpu import ir
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.packing import PACK_PARAMS
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, Text, masked_load, store_vector

if TYPE_CHECKING:
    from kiln.backends.cpu.gemm import Gemm


@dataclass(frozen=True)
class Patches:
    """Windows of one image (all channels of a group); sizes are (rows, columns), in pixels.

    ``strides`` are the image's (channel, row, column) strides in elements; ``origin`` is how far
    above and left of the image the first window begins (the padding; may be negative).
    """

    dtype: str
    image: tuple[int, int]
    window: tuple[int, int]
    out: tuple[int, int]
    step: tuple[int, int]
    dilation: tuple[int, int]
    origin: tuple[int, int]
    strides: tuple[int, int, int]
    chunk_bytes: int = 96 * 1024
    group: str = ""

    @property
    def taps(self) -> int:
        """Pixels of one window."""
        return self.window[0] * self.window[1]

    def k_unit(self, lanes: int) -> int:
        """Blocks of K hold whole channels."""
        return self.taps

    def mode(self, gemm: Gemm, row_blocks: int) -> str:
        """Always packed before use."""
        return "packed"

    def pieces(self, lanes: int) -> int:
        """Image rows that one vector of neighbouring pixels can touch; 0 means: gather."""
        if self.step[1] > 2 or self.strides[2] != 1:
            return 0
        width = self.out[1]
        if self.step[0] * self.strides[1] == self.step[1] * width:
            return 1  # the next row's pixels follow in memory, as under "same" padding
        starts = range(0, width * lanes, lanes)
        rows = max((start % width + lanes - 1) // width + 1 for start in starts)
        rows = min(rows, self.out[0])
        return rows if rows <= 4 else 0

    def emit_pack(self, b: Text, name: str, isa: Isa, panel: int, live: int) -> None:
        """Define ``name``: see ``packing``; k0 and kc must be multiples of ``taps``."""
        size = ITEMSIZE[self.dtype]
        lanes = isa.lanes(size)
        with b.function(name, PACK_PARAMS, internal=True):
            channel = b.op(f"udiv i64 %k0, {self.taps}")
            channels = b.op(f"udiv i64 %kc, {self.taps}")
            base = b.at("%base", b.mul(channel, self.strides[0]), size)
            with b.loop(0, -(-live // lanes)) as v:
                start = b.mul(v.index, lanes)
                first = b.add("%col0", start)
                self._vector(b, lanes, base, channels, first, b.at("%dst", start, size), panel)

    def _vector(
        self, b: Text, lanes: int, base: str, channels: str, first: str, dst: str, panel: int
    ) -> None:
        """Pack all rows of one vector of pixels, beginning with pixel ``first``."""
        size, element = ITEMSIZE[self.dtype], COMPUTE[self.dtype]
        (kh, kw), (dh, dw), (_, row_stride, col_stride) = self.window, self.dilation, self.strides
        grid = Lanes(b, lanes)
        pixel = grid.add(grid.splat(first), grid.iota())
        y, x = grid.op("udiv", pixel, self.out[1]), grid.op("urem", pixel, self.out[1])
        top = grid.affine(y, self.step[0], -self.origin[0])
        left = grid.affine(x, self.step[1], -self.origin[1])
        inside = grid.below(pixel, self.out[0] * self.out[1])
        rows = [
            grid.both(inside, grid.below(grid.affine(top, 1, ky * dh), self.image[0]))
            for ky in range(kh)
        ]
        cols = [grid.below(grid.affine(left, 1, kx * dw), self.image[1]) for kx in range(kw)]
        pieces = self.pieces(lanes)
        sources, masks, index = [base], [rows], ""
        if pieces:
            sources, masks = self._pieces(b, grid, base, first, y, rows, pieces)
        else:
            index = grid.add(grid.op("mul", top, row_stride), grid.op("mul", left, col_stride))
        on = [
            [[grid.both(mask[ky], cols[kx]) for mask in masks] for kx in range(kw)]
            for ky in range(kh)
        ]
        halves = (
            {m: every_other_masks(b, lanes, m) for m in _flatten(on)} if self.step[1] == 2 else {}
        )
        carried = [("ptr", p) for p in [*sources, dst]]
        with b.loop(0, channels, carried=carried) as loop:
            *places, target = loop.carried
            for ky in range(kh):
                for kx in range(kw):
                    offset = (ky * dh * row_stride + kx * dw * col_stride) * size
                    value = "zeroinitializer"
                    for place, mask in zip(places, on[ky][kx], strict=True):
                        source = b.at(place, offset)
                        if not pieces:
                            value = gather(b, source, index, element, lanes, mask)
                        elif self.step[1] == 1:
                            value = masked_load(b, source, element, lanes, mask, value)
                        else:
                            part = load_every_other(b, source, element, lanes, halves[mask])
                            vector, bits = f"<{lanes} x {element}>", f"<{lanes} x i1>"
                            value = b.op(f"select {bits} {mask}, {vector} {part}, {vector} {value}")
                    where = b.at(target, (ky * kw + kx) * panel * size)
                    store_vector(b, value, where, self.dtype, lanes)
            loop.next = [b.at(p, self.strides[0] * size) for p in places]
            loop.next.append(b.at(target, self.taps * panel * size))

    def _pieces(
        self, b: Text, grid: Lanes, base: str, first: str, y: str, rows: list[str], pieces: int
    ) -> tuple[list[str], list[list[str]]]:
        """Where the vector's part in each image row would begin, and which lanes are in it."""
        size, width = ITEMSIZE[self.dtype], self.out[1]
        line = b.op(f"udiv i64 {first}, {width}")
        sources, masks = [], []
        for piece in range(pieces):
            row = b.add(line, piece)
            above = b.add(b.mul(row, self.step[0]), -self.origin[0])
            before = b.mul(b.op(f"sub i64 {first}, {b.mul(row, width)}"), self.step[1])
            offset = b.add(b.mul(above, self.strides[1]), b.add(before, -self.origin[1]))
            sources.append(b.at(base, offset, size))
            if pieces == 1:
                masks.append(rows)
            else:
                mine = grid.compare("eq", y, grid.splat(row))
                masks.append([grid.both(mine, ok) for ok in rows])
        return sources, masks


def _flatten(masks: list[list[list[str]]]) -> list[str]:
    return [mask for row in masks for cell in row for mask in cell]


def every_other_masks(b: Text, lanes: int, mask: str) -> tuple[str, str]:
    """The mask over 2 * lanes neighbouring elements of which every other one is a lane."""
    bits, found = f"<{lanes} x i1>", []
    for first in (0, lanes // 2):
        # lane `lanes` is one of the zeros: what lies between is never read, nor past the end
        picks = [first + i // 2 if i % 2 == 0 else lanes for i in range(lanes)]
        order = "<" + ", ".join(f"i32 {i}" for i in picks) + ">"
        pair = f"{bits} {mask}, {bits} zeroinitializer"
        found.append(b.op(f"shufflevector {pair}, <{lanes} x i32> {order}"))
    return found[0], found[1]


def load_every_other(b: Text, source: str, element: str, lanes: int, halves: Sequence[str]) -> str:
    """Elements 0, 2, 4, ... from ``source`` on, under ``every_other_masks``."""
    width, vector = (8 if element == "double" else 4), f"<{lanes} x {element}>"
    low, high = (
        masked_load(b, b.at(source, n * lanes * width), element, lanes, mask, "zeroinitializer")
        for n, mask in enumerate(halves)
    )
    order = "<" + ", ".join(f"i32 {2 * i}" for i in range(lanes)) + ">"
    return b.op(f"shufflevector {vector} {low}, {vector} {high}, <{lanes} x i32> {order}")


class Lanes:
    """Arithmetic on one i32 per lane."""

    def __init__(self, b: Text, lanes: int) -> None:
        self.b, self.lanes, self.kind = b, lanes, f"<{lanes} x i32>"

    def constant(self, value: int) -> str:
        return "<" + ", ".join([f"i32 {value}"] * self.lanes) + ">"

    def iota(self) -> str:
        return "<" + ", ".join(f"i32 {i}" for i in range(self.lanes)) + ">"

    def splat(self, value: str) -> str:
        narrow = self.b.op(f"trunc i64 {value} to i32")
        one = self.b.op(f"insertelement {self.kind} poison, i32 {narrow}, i64 0")
        return self.b.op(
            f"shufflevector {self.kind} {one}, {self.kind} poison, {self.kind} zeroinitializer"
        )

    def add(self, x: str, y: str) -> str:
        return self.b.op(f"add {self.kind} {x}, {y}")

    def op(self, name: str, x: str, value: int) -> str:
        return self.b.op(f"{name} {self.kind} {x}, {self.constant(value)}")

    def affine(self, x: str, scale: int, offset: int) -> str:
        if scale != 1:
            x = self.op("mul", x, scale)
        return self.op("add", x, offset) if offset else x

    def compare(self, how: str, x: str, y: str) -> str:
        return self.b.op(f"icmp {how} {self.kind} {x}, {y}")

    def below(self, x: str, limit: int) -> str:
        """0 <= x < limit: as unsigned numbers, negative ones are large."""
        return self.compare("ult", x, self.constant(limit))

    def both(self, x: str, y: str) -> str:
        return self.b.op(f"and <{self.lanes} x i1> {x}, {y}")


def gather(b: Text, base: str, index: str, element: str, lanes: int, mask: str) -> str:
    """Load the elements at ``base[index]`` (i32 lanes) where the mask is on; the rest are zero."""
    vector, bits, pointers = (f"<{lanes} x {t}>" for t in (element, "i1", "ptr"))
    places = b.op(f"getelementptr {element}, ptr {base}, <{lanes} x i32> {index}")
    size = 8 if element == "double" else 4
    return b.ir.masked_gather(vector, ir.Val(places, pointers), ir.Val(mask, bits), size).ref


def scatter(
    b: Text, value: str, base: str, index: str, element: str, lanes: int, mask: str
) -> None:
    """Store the lanes that are on to the elements ``base[index]`` (i32 lanes)."""
    vector, bits, pointers = (f"<{lanes} x {t}>" for t in (element, "i1", "ptr"))
    places = b.op(f"getelementptr {element}, ptr {base}, <{lanes} x i32> {index}")
    size = 8 if element == "double" else 4
    b.ir.masked_scatter(ir.Val(value, vector), ir.Val(places, pointers), ir.Val(mask, bits), size)
