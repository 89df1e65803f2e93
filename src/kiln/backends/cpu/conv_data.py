"""Backward-data: columns[(ci, ky, kx), pixel] = w' @ dy for one image, then collected into dx.

Each pixel of dx is written once, as the sum of the columns' entries that reach it. Measured better
than the forward convolution with turned windows, which also multiplies what lies outside of dy.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_shape import ARG_IMAGE, ARG_OUT, Conv, Weights, flat_stride
from kiln.backends.cpu.gemm import Gemm, Operand, PanelDriver, StridedB
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.microkernel import ARG_WORKSPACE
from kiln.backends.cpu.patches import Lanes, Patches
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, expand_load, load_vector, store_live

_SCRATCH_BYTES = 256 * 1024


class DataDriver(PanelDriver):
    """Takes one image and a few input channels at a time, so that the columns stay in cache."""

    def __init__(self, conv: Conv, isa: Isa, symbol: str, weights: Weights) -> None:
        self.conv = conv
        pixels = conv.out[0] * conv.out[1]
        co, step = weights.strides
        size = ITEMSIZE[conv.dtype]
        fit = max(1, _SCRATCH_BYTES // (conv.taps * pixels * size))
        self.channels = max(c for c in range(1, conv.ci + 1) if conv.ci % c == 0 and c <= fit)
        self.pitch = -(-pixels // 16) * 16
        chunk = self.channels * conv.taps * step
        flat = flat_stride(conv.out, conv.y_strides[2:])
        operand: Operand
        if flat is not None:
            operand = StridedB(conv.dtype, (conv.y_strides[1], flat))
        else:
            operand = Patches(conv.dtype, conv.out, (1, 1), conv.out, (1, 1), (1, 1), (0, 0),
                              conv.y_strides[1:])  # fmt: skip
        gemm = Gemm(
            self.channels * conv.taps, pixels, conv.co,
            (step, co), (conv.y_strides[1], flat or 1), (self.pitch, 1),
            conv.dtype, conv.dtype, conv.dtype,
            (conv.n, conv.groups, conv.ci // self.channels),
            (0, weights.group, chunk), (conv.y_strides[0], conv.co * conv.y_strides[1], 0),
            (0, 0, 0),
        )  # fmt: skip
        super().__init__(gemm, isa, symbol, operand, (ARG_WORKSPACE, weights.slot, ARG_IMAGE))

    def _split(self) -> None:
        # Whole units only: collecting needs all columns of its channels.
        units = prod(self.gemm.batch)
        self.grid = tasks.Grid.choose(self.conv.flops, units, 1, 1)

    def _layout_workspace(self) -> None:
        super()._layout_workspace()
        self.columns_at = self.task_bytes
        self.task_bytes += -(-self.gemm.m * self.pitch * self.size // 64) * 64

    def _body(self) -> None:
        b, conv = self.b, self.conv
        pointers = [b.argument("%args", slot) for slot in self.slots]
        dx = b.argument("%args", ARG_OUT)
        self._find_workspace()
        columns = b.at(self.workspace, self.columns_at)
        share = self.grid.ranges(b, prod(self.gemm.batch), self.blocks, self.panels)
        self.first_block, self.end_block = share.rows
        _, channel, _, _ = conv.x_strides
        planes = replace(
            self.gemm,
            c_batch=(conv.x_strides[0], conv.ci * channel, self.channels * channel),
        )
        with b.loop(*share.batch) as batch:
            self.batch = batch.index
            _, self.a, self.source = tasks.batch_pointers(b, self.gemm, pointers, batch.index)
            self.c = columns
            self._columns(share.cols)
            target, _, _ = tasks.batch_pointers(b, planes, [dx, *pointers[1:]], batch.index)
            b.emit(f"call void @{self.symbol}.collect(ptr {columns}, ptr {target})")

    def _define_parts(self) -> None:
        super()._define_parts()
        b, conv, size = self.b, self.conv, self.size
        params = [("ptr noalias readonly", "columns"), ("ptr noalias", "dx")]
        with (
            b.function(f"{self.symbol}.collect", params, internal=True),
            b.loop(0, self.channels) as c,
        ):
            plane = b.at("%dx", b.mul(c.index, conv.x_strides[1]), size)
            source = b.at("%columns", b.mul(c.index, conv.taps * self.pitch), size)
            with b.loop(0, conv.image[1], self.lanes) as x:
                self._collect(source, plane, x.index)

    def _collect(self, source: str, plane: str, x: str) -> None:
        """Write ``lanes`` columns of dx, each pixel once: the sum of what its windows give."""
        b, conv, size, element = self.b, self.conv, self.size, COMPUTE[self.conv.dtype]
        (kh, kw), vector, bits = conv.window, f"<{self.lanes} x {element}>", f"<{self.lanes} x i1>"
        step_y, step_x = conv.stride
        grid = Lanes(b, self.lanes)
        column = grid.add(grid.splat(x), grid.iota())
        live = grid.below(column, conv.image[1])
        masks, starts = [], []
        for kx in range(kw):
            # input = output * stride + kx * dilation - padding, solved for output
            shift = conv.padding[1][0] - kx * conv.dilation[1]
            place = grid.affine(column, 1, shift)
            start = b.add(x, shift)
            mask = grid.both(live, grid.below(place, conv.out[1] * step_x))
            if step_x > 1:
                whole = grid.compare("eq", grid.op("urem", place, step_x), grid.constant(0))
                mask = grid.both(mask, whole)
                # expanding reads from the first lane that is on
                start = b.op(f"udiv i64 {b.add(b.most(start, 0), step_x - 1)}, {step_x}")
            masks.append(mask)
            starts.append(start)
        with b.loop(0, conv.image[0]) as y:
            total = "zeroinitializer"
            for ky in range(kh):
                row = b.add(y.index, conv.padding[0][0] - ky * conv.dilation[0])
                inside = b.op(f"icmp ult i64 {row}, {conv.out[0] * step_y}")
                if step_y > 1:
                    whole = b.op(f"icmp eq i64 {b.op(f'urem i64 {row}, {step_y}')}, 0")
                    inside = b.op(f"and i1 {inside}, {whole}")
                    row = b.op(f"udiv i64 {row}, {step_y}")
                # a row outside is not read, so where it would lie doesn't matter
                line = b.mul(row, conv.out[1])
                for kx in range(kw):
                    mask = b.op(f"select i1 {inside}, {bits} {masks[kx]}, {bits} zeroinitializer")
                    offset = b.add(b.add(line, starts[kx]), (ky * kw + kx) * self.pitch)
                    place = b.at(source, offset, size)
                    if step_x > 1:
                        part = expand_load(b, place, element, self.lanes, mask)
                    else:
                        part = load_vector(b, place, conv.dtype, self.lanes, mask)
                    total = b.op(f"fadd {vector} {total}, {part}")
            offset = b.add(b.mul(y.index, conv.x_strides[2]), b.mul(x, conv.x_strides[3]))
            where = b.at(plane, offset, size)
            store_live(b, total, where, conv.dtype, self.lanes, live, conv.x_strides[3])
