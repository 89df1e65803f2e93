"""Convolution kernels (2-d; 1-d has height 1): forward, backward-data and backward-weight.

Note [Convolution as products]: each direction is a matrix product whose packing reads the image.
Forward is w[co, k] @ patches[k, pixel]; backward-data is w'[k, co] @ dy[co, pixel], collected into
dx; backward-weight sums patches[k, pixel] @ dy'[pixel, co] over images, in chunks fixed by the
shape. f32 and f64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from kiln.backends.cpu import (
    conv_columns,
    conv_depthwise,
    conv_depthwise_last,
    conv_direct,
    conv_direct_weight,
    conv_pointwise,
    winograd,
)
from kiln.backends.cpu.conv_data import DataDriver
from kiln.backends.cpu.conv_shape import (
    ARG_IMAGE,
    ARG_OUT,
    Conv,
    Weights,
    flat_stride,
)
from kiln.backends.cpu.conv_weight import PointwiseWeightDriver, WeightDriver
from kiln.backends.cpu.conv_weights import emit_copy
from kiln.backends.cpu.gemm import Gemm, PanelDriver
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel, chain
from kiln.backends.cpu.microkernel import Epilogue, Site
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, Text
from kiln.backends.cpu.winograd_weight import BackwardWeight
from kiln.errors import KilnValueError


def emit_forward(conv: Conv, isa: Isa, symbol: str, epilogue: Epilogue | None = None) -> Kernel:
    """y from x and w: ``args`` is [y, x, w, workspace, epilogue operands...].

    A first phase lays ``kept`` weights out by itself, in a form that does (`Kernel.prepared_bytes`).

    The epilogue sees batch = image, row = output channel and col = pixel (y * width + x), or row =
    pixel and col = channel where ``conv.channels_last``.
    """
    _check(conv)
    if _empty(conv):
        return _emit_zeros(conv.dtype, symbol, (conv.n, conv.c_out, *conv.out), conv.y_strides)
    if conv.ci == 1 and conv.groups > 1 and not conv.channels_last:
        return conv_depthwise.emit_forward(conv, isa, symbol, epilogue)
    if conv_columns.fits(conv, isa):
        return conv_columns.emit_forward(conv, isa, symbol, epilogue)
    if winograd.fits(conv):
        return winograd.Forward(conv, isa, symbol, epilogue).emit()
    if conv_depthwise_last.fits(conv):
        return conv_depthwise_last.emit_forward(conv, isa, symbol, epilogue)
    if conv_pointwise.fits(conv):
        return conv_pointwise.Forward(conv, isa, symbol, epilogue).emit()
    if conv_direct.fits(conv):
        return conv_direct.emit(conv, isa, symbol, epilogue)
    y = _flat(conv.out, conv.y_strides, "y")
    if epilogue is not None and conv.groups > 1:
        epilogue = _PerGroup(epilogue, conv.groups, conv.co)
    weights = Weights.of(conv)
    gemm = Gemm(
        conv.co, conv.out[0] * conv.out[1], conv.ci * conv.taps,
        weights.strides, (conv.x_strides[1], 1), (conv.y_strides[1], y),
        conv.dtype, conv.dtype, conv.dtype, (conv.n, conv.groups),
        (0, weights.group), (conv.x_strides[0], conv.ci * conv.x_strides[1]),
        (conv.y_strides[0], conv.co * conv.y_strides[1]), epilogue,
    )  # fmt: skip
    slots = (ARG_OUT, weights.slot, ARG_IMAGE)
    return _arranged(PanelDriver(gemm, isa, symbol, conv.patches(), slots), weights, conv.dtype)


def emit_backward_data(conv: Conv, isa: Isa, symbol: str) -> Kernel:
    """dx from dy and w: ``args`` is [dx, dy, w, workspace]; strides as in the forward."""
    _check(conv)
    conv = replace(conv, kept=False)  # nothing is prepared for gradients
    if _empty(conv):
        return _emit_zeros(conv.dtype, symbol, (conv.n, conv.c_in, *conv.image), conv.x_strides)
    if conv_columns.fits(conv, isa):
        return conv_columns.emit_backward_data(conv, isa, symbol)
    if conv.stride == (1, 1) and winograd.fits(conv.turned()):
        return winograd.Forward(conv.turned(), isa, symbol, None).emit()
    if conv_pointwise.fits(conv):
        return conv_pointwise.Forward(conv.turned(), isa, symbol, None).emit()
    if conv.ci == conv.co == 1 and conv.groups > 1 and conv.stride == (1, 1) and not _last(conv):
        return conv_depthwise.emit_forward(conv.turned(), isa, symbol, None)
    if _last(conv) and _wide(conv, isa):
        return _residues(conv, isa, symbol)
    weights = Weights.of(conv)
    return _arranged(DataDriver(conv, isa, symbol, weights), weights, conv.dtype)


def emit_backward_weight(conv: Conv, isa: Isa, symbol: str) -> Kernel:
    """dw from x and dy: ``args`` is [dw, x, dy, workspace]; strides as in the forward.

    Two phases: partial sums over chunks of images, then their sum in a fixed order.
    """
    _check(conv)
    if _empty(conv):
        sizes = (conv.c_out, conv.ci, *conv.window)
        return _emit_zeros(conv.dtype, symbol, sizes, conv.w_strides)
    if conv_depthwise_last.fits(conv):
        return conv_depthwise_last.emit_backward_weight(conv, isa, symbol)
    if conv.ci == 1 and conv.groups > 1:
        return conv_depthwise.emit_backward_weight(conv, isa, symbol)
    if flat_stride(conv.out, conv.y_strides[2:]) is None:
        raise KilnValueError(
            "conv", "dy's rows must follow each other", f"strides {conv.y_strides}",
            "make the gradient contiguous first",
        )  # fmt: skip
    if winograd.fits(conv):
        return BackwardWeight(conv, isa, symbol).emit()
    if conv_columns.fits_weight(conv):
        return conv_columns.emit_backward_weight(conv, isa, symbol)
    if conv_pointwise.fits(conv):
        return PointwiseWeightDriver(conv, isa, symbol).emit()
    if conv_direct_weight.fits(conv):
        return conv_direct_weight.BackwardWeight(conv, isa, symbol).emit()
    return WeightDriver(conv, isa, symbol).emit()


def _last(conv: Conv) -> bool:
    """Whether x is channels-last."""
    return conv.x_strides[1] == 1


def _wide(conv: Conv, isa: Isa) -> bool:
    """Whether dx's channels fill a good part of a vector."""
    return (conv.c_in if conv.ci == 1 else conv.ci) * 2 > isa.lanes(ITEMSIZE[conv.dtype])


