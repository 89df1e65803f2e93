"""Phases that lay the weights of a convolution out in the workspace."""

from __future__ import annotations

from math import prod

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_shape import ARG_OTHER, Conv, Weights
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.microkernel import ARG_WORKSPACE
from kiln.backends.cpu.patches import Lanes, gather
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, Text, ramp_mask, store_vector


def emit_copy(weights: Weights, dtype: str, symbol: str, offset: int = 0) -> Kernel | None:
    """The phase that copies the weights to ``offset`` bytes of the workspace, where they must be."""
    if not weights.source:
        return None
    b, size, element = Text(), ITEMSIZE[dtype], COMPUTE[dtype]
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "ntasks")]):

        def axis(level: int, src: str, dst: str) -> None:
            if level == len(weights.source):
                b.emit(f"store {element} {b.op(f'load {element}, ptr {src}')}, ptr {dst}")
                return
            count, stride = weights.source[level]
            inner = prod(n for n, _ in weights.source[level + 1 :])
            with b.loop(0, count) as loop:
                axis(
                    level + 1,
                    b.at(src, b.mul(loop.index, stride), size),
                    b.at(dst, b.mul(loop.index, inner), size),
                )

        axis(0, b.argument("%args", ARG_OTHER), b.at(b.argument("%args", ARG_WORKSPACE), offset))
    return Kernel(b.module(), symbol)


def emit_panels(conv: Conv, isa: Isa, symbol: str, panel: int) -> Kernel:
    """The phase that leaves w[group][panel][ky][kx][ci][co in panel] at the workspace's beginning."""
    b, size, element = Text(), ITEMSIZE[conv.dtype], COMPUTE[conv.dtype]
    lanes = isa.lanes(size)
    co, ci, ky, kx = conv.w_strides
    panels = -(-conv.co // panel)
    units = conv.groups * panels * (panel // lanes)
    ntasks = max(1, min(8, conv.ci, units * lanes * conv.ci * conv.taps >> 14))
    grid = Lanes(b, lanes)
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "ntasks")]):
        w = b.at(b.argument("%args", ARG_OTHER), conv.w_offset, size)
        packed = b.argument("%args", ARG_WORKSPACE)
        share = tasks.Grid(1, ntasks, 1).ranges(b, 1, conv.ci, 1)
        apart = grid.op("mul", grid.iota(), co)
        with b.loop(0, conv.groups) as group, b.loop(0, panels * panel, lanes) as first:
            mask = ramp_mask(b, lanes, b.op(f"sub i64 {conv.co}, {first.index}"))
            offset = b.add(b.mul(group.index, conv.group_stride), b.mul(first.index, co))
            source = b.at(w, offset, size)
            number = b.op(f"udiv i64 {first.index}, {panel}")
            number = b.add(b.mul(group.index, panels), number)
            target = b.mul(number, conv.taps * conv.ci * panel)
            target = b.add(target, b.op(f"urem i64 {first.index}, {panel}"))
            target = b.at(packed, target, size)
            with b.loop(*share.rows) as k:
                above = b.at(source, b.mul(k.index, ci), size)
                below = b.at(target, b.mul(k.index, panel), size)
                with b.loop(0, conv.window[0]) as y, b.loop(0, conv.window[1]) as x:
                    offset = b.add(b.mul(y.index, ky), b.mul(x.index, kx))
                    value = gather(b, b.at(above, offset, size), apart, element, lanes, mask)
                    tap = b.add(b.mul(y.index, conv.window[1]), x.index)
                    where = b.at(below, b.mul(tap, conv.ci * panel), size)
                    store_vector(b, value, where, conv.dtype, lanes)
    return Kernel(b.module(), symbol, ntasks)
