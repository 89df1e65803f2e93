"""Convolutions and transposed convolutions over one, two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...errors import KilnError, KilnValueError, describe
from ...ops.creation import empty
from ...tensor import Tensor
from .. import functional as F
from .. import init
from ..parameter import Parameter, UninitializedParameter, is_lazy
from .lazy import LazyModuleMixin
from .module import Module
from .utils import Ints, _pair, _reverse_repeat_tuple, _single, _triple, ntuple  # noqa: F401  (programs import them from here)


def _check_channels(name: str, in_channels: int, out_channels: int, groups: int) -> None:
    if groups <= 0:
        raise KilnValueError(name, "groups must be a positive integer", f"groups={groups}")
    for what, c in (("in_channels", in_channels), ("out_channels", out_channels)):
        if c % groups:
            raise KilnValueError(
                name, f"{what} must be divisible by groups", f"{what}={c}, groups={groups}",
                "each group takes an equal share of the channels",
            )  # fmt: skip


class _ConvNd(Module):
    """What convolutions have in common; `kernel_size` and the like have a number for each dimension."""

    bias: Parameter | None
    padding: Any

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, ...], stride: tuple[int, ...],
        padding: Any, dilation: tuple[int, ...], transposed: bool, output_padding: tuple[int, ...],
        groups: int, bias: bool, padding_mode: str, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        _check_channels(name, in_channels, out_channels, groups)
        modes = ("zeros", "reflect", "replicate", "circular")
        if padding_mode not in modes:
            raise KilnValueError(
                name, f"padding_mode must be one of {set(modes)}", f"padding_mode='{padding_mode}'"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = kernel_size, stride
        self.padding, self.dilation = padding, dilation
        self.transposed, self.output_padding = transposed, output_padding
        self.groups, self.padding_mode = groups, padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise KilnValueError(
                    name, "Invalid padding string, should be one of 'same', 'valid'", repr(padding)
                )
            if padding == "same" and any(s != 1 for s in stride):
                raise KilnValueError(
                    name, "padding='same' is not supported for strided convolutions",
                    f"stride={stride}", "give the padding as numbers",
                )  # fmt: skip
        self._reversed_padding_repeated_twice = self._pad_widths()
        self.weight = Parameter(empty(self._weight_shape(), device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _weight_shape(self) -> tuple[int, ...]:
        """(out, in / groups, …), or (in, out / groups, …) where transposed."""
        first, second = self.out_channels, self.in_channels
        if self.transposed:
            first, second = second, first
        return first, second // self.groups, *self.kernel_size

    def _pad_widths(self) -> list[int]:
        """Left and right padding from the last dimension on, as F.pad takes it."""
        out: list[int] = []
        for i in reversed(range(len(self.kernel_size))):
            if isinstance(self.padding, str):
                total = (
                    self.dilation[i] * (self.kernel_size[i] - 1) if self.padding == "same" else 0
                )
                out += [total // 2, total - total // 2]
            else:
                out += [self.padding[i]] * 2
        return out

    def reset_parameters(self) -> None:
        """Fill weight and bias uniformly in +-1/sqrt(fan_in)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(self.weight.shape[1:])
            if fan_in != 0:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        n = len(self.kernel_size)
        s = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * n:
            s += f", padding={self.padding}"
        if self.dilation != (1,) * n:
            s += f", dilation={self.dilation}"
        if self.output_padding != (0,) * n:
            s += f", output_padding={self.output_padding}"
        if self.groups != 1:
            s += f", groups={self.groups}"
        if self.bias is None:
            s += ", bias=False"
        if self.padding_mode != "zeros":
            s += f", padding_mode={self.padding_mode}"
        return s


class _Conv(_ConvNd):
    """A convolution: (N, C_in, *) -> (N, C_out, *), batch dimension optional.

    `padding` is numbers, "same" or "valid"; `padding_mode` zeros, reflect, replicate or circular.
    """

    _nd = 0

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1,
        padding: Any = 0, dilation: Ints = 1, groups: int = 1, bias: bool = True,
        padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        n = self._nd
        super().__init__(
            in_channels, out_channels, ntuple(kernel_size, n), ntuple(stride, n),
            padding if isinstance(padding, str) else ntuple(padding, n), ntuple(dilation, n), False, (0,) * n,
            groups, bias, padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution with another weight and bias."""
        conv = getattr(F, f"conv{self._nd}d")
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return conv(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """A convolution over the last dimension: (N, C_in, L) -> (N, C_out, L_out)."""

    _nd = 1


class Conv2d(_Conv):
    """A convolution over the last two dimensions: (N, C_in, H, W) -> (N, C_out, H_out, W_out)."""

    _nd = 2


class Conv3d(_Conv):
    """A convolution over the last three dimensions."""

    _nd = 3


class _ConvTransposeNd(_ConvNd):
    """The gradient of a convolution as a layer; `output_padding` picks among the sizes that fit."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, ...], stride: tuple[int, ...],
        padding: tuple[int, ...], dilation: tuple[int, ...], transposed: bool, output_padding: tuple[int, ...],
        groups: int, bias: bool, padding_mode: str, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        if padding_mode != "zeros":
            raise KilnValueError(
                type(self).__name__, f'Only "zeros" padding mode is supported for {type(self).__name__}',
                f"padding_mode={padding_mode!r}",
            )  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, transposed, output_padding,
            groups, bias, padding_mode, device, dtype,
        )  # fmt: skip

    def _output_padding(
        self, input: Tensor, output_size: Sequence[int] | None, stride: Sequence[int],
        padding: Sequence[int], kernel_size: Sequence[int], num_spatial_dims: int,
        dilation: Sequence[int] | None = None,
    ) -> tuple[int, ...]:  # fmt: skip
        """The output padding that gives `output_size`; the layer's own without one."""
        if output_size is None:
            return ntuple(self.output_padding, num_spatial_dims)
        n = num_spatial_dims
        lead = input.ndim - n
        size = tuple(output_size)
        if len(size) == lead + n:
            size = size[lead:]
        if len(size) != n:
            raise KilnValueError(
                type(self).__name__, f"requested output_size must have {n} or {lead + n} elements",
                f"output_size={list(output_size)}",
            )  # fmt: skip
        low = [
            (input.shape[lead + i] - 1) * stride[i] - 2 * padding[i]
            + (1 if dilation is None else dilation[i]) * (kernel_size[i] - 1) + 1
            for i in range(n)
        ]  # fmt: skip
        high = [m + s - 1 for m, s in zip(low, stride, strict=True)]
        if any(not a <= s <= b for a, s, b in zip(low, size, high, strict=True)):
            raise KilnValueError(
                type(self).__name__,
                f"requested an output size of {list(size)}, but valid sizes range from {low} to {high}",
                f"input sizes {list(input.shape[lead:])}", "pick a size in the range",
            )  # fmt: skip
        return tuple(s - a for s, a in zip(size, low, strict=True))


