"""Backward-weight with channels in vectors, see Note [Direct convolution] in ``conv_direct``.

For each row ky of the window, dw[(kx, ci), co] is a product over pixels of x's run of (kx, ci) and dy's
channels, both read as they lie, or from copies that are channels-last and padded. Sums stay in registers over
a unit of images or rows. Tasks own chunks of units and panels of channels and leave partial sums; a
second phase adds these up in a fixed order and lays them out as w.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_direct import as_line
from kiln.backends.cpu.conv_halo import Source
from kiln.backends.cpu.conv_shape import ARG_IMAGE, ARG_OTHER, ARG_OUT, Conv, flat_stride
from kiln.backends.cpu.conv_weight import add_chunks
from kiln.backends.cpu.gemm import choose_tile
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel, chain
from kiln.backends.cpu.microkernel import ARG_WORKSPACE, Tile, emit_tile
from kiln.backends.cpu.text import ITEMSIZE, Text

_PARAMS = [("ptr", "args"), ("i64", "task"), ("i64", "place")]
_DEPTH = 256
_PARTIAL_BYTES = 10 << 20
_TASKS = 8


def fits(conv: Conv) -> bool:
    """Whether dy's rows follow each other, and images that are not channels-last are worth copying."""
    dense = flat_stride(conv.out, conv.y_strides[2:]) is not None
    last = conv.channels_last and (conv.x_strides[1] == 1 or conv.c_in == 1)
    return dense and (last or conv.co >= 16)


