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
from kiln.backends.cpu.text import (
    COMPUTE,
    ITEMSIZE,
    Text,
    load_vector,
    ramp_mask,
    store_live,
    store_vector,
)

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
            # positions of one residue by the stride lie under the same taps of the window
            wide = -(-conv.image[1] // conv.stride[1])
            for top in range(min(conv.stride[0], conv.image[0])):
                with b.loop(0, wide, self.lanes) as x:
                    self._collect(source, plane, top, x.index)

    def _taps(self, axis: int, at: int) -> list[tuple[int, int]]:
        """The window's positions k over image positions of residue ``at``, and how far ahead their output is."""
        conv = self.conv
        # input = output * stride + k * dilation - padding
        shifts = [
            at + conv.padding[axis][0] - k * conv.dilation[axis] for k in range(conv.window[axis])
        ]
        step = conv.stride[axis]
        return [(k, shift // step) for k, shift in enumerate(shifts) if shift % step == 0]

    def _collect(self, source: str, plane: str, top: int, x: str) -> None:
        """Write columns of dx in all rows of a residue, each pixel once: the sum of what its windows give.

        There are ``lanes`` columns of each residue, from number ``x`` of it on.
        """
        b, conv, size, element = self.b, self.conv, self.size, COMPUTE[self.conv.dtype]
        vector, bits = f"<{self.lanes} x {element}>", f"<{self.lanes} x i1>"
        (tall, wide), (step_y, step_x) = conv.image, conv.stride
        grid = Lanes(b, self.lanes)
        number = grid.add(grid.splat(x), grid.iota())
        residues = []
        for left in range(min(step_x, wide)):
            live = grid.below(number, -(-(wide - left) // step_x))
            taps = [
                (kx, ahead, grid.both(live, grid.below(grid.affine(number, 1, ahead), conv.out[1])))
                for kx, ahead in self._taps(1, left)
            ]
            residues.append((live, taps))
        with b.loop(0, -(-(tall - top) // step_y)) as y:
            totals = ["zeroinitializer"] * len(residues)
            for ky, below in self._taps(0, top):
                row = b.add(y.index, below)
                inside = b.op(f"icmp ult i64 {row}, {conv.out[0]}")
                # a row outside is not read, so where it would lie doesn't matter
                line = b.add(b.mul(row, conv.out[1]), x)
                for left, (_, taps) in enumerate(residues):
                    for kx, ahead, mask in taps:
                        mask = b.op(f"select i1 {inside}, {bits} {mask}, {bits} zeroinitializer")
                        offset = b.add(line, ahead + (ky * conv.window[1] + kx) * self.pitch)
                        place = b.at(source, offset, size)
                        part = load_vector(b, place, conv.dtype, self.lanes, mask)
                        totals[left] = b.op(f"fadd {vector} {totals[left]}, {part}")
            offset = b.mul(b.add(b.mul(y.index, step_y), top), conv.x_strides[2])
            offset = b.add(offset, b.mul(x, step_x * conv.x_strides[3]))
            where = b.at(plane, offset, size)
            if len(totals) == 2 and conv.x_strides[3] == 1:
                remaining = b.op(f"sub i64 {wide}, {b.mul(x, 2)}")
                for part, total in enumerate(interleave(b, totals, element, self.lanes)):
                    first = part * self.lanes
                    live = ramp_mask(b, self.lanes, b.add(remaining, -first))
                    store_vector(b, total, b.at(where, first, size), conv.dtype, self.lanes, live)
                return
            for left, (total, (live, _)) in enumerate(zip(totals, residues, strict=True)):
                place = b.at(where, left * conv.x_strides[3], size)
                step = step_x * conv.x_strides[3]
                store_live(b, total, place, conv.dtype, self.lanes, live, step)


def interleave(b: Text, pair: list[str], element: str, lanes: int) -> list[str]:
    """Two vectors' lanes in turn, as two vectors."""
    vector, kind = f"<{lanes} x {element}>", f"<{lanes} x i32>"
    found = []
    for first in (0, lanes // 2):
        picks = (first + i // 2 + i % 2 * lanes for i in range(lanes))
        order = "<" + ", ".join(f"i32 {i}" for i in picks) + ">"
        both = f"{vector} {pair[0]}, {vector} {pair[1]}"
        found.append(b.op(f"shufflevector {both}, {kind} {order}"))
    return found
