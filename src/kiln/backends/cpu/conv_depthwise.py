"""Depthwise convolution (one input channel a group), where a matrix product would be a single row.

Forward keeps a vector of some rows of y and adds the window's pixels; backward-weight keeps one sum for
each window pixel while it walks over all images of a channel. Both read x through masks, unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_shape import ARG_IMAGE, ARG_OTHER, ARG_OUT, Conv
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.microkernel import Epilogue, apply_epilogue
from kiln.backends.cpu.patches import Lanes, every_other_masks, gather, load_every_other
from kiln.backends.cpu.text import (
    COMPUTE,
    ITEMSIZE,
    Text,
    fma,
    load_scalar,
    load_vector,
    reduce_add,
    splat,
    store_live,
)

_ROWS = 4


def emit_forward(conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None) -> Kernel:
    """As ``conv.emit_forward``, for one input channel a group."""
    b, size, planes = Text(), ITEMSIZE[conv.dtype], conv.n * conv.c_out
    grid = tasks.Grid.choose(conv.flops, planes, 1, 1)
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
        y, x, w = (b.argument("%args", slot) for slot in (ARG_OUT, ARG_IMAGE, ARG_OTHER))
        y, w = b.at(y, conv.y_offset, size), b.at(w, conv.w_offset, size)
        walk = _Walk(b, conv, isa)
        with b.loop(*grid.ranges(b, planes, 1, 1).batch) as plane:
            image = b.op(f"udiv i64 {plane.index}, {conv.c_out}")
            channel = b.op(f"urem i64 {plane.index}, {conv.c_out}")
            source = walk.source(x, image, b.op(f"udiv i64 {channel}, {conv.co}"))
            offset = b.add(b.mul(image, conv.y_strides[0]), b.mul(channel, conv.y_strides[1]))
            target = b.at(y, offset, size)
            factors = []
            for tap in range(conv.taps):
                scalar = load_scalar(b, b.at(w, _weight(b, conv, channel, tap), size), conv.dtype)
                factors.append(splat(b, scalar, walk.element, walk.lanes))
            with b.loop(0, conv.out[1], walk.lanes) as col:
                walk.columns(col.index)
                for start, stop, count, inside in walk.blocks():
                    with b.loop(start, stop, count) as row:
                        walk.fetch(source, row.index, count, conv.x_strides[1])
                        totals = ["zeroinitializer"] * count
                        for i, tap, part in walk.taps(source, row.index, count, inside):
                            totals[i] = walk.fma(part, factors[tap], totals[i])
                        for i, total in enumerate(totals):
                            line = b.add(row.index, i)
                            if epilogue is not None:
                                pixel = b.add(b.mul(line, conv.out[1]), col.index)
                                total = apply_epilogue(
                                    b, epilogue, total, conv.dtype, walk.lanes, channel, pixel, image,
                                    walk.live,
                                )  # fmt: skip
                            place = b.at(target, walk.pixel(conv.y_strides, line), size)
                            b.prefetch(b.at(place, conv.y_strides[1], size), write=True, near=False)
                            store_live(
                                b, total, place, conv.dtype, walk.lanes, walk.live,
                                conv.y_strides[3],
                            )  # fmt: skip
    return Kernel(b.module(), symbol, grid.ntasks)


def emit_backward_weight(conv: Conv, isa: Isa, symbol: str) -> Kernel:
    """As ``conv.emit_backward_weight``, for one input channel a group; a single phase."""
    b, size = Text(), ITEMSIZE[conv.dtype]
    grid = tasks.Grid.choose(conv.flops, conv.c_out, 1, 1)
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
        dw, x, dy = (b.argument("%args", slot) for slot in (ARG_OUT, ARG_IMAGE, ARG_OTHER))
        walk = _Walk(b, conv, isa)
        vector = f"<{walk.lanes} x {walk.element}>"
        with b.loop(*grid.ranges(b, conv.c_out, 1, 1).batch) as channel:
            group = b.op(f"udiv i64 {channel.index}, {conv.co}")
            totals = ["zeroinitializer"] * conv.taps
            with b.loop(0, conv.n, carried=[(vector, t) for t in totals]) as image:
                source = walk.source(x, image.index, group)
                offset = b.mul(image.index, conv.y_strides[0])
                offset = b.add(offset, b.mul(channel.index, conv.y_strides[1]))
                above = b.at(dy, offset, size)
                start = [(vector, t) for t in image.carried]
                with b.loop(0, conv.out[1], walk.lanes, start) as col:
                    walk.columns(col.index)
                    totals = list(col.carried)
                    for first, stop, count, inside in walk.blocks():
                        with b.loop(first, stop, count, [(vector, t) for t in totals]) as row:
                            totals, grads = list(row.carried), []
                            for i in range(count):
                                line = b.add(row.index, i)
                                place = b.at(above, walk.pixel(conv.y_strides, line), size)
                                # the next image's lies far away
                                b.prefetch(b.at(place, conv.y_strides[0], size), near=False)
                                grads.append(walk.load(place, conv.y_strides[3], walk.live))
                            walk.fetch(source, row.index, count, conv.x_strides[0])
                            for i, tap, part in walk.taps(source, row.index, count, inside):
                                totals[tap] = walk.fma(part, grads[i], totals[tap])
                            row.next = totals
                        totals = row.final
                    col.next = totals
                image.next = col.final
            for tap, total in enumerate(image.final):
                value = reduce_add(b, total, walk.element, walk.lanes)
                place = b.at(dw, _weight(b, conv, channel.index, tap), size)
                b.emit(f"store {walk.element} {value}, ptr {place}")
    return Kernel(b.module(), symbol, grid.ntasks)


def _weight(b: Text, conv: Conv, channel: str, tap: int) -> str:
    """Where an output channel's weight for a tap lies."""
    (co, _, ky, kx), (y, x) = conv.w_strides, divmod(tap, conv.window[1])
    return b.add(b.mul(channel, co), y * ky + x * kx)


