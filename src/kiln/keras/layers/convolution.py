"""Convolutions: channels in the last dimension unless `data_format="channels_first"`, kernels (…, in, out).

https://keras.io/api/layers/convolution_layers/
"""

from __future__ import annotations

import math
from typing import Any

from ...errors import KilnValueError, describe
from ...nn import functional as F
from ...tensor import Tensor
from .. import activations
from ..layer import Layer

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def several(value: Any, n: int) -> tuple[int, ...]:
    """A number for each dimension."""
    return (value,) * n if isinstance(value, int) else tuple(value)


def sides(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """What "same" pads before and after: the output is as long as the input by the stride, rounded up."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def padded(x: Tensor, pads: list[tuple[int, int]], value: float = 0.0) -> Tensor:
    """The dimensions behind the first two with so much before and after."""
    if not any(map(any, pads)):
        return x
    return F.pad(x, [p for pair in reversed(pads) for p in pair], value=value)


class Spatial(Layer):
    """A layer over `rank` dimensions, before the channels or behind them."""

    rank = 2

    def __init__(self, data_format: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.data_format = data_format or "channels_last"
        if self.data_format not in ("channels_last", "channels_first"):
            raise KilnValueError(self.name, "no such data_format", describe(data_format), "'channels_last' or 'channels_first'")  # fmt: skip

    def first(self, x: Tensor) -> Tensor:
        """With the channels behind the batch."""
        return x if self.data_format == "channels_first" else x.movedim(-1, 1)

    def last(self, x: Tensor) -> Tensor:
        """With the channels where they were."""
        return x if self.data_format == "channels_first" else x.movedim(1, -1)

    def channels(self, shape: Any) -> int:
        """How many the input has."""
        return shape[1 if self.data_format == "channels_first" else -1]


class _Conv(Spatial):
    """What convolutions share."""

    def __init__(
        self, filters: int, kernel_size: Any, strides: Any = 1, padding: str = "valid", data_format: str | None = None,
        dilation_rate: Any = 1, groups: int = 1, activation: Any = None, use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform", bias_initializer: Any = "zeros", kernel_regularizer: Any = None,
        bias_regularizer: Any = None, activity_regularizer: Any = None, kernel_constraint: Any = None,
        bias_constraint: Any = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(data_format, activity_regularizer=activity_regularizer, **common)
        self.filters, self.groups, self.use_bias, self.padding = filters, groups, use_bias, padding.lower()  # fmt: skip
        n = self.rank
        self.kernel_size, self.strides, self.dilation_rate = several(kernel_size, n), several(strides, n), several(dilation_rate, n)  # fmt: skip
        if self.padding not in ("valid", "same", *(["causal"] if n == 1 else [])):
            raise KilnValueError(
                self.name, "no such padding", describe(padding), "'valid' or 'same'"
            )
        self.activation = activations.get(activation)
        self._kernel = kernel_initializer, kernel_regularizer, kernel_constraint
        self._bias = bias_initializer, bias_regularizer, bias_constraint

    def kernel_shape(self, channels: int) -> tuple[int, ...]:
        """Of the kernel."""
        return (*self.kernel_size, channels // self.groups, self.filters)

    def build(self, input_shape: Any) -> None:
        shape = self.kernel_shape(self.channels(input_shape))
        self.kernel = self.add_weight(shape, self._kernel[0], None, True, *self._kernel[1:], name="kernel")  # fmt: skip
        self.bias = self.add_weight((self.filters,), self._bias[0], None, True, *self._bias[1:], name="bias") if self.use_bias else None  # fmt: skip

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """With channels behind the batch, padded as is asked for."""
        n = self.rank
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation_rate, strict=True)]
        if self.padding == "same":
            x = padded(x, [sides(s, k, t) for s, k, t in zip(x.shape[2:], reach, self.strides, strict=True)])  # fmt: skip
        elif self.padding == "causal":
            x = padded(x, [(reach[0] - 1, 0)])
        return CONV[n](x, weight, bias, self.strides, 0, self.dilation_rate, groups)

    def call(self, inputs: Tensor) -> Tensor:
        n = self.rank
        weight = self.kernel.permute(n + 1, n, *range(n))
        return self.activation(self.last(self.convolved(self.first(inputs), weight, self.bias, self.groups)))  # fmt: skip


class Conv1D(_Conv):
    """A convolution over (steps, channels)."""

    rank = 1


class Conv2D(_Conv):
    """A convolution over (rows, columns, channels)."""

    rank = 2


class Conv3D(_Conv):
    """A convolution over three dimensions and channels."""

    rank = 3


class _Transposed(_Conv):
    """The gradient of a convolution as a layer; kernels (…, out, in)."""

    def __init__(
        self, filters: int, kernel_size: Any, strides: Any = 1, padding: str = "valid", output_padding: Any = None,
        data_format: str | None = None, dilation_rate: Any = 1, activation: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(filters, kernel_size, strides, padding, data_format, dilation_rate, 1, activation, **options)  # fmt: skip
        self.output_padding = None if output_padding is None else several(output_padding, self.rank)

    def kernel_shape(self, channels: int) -> tuple[int, ...]:
        return (*self.kernel_size, self.filters, channels)

    def call(self, inputs: Tensor) -> Tensor:
        n = self.rank
        x = self.first(inputs)
        whole = TRANSPOSED[n](x, self.kernel.permute(n + 1, n, *range(n)), None, self.strides, 0, 0, 1, self.dilation_rate)  # fmt: skip
        cut = []
        for i, size in enumerate(x.shape[2:]):
            k, s = (self.kernel_size[i] - 1) * self.dilation_rate[i] + 1, self.strides[i]
            more = None if self.output_padding is None else self.output_padding[i]
            if self.padding == "same":
                length = size * s if more is None else (size - 1) * s + k - 2 * (k // 2) + more
            else:
                length = (size - 1) * s + (max(k, s) if more is None else k + more)
            cut.append((max((size - 1) * s + k - length, 0) // 2, length))
        short = [(0, max(b + m - have, 0)) for (b, m), have in zip(cut, whole.shape[2:], strict=True)]  # fmt: skip
        out = padded(whole, short)[(..., *(slice(b, b + m) for b, m in cut))]
        if self.bias is not None:
            out = out + self.bias.reshape(-1, *(1,) * n)
        return self.activation(self.last(out))


class Conv1DTranspose(_Transposed):
    """The transpose of Conv1D."""

    rank = 1


class Conv2DTranspose(_Transposed):
    """The transpose of Conv2D."""

    rank = 2


class Conv3DTranspose(_Transposed):
    """The transpose of Conv3D."""

    rank = 3


class _Depthwise(_Conv):
    """Each channel on its own, `depth_multiplier` times; kernels (…, in, multiplier)."""

    def __init__(
        self, kernel_size: Any, strides: Any = 1, padding: str = "valid", depth_multiplier: int = 1,
        data_format: str | None = None, dilation_rate: Any = 1, activation: Any = None, use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform", bias_initializer: Any = "zeros", depthwise_regularizer: Any = None,
        bias_regularizer: Any = None, activity_regularizer: Any = None, depthwise_constraint: Any = None,
        bias_constraint: Any = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            0, kernel_size, strides, padding, data_format, dilation_rate, 1, activation, use_bias, depthwise_initializer, bias_initializer,
            depthwise_regularizer, bias_regularizer, activity_regularizer, depthwise_constraint, bias_constraint, **common,
        )  # fmt: skip
        self.depth_multiplier = depth_multiplier

    def kernel_shape(self, channels: int) -> tuple[int, ...]:
        self.filters = channels * self.depth_multiplier
        return (*self.kernel_size, channels, self.depth_multiplier)

    def each(self, kernel: Tensor) -> Tensor:
        """The kernel with one filter for each output."""
        n = self.rank
        return kernel.permute(n, n + 1, *range(n)).reshape(-1, 1, *self.kernel_size)

    def call(self, inputs: Tensor) -> Tensor:
        x = self.first(inputs)
        return self.activation(self.last(self.convolved(x, self.each(self.kernel), self.bias, x.shape[1])))  # fmt: skip


class DepthwiseConv1D(_Depthwise):
    """Over steps, each channel on its own."""

    rank = 1


class DepthwiseConv2D(_Depthwise):
    """Over rows and columns, each channel on its own."""

    rank = 2


class _Separable(_Depthwise):
    """A depthwise convolution, then one of size 1 over the channels."""

    def __init__(
        self, filters: int, kernel_size: Any, strides: Any = 1, padding: str = "valid", data_format: str | None = None,
        dilation_rate: Any = 1, depth_multiplier: int = 1, activation: Any = None, use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform", pointwise_initializer: Any = "glorot_uniform", bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None, pointwise_regularizer: Any = None, bias_regularizer: Any = None,
        activity_regularizer: Any = None, depthwise_constraint: Any = None, pointwise_constraint: Any = None,
        bias_constraint: Any = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            kernel_size, strides, padding, depth_multiplier, data_format, dilation_rate, activation, use_bias, depthwise_initializer,
            bias_initializer, depthwise_regularizer, bias_regularizer, activity_regularizer, depthwise_constraint, bias_constraint, **common,
        )  # fmt: skip
        self.filters = filters
        self._point = pointwise_initializer, pointwise_regularizer, pointwise_constraint

    def build(self, input_shape: Any) -> None:
        channels, n = self.channels(input_shape), self.rank
        self.depthwise_kernel = self.add_weight((*self.kernel_size, channels, self.depth_multiplier), self._kernel[0], None, True, *self._kernel[1:], name="depthwise_kernel")  # fmt: skip
        self.pointwise_kernel = self.add_weight((*(1,) * n, channels * self.depth_multiplier, self.filters), self._point[0], None, True, *self._point[1:], name="pointwise_kernel")  # fmt: skip
        self.bias = self.add_weight((self.filters,), self._bias[0], None, True, *self._bias[1:], name="bias") if self.use_bias else None  # fmt: skip

    def call(self, inputs: Tensor) -> Tensor:
        x, n = self.first(inputs), self.rank
        x = self.convolved(x, self.each(self.depthwise_kernel), None, x.shape[1])
        x = CONV[n](x, self.pointwise_kernel.permute(n + 1, n, *range(n)), self.bias)
        return self.activation(self.last(x))


class SeparableConv1D(_Separable):
    """Over steps."""

    rank = 1


class SeparableConv2D(_Separable):
    """Over rows and columns."""

    rank = 2


Convolution1D, Convolution2D, Convolution3D = Conv1D, Conv2D, Conv3D
Convolution1DTranspose, Convolution2DTranspose, Convolution3DTranspose = Conv1DTranspose, Conv2DTranspose, Conv3DTranspose  # fmt: skip
SeparableConvolution1D, SeparableConvolution2D = SeparableConv1D, SeparableConv2D
KINDS = (
    Conv1D, Conv1DTranspose, Conv2D, Conv2DTranspose, Conv3D, Conv3DTranspose, DepthwiseConv1D, DepthwiseConv2D, SeparableConv1D,
    SeparableConv2D,
)  # fmt: skip
__all__ = [n for n in dir() if n[0].isupper() and "Conv" in n and n != "CONV"]  # pyright: ignore[reportUnsupportedDunderAll]
