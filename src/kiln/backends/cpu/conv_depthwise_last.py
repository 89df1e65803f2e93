"""Depthwise convolution channels-last: vectors of channels, some neighbouring pixels at a time.

Images with padding are read from padded copies of a few rows. Backward-data is the forward on dy
(``conv_direct.residues``); backward-weight keeps one sum for each kx while it walks over a unit of rows.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_halo import Source
from kiln.backends.cpu.conv_shape import ARG_IMAGE, ARG_OTHER, ARG_OUT, Conv
from kiln.backends.cpu.conv_weights import emit_panels
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel, chain, prepared
from kiln.backends.cpu.microkernel import ARG_WORKSPACE, Epilogue, apply_epilogue
from kiln.backends.cpu.patches import Lanes, scatter
from kiln.backends.cpu.text import (
    COMPUTE,
    ITEMSIZE,
    Text,
    fma,
    lane_mask,
    load_vector,
    store_vector,
)

_PARAMS = [("ptr", "args"), ("i64", "task"), ("i64", "place")]
_BAND_BYTES = 128 * 1024
_PIXELS = 6


def fits(conv: Conv) -> bool:
    """Whether each channel is a group of its own and all tensors' channels are neighbours."""
    single = conv.ci == conv.co == 1 and conv.groups > 1
    return single and conv.channels_last and conv.x_strides[1] == 1


def emit_forward(conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None) -> Kernel:
    """As ``conv.emit_forward``."""
    return _Walk(conv, isa, symbol, epilogue).emit_forward()


def emit_backward_weight(conv: Conv, isa: Isa, symbol: str) -> Kernel:
    """As ``conv.emit_backward_weight``."""
    return _Walk(conv, isa, symbol, None).emit_backward_weight()