class BackwardWeight:
    """Writes the kernel of one convolution's weight gradient."""

    def __init__(self, conv: Conv, isa: Isa, symbol: str) -> None:
        self.conv = conv = as_line(conv) if conv.channels_last else conv
        self.isa, self.symbol = isa, symbol
        self.size = ITEMSIZE[conv.dtype]
        self.lanes = isa.lanes(self.size)
        self._choose_units()
        self.source = Source.of(conv, self.rows, self.lanes)
        self.pixels = conv.pixels()
        self.grads = Source.of(self.pixels, self.rows, self.lanes)
        if self.grads.halo:  # images follow each other without the room behind
            self.grads = replace(self.grads, image=self.rows * self.grads.row)
        dense = conv.dilation[1] == 1 and self.source.col == conv.ci
        # rows of one product, and how many products there are for a row of the window
        self.m, self.runs = (conv.window[1] * conv.ci, 1) if dense else (conv.ci, conv.window[1])
        self.nv, self.mr = choose_tile(self.m, conv.co, self.lanes, isa)
        self.panel = self.nv * self.lanes
        self.whole, self.rest = divmod(conv.co, self.panel)
        self.panels = self.whole + (self.rest > 0)
        self.partial = conv.c_out * conv.ci * conv.taps
        chunks = min(prod(self.units), max(1, _PARTIAL_BYTES // (self.partial * self.size)))
        # each cut of the columns copies the images again
        most = -(-_TASKS // chunks)
        self.grid = tasks.Grid.choose(conv.flops, chunks, 1, self.panels, most_cols=most)
        self.front = -(-self.grid.batch * self.partial * self.size // 64) * 64
        self.grads_at = self.source.bytes_for(self.images)
        self.task_bytes = self.grads_at + self.grads.bytes_for(self.images)

    def _choose_units(self) -> None:
        """Some images or equal parts of one image's rows, about ``_DEPTH`` pixels."""
        conv = self.conv
        high, wide = conv.out
        fit = max(1, _DEPTH // wide)
        self.rows = max(r for r in range(1, high + 1) if high % r == 0 and r <= fit)
        n, _, _, step = conv.y_strides
        apart = conv.channels_last and n != high * wide * step
        most = 1 if apart or self.rows < high else min(fit // high, conv.n // 4)
        self.images = max(i for i in range(1, max(1, most) + 1) if conv.n % i == 0)
        self.units = conv.n // self.images, high // self.rows

    def emit(self) -> Kernel:
        """Both phases."""
        b = self.b = Text()
        name = f"{self.symbol}.direct"
        self.names: dict[tuple[bool, bool], str] = {}
        with b.function(name, _PARAMS):
            self._body(name)
        if self.source.halo:
            self.source.halo.emit(b, f"{name}.halo", self.isa)
        if self.grads.halo:
            self.grads.halo.emit(b, f"{name}.grads", self.isa)
        for (high, tail), tile_name in self.names.items():
            self._emit_tile(tile_name, high, tail)
        ntasks = self.grid.ntasks
        main = Kernel(b.module(), name, ntasks, self.front + ntasks * self.task_bytes)
        return chain(main, self._emit_sum(f"{self.symbol}.sum"))

    def _emit_tile(self, name: str, high: bool, tail: bool) -> None:
        conv = self.conv
        live = self.rest if tail else self.panel
        step = self.grads.col
        low = self.m // -(-self.m // self.mr)
        tile = Tile(
            isa=self.isa, mr=low + high, nv=-(-live // self.lanes), tail=live % self.lanes,
            compute=conv.dtype, a_row=1, a_k=conv.stride[1] * self.source.col, b_mode="raw",
            b_k=step, panel=self.panel, c_dtype=conv.dtype, c_row=conv.co, c_col=1, split_k=True,
            epilogue=None,
            runs=((self.images, self.source.image), (self.rows, conv.stride[0] * self.source.row)),
        )  # fmt: skip
        emit_tile(self.b, tile, name)

    def _body(self, name: str) -> None:
        b, conv, size, source = self.b, self.conv, self.size, self.source
        x, dy = b.argument("%args", ARG_IMAGE), b.argument("%args", ARG_OTHER)
        sums = b.argument("%args", ARG_WORKSPACE)
        scratch = b.at(sums, b.add(b.mul("%place", self.task_bytes), self.front))
        share = self.grid.ranges(b, prod(self.units), 1, self.panels)
        chunk = b.op(f"udiv i64 %task, {self.grid.cols}")
        sums = b.at(sums, b.mul(chunk, self.partial), size)
        with b.loop(*share.batch) as unit:
            image = b.mul(b.op(f"udiv i64 {unit.index}, {self.units[1]}"), self.images)
            row = b.mul(b.op(f"urem i64 {unit.index}, {self.units[1]}"), self.rows)
            above = b.mul(row, conv.stride[0])
            images = str(self.images)
            pixels = source.emit(b, f"{name}.halo", x, scratch, conv, image, images, above)
            grads = self.grads.emit(
                b,
                f"{name}.grads",
                dy,
                b.at(scratch, self.grads_at),
                self.pixels,
                image,
                images,
                row,
            )
            later = b.op(f"icmp ne i64 {unit.index}, {share.batch[0]}")
            with (
                b.loop(0, conv.groups) as group,
                b.loop(0, conv.window[0]) as ky,
                b.loop(0, self.runs) as kx,
            ):
                at = b.add(
                    b.mul(group.index, conv.ci), b.mul(kx.index, conv.dilation[1] * source.col)
                )
                at = b.add(at, b.mul(ky.index, conv.dilation[0] * source.row))
                number = b.add(b.mul(group.index, conv.window[0]), ky.index)
                number = b.add(b.mul(number, self.runs), kx.index)
                self._product(
                    b.at(pixels, at, size),
                    b.at(grads, b.mul(group.index, conv.co), size),
                    b.at(sums, b.mul(number, self.m * conv.co), size),
                    later, share.cols,
                )  # fmt: skip

    def _product(self, a: str, dy: str, c: str, more: str, panels: tuple[str, str]) -> None:
        """One product, for a range of panels of channels."""
        b = self.b

        def columns(panel: str, tail: bool) -> None:
            col = b.mul(panel, self.panel)
            source, target = b.at(dy, col, self.size), b.at(c, col, self.size)
            for high, row, _ in tasks.row_blocks(b, self.m, self.mr):
                tile = f"{self.symbol}.tile{len(self.names)}"
                tile = self.names.setdefault((high, tail), tile)
                place = b.at(target, b.mul(row, self.conv.co), self.size)
                b.emit(
                    f"call void @{tile}(ptr {b.at(a, row, self.size)}, ptr {source}, ptr null, "
                    f"ptr {place}, i64 {self.conv.out[1]}, i1 {more}, i1 true, i64 0, i64 0, "
                    f"i64 0, ptr null)"
                )

        if self.whole:
            with b.loop(panels[0], b.least(panels[1], self.whole)) as p:
                columns(p.index, False)
        if self.rest:
            with b.when(b.op(f"icmp sgt i64 {panels[1]}, {self.whole}")):
                columns(str(self.whole), True)

    def _emit_sum(self, name: str) -> Kernel:
        """dw[co, ci, ky, kx] = the sum of all chunks' partial[group][(ky, kx, ci), co]."""
        b, conv, size = Text(), self.conv, self.size
        co, ci, ky, kx = conv.w_strides
        rows = conv.groups * conv.taps * conv.ci
        ntasks = max(1, min(8, self.grid.batch * self.partial >> 15))
        with b.function(name, _PARAMS):
            dw, partial = b.argument("%args", ARG_OUT), b.argument("%args", ARG_WORKSPACE)
            share = tasks.Grid(1, ntasks, 1).ranges(b, 1, rows, 1)
            with b.loop(*share.rows) as row:
                tap = b.op(f"udiv i64 {row.index}, {conv.ci}")
                group = b.op(f"udiv i64 {tap}, {conv.taps}")
                tap = b.op(f"urem i64 {tap}, {conv.taps}")
                offset = b.mul(b.op(f"urem i64 {row.index}, {conv.ci}"), ci)
                offset = b.add(offset, b.mul(group, conv.co * co))
                offset = b.add(offset, b.mul(b.op(f"udiv i64 {tap}, {conv.window[1]}"), ky))
                offset = b.add(offset, b.mul(b.op(f"urem i64 {tap}, {conv.window[1]}"), kx))
                target = b.at(dw, offset, size)
                source = b.at(partial, b.mul(row.index, conv.co), size)
                add_chunks(b, conv, self.lanes, source, target, self.grid.batch, self.partial)
        return Kernel(b.module(), name, ntasks)