class _ConvTranspose(_ConvTransposeNd):
    """What the transposed convolutions of all ranks are."""

    _nd = 0

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1,
        padding: Ints = 0, output_padding: Ints = 0, groups: int = 1, bias: bool = True,
        dilation: Ints = 1, padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        n = self._nd
        super().__init__(
            in_channels, out_channels, ntuple(kernel_size, n), ntuple(stride, n), ntuple(padding, n),
            ntuple(dilation, n), True, ntuple(output_padding, n), groups, bias, padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, self._nd, self.dilation
        )
        conv = getattr(F, f"conv_transpose{self._nd}d")
        return conv(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            extra,
            self.groups,
            self.dilation,
        )


class ConvTranspose1d(_ConvTranspose):
    """A transposed convolution over the last dimension."""

    _nd = 1


class ConvTranspose2d(_ConvTranspose):
    """A transposed convolution over the last two dimensions."""

    _nd = 2


class ConvTranspose3d(_ConvTranspose):
    """A transposed convolution over the last three dimensions."""

    _nd = 3


class _LazyConvXdMixin(LazyModuleMixin):
    """A convolution whose in_channels is the size of the first input's channel dimension."""

    def _make_lazy(
        self, out_channels: int, groups: int, bias: bool, device: Any, dtype: Any
    ) -> None:
        self.out_channels, self.groups = out_channels, groups
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """As the layer itself, once there is a shape."""
        if not self.has_uninitialized_params() and self.in_channels != 0:
            super().reset_parameters()  # type: ignore[misc]

    def initialize_parameters(self, input: Tensor, *args: Any, **kwargs: Any) -> None:
        """Take in_channels from an input."""
        if self.has_uninitialized_params():
            n: int = self._nd  # type: ignore[attr-defined]
            if input.ndim not in (n + 1, n + 2):
                raise KilnError(
                    type(self).__name__, f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to "
                    f"{type(self).__name__}, but got input of size: {input.shape}", describe(input),
                )  # fmt: skip
            self.in_channels = input.shape[-1 - n]
            _check_channels(type(self).__name__, self.in_channels, self.out_channels, self.groups)
            for p, shape in (
                (self.weight, self._weight_shape()),
                (self.bias, (self.out_channels,)),
            ):
                if p is not None and is_lazy(p):
                    p.materialize(shape)
            self.reset_parameters()


def _lazy(base: Any) -> Any:
    class LazyConv(_LazyConvXdMixin, base):  # type: ignore[misc, valid-type]
        def __init__(
            self, out_channels: int, kernel_size: Ints, stride: Ints = 1, padding: Any = 0,
            dilation: Ints = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
            device: Any = None, dtype: Any = None,
        ) -> None:  # fmt: skip
            super().__init__(0, 0, kernel_size, stride, padding, dilation, 1, False, padding_mode,
                             device, dtype)  # fmt: skip
            self._make_lazy(out_channels, groups, bias, device, dtype)

    return _named(LazyConv, base)


def _lazy_transpose(base: Any) -> Any:
    class LazyConvTranspose(_LazyConvXdMixin, base):  # type: ignore[misc, valid-type]
        def __init__(
            self, out_channels: int, kernel_size: Ints, stride: Ints = 1, padding: Ints = 0,
            output_padding: Ints = 0, groups: int = 1, bias: bool = True, dilation: Ints = 1,
            padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
        ) -> None:  # fmt: skip
            super().__init__(0, 0, kernel_size, stride, padding, output_padding, 1, False, dilation,
                             padding_mode, device, dtype)  # fmt: skip
            self._make_lazy(out_channels, groups, bias, device, dtype)

    return _named(LazyConvTranspose, base)


def _named(cls: Any, base: Any) -> Any:
    cls.cls_to_become = base
    cls.__name__ = cls.__qualname__ = "Lazy" + base.__name__
    cls.__doc__ = f"A {base.__name__} that takes in_channels from its first input."
    return cls


LazyConv1d, LazyConv2d, LazyConv3d = map(_lazy, (Conv1d, Conv2d, Conv3d))
LazyConvTranspose1d, LazyConvTranspose2d, LazyConvTranspose3d = map(
    _lazy_transpose, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
)