def _residues(conv: Conv, isa: Isa, symbol: str) -> Kernel:
    """Backward-data by direct convolutions, one for each residue of the position by the stride."""
    kernels = []
    for number, part in enumerate(conv_direct.residues(conv)):
        name = f"{symbol}.{number}"
        if part.taps and conv_depthwise_last.fits(part):
            kernels.append(conv_depthwise_last.emit_forward(part, isa, name, None))
        elif part.taps:
            kernels.append(conv_direct.emit(part, isa, name, None))
        else:
            sizes = (part.n, part.c_out, *part.out)
            kernels.append(_emit_zeros(part.dtype, name, sizes, part.y_strides, part.y_offset))
    return chain(*kernels)


@dataclass(frozen=True)
class _PerGroup:
    """Gives an epilogue the channel and image numbers of a grouped convolution."""

    inner: Epilogue
    groups: int
    channels: int

    @property
    def heavy(self) -> bool:
        return self.inner.heavy

    def emit(self, b: Text, site: Site) -> str:
        group = b.op(f"urem i64 {site.batch}, {self.groups}")
        image = b.op(f"udiv i64 {site.batch}, {self.groups}")
        row = b.add(b.mul(group, self.channels), site.row)
        return self.inner.emit(b, replace(site, row=row, batch=image))


def _arranged(driver: PanelDriver, weights: Weights, dtype: str) -> Kernel:
    """The driver's kernel, after a phase that copies the weights where they need it."""
    size = prod(count for count, _ in weights.source) * ITEMSIZE[dtype]
    driver.front = -(-size // 64) * 64
    return chain(emit_copy(weights, dtype, f"{driver.symbol}.weights"), driver.emit())


def _empty(conv: Conv) -> bool:
    """Whether nothing is multiplied: no image, pixel, channel or window."""
    return 0 in (conv.n, conv.c_in, conv.c_out, conv.taps, *conv.image, *conv.out)


def _emit_zeros(
    dtype: str, symbol: str, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int = 0
) -> Kernel:
    """The kernel that sets an output to zero (where there is anything to set)."""
    b, size, element = Text(), ITEMSIZE[dtype], COMPUTE[dtype]
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):

        def axis(level: int, target: str) -> None:
            if level == len(sizes):
                b.emit(f"store {element} 0.0, ptr {target}")
                return
            with b.loop(0, sizes[level]) as loop:
                axis(level + 1, b.at(target, b.mul(loop.index, strides[level]), size))

        axis(0, b.at(b.argument("%args", ARG_OUT), offset, size))
    return Kernel(b.module(), symbol)


def _flat(sizes: tuple[int, int], strides: tuple[int, int, int, int], what: str) -> int:
    step = flat_stride(sizes, strides[2:])
    if step is None:
        raise KilnValueError(
            "conv", f"{what}'s rows must follow each other to be written", f"strides {strides}",
            "write to a contiguous tensor and copy",
        )  # fmt: skip
    return step


def _check(conv: Conv) -> None:
    wrong = conv.groups < 1 or conv.c_in % conv.groups or conv.c_out % conv.groups
    if wrong or conv.dtype not in ("f32", "f64") or min(*conv.stride, *conv.dilation) < 1:
        raise KilnValueError(
            "conv", "not a possible convolution", conv,
            "groups divide the channels, stride and dilation are >= 1, dtype is f32 or f64",
        )  # fmt: skip
