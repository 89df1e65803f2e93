"""Phases that lay the weights of a convolution out in the workspace."""

from __future__ import annotations

from math import prod

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_shape import ARG_OTHER, Conv, Weights
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.microkernel import ARG_WORKSPACE
from kiln.backends.cpu.packing import transpose
from kiln.backends.cpu.patches import Lanes, gather
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, Text, load_vector, ramp_mask, store_vector


def emit_copy(weights: Weights, dtype: str, symbol: str, offset: int = 0) -> Kernel | None:
    """The phase that copies the weights to ``offset`` bytes of the workspace, where they must be."""
    if not weights.source:
        return None
    b, size, element = Text(), ITEMSIZE[dtype], COMPUTE[dtype]
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):

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
    b, size = Text(), ITEMSIZE[conv.dtype]
    lanes = isa.lanes(size)
    weights, depth = Weights.of(conv), conv.ci * conv.taps
    turned = weights.strides[1] == 1 and not weights.source and depth >= lanes
    panels = -(-conv.co // panel)
    units = conv.groups * panels * (panel // lanes)
    steps = -(-depth // lanes) if turned else conv.ci
    ntasks = max(1, min(8, steps, units * lanes * depth >> 14))
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
        w = b.at(b.argument("%args", ARG_OTHER), conv.w_offset, size)
        packed = b.argument("%args", ARG_WORKSPACE)
        share = tasks.Grid(1, ntasks, 1).ranges(b, 1, steps, 1)
        with b.loop(0, conv.groups) as group, b.loop(0, panels * panel, lanes) as first:
            number = b.op(f"udiv i64 {first.index}, {panel}")
            number = b.add(b.mul(group.index, panels), number)
            target = b.mul(number, depth * panel)
            target = b.add(target, b.op(f"urem i64 {first.index}, {panel}"))
            target = b.at(packed, target, size)
            source = b.at(w, b.mul(group.index, conv.group_stride), size)
            move = _turn if turned else _gather
            move(b, conv, lanes, source, first.index, target, panel, share.rows)
    return Kernel(b.module(), symbol, ntasks)


def _turn(
    b: Text, conv: Conv, lanes: int, w: str, first: str, target: str, panel: int,
    steps: tuple[str, str],
) -> None:  # fmt: skip
    """Move a vector of output channels whose (ci, ky, kx) are runs of memory, in squares."""
    size, depth = ITEMSIZE[conv.dtype], conv.ci * conv.taps
    rows = []
    for j in range(lanes):
        channel = b.least(b.add(first, j), conv.co - 1)
        rows.append(b.at(w, b.mul(channel, conv.w_strides[0]), size))
    with b.loop(*steps) as step:
        k = b.least(b.mul(step.index, lanes), depth - lanes)
        square = [load_vector(b, b.at(row, k, size), conv.dtype, lanes) for row in rows]
        for i, value in enumerate(transpose(b, square, COMPUTE[conv.dtype])):
            at = b.add(k, i)
            if conv.taps > 1:
                tap = b.op(f"urem i64 {at}, {conv.taps}")
                at = b.add(b.mul(tap, conv.ci), b.op(f"udiv i64 {at}, {conv.taps}"))
            store_vector(b, value, b.at(target, b.mul(at, panel), size), conv.dtype, lanes)


def _gather(
    b: Text, conv: Conv, lanes: int, w: str, first: str, target: str, panel: int,
    steps: tuple[str, str],
) -> None:  # fmt: skip
    """Move a vector of output channels wherever they lie."""
    size, element = ITEMSIZE[conv.dtype], COMPUTE[conv.dtype]
    co, ci, ky, kx = conv.w_strides
    grid = Lanes(b, lanes)
    apart = grid.op("mul", grid.iota(), co)
    mask = ramp_mask(b, lanes, b.op(f"sub i64 {conv.co}, {first}"))
    source = b.at(w, b.mul(first, co), size)
    with b.loop(*steps) as k:
        above = b.at(source, b.mul(k.index, ci), size)
        below = b.at(target, b.mul(k.index, panel), size)
        with b.loop(0, conv.window[0]) as y, b.loop(0, conv.window[1]) as x:
            place = b.at(above, b.add(b.mul(y.index, ky), b.mul(x.index, kx)), size)
            if co == 1:
                value = load_vector(b, place, conv.dtype, lanes, mask)
            else:
                value = gather(b, place, apart, element, lanes, mask)
            tap = b.add(b.mul(y.index, conv.window[1]), x.index)
            where = b.at(below, b.mul(tap, conv.ci * panel), size)
            store_vector(b, value, where, conv.dtype, lanes)
