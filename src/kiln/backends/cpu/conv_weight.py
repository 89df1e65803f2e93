"""Backward-weight: patches[k, pixel] @ dy'[pixel, co], summed over images.

Rows of the tile are the windows' pixels and columns are output channels, so that packing dy by
transposition is paid once for many rows. Tasks own chunks of images and of input channels and
leave partial sums; a second phase adds these up in a fixed order and lays them out as w.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_shape import ARG_IMAGE, ARG_OTHER, ARG_OUT, Conv, flat_stride
from kiln.backends.cpu.gemm import Gemm, PanelDriver, StridedB
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.microkernel import ARG_WORKSPACE, store_columns
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, Text, lane_mask, load_vector

_ROWS = 320
_DEPTH = 384
_PATCH_BYTES = 128 * 1024
_PARTIAL_BYTES = 4 << 20


class _Dy(StridedB):
    """dy as the (pixel, co) operand: always packed, as several images make one block of K."""

    def mode(self, gemm: Gemm, row_blocks: int) -> str:
        return "packed"


class WeightDriver(PanelDriver):
    """The first phase; ``emit`` chains the second. ``slots`` are those of x and dy."""

    def __init__(
        self,
        conv: Conv,
        isa: Isa,
        symbol: str,
        slots: tuple[int, int] = (ARG_IMAGE, ARG_OTHER),
    ) -> None:
        self.conv, self.pixels = conv, conv.out[0] * conv.out[1]
        fit = max(1, _ROWS // conv.taps)
        self.channels = max(c for c in range(1, conv.ci + 1) if conv.ci % c == 0 and c <= fit)
        step = flat_stride(conv.out, conv.y_strides[2:]) or 1
        channel, rows = conv.x_strides[1], self.channels * conv.taps
        gemm = Gemm(
            rows, conv.co, self.pixels,
            (1, 1), (step, conv.y_strides[1]), (conv.co, 1),
            conv.dtype, conv.dtype, conv.dtype,
            (conv.groups, conv.ci // self.channels),
            (conv.ci * channel, self.channels * channel),
            (conv.co * conv.y_strides[1], 0),
            (conv.ci * conv.taps * conv.co, rows * conv.co),
        )  # fmt: skip
        operand = _Dy(conv.dtype, (step, conv.y_strides[1]))
        super().__init__(gemm, isa, symbol, operand, (ARG_WORKSPACE, *slots))

    def _block_k(self) -> None:
        """Several small images, or a part of one large image, make one block of K."""
        self.pack_a = True
        self.k_blocks = 2  # the micro-kernel must be able to add to C
        depth = min(_DEPTH, max(64, _PATCH_BYTES // (self.gemm.m * self.size)))
        if self.pixels <= depth:
            self.images = max(1, min(depth // self.pixels, self.conv.n))
            self.part = self.pixels
        else:
            self.images = 1
            self.part = depth // self.lanes * self.lanes
        self.kc = self.images * self.part

    def _split(self) -> None:
        conv, units = self.conv, prod(self.gemm.batch)
        weights = conv.c_out * conv.ci * conv.taps * self.size
        target = tasks.task_count(conv.flops)
        by_unit = min(units, target)
        chunks = min(conv.n, -(-target // by_unit), max(1, _PARTIAL_BYTES // weights))
        self.grid = tasks.Grid(by_unit, 1, chunks)
        self.partial = conv.c_out * conv.ci * conv.taps

    def _layout_workspace(self) -> None:
        gemm, odd = self.gemm, 64 // self.size
        self.chunk_blocks = self.blocks
        rows = self.kc + self.lanes  # transposing writes whole blocks of vectors
        self.panel_bytes = rows * self.panel * self.size
        self.a_offset = self.panel_bytes * self.chunk_panels
        self.a_row, self.a_k = (-(-rows // odd) | 1) * odd, 1
        self.task_bytes = -(-(self.a_offset + gemm.m * self.a_row * self.size) // 64) * 64
        self.front = -(-self.grid.cols * self.partial * self.size // 64) * 64

    def emit(self) -> Kernel:
        """Both phases."""
        kernel = super().emit()
        total = kernel.workspace_bytes
        name = f"{self.symbol}.sum"
        rows = self.conv.c_in * self.conv.taps
        ntasks = max(1, min(8, self.grid.cols * rows * self.conv.co // (1 << 15)))
        second = Kernel(self._emit_sum(name, rows, ntasks), name, ntasks, total)
        return replace(kernel, then=second)

    def _body(self) -> None:
        b, conv = self.b, self.conv
        pointers = [b.argument("%args", slot) for slot in self.slots]
        self._find_workspace()
        share = self.grid.ranges(b, prod(self.gemm.batch), self.blocks, conv.n)
        self.first_block, self.end_block = share.rows
        self.first_image, self.end_image = share.cols
        number = b.op(f"urem i64 %task, {self.grid.cols}")
        pointers[0] = b.at(pointers[0], b.mul(number, self.partial), self.size)
        with b.loop(*share.batch) as batch:
            self.batch = batch.index
            found = tasks.batch_pointers(b, self.gemm, pointers, batch.index)
            self.c, self.x, self.dy = found
            self._columns(("0", str(self.panels)))

    def _all_k(self) -> None:
        b = self.b
        with b.loop(self.first_image, self.end_image, self.images) as image:
            self.image = image.index
            self.count = b.least(self.images, b.op(f"sub i64 {self.end_image}, {image.index}"))
            with b.loop(0, self.pixels, self.part) as pixel:
                self.k0, self.last = pixel.index, "true"
                left = b.op(f"sub i64 {self.pixels}, {pixel.index}")
                self.length = b.least(self.part, left)
                self.depth = b.mul(self.length, self.count)
                later = b.op(f"icmp ne i64 {image.index}, {self.first_image}")
                deeper = b.op(f"icmp ne i64 {pixel.index}, 0")
                self.more = b.op(f"or i1 {later}, {deeper}")
                self._each_panel(self._pack_panel)
                self._pack_a()
                self.rows, self.rows_end = self.first_block, self.end_block
                self._each_panel(self._panel_rows)

    def _pack_panel(self, panel: str, tail: bool) -> None:
        b, conv = self.b, self.conv
        name = f"{self.symbol}.{'pack_tail' if tail else 'pack'}"
        target, col = self._packed(panel), b.mul(panel, self.panel)
        with b.loop(0, self.count) as j:
            image = b.mul(b.add(self.image, j.index), conv.y_strides[0])
            source = b.at(self.dy, image, self.size)
            place = b.at(target, b.mul(j.index, self.part * self.panel), self.size)
            b.emit(
                f"call void @{name}(ptr {source}, ptr {place}, i64 {self.k0}, "
                f"i64 {self.length}, i64 {col})"
            )

    def _pack_a(self) -> None:
        b, conv = self.b, self.conv
        self.a_packed, self.a_start = b.at(self.workspace, self.a_offset), "0"
        self.a = self.a_packed
        with b.loop(0, self.count) as j:
            image = b.mul(b.add(self.image, j.index), conv.x_strides[0])
            source = b.at(self.x, image, self.size)
            place = b.at(self.a_packed, b.mul(j.index, self.part), self.size)
            b.emit(
                f"call void @{self.symbol}.patches(ptr {source}, ptr {place}, i64 0, "
                f"i64 {self.gemm.m}, i64 {self.k0})"
            )

    def _define_parts(self) -> None:
        self.pack_a = False  # patches take the place of the driver's own packing
        super()._define_parts()
        name = f"{self.symbol}.patches"
        self.conv.patches().emit_pack(self.b, name, self.isa, self.a_row, self.part)

    def _emit_sum(self, name: str, rows: int, ntasks: int) -> str:
        """dw[co, ci, ky, kx] = the sum of all chunks' partial[(ci, ky, kx), co]."""
        b, conv, size = Text(), self.conv, ITEMSIZE[self.conv.dtype]
        _, ci, ky, kx = conv.w_strides
        with b.function(name, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            dw, partial = b.argument("%args", ARG_OUT), b.argument("%args", ARG_WORKSPACE)
            share = tasks.Grid(1, ntasks, 1).ranges(b, 1, rows, 1)
            with b.loop(*share.rows) as row:
                tap = b.op(f"urem i64 {row.index}, {conv.taps}")
                channel = b.op(f"udiv i64 {row.index}, {conv.taps}")
                group = b.op(f"udiv i64 {channel}, {conv.ci}")
                offset = b.mul(b.op(f"urem i64 {channel}, {conv.ci}"), ci)
                offset = b.add(offset, b.mul(group, conv.group_stride))
                offset = b.add(offset, b.mul(b.op(f"udiv i64 {tap}, {conv.window[1]}"), ky))
                offset = b.add(offset, b.mul(b.op(f"urem i64 {tap}, {conv.window[1]}"), kx))
                target = b.at(dw, offset, size)
                source = b.at(partial, b.mul(row.index, conv.co), size)
                add_chunks(b, conv, self.lanes, source, target, self.grid.cols, self.partial)
        return b.module()


class PointwiseWeightDriver(WeightDriver):
    """For 1x1 windows (``conv_pointwise.fits``): rows are the image of more channels, read in place."""

    def __init__(self, conv: Conv, isa: Isa, symbol: str) -> None:
        if conv.co > conv.ci:
            super().__init__(conv.turned(), isa, symbol, (ARG_OTHER, ARG_IMAGE))
        else:
            super().__init__(conv, isa, symbol)

    def _block_k(self) -> None:
        super()._block_k()
        self.pack_a, self.images, self.part = False, 1, min(self.pixels, _DEPTH)
        self.kc = self.part

    def _layout_workspace(self) -> None:
        super()._layout_workspace()
        self.a_row = self.conv.x_strides[1]
        self.task_bytes = -(-self.a_offset // 64) * 64

    def _pack_a(self) -> None:
        b = self.b
        self.a = b.at(self.x, b.mul(self.image, self.conv.x_strides[0]), self.size)

    def _define_parts(self) -> None:
        PanelDriver._define_parts(self)


def add_chunks(
    b: Text, conv: Conv, lanes: int, source: str, target: str, chunks: int, apart: int
) -> None:
    """Add up one row of output channels over the chunks, in order, into dw at ``target``.

    The first chunk's row is at ``source``, the others ``apart`` elements from each other.
    """
    size, vector = ITEMSIZE[conv.dtype], f"<{lanes} x {COMPUTE[conv.dtype]}>"
    whole = conv.co // lanes * lanes
    for first, stop, live in ((0, whole, lanes), (whole, conv.co, conv.co - whole)):
        if first == stop:
            continue
        mask = None if live == lanes else lane_mask(lanes, live)
        with b.loop(first, stop, lanes) as c:
            place = b.at(source, c.index, size)
            total = load_vector(b, place, conv.dtype, lanes, mask)
            with b.loop(1, chunks, carried=[(vector, total)]) as chunk:
                at = b.at(place, b.mul(chunk.index, apart), size)
                part = load_vector(b, at, conv.dtype, lanes, mask)
                chunk.next = [b.op(f"fadd {vector} {chunk.carried[0]}, {part}")]
            where = b.at(target, b.mul(c.index, conv.w_strides[0]), size)
            store_columns(b, chunk.final[0], where, conv.dtype, lanes, live, conv.w_strides[0])
