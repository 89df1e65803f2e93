"""Shapes and sizes, and layers that join several inputs.

https://keras.io/api/layers/reshaping_layers/  https://keras.io/api/layers/merging_layers/
"""

from __future__ import annotations

from typing import Any

from ...errors import KilnValueError, describe
from ...nn import functional as F
from ...ops.joining import cat, stack
from ...tensor import Tensor
from ..layer import Layer
from .convolution import Spatial, padded, several


class Flatten(Spatial):
    """(batch, everything else)."""

    def call(self, inputs: Tensor) -> Tensor:
        x = inputs if self.data_format == "channels_last" or inputs.ndim < 3 else inputs.movedim(1, -1)  # fmt: skip
        return x.reshape(x.shape[0], x.shape[1:].numel() if x.ndim > 1 else 1)


class Reshape(Layer):
    """(batch, *target_shape), of which one may be -1."""

    def __init__(self, target_shape: Any, **common: Any) -> None:
        super().__init__(**common)
        self.target_shape = tuple(target_shape)

    def call(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(inputs.shape[0], *self.target_shape)


class Permute(Layer):
    """Dimensions in another order, counted from 1 behind the batch."""

    def __init__(self, dims: Any, **common: Any) -> None:
        super().__init__(**common)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise KilnValueError("Permute", "dims are an order of 1, 2, …", describe(dims), "e.g. (2, 1)")  # fmt: skip

    def call(self, inputs: Tensor) -> Tensor:
        return inputs.permute(0, *self.dims)


class RepeatVector(Layer):
    """(batch, features) as (batch, n, features)."""

    def __init__(self, n: int, **common: Any) -> None:
        super().__init__(**common)
        self.n = n

    def call(self, inputs: Tensor) -> Tensor:
        return inputs.unsqueeze(1).expand(inputs.shape[0], self.n, inputs.shape[1])


def _pairs(value: Any, n: int) -> list[tuple[int, int]]:
    """(before, after) of each dimension, of a number, one for each, or pairs."""
    if n == 1 and not isinstance(value, int):
        value = [tuple(value)]
    return [(v, v) if isinstance(v, int) else tuple(v) for v in several(value, n)]


class _Padding(Spatial):
    def __init__(self, padding: Any = 1, data_format: str | None = None, **common: Any) -> None:
        super().__init__(data_format, **common)
        self.padding = _pairs(padding, self.rank)

    def call(self, inputs: Tensor) -> Tensor:
        return self.last(padded(self.first(inputs), self.padding))


class ZeroPadding1D(_Padding):
    """Zeros before and after the steps."""

    rank = 1


class ZeroPadding2D(_Padding):
    """Zeros around rows and columns."""

    rank = 2


class ZeroPadding3D(_Padding):
    """Zeros around three dimensions."""

    rank = 3


class _Cropping(Spatial):
    def __init__(self, cropping: Any = 1, data_format: str | None = None, **common: Any) -> None:
        super().__init__(data_format, **common)
        self.cropping = _pairs(cropping, self.rank)

    def call(self, inputs: Tensor) -> Tensor:
        x = self.first(inputs)
        return self.last(x[(..., *(slice(a, n - b) for (a, b), n in zip(self.cropping, x.shape[2:], strict=True)))])  # fmt: skip


class Cropping1D(_Cropping):
    """Without the first and last steps."""

    rank = 1


class Cropping2D(_Cropping):
    """Without the outer rows and columns."""

    rank = 2


class Cropping3D(_Cropping):
    """Without the outside of three dimensions."""

    rank = 3


class _UpSampling(Spatial):
    def __init__(self, size: Any = 2, data_format: str | None = None, interpolation: str = "nearest", **common: Any) -> None:  # fmt: skip
        super().__init__(data_format, **common)
        self.size, self.interpolation = several(size, self.rank), interpolation

    def call(self, inputs: Tensor) -> Tensor:
        x = self.first(inputs)
        if self.interpolation != "nearest":
            sizes = [n * s for n, s in zip(x.shape[2:], self.size, strict=True)]
            return self.last(F.interpolate(x, sizes, mode=self.interpolation))
        for i, s in enumerate(self.size):
            x = x.repeat_interleave(s, 2 + i)
        return self.last(x)


class UpSampling1D(_UpSampling):
    """Each step several times."""

    rank = 1

    def __init__(self, size: int = 2, **common: Any) -> None:
        super().__init__(size, **common)


class UpSampling2D(_UpSampling):
    """Each row and column several times, or what lies between them ("bilinear")."""

    rank = 2


class UpSampling3D(_UpSampling):
    """Each place of three dimensions several times."""

    rank = 3

    def __init__(self, size: Any = 2, data_format: str | None = None, **common: Any) -> None:
        super().__init__(size, data_format, **common)


# ---- joining


class _Merge(Layer):
    """What takes a list of tensors; those of fewer dimensions get some behind the batch."""

    supports_masking = True

    def call(self, inputs: Any) -> Tensor:
        if not isinstance(inputs, list | tuple) or not inputs:
            raise KilnValueError(self.name, "expected a list of tensors", describe(inputs), "layer([a, b])")  # fmt: skip
        most = max(x.ndim for x in inputs)
        alike = [x.reshape(x.shape[0], *(1,) * (most - x.ndim), *x.shape[1:]) for x in inputs]
        return self.merged(alike)

    def merged(self, xs: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        given = previous_mask if isinstance(previous_mask, list | tuple) else [previous_mask]
        masks = [m for m in given if m is not None]
        out = masks[0] if masks else None
        for m in masks[1:]:
            out = out & m
        return out


class Add(_Merge):
    """The sum."""

    def merged(self, xs: list[Tensor]) -> Tensor:
        return sum(xs[1:], xs[0])


class Subtract(_Merge):
    """The first less the second."""

    def merged(self, xs: list[Tensor]) -> Tensor:
        if len(xs) != 2:
            raise KilnValueError(self.name, "expected two tensors", f"{len(xs)} of them", "layer([a, b])")  # fmt: skip
        return xs[0] - xs[1]


class Multiply(_Merge):
    """The product of elements."""

    def merged(self, xs: list[Tensor]) -> Tensor:
        out = xs[0]
        for x in xs[1:]:
            out = out * x
        return out


class Average(_Merge):
    """The mean."""

    def merged(self, xs: list[Tensor]) -> Tensor:
        return sum(xs[1:], xs[0]) / len(xs)


class Maximum(_Merge):
    """The largest, element by element."""

    def merged(self, xs: list[Tensor]) -> Tensor:
        return stack(_alike(xs)).amax(0)


class Minimum(_Merge):
    """The smallest, element by element."""

    def merged(self, xs: list[Tensor]) -> Tensor:
        return stack(_alike(xs)).amin(0)


def _alike(xs: list[Tensor]) -> list[Tensor]:
    total = sum(xs[1:], xs[0])
    return [x.expand_as(total) for x in xs]


class Concatenate(_Merge):
    """One behind the other along `axis`."""

    def __init__(self, axis: int = -1, **common: Any) -> None:
        super().__init__(**common)
        self.axis = axis

    def call(self, inputs: Any) -> Tensor:
        return cat(list(inputs), self.axis)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        if previous_mask is None or all(m is None for m in previous_mask):
            return None
        full = [
            (x == x).any(-1) if m is None else m for x, m in zip(inputs, previous_mask, strict=True)
        ]
        if self.axis % inputs[0].ndim < full[0].ndim:
            return cat(full, self.axis)
        out = full[0]
        for m in full[1:]:
            out = out & m
        return out


class Dot(Layer):
    """The sum of products along one axis of each of two; with `normalize` the cosine."""

    def __init__(self, axes: Any, normalize: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.axes, self.normalize = several(axes, 2), normalize

    def call(self, inputs: Any) -> Tensor:
        a, b = inputs
        i, j = self.axes[0] % a.ndim, self.axes[1] % b.ndim
        if self.normalize:
            a, b = F.normalize(a, dim=i, eps=1e-6), F.normalize(b, dim=j, eps=1e-6)
        a, b = a.movedim(i, -1), b.movedim(j, -1)
        rest = (*a.shape[1:-1], *b.shape[1:-1])
        out = a.reshape(a.shape[0], -1, a.shape[-1]) @ b.reshape(b.shape[0], -1, b.shape[-1]).transpose(1, 2)  # fmt: skip
        return out.reshape(a.shape[0], *(rest or (1,)))


def add(inputs: Any, **options: Any) -> Any:
    """Add as a function."""
    return Add(**options)(inputs)


def subtract(inputs: Any, **options: Any) -> Any:
    """Subtract as a function."""
    return Subtract(**options)(inputs)


def multiply(inputs: Any, **options: Any) -> Any:
    """Multiply as a function."""
    return Multiply(**options)(inputs)


def average(inputs: Any, **options: Any) -> Any:
    """Average as a function."""
    return Average(**options)(inputs)


def maximum(inputs: Any, **options: Any) -> Any:
    """Maximum as a function."""
    return Maximum(**options)(inputs)


def minimum(inputs: Any, **options: Any) -> Any:
    """Minimum as a function."""
    return Minimum(**options)(inputs)


def concatenate(inputs: Any, axis: int = -1, **options: Any) -> Any:
    """Concatenate as a function."""
    return Concatenate(axis, **options)(inputs)


def dot(inputs: Any, axes: Any = -1, **options: Any) -> Any:
    """Dot as a function."""
    return Dot(axes, **options)(inputs)


__all__ = [
    "Add", "Average", "Concatenate", "Cropping1D", "Cropping2D", "Cropping3D", "Dot", "Flatten", "Maximum", "Minimum", "Multiply", "Permute",
    "RepeatVector", "Reshape", "Subtract", "UpSampling1D", "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
    "add", "average", "concatenate", "dot", "maximum", "minimum", "multiply", "subtract",
]  # fmt: skip
