"""1x1 convolutions of row-major images: y = w @ x for each image, with x read where it lies.

Columns are taken a chunk of panels at a time, which stays in L2 while all rows of w pass over it, so that
y is written in a few long streams. Meanwhile each tile fetches its share of the next chunk.
"""

from __future__ import annotations

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_shape import ARG_IMAGE, ARG_OUT, Conv, Weights, flat_stride
from kiln.backends.cpu.gemm import choose_tile
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.microkernel import Epilogue, Tile, emit_tile
from kiln.backends.cpu.text import ITEMSIZE, Text

_CHUNK_BYTES = 128 * 1024
_LINE = 64


def fits(conv: Conv) -> bool:
    """Whether every pixel of y is a product with one of x, and both images' pixels are neighbours."""
    plain = conv.taps == 1 and conv.stride == (1, 1) and not any(map(any, conv.padding))
    steps = (
        flat_stride(conv.image, conv.x_strides[2:]),
        flat_stride(conv.out, conv.y_strides[2:]),
    )
    return plain and steps == (1, 1) and not conv.channels_last


class Forward:
    """Writes the kernel of one convolution; the epilogue sees channels as rows, pixels as columns."""

    def __init__(self, conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None) -> None:
        self.conv, self.isa, self.symbol, self.epilogue = conv, isa, symbol, epilogue
        self.size = ITEMSIZE[conv.dtype]
        self.lanes = isa.lanes(self.size)
        self.weights = Weights.of(conv)
        self.pixels = conv.out[0] * conv.out[1]
        self.nv, self.mr = choose_tile(conv.co, self.pixels, self.lanes, isa)
        self.panel = self.nv * self.lanes
        self.whole, self.rest = divmod(self.pixels, self.panel)
        panels = self.whole + (self.rest > 0)
        self.blocks = -(-conv.co // self.mr)
        self.low, self.high_count = divmod(conv.co, self.blocks)
        fit = max(1, _CHUNK_BYTES // (conv.ci * self.panel * self.size))
        self.chunks = -(-panels // fit)
        self.chunk = -(-panels // self.chunks)
        self.panels = panels
        images = conv.n * conv.groups
        self.units = images * self.chunks
        self.grid = tasks.Grid.choose(conv.flops, self.units, self.blocks, 1, 2)

    def emit(self) -> Kernel:
        """The one phase."""
        b = self.b = Text()
        self.names: dict[tuple[bool, bool], str] = {}
        with b.function(self.symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            self._body()
        for (high, tail), name in self.names.items():
            self._emit_tile(name, high, tail)
        return Kernel(b.module(), self.symbol, self.grid.ntasks)

    def _emit_tile(self, name: str, high: bool, tail: bool) -> None:
        conv = self.conv
        live = self.rest if tail else self.panel
        tile = Tile(
            isa=self.isa, mr=self.low + high, nv=-(-live // self.lanes), tail=live % self.lanes,
            compute=conv.dtype, a_row=self.weights.strides[0], a_k=self.weights.strides[1],
            b_mode="raw", b_k=conv.x_strides[1], panel=self.panel, c_dtype=conv.dtype,
            c_row=conv.y_strides[1], c_col=1, split_k=False, epilogue=self.epilogue,
            ahead=conv.x_strides[1] * self.size,
        )  # fmt: skip
        emit_tile(self.b, tile, name)

    def _unit(self, index: str) -> tuple[str, str, str, str]:
        """Image, group, first panel of a unit, and where x's first column of it lies."""
        b, conv = self.b, self.conv
        number = b.op(f"udiv i64 {index}, {self.chunks}")
        first = b.mul(b.op(f"urem i64 {index}, {self.chunks}"), self.chunk)
        image = b.op(f"udiv i64 {number}, {conv.groups}")
        group = b.op(f"urem i64 {number}, {conv.groups}")
        offset = b.add(b.mul(image, conv.x_strides[0]), b.mul(group, conv.ci * conv.x_strides[1]))
        x = b.at(b.argument("%args", ARG_IMAGE), b.add(offset, b.mul(first, self.panel)), self.size)
        return image, group, first, x

    def _body(self) -> None:
        b, conv, size = self.b, self.conv, self.size
        y, w = b.argument("%args", ARG_OUT), b.argument("%args", self.weights.slot)
        share = self.grid.ranges(b, self.units, self.blocks, 1)
        self.last_unit = b.op(f"sub i64 {share.batch[1]}, 1")
        with b.loop(*share.batch) as unit:
            image, group, first, x = self._unit(unit.index)
            _, _, after, ahead = self._unit(b.least(b.add(unit.index, 1), self.last_unit))
            count = b.least(self.chunk, b.op(f"sub i64 {self.panels}, {first}"))
            left = b.op(f"sub i64 {self.pixels}, {b.mul(after, self.panel)}")
            lines = b.op(f"udiv i64 {b.least(left, self.chunk * self.panel)}, {_LINE // size}")
            channel = b.mul(group, conv.co)
            offset = b.add(b.mul(image, conv.y_strides[0]), b.mul(channel, conv.y_strides[1]))
            target = b.at(y, offset, size)
            weights = b.at(w, b.mul(group, self.weights.group), size)
            rows = b.op(f"sub i64 {share.rows[1]}, {share.rows[0]}")
            tiles = b.mul(rows, count)
            kinds = [(True, 0, self.high_count), (False, self.high_count, self.blocks)]
            for high, begin, end in kinds:
                if begin == end:
                    continue
                with b.loop(b.most(share.rows[0], begin), b.least(share.rows[1], end)) as block:
                    row = b.mul(block.index, self.low + high)
                    row = row if high else b.add(row, self.high_count)
                    done = b.mul(b.op(f"sub i64 {block.index}, {share.rows[0]}"), count)
                    a = b.at(weights, b.mul(row, self.weights.strides[0]), size)
                    line = b.at(target, b.mul(row, conv.y_strides[1]), size)

                    def tile(panel: str, tail: bool, at: tuple) -> None:
                        high, first, a, x, line, done, row = at
                        inner = b.op(f"sub i64 {panel}, {first}")
                        number = b.op(f"udiv i64 {b.mul(b.add(done, inner), lines)}, {tiles}")
                        col = b.mul(panel, self.panel)
                        name = f"{self.symbol}.tile{len(self.names)}"
                        name = self.names.setdefault((high, tail), name)
                        b.emit(
                            f"call void @{name}(ptr {a}, ptr {b.at(x, b.mul(inner, self.panel), size)}, "
                            f"ptr null, ptr {b.at(line, col, size)}, i64 {conv.ci}, i1 false, i1 true, "
                            f"i64 {b.add(channel, row)}, i64 {col}, i64 {image}, ptr %args, "
                            f"ptr {b.at(ahead, b.mul(number, _LINE))})"
                        )

                    at = (high, first, a, x, line, done, row)
                    stop = b.add(first, count)
                    if self.whole:
                        with b.loop(first, b.least(stop, self.whole)) as p:
                            tile(p.index, False, at)
                    if self.rest:
                        with b.when(b.op(f"icmp sgt i64 {stop}, {self.whole}")):
                            tile(str(self.whole), True, at)
