"""Depthwise convolution (one input channel a group), where a matrix product would be a single row.

Forward keeps one vector of y and adds the window's pixels; backward-weight keeps one sum for each
window pixel while it walks over all images of a channel. Both read x through masks, unpacked.
"""

from __future__ import annotations

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


def emit_forward(conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None) -> Kernel:
    """As ``conv.emit_forward``, for one input channel a group."""
    b, size, planes = Text(), ITEMSIZE[conv.dtype], conv.n * conv.c_out
    grid = tasks.Grid.choose(conv.flops, planes, 1, 1)
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "ntasks")]):
        y, x, w = (b.argument("%args", slot) for slot in (ARG_OUT, ARG_IMAGE, ARG_OTHER))
        walk = _Walk(b, conv, isa)
        with b.loop(*grid.ranges(b, planes, 1, 1).batch) as plane:
            image = b.op(f"udiv i64 {plane.index}, {conv.c_out}")
            channel = b.op(f"urem i64 {plane.index}, {conv.c_out}")
            source = walk.source(x, image, b.op(f"udiv i64 {channel}, {conv.co}"))
            offset = b.add(b.mul(image, conv.y_strides[0]), b.mul(channel, conv.y_strides[1]))
            target = b.at(y, offset, size)
            factors = []
            for ky in range(conv.window[0]):
                for kx in range(conv.window[1]):
                    offset = b.mul(channel, conv.w_strides[0])
                    offset = b.add(offset, ky * conv.w_strides[2] + kx * conv.w_strides[3])
                    scalar = load_scalar(b, b.at(w, offset, size), conv.dtype)
                    factors.append(splat(b, scalar, walk.element, walk.lanes))
            with b.loop(0, conv.out[1], walk.lanes) as col:
                walk.columns(col.index)
                with b.loop(0, conv.out[0]) as row:
                    total = "zeroinitializer"
                    for part, factor in zip(walk.taps(source, row.index), factors, strict=True):
                        total = fma(b, part, factor, total, walk.element, walk.lanes, isa.has_fma)
                    if epilogue is not None:
                        pixel = b.add(b.mul(row.index, conv.out[1]), col.index)
                        total = apply_epilogue(
                            b, epilogue, total, conv.dtype, walk.lanes, channel, pixel, image,
                            walk.live,
                        )  # fmt: skip
                    place = b.at(target, walk.pixel(conv.y_strides, row.index), size)
                    store_live(
                        b, total, place, conv.dtype, walk.lanes, walk.live, conv.y_strides[3]
                    )
    return Kernel(b.module(), symbol, grid.ntasks)


def emit_backward_weight(conv: Conv, isa: Isa, symbol: str) -> Kernel:
    """As ``conv.emit_backward_weight``, for one input channel a group; a single phase."""
    b, size = Text(), ITEMSIZE[conv.dtype]
    grid = tasks.Grid.choose(conv.flops, conv.c_out, 1, 1)
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "ntasks")]):
        dw, x, dy = (b.argument("%args", slot) for slot in (ARG_OUT, ARG_IMAGE, ARG_OTHER))
        walk = _Walk(b, conv, isa)
        vector = f"<{walk.lanes} x {walk.element}>"
        with b.loop(*grid.ranges(b, conv.c_out, 1, 1).batch) as channel:
            group = b.op(f"udiv i64 {channel.index}, {conv.co}")
            start = [(vector, "zeroinitializer")] * conv.taps
            with b.loop(0, conv.out[1], walk.lanes, start) as col:
                walk.columns(col.index)
                begin = [(vector, s) for s in col.carried]
                with b.loop(0, conv.n, carried=begin) as image:
                    source = walk.source(x, image.index, group)
                    offset = b.mul(image.index, conv.y_strides[0])
                    offset = b.add(offset, b.mul(channel.index, conv.y_strides[1]))
                    above = b.at(dy, offset, size)
                    rest = [(vector, s) for s in image.carried]
                    with b.loop(0, conv.out[0], carried=rest) as row:
                        place = b.at(above, walk.pixel(conv.y_strides, row.index), size)
                        grad = walk.load(place, conv.y_strides[3], walk.live)
                        row.next = [
                            fma(b, part, grad, s, walk.element, walk.lanes, isa.has_fma)
                            for part, s in zip(
                                walk.taps(source, row.index), row.carried, strict=True
                            )
                        ]
                    image.next = row.final
                col.next = image.final
            for tap, total in enumerate(col.final):
                ky, kx = divmod(tap, conv.window[1])
                offset = b.mul(channel.index, conv.w_strides[0])
                offset = b.add(offset, ky * conv.w_strides[2] + kx * conv.w_strides[3])
                value = reduce_add(b, total, walk.element, walk.lanes)
                b.emit(f"store {walk.element} {value}, ptr {b.at(dw, offset, size)}")
    return Kernel(b.module(), symbol, grid.ntasks)


class _Walk:
    """Reads the window's pixels for one vector of neighbouring output pixels of one row."""

    def __init__(self, b: Text, conv: Conv, isa: Isa) -> None:
        self.b, self.conv = b, conv
        self.size, self.element = ITEMSIZE[conv.dtype], COMPUTE[conv.dtype]
        self.lanes = isa.lanes(self.size)
        self.grid = Lanes(b, self.lanes)

    def source(self, x: str, image: str, channel: str) -> str:
        """Where the plane begins."""
        b, strides = self.b, self.conv.x_strides
        return b.at(x, b.add(b.mul(image, strides[0]), b.mul(channel, strides[1])), self.size)

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

    def taps(self, source: str, row: str) -> list[str]:
        """The input under each window pixel, zero outside of the image."""
        b, conv, bits, parts = self.b, self.conv, f"<{self.lanes} x i1>", []
        _, _, row_stride, col_stride = conv.x_strides
        left = b.mul(b.mul(self.first, conv.stride[1]), col_stride)
        for ky in range(conv.window[0]):
            shift = ky * conv.dilation[0] - conv.padding[0][0]
            line = b.add(b.mul(row, conv.stride[0]), shift)
            inside = b.op(f"icmp ult i64 {line}, {conv.image[0]}")
            start = b.add(b.mul(line, row_stride), left)
            for kx in range(conv.window[1]):
                shift = (kx * conv.dilation[1] - conv.padding[1][0]) * col_stride
                place = b.at(source, b.add(start, shift), self.size)
                masks = [
                    b.op(f"select i1 {inside}, {bits} {mask}, {bits} zeroinitializer")
                    for mask in self.cols[kx]
                ]
                if len(masks) == 2:
                    parts.append(load_every_other(b, place, self.element, self.lanes, masks))
                else:
                    parts.append(self.load(place, conv.stride[1] * col_stride, masks[0]))
        return parts

    def load(self, place: str, step: int, mask: str) -> str:
        """A vector of elements ``step`` apart."""
        if step == 1:
            return load_vector(self.b, place, self.conv.dtype, self.lanes, mask)
        steps = self.grid.op("mul", self.grid.iota(), step)
        return gather(self.b, place, steps, self.element, self.lanes, mask)