class _Walk:
    """Goes over units of rows of y, blocks of pixels and vectors of channels."""

    def __init__(self, conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None) -> None:
        self.conv, self.isa, self.symbol, self.epilogue = conv, isa, symbol, epilogue
        self.size, self.element = ITEMSIZE[conv.dtype], COMPUTE[conv.dtype]
        self.lanes = isa.lanes(self.size)
        self.vector = f"<{self.lanes} x {self.element}>"
        self.pitch = -(-conv.c_out // self.lanes) * self.lanes
        heavy = epilogue is not None and epilogue.heavy
        self.pixels = min(2 if heavy else _PIXELS if isa.n_vregs >= 32 else 3, conv.out[1])
        line = (conv.out[1] * conv.stride[1] + conv.window[1]) * conv.c_in * self.size
        fit = max(1, _BAND_BYTES // (line * conv.stride[0]))
        self.rows = max(r for r in range(1, conv.out[0] + 1) if conv.out[0] % r == 0 and r <= fit)
        self.units = conv.n, conv.out[0] // self.rows
        self.source = Source.of(conv, self.rows, self.lanes)
        self.grid = tasks.Grid.choose(conv.flops, prod(self.units), 1, 1)
        self.b = Text()

    def emit_forward(self) -> Kernel:
        conv, b, size = self.conv, self.b, self.size
        name = f"{self.symbol}.depthwise"
        front = -(-conv.taps * self.pitch * size // 64) * 64
        front, ahead = (0, front) if conv.kept else (front, 0)
        with b.function(name, _PARAMS):
            y = b.at(b.argument("%args", ARG_OUT), conv.y_offset, size)
            w = b.argument("%args", conv.prepared)
            with b.loop(*self._ranges()) as unit:
                image, row, pixels = self._unit(unit.index, name, front)
                first = b.add(b.mul(image, conv.y_strides[0]), b.mul(row, conv.y_strides[2]))
                with b.loop(0, self.rows) as r:
                    line = b.at(pixels, b.mul(r.index, conv.stride[0] * self.source.row), size)
                    target = b.at(y, b.add(first, b.mul(r.index, conv.y_strides[2])), size)
                    number = b.mul(b.add(row, r.index), conv.out[1])
                    for start, stop, count in self._blocks():
                        with b.loop(start, stop, count) as x:
                            step = conv.stride[1] * self.source.col
                            place = b.at(line, b.mul(x.index, step), size)
                            where = b.at(target, b.mul(x.index, conv.y_strides[3]), size)
                            at = (image, b.add(number, x.index))
                            self._forward_channels(place, w, where, count, at)
        self._define_halo(name)
        ntasks = self.grid.ntasks
        total = front + ntasks * self.source.bytes_for(1)
        flat = replace(
            conv, groups=1, c_in=1, w_strides=(conv.group_stride, 0, *conv.w_strides[2:])
        )
        weights = emit_panels(flat, self.isa, f"{self.symbol}.weights", self.pitch)
        main = Kernel(b.module(), name, ntasks, total)
        return prepared(weights, ahead, main) if conv.kept else chain(weights, main)

    def _forward_channels(self, x: str, w: str, y: str, count: int, at: tuple[str, str]) -> None:
        """``count`` pixels of y, all channels."""
        b, conv, size = self.b, self.conv, self.size
        for first, stop, mask in self._channels():
            with b.loop(first, stop, self.lanes) as c:
                above, factors = b.at(x, c.index, size), b.at(w, c.index, size)
                sums = ["zeroinitializer"] * count
                for ky in range(conv.window[0]):
                    columns = self._columns(above, ky, count, mask)
                    for kx in range(conv.window[1]):
                        tap = b.at(factors, (ky * conv.window[1] + kx) * self.pitch, size)
                        factor = load_vector(b, tap, conv.dtype, self.lanes)
                        for j in range(count):
                            sums[j] = self._fma(columns[j, kx], factor, sums[j])
                for j, value in enumerate(sums):
                    if self.epilogue is not None:
                        value = apply_epilogue(
                            b, self.epilogue, value, conv.dtype, self.lanes, b.add(at[1], j),
                            c.index, at[0], mask,
                        )  # fmt: skip
                    offset = b.add(c.index, j * conv.y_strides[3])
                    store_vector(b, value, b.at(y, offset, size), conv.dtype, self.lanes, mask)

    def emit_backward_weight(self) -> Kernel:
        conv, b, size = self.conv, self.b, self.size
        name, chunks = f"{self.symbol}.depthwise", self.grid.ntasks
        partial = conv.taps * self.pitch
        front = -(-chunks * partial * size // 64) * 64
        with b.function(name, _PARAMS):
            dy = b.argument("%args", ARG_OTHER)
            sums = b.at(b.argument("%args", ARG_WORKSPACE), b.mul("%task", partial), size)
            low, high = self._ranges()
            with b.loop(low, high) as unit:
                image, row, pixels = self._unit(unit.index, name, front)
                offset = b.add(b.mul(image, conv.y_strides[0]), b.mul(row, conv.y_strides[2]))
                grads = b.at(dy, offset, size)
                more = b.op(f"icmp ne i64 {unit.index}, {low}")
                for first, stop, mask in self._channels():
                    with b.loop(first, stop, self.lanes) as c:
                        for ky in range(conv.window[0]):
                            self._weight_row(pixels, grads, sums, c.index, ky, more, mask)
        self._define_halo(name)
        total = front + chunks * self.source.bytes_for(1)
        return chain(Kernel(b.module(), name, chunks, total), self._emit_sum(chunks))

    def _weight_row(
        self, x: str, dy: str, sums: str, c: str, ky: int, more: str, mask: str | None
    ) -> None:
        """Add a unit's products to the sums of one row of the window."""
        b, conv, size = self.b, self.conv, self.size
        target = b.at(sums, b.add(c, ky * conv.window[1] * self.pitch), size)
        begin = []
        for kx in range(conv.window[1]):
            old = load_vector(b, b.at(target, kx * self.pitch, size), conv.dtype, self.lanes)
            fresh = f"select i1 {more}, {self.vector} {old}, {self.vector} zeroinitializer"
            begin.append((self.vector, b.op(fresh)))
        with b.loop(0, self.rows, carried=begin) as r:
            line = b.at(x, b.add(c, b.mul(r.index, conv.stride[0] * self.source.row)), size)
            above = b.at(dy, b.add(c, b.mul(r.index, conv.y_strides[2])), size)
            totals = r.carried
            for start, stop, count in self._blocks():
                carried = [(self.vector, total) for total in totals]
                with b.loop(start, stop, count, carried) as p:
                    place = b.at(line, b.mul(p.index, conv.stride[1] * self.source.col), size)
                    where = b.at(above, b.mul(p.index, conv.y_strides[3]), size)
                    columns, totals = self._columns(place, ky, count, mask), list(p.carried)
                    for j in range(count):
                        at = b.at(where, j * conv.y_strides[3], size)
                        grad = load_vector(b, at, conv.dtype, self.lanes, mask)
                        for kx in range(conv.window[1]):
                            totals[kx] = self._fma(columns[j, kx], grad, totals[kx])
                    p.next = totals
                totals = p.final
            r.next = totals
        for kx, total in enumerate(r.final):
            place = b.at(target, kx * self.pitch, size)
            store_vector(b, total, place, conv.dtype, self.lanes)

    def _emit_sum(self, chunks: int) -> Kernel:
        """dw = the sum of all chunks, in order."""
        b, conv, size, name = Text(), self.conv, self.size, f"{self.symbol}.sum"
        _, _, ky, kx = conv.w_strides
        grid = Lanes(b, self.lanes)
        with b.function(name, _PARAMS):
            dw, sums = b.argument("%args", ARG_OUT), b.argument("%args", ARG_WORKSPACE)
            apart = grid.op("mul", grid.iota(), conv.w_strides[0])
            for first, stop, mask in self._channels():
                with b.loop(first, stop, self.lanes) as c:
                    for tap in range(conv.taps):
                        place = b.at(sums, b.add(c.index, tap * self.pitch), size)
                        start = (self.vector, load_vector(b, place, conv.dtype, self.lanes))
                        with b.loop(1, chunks, carried=[start]) as chunk:
                            at = b.at(place, b.mul(chunk.index, conv.taps * self.pitch), size)
                            part = load_vector(b, at, conv.dtype, self.lanes)
                            total = f"fadd {self.vector} {chunk.carried[0]}, {part}"
                            chunk.next = [b.op(total)]
                        y, x = divmod(tap, conv.window[1])
                        offset = b.add(b.mul(c.index, conv.w_strides[0]), y * ky + x * kx)
                        scatter(
                            b, chunk.final[0], b.at(dw, offset, size), apart, self.element,
                            self.lanes, mask or lane_mask(self.lanes, self.lanes),
                        )  # fmt: skip
        return Kernel(b.module(), name)

    def _ranges(self) -> tuple[str, str]:
        return self.grid.ranges(self.b, prod(self.units), 1, 1).batch

    def _unit(self, index: str, name: str, front: int) -> tuple[str, str, str]:
        """Image and first row of a unit, and where its pixels of x begin."""
        b, conv = self.b, self.conv
        image = b.op(f"udiv i64 {index}, {self.units[1]}")
        row = b.mul(b.op(f"urem i64 {index}, {self.units[1]}"), self.rows)
        scratch = b.argument("%args", ARG_WORKSPACE)
        scratch = b.at(scratch, b.add(b.mul("%place", self.source.bytes_for(1)), front))
        x = b.argument("%args", ARG_IMAGE)
        above = b.mul(row, conv.stride[0])
        return image, row, self.source.emit(b, f"{name}.halo", x, scratch, conv, image, "1", above)

    def _define_halo(self, name: str) -> None:
        if self.source.halo:
            self.source.halo.emit(self.b, f"{name}.halo", self.isa)

    def _blocks(self) -> list[tuple[int, int, int]]:
        """A row's pixels as (start, stop, at a time)."""
        width = self.conv.out[1]
        whole = width // self.pixels * self.pixels
        return [r for r in ((0, whole, self.pixels), (whole, width, 1)) if r[0] < r[1]]

    def _channels(self) -> list[tuple[int, int, str | None]]:
        """The channels as (start, stop, mask)."""
        count = self.conv.c_out
        whole = count // self.lanes * self.lanes
        tail = lane_mask(self.lanes, count - whole)
        return [r for r in ((0, whole, None), (whole, count, tail)) if r[0] < r[1]]

    def _columns(self, x: str, ky: int, count: int, mask: str | None) -> dict[tuple[int, int], str]:
        """x under (pixel, kx) for a row of the window; what several see is loaded once."""
        b, conv, source = self.b, self.conv, self.source
        loaded: dict[int, str] = {}
        found = {}
        for j in range(count):
            for kx in range(conv.window[1]):
                step = j * conv.stride[1] + kx * conv.dilation[1]
                if step not in loaded:
                    offset = ky * conv.dilation[0] * source.row + step * source.col
                    place = b.at(x, offset, self.size)
                    loaded[step] = load_vector(b, place, conv.dtype, self.lanes, mask)
                found[j, kx] = loaded[step]
        return found

    def _fma(self, x: str, y: str, z: str) -> str:
        return fma(self.b, x, y, z, self.element, self.lanes, self.isa.has_fma)
