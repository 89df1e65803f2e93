"""Pooling: the largest, the mean or a norm of windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import KilnValueError
from ...tensor import Tensor
from .. import functional as F
from .module import Module
from .utils import Ints, _pair, _single, _triple, ntuple  # noqa: F401  (programs import them from here)


class _MaxPoolNd(Module):
    """The largest element of each window."""

    _nd = 0

    def __init__(
        self, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        pool = getattr(F, f"max_pool{self._nd}d")
        return pool(
            input, self.kernel_size, self.stride, self.padding, self.dilation,
            ceil_mode=self.ceil_mode, return_indices=self.return_indices,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPoolNd):
    """The largest element of windows over the last dimension."""

    _nd = 1


class MaxPool2d(_MaxPoolNd):
    """The largest element of windows over the last two dimensions."""

    _nd = 2


class MaxPool3d(_MaxPoolNd):
    """The largest element of windows over the last three dimensions."""

    _nd = 3


class _AvgPoolNd(Module):
    """The mean of each window."""

    kernel_size: Ints
    stride: Ints
    padding: Ints

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPoolNd):
    """The mean of windows over the last dimension."""

    def __init__(
        self, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size = ntuple(kernel_size, 1)
        self.stride = self.kernel_size if stride is None else ntuple(stride, 1)
        self.padding = ntuple(padding, 1)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool1d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
        )


class _AvgPool(_AvgPoolNd):
    """The mean of each window; `divisor_override` divides by another number than its size."""

    _nd = 0

    def __init__(
        self, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, input: Tensor) -> Tensor:
        pool = getattr(F, f"avg_pool{self._nd}d")
        return pool(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
        )  # fmt: skip


class AvgPool2d(_AvgPool):
    """The mean of windows over the last two dimensions."""

    _nd = 2


class AvgPool3d(_AvgPool):
    """The mean of windows over the last three dimensions."""

    _nd = 3


class _LPPoolNd(Module):
    """The p-norm of each window."""

    _nd = 0

    def __init__(
        self,
        norm_type: float,
        kernel_size: Ints,
        stride: Ints | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.norm_type, self.kernel_size = norm_type, kernel_size
        self.stride, self.ceil_mode = stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        pool = getattr(F, f"lp_pool{self._nd}d")
        return pool(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPoolNd):
    """The p-norm of windows over the last dimension."""

    _nd = 1


class LPPool2d(_LPPoolNd):
    """The p-norm of windows over the last two dimensions."""

    _nd = 2


class LPPool3d(_LPPoolNd):
    """The p-norm of windows over the last three dimensions."""

    _nd = 3


class _AdaptiveAvgPoolNd(Module):
    """The means of as many equal windows as `output_size` says; None keeps the input's size."""

    _nd = 0

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return getattr(F, f"adaptive_avg_pool{self._nd}d")(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    """Means of equal windows over the last dimension."""

    _nd = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    """Means of equal windows over the last two dimensions."""

    _nd = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    """Means of equal windows over the last three dimensions."""

    _nd = 3


class _AdaptiveMaxPoolNd(Module):
    """The largest elements of as many equal windows as `output_size` says."""

    _nd = 0

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, input: Tensor) -> Any:
        pool = getattr(F, f"adaptive_max_pool{self._nd}d")
        return pool(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    """The largest elements of equal windows over the last dimension."""

    _nd = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    """The largest elements of equal windows over the last two dimensions."""

    _nd = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd):
    """The largest elements of equal windows over the last three dimensions."""

    _nd = 3


class _MaxUnpoolNd(Module):
    """Puts maxima back to where their windows had them, zeros elsewhere."""

    _nd = 0

    def __init__(self, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0) -> None:
        super().__init__()
        self.kernel_size = ntuple(kernel_size, self._nd)
        self.stride = self.kernel_size if stride is None else ntuple(stride, self._nd)
        self.padding = ntuple(padding, self._nd)

    def forward(
        self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None
    ) -> Tensor:
        unpool = getattr(F, f"max_unpool{self._nd}d")
        return unpool(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpoolNd):
    """Undoes MaxPool1d."""

    _nd = 1


class MaxUnpool2d(_MaxUnpoolNd):
    """Undoes MaxPool2d."""

    _nd = 2


class MaxUnpool3d(_MaxUnpoolNd):
    """Undoes MaxPool3d."""

    _nd = 3


class _FractionalMaxPool(Module):
    """The largest elements of windows that begin at irregular, random places (Graham 2014).

    `output_size`, or `output_ratio` of the input's size; `_random_samples` fix the places.
    """

    _nd = 0

    def __init__(
        self, kernel_size: Ints, output_size: Any = None, output_ratio: Any = None,
        return_indices: bool = False, _random_samples: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        self.kernel_size = ntuple(kernel_size, self._nd)
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else ntuple(output_size, self._nd)
        self.output_ratio = None if output_ratio is None else ntuple(output_ratio, self._nd)
        if output_size is None and output_ratio is None:
            raise KilnValueError(
                name, f"{name} requires specifying either an output size, or a pooling ratio", None,
                "pass output_size or output_ratio",
            )  # fmt: skip
        if output_size is not None and output_ratio is not None:
            raise KilnValueError(
                name, "only one of output_size and output_ratio may be specified",
                f"output_size={output_size}, output_ratio={output_ratio}", "pass one of them",
            )  # fmt: skip
        if self.output_ratio is not None and not all(0 < r < 1 for r in self.output_ratio):
            raise KilnValueError(
                name, f"output_ratio must be between 0 and 1 (got {output_ratio})", output_ratio
            )

    def forward(self, input: Tensor) -> Any:
        pool = getattr(F, f"fractional_max_pool{self._nd}d")
        return pool(
            input, self.kernel_size, self.output_size, self.output_ratio, self.return_indices,
            _random_samples=self._random_samples,
        )  # fmt: skip


class FractionalMaxPool2d(_FractionalMaxPool):
    """Fractional max pooling over the last two dimensions."""

    _nd = 2


class FractionalMaxPool3d(_FractionalMaxPool):
    """Fractional max pooling over the last three dimensions."""

    _nd = 3