class _Walk:
    """Reads the window's pixels for vectors of neighbouring output pixels of some rows."""

    def __init__(self, b: Text, conv: Conv, isa: Isa) -> None:
        self.b, self.conv, self.isa = b, conv, isa
        self.size, self.element = ITEMSIZE[conv.dtype], COMPUTE[conv.dtype]
        self.lanes = isa.lanes(self.size)
        self.grid = Lanes(b, self.lanes)

    def source(self, x: str, image: str, channel: str) -> str:
        """Where the plane begins."""
        b, strides = self.b, self.conv.x_strides
        return b.at(x, b.add(b.mul(image, strides[0]), b.mul(channel, strides[1])), self.size)

    def blocks(self) -> list[tuple[int, int, int, bool]]:
        """The rows of y as (start, stop, at a time, whether all taps are inside of the image)."""
        conv = self.conv
        (top, _), step = conv.padding[0], conv.stride[0]
        reach = (conv.window[0] - 1) * conv.dilation[0]
        begin = min(max(0, -(-top // step)), conv.out[0])
        end = min(max(begin, (conv.image[0] + top - reach - 1) // step + 1), conv.out[0])
        whole = begin + (end - begin) // _ROWS * _ROWS
        parts = [(0, begin, 1, False), (begin, whole, _ROWS, True), (whole, end, 1, True),
                 (end, conv.out[0], 1, False)]  # fmt: skip
        return [part for part in parts if part[0] < part[1]]

    def columns(self, first: str) -> None:
        """Prepare the masks for output columns ``first`` and on."""
        grid, conv = self.grid, self.conv
        self.first = first
        column = grid.add(grid.splat(first), grid.iota())
        self.live = grid.below(column, conv.out[1])
        self.cols: list[list[str]] = []
        for kx in range(conv.window[1]):
            shift = kx * conv.dilation[1] - conv.padding[1][0]
            place = grid.affine(column, conv.stride[1], shift)
            mask = grid.both(self.live, grid.below(place, conv.image[1]))
            if conv.stride[1] * conv.x_strides[3] == 2:
                self.cols.append(list(every_other_masks(self.b, self.lanes, mask)))
            else:
                self.cols.append([mask])

    def pixel(self, strides: tuple[int, int, int, int], row: str) -> str:
        """Offset of the vector's first output pixel in a plane with these strides."""
        b = self.b
        return b.add(b.mul(row, strides[2]), b.mul(self.first, strides[3]))

    def _line(self, source: str, row: str, below: int) -> tuple[str, str]:
        """A row of the image, ``below`` that over ``row`` of y under the window's first, and the vector's place in it."""
        b, conv = self.b, self.conv
        line = b.add(b.mul(row, conv.stride[0]), below - conv.padding[0][0])
        left = b.mul(b.mul(self.first, conv.stride[1]), conv.x_strides[3])
        return line, b.at(source, b.add(b.mul(line, conv.x_strides[2]), left), self.size)

    def fetch(self, source: str, row: str, count: int, ahead: int) -> None:
        """Ask for the same rows of the plane that lies so many elements ahead."""
        for i in range(count):
            _, place = self._line(source, row, i * self.conv.stride[0])
            self.b.prefetch(self.b.at(place, ahead, self.size), near=False)

    def taps(
        self, source: str, row: str, count: int, inside: bool
    ) -> Iterator[tuple[int, int, str]]:
        """The input under ``count`` rows of y as (row, tap, vector), zero outside of the image.

        Rows of the image that several rows of y see are read once.
        """
        b, conv, bits = self.b, self.conv, f"<{self.lanes} x i1>"
        readers: dict[int, list[tuple[int, int]]] = {}
        for i in range(count):
            for ky in range(conv.window[0]):
                readers.setdefault(i * conv.stride[0] + ky * conv.dilation[0], []).append((i, ky))
        for below, seen in sorted(readers.items()):
            line, start = self._line(source, row, below)
            here = "" if inside else b.op(f"icmp ult i64 {line}, {conv.image[0]}")
            for kx in range(conv.window[1]):
                shift = (kx * conv.dilation[1] - conv.padding[1][0]) * conv.x_strides[3]
                place, masks = b.at(start, shift, self.size), self.cols[kx]
                if here:
                    masks = [
                        b.op(f"select i1 {here}, {bits} {mask}, {bits} zeroinitializer")
                        for mask in masks
                    ]
                if len(masks) == 2:
                    part = load_every_other(b, place, self.element, self.lanes, masks)
                else:
                    part = self.load(place, conv.stride[1] * conv.x_strides[3], masks[0])
                for i, ky in seen:
                    yield i, ky * conv.window[1] + kx, part

    def load(self, place: str, step: int, mask: str) -> str:
        """A vector of elements ``step`` apart."""
        if step == 1:
            return load_vector(self.b, place, self.conv.dtype, self.lanes, mask)
        steps = self.grid.op("mul", self.grid.iota(), step)
        return gather(self.b, place, steps, self.element, self.lanes, mask)

    def fma(self, x: str, y: str, z: str) -> str:
        """x * y + z."""
        return fma(self.b, x, y, z, self.element, self.lanes, self.isa.has_fma)
