"""Pooling: channels in the last dimension unless `data_format="channels_first"`.

https://keras.io/api/layers/pooling_layers/
"""

from __future__ import annotations

from math import inf
from typing import Any

from ...nn import functional as F
from ...ops.creation import ones_like
from ...tensor import Tensor
from .convolution import Spatial, padded, several, sides

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
FIT = {
    "max": {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d},
    "mean": {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d},
}


class _Pool(Spatial):
    """The largest or the mean of each window."""

    kind = "max"

    def __init__(
        self, pool_size: Any = 2, strides: Any = None, padding: str = "valid", data_format: str | None = None, **common: Any
    ) -> None:  # fmt: skip
        super().__init__(data_format, **common)
        self.pool_size = several(pool_size, self.rank)
        self.strides = self.pool_size if strides is None else several(strides, self.rank)
        self.padding = padding.lower()

    def call(self, inputs: Tensor) -> Tensor:
        x, n = self.first(inputs), self.rank
        pads = [(0, 0)] * n
        if self.padding == "same":
            pads = [sides(s, k, t) for s, k, t in zip(x.shape[2:], self.pool_size, self.strides, strict=True)]  # fmt: skip
        if self.kind == "max":
            return self.last(MAX[n](padded(x, pads, -inf), self.pool_size, self.strides))
        out = MEAN[n](padded(x, pads), self.pool_size, self.strides)
        if any(map(any, pads)):  # what was padded does not count
            out = out / MEAN[n](padded(ones_like(x[:1, :1]), pads), self.pool_size, self.strides)
        return self.last(out)


class _Global(Spatial):
    """The largest or the mean of all places."""

    kind = "max"

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **common: Any) -> None:  # fmt: skip
        super().__init__(data_format, **common)
        self.keepdims = keepdims

    def call(self, inputs: Tensor) -> Tensor:
        at = 1 if self.data_format == "channels_last" else 2
        dims = tuple(range(at, at + self.rank))
        return inputs.amax(dims, keepdim=self.keepdims) if self.kind == "max" else inputs.mean(dims, keepdim=self.keepdims)  # fmt: skip


class _Adaptive(Spatial):
    """So many places, whatever the input has."""

    kind = "max"

    def __init__(self, output_size: Any, data_format: str | None = None, **common: Any) -> None:
        super().__init__(data_format, **common)
        self.output_size = several(output_size, self.rank)

    def call(self, inputs: Tensor) -> Tensor:
        return self.last(FIT[self.kind][self.rank](self.first(inputs), self.output_size))


def _kind(name: str, base: Any, rank: int, kind: str, says: str) -> Any:
    return type(
        name, (base,), {"rank": rank, "kind": kind, "__doc__": says, "__module__": __name__}
    )


MaxPooling1D = _kind("MaxPooling1D", _Pool, 1, "max", "The largest of each window of steps.")
MaxPooling2D = _kind("MaxPooling2D", _Pool, 2, "max", "The largest of each window.")
MaxPooling3D = _kind("MaxPooling3D", _Pool, 3, "max", "The largest of each window.")
AveragePooling1D = _kind("AveragePooling1D", _Pool, 1, "mean", "The mean of each window of steps.")
AveragePooling2D = _kind("AveragePooling2D", _Pool, 2, "mean", "The mean of each window.")
AveragePooling3D = _kind("AveragePooling3D", _Pool, 3, "mean", "The mean of each window.")
GlobalMaxPooling1D = _kind("GlobalMaxPooling1D", _Global, 1, "max", "The largest of all steps.")
GlobalMaxPooling2D = _kind("GlobalMaxPooling2D", _Global, 2, "max", "The largest of all places.")
GlobalMaxPooling3D = _kind("GlobalMaxPooling3D", _Global, 3, "max", "The largest of all places.")
GlobalAveragePooling2D = _kind("GlobalAveragePooling2D", _Global, 2, "mean", "The mean of all places.")  # fmt: skip
GlobalAveragePooling3D = _kind("GlobalAveragePooling3D", _Global, 3, "mean", "The mean of all places.")  # fmt: skip
AdaptiveMaxPooling1D = _kind("AdaptiveMaxPooling1D", _Adaptive, 1, "max", "The largest of so many parts.")  # fmt: skip
AdaptiveMaxPooling2D = _kind("AdaptiveMaxPooling2D", _Adaptive, 2, "max", "The largest of so many parts.")  # fmt: skip
AdaptiveMaxPooling3D = _kind("AdaptiveMaxPooling3D", _Adaptive, 3, "max", "The largest of so many parts.")  # fmt: skip
AdaptiveAveragePooling1D = _kind("AdaptiveAveragePooling1D", _Adaptive, 1, "mean", "The mean of so many parts.")  # fmt: skip
AdaptiveAveragePooling2D = _kind("AdaptiveAveragePooling2D", _Adaptive, 2, "mean", "The mean of so many parts.")  # fmt: skip
AdaptiveAveragePooling3D = _kind("AdaptiveAveragePooling3D", _Adaptive, 3, "mean", "The mean of so many parts.")  # fmt: skip


class GlobalAveragePooling1D(_Global):
    """The mean of all steps, of those that count where there is a mask."""

    rank, kind = 1, "mean"

    def call(self, inputs: Tensor, mask: Any = None) -> Tensor:
        if mask is None:
            return super().call(inputs)
        dim = 1 if self.data_format == "channels_last" else 2
        m = mask.to(inputs.dtype).unsqueeze(3 - dim)
        return (inputs * m).sum(dim, keepdim=self.keepdims) / m.sum(dim, keepdim=self.keepdims)


MaxPool1D, MaxPool2D, MaxPool3D = MaxPooling1D, MaxPooling2D, MaxPooling3D
AvgPool1D, AvgPool2D, AvgPool3D = AveragePooling1D, AveragePooling2D, AveragePooling3D
GlobalMaxPool1D, GlobalMaxPool2D, GlobalMaxPool3D = GlobalMaxPooling1D, GlobalMaxPooling2D, GlobalMaxPooling3D  # fmt: skip
GlobalAvgPool1D, GlobalAvgPool2D, GlobalAvgPool3D = GlobalAveragePooling1D, GlobalAveragePooling2D, GlobalAveragePooling3D  # fmt: skip

__all__ = [n for n in dir() if n[0].isupper() and "Pool" in n]  # pyright: ignore[reportUnsupportedDunderAll]
