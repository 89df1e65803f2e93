"""Convolutions of small images, where weights are the bulk: products over all images' pixels at once.

Note [Joined pixels]: the windows of all images are laid out as one matrix [k = (ci, ky, kx)][pixel],
whose columns run over images too. Forward is w @ columns, backward-weight dy @ columns', and
backward-data collects w' @ dy. Weights, which are larger than all of this, are read once where they lie.
"""

from __future__ import annotations

from dataclasses import dataclass

from kiln.backends.cpu import tasks
from kiln.backends.cpu.conv_shape import (
    ARG_IMAGE,
    ARG_OTHER,
    ARG_OUT,
    Conv,
    Weights,
    flat_stride,
)
from kiln.backends.cpu.conv_weights import emit_copy
from kiln.backends.cpu.gemm import Gemm, PanelDriver, StridedB
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel, chain
from kiln.backends.cpu.microkernel import ARG_WORKSPACE, Epilogue, apply_epilogue
from kiln.backends.cpu.patches import Lanes, gather, scatter
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, Text, ramp_mask, store_vector

_COLUMN_BYTES = 8 << 20
_FEW_PIXELS, _FAR_BYTES = 128, 16 << 20
_JOIN_WORK = 1 << 14


def fits(conv: Conv, isa: Isa) -> bool:
    """Whether the joined form is the better one for forward and backward-data.

    Either one image's pixels leave vectors half empty or there are too few pixels in all to pay for
    packing the weights, the more so beyond caches. The columns must stay in cache, or be fewer than
    the weights.
    """
    pixels, lanes = conv.out[0] * conv.out[1], isa.lanes(ITEMSIZE[conv.dtype])
    flat = flat_stride(conv.out, conv.y_strides[2:]), flat_stride(conv.image, conv.x_strides[2:])
    if None in flat or not _possible(conv):
        return False
    far = _weight_bytes(conv) >= _FAR_BYTES
    if conv.n * pixels <= (conv.co // 2 if far else min(_FEW_PIXELS, 3 * conv.co // 2)):
        return not conv.kept
    return conv.n > 1 and pixels / (-(-pixels // lanes) * lanes) <= 0.6


def fits_weight(conv: Conv) -> bool:
    """Whether the joined form is the better one for backward-weight: dw is larger than the image."""
    weights = conv.c_out * conv.ci * conv.taps
    images = conv.n * conv.out[0] * conv.out[1] * max(conv.ci, conv.co)
    w = Weights.of(conv)
    in_place = w.strides[1] == 1 and not w.source
    return in_place and weights >= 2 * images and _possible(conv)


def _possible(conv: Conv) -> bool:
    columns = conv.n * conv.out[0] * conv.out[1] * conv.ci * conv.taps * ITEMSIZE[conv.dtype]
    most = max(_COLUMN_BYTES, _weight_bytes(conv) // 2)
    return conv.groups == 1 and conv.taps <= 25 and columns <= most


def _weight_bytes(conv: Conv) -> int:
    return conv.c_out * conv.ci * conv.taps * ITEMSIZE[conv.dtype]


def emit_forward(conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None) -> Kernel:
    """As ``conv.emit_forward``."""
    plan = _Plan(conv, isa, symbol, conv.ci * conv.taps, conv.c_out)
    weights, k = Weights.of(conv), conv.ci * conv.taps
    plan.reserve(conv.c_out * k if weights.source else 0)
    gemm = Gemm(
        conv.c_out, plan.pitch, k, weights.strides, (plan.pitch, 1), (plan.pitch, 1),
        conv.dtype, conv.dtype, conv.dtype,
    )  # fmt: skip
    operand = StridedB(conv.dtype, gemm.b_strides)
    product = PanelDriver(
        gemm, isa, f"{symbol}.product", operand, (ARG_WORKSPACE, weights.slot, ARG_WORKSPACE)
    )
    product.shifts, product.front = (plan.results, plan.copied, plan.columns), plan.front
    return chain(
        emit_copy(weights, conv.dtype, f"{symbol}.weights", plan.copied),
        plan.join(conv, "columns", ARG_IMAGE, conv.x_strides, plan.columns),
        product.emit(),
        plan.place(epilogue),
    )


def emit_backward_data(conv: Conv, isa: Isa, symbol: str) -> Kernel:
    """As ``conv.emit_backward_data``."""
    plan = _Plan(conv, isa, symbol, conv.c_out, conv.ci * conv.taps)
    weights, k = Weights.of(conv), conv.ci * conv.taps
    plan.reserve(conv.c_out * k if weights.source else 0)
    co, step = weights.strides
    gemm = Gemm(
        k, plan.pitch, conv.c_out, (step, co), (plan.pitch, 1), (plan.pitch, 1),
        conv.dtype, conv.dtype, conv.dtype,
    )  # fmt: skip
    operand = StridedB(conv.dtype, gemm.b_strides)
    product = PanelDriver(
        gemm, isa, f"{symbol}.product", operand, (ARG_WORKSPACE, weights.slot, ARG_WORKSPACE)
    )
    product.shifts, product.front = (plan.results, plan.copied, plan.columns), plan.front
    return chain(
        emit_copy(weights, conv.dtype, f"{symbol}.weights", plan.copied),
        plan.join(conv.pixels(), "gradients", ARG_IMAGE, conv.y_strides, plan.columns),
        product.emit(),
        plan.collect(),
    )


def emit_backward_weight(conv: Conv, isa: Isa, symbol: str) -> Kernel:
    """As ``conv.emit_backward_weight``; dw's (ci, ky, kx) must be one run."""
    plan = _Plan(conv, isa, symbol, conv.ci * conv.taps, conv.c_out)
    plan.reserve(0)
    gemm = Gemm(
        conv.c_out, conv.ci * conv.taps, plan.pixels, (plan.pitch, 1), (1, plan.pitch),
        (conv.w_strides[0], 1), conv.dtype, conv.dtype, conv.dtype,
    )  # fmt: skip
    operand = StridedB(conv.dtype, gemm.b_strides)
    product = PanelDriver(
        gemm, isa, f"{symbol}.product", operand, (ARG_OUT, ARG_WORKSPACE, ARG_WORKSPACE)
    )
    product.shifts, product.front = (0, plan.results, plan.columns), plan.front
    return chain(
        plan.join(conv, "columns", ARG_IMAGE, conv.x_strides, plan.columns),
        plan.join(conv.pixels(), "gradients", ARG_OTHER, conv.y_strides, plan.results),
        product.emit(),
    )


@dataclass
class _Plan:
    """What lies in the workspace, as matrices of ``pitch`` columns, and the phases round the product."""

    conv: Conv
    isa: Isa
    symbol: str
    column_rows: int
    result_rows: int

    def __post_init__(self) -> None:
        self.size = ITEMSIZE[self.conv.dtype]
        self.element = COMPUTE[self.conv.dtype]
        self.lanes = self.isa.lanes(self.size)
        self.area = self.conv.out[0] * self.conv.out[1]
        self.pixels = self.conv.n * self.area
        self.pitch = -(-self.pixels // self.lanes) * self.lanes

    def reserve(self, weights: int) -> None:
        """Lay out the workspace: so many copied weights, columns, results."""
        sizes = [
            n * self.size
            for n in (weights, self.column_rows * self.pitch, self.result_rows * self.pitch)
        ]
        ends = [0]
        for size in sizes:
            ends.append(ends[-1] + -(-size // 64) * 64)
        self.copied, self.columns, self.results, self.front = ends

    def join(
        self, conv: Conv, what: str, slot: int, strides: tuple[int, ...], target: int
    ) -> Kernel:
        """The phase that lays windows out as a matrix at ``target`` bytes of the workspace."""
        b, name = Text(), f"{self.symbol}.{what}"
        image, channel, row, col = strides
        ntasks = self._tasks(conv.ci * conv.taps, conv.ci)
        with b.function(name, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            source = b.argument("%args", slot)
            matrix = b.at(b.argument("%args", ARG_WORKSPACE), target)
            share = tasks.Grid(1, ntasks, 1).ranges(b, 1, conv.ci, 1)
            with b.loop(0, self.pitch, self.lanes) as first:
                grid = Lanes(b, self.lanes)
                number, y, x = self._split(b, grid, first.index)
                top = grid.affine(y, conv.stride[0], -conv.padding[0][0])
                left = grid.affine(x, conv.stride[1], -conv.padding[1][0])
                index = grid.add(grid.op("mul", top, row), grid.op("mul", left, col))
                index = grid.add(index, grid.op("mul", number, image))
                inside = grid.below(number, conv.n)
                (kh, kw), (dh, dw) = conv.window, conv.dilation
                rows = [
                    grid.both(inside, grid.below(grid.affine(top, 1, ky * dh), conv.image[0]))
                    for ky in range(kh)
                ]
                cols = [
                    grid.below(grid.affine(left, 1, kx * dw), conv.image[1]) for kx in range(kw)
                ]
                masks = [(ky * dh * row + kx * dw * col, grid.both(rows[ky], cols[kx]))
                         for ky in range(kh) for kx in range(kw)]  # fmt: skip
                with b.loop(*share.rows) as c:
                    plane = b.at(source, b.mul(c.index, channel), self.size)
                    offset = b.add(b.mul(c.index, conv.taps * self.pitch), first.index)
                    place = b.at(matrix, offset, self.size)
                    for tap, (step, mask) in enumerate(masks):
                        at = b.at(plane, step, self.size)
                        value = gather(b, at, index, self.element, self.lanes, mask)
                        where = b.at(place, tap * self.pitch, self.size)
                        store_vector(b, value, where, conv.dtype, self.lanes)
        return Kernel(b.module(), name, ntasks, self.front)

    def place(self, epilogue: Epilogue | None) -> Kernel:
        """The phase that writes y from the results [channel][pixel], through the epilogue."""
        b, conv, name = Text(), self.conv, f"{self.symbol}.place"
        units = conv.n * (self.area if conv.channels_last else conv.c_out)
        inner, step, along = self.area, 1, flat_stride(conv.out, conv.y_strides[2:]) or 1
        if conv.channels_last:
            inner, step, along = conv.c_out, self.pitch, 1
        ntasks = self._tasks(conv.c_out, units)
        with b.function(name, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            y = b.argument("%args", ARG_OUT)
            results = b.at(b.argument("%args", ARG_WORKSPACE), self.results)
            share = tasks.Grid(1, ntasks, 1).ranges(b, 1, units, 1)
            grid = Lanes(b, self.lanes)
            index = grid.op("mul", grid.iota(), step)
            with b.loop(*share.rows) as unit:
                per = units // conv.n
                image, row = (
                    b.op(f"udiv i64 {unit.index}, {per}"),
                    b.op(f"urem i64 {unit.index}, {per}"),
                )
                target = b.mul(image, conv.y_strides[0])
                if conv.channels_last:
                    target = b.add(target, _place(b, row, conv.out, conv.y_strides))
                    source = unit.index
                else:
                    target = b.add(target, b.mul(row, conv.y_strides[1]))
                    source = b.add(b.mul(row, self.pitch), b.mul(image, self.area))
                with b.loop(0, inner, self.lanes) as col:
                    mask = ramp_mask(b, self.lanes, b.op(f"sub i64 {inner}, {col.index}"))
                    at = b.at(results, b.add(source, b.mul(col.index, step)), self.size)
                    value = gather(b, at, index, self.element, self.lanes, mask)
                    if epilogue is not None:
                        value = apply_epilogue(
                            b, epilogue, value, conv.dtype, self.lanes, row, col.index, image, mask
                        )
                    where = b.at(y, b.add(target, b.mul(col.index, along)), self.size)
                    self._store(b, grid, value, where, mask, along)
        return Kernel(b.module(), name, ntasks, self.front)

    def collect(self) -> Kernel:
        """The phase that sums the results [(ci, ky, kx)][pixel] into dx."""
        b, conv, name = Text(), self.conv, f"{self.symbol}.collect"
        last = conv.x_strides[1] == 1
        area, along = conv.image[0] * conv.image[1], 1
        if not last:
            along = flat_stride(conv.image, conv.x_strides[2:]) or 1
        ntasks = self._tasks(conv.ci * conv.taps, conv.ci)
        params = [("ptr", "args"), ("i64", "task"), ("i64", "place")]
        with b.function(name, params):
            dx = b.argument("%args", ARG_OUT)
            results = b.at(b.argument("%args", ARG_WORKSPACE), self.results)
            share = tasks.Grid(1, ntasks, 1).ranges(b, 1, conv.ci, 1)
            grid = Lanes(b, self.lanes)
            with b.loop(0, conv.n) as image, b.loop(0, area, 1 if last else self.lanes) as first:
                pixel = grid.splat(first.index)
                if not last:
                    pixel = grid.add(pixel, grid.iota())
                y, x = grid.op("udiv", pixel, conv.image[1]), grid.op("urem", pixel, conv.image[1])
                live = grid.below(pixel, area)
                start = grid.op("mul", grid.splat(image.index), self.area)
                taps = self._reaching(grid, y, x, start, live)
                if last:
                    apart = grid.op("mul", grid.iota(), conv.taps * self.pitch)
                    taps = [(grid.add(index, apart), mask) for index, mask in taps]
                target = b.mul(image.index, conv.x_strides[0])
                target = b.add(target, _place(b, first.index, conv.image, conv.x_strides))
                with b.loop(*share.rows, self.lanes if last else 1) as c:
                    base = b.at(results, b.mul(c.index, conv.taps * self.pitch), self.size)
                    where = b.at(dx, b.add(target, b.mul(c.index, conv.x_strides[1])), self.size)
                    keep = live
                    if last:
                        keep = ramp_mask(b, self.lanes, b.op(f"sub i64 {share.rows[1]}, {c.index}"))
                    total = "zeroinitializer"
                    for tap, (index, mask) in enumerate(taps):
                        at = b.at(base, tap * self.pitch, self.size)
                        part = gather(b, at, index, self.element, self.lanes, grid.both(mask, keep))
                        total = b.op(f"fadd <{self.lanes} x {self.element}> {total}, {part}")
                    self._store(b, grid, total, where, keep, along)
        return Kernel(b.module(), name, ntasks, self.front)

    def _reaching(
        self, grid: Lanes, y: str, x: str, start: str, live: str
    ) -> list[tuple[str, str]]:
        """For each tap the output pixel that reaches an input pixel through it, and where there is one."""
        conv, found = self.conv, []
        for tap in range(conv.taps):
            mask, places = live, []
            for axis, (place, k) in enumerate(
                zip((y, x), divmod(tap, conv.window[1]), strict=True)
            ):
                # input = output * stride + k * dilation - padding, solved for output
                step = conv.stride[axis]
                up = grid.affine(place, 1, conv.padding[axis][0] - k * conv.dilation[axis])
                mask = grid.both(mask, grid.below(up, conv.out[axis] * step))
                if step > 1:
                    whole = grid.compare("eq", grid.op("urem", up, step), grid.constant(0))
                    mask, up = grid.both(mask, whole), grid.op("udiv", up, step)
                places.append(up)
            index = grid.add(grid.op("mul", places[0], conv.out[1]), places[1])
            found.append((grid.add(index, start), mask))
        return found

    def _split(self, b: Text, grid: Lanes, first: str) -> tuple[str, str, str]:
        """Image, row and column of the joined pixels from ``first`` on."""
        pixel = grid.add(grid.splat(first), grid.iota())
        number, rest = grid.op("udiv", pixel, self.area), grid.op("urem", pixel, self.area)
        width = self.conv.out[1]
        return number, grid.op("udiv", rest, width), grid.op("urem", rest, width)

    def _store(self, b: Text, grid: Lanes, value: str, where: str, mask: str, step: int) -> None:
        if step == 1:
            store_vector(b, value, where, self.conv.dtype, self.lanes, mask)
        else:
            index = grid.op("mul", grid.iota(), step)
            scatter(b, value, where, index, self.element, self.lanes, mask)

    def _tasks(self, rows: int, units: int) -> int:
        return max(1, min(8, units, rows * self.pitch // _JOIN_WORK))


def _place(b: Text, pixel: str, sizes: tuple[int, int], strides: tuple[int, ...]) -> str:
    """Where a pixel lies in a plane."""
    y, x = b.op(f"udiv i64 {pixel}, {sizes[1]}"), b.op(f"urem i64 {pixel}, {sizes[1]}")
    return b.add(b.mul(y, strides[2]), b.mul(x, strides[3]))
