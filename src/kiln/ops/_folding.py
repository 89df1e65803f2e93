"""Convolutions of many dimensions as those of fewer, and depthwise ones as sums over windows, in ops.

Sizes are those of convolution: x (N, G*I, *size), w (G*O, I, *kernel), y (N, G*O, *out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..tensor import Tensor
from .windows import crop, pad_around, windows, windows_grad


class Geometry(NamedTuple):
    """How windows lie: the last arguments of the three ops."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def without(self, i: int) -> Geometry:
        """That of the other dimensions."""
        kept = (v[:i] + v[i + 1 :] for v in (self.stride, self.padding, self.dilation))
        return Geometry(*kept, self.groups)

    def turned(self, kernel: tuple[int, ...]) -> tuple[int, ...]:
        """The padding with which a convolution of dy with mirrored weights is dx, where the stride is 1."""
        sizes = zip(self.padding, kernel, self.dilation, strict=True)
        return tuple(d * (k - 1) - p for p, k, d in sizes)

    def joint(self, kernel: tuple[int, ...]) -> int | None:
        """The first of two neighbouring dimensions that are as good as one: windows of single elements."""
        plain = [
            k == s == 1 and p == 0
            for k, s, p in zip(kernel, self.stride, self.padding, strict=True)
        ]
        return next((i for i in range(len(plain) - 1) if plain[i] and plain[i + 1]), None)


def joined(size: tuple[int, ...], i: int) -> tuple[int, ...]:
    """A size of which the spatial dimensions i and i + 1 are one."""
    i += 2
    return (*size[:i], size[i] * size[i + 1], *size[i + 2 :])


def _around(x: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Zeros around the last dimensions; where padding is negative, elements are cut off."""
    if any(p < 0 for p in padding):
        sizes = x.shape[-len(padding) :]
        cut = tuple(max(0, -p) for p in padding)
        x = crop(x, cut, tuple(s - 2 * c for s, c in zip(sizes, cut, strict=True)))
    padding = tuple(max(0, p) for p in padding)
    return pad_around(x, padding, (0,) * len(padding), 0)


@dataclass(frozen=True)
class Fold:
    """The first dimension of a convolution folded away: (N, C, D, *) -> (N * D', C * K, *).

    `image` is the input's size; `count` windows of `taps` elements lie along D, padded by `padding`
    at both ends. A group's channels become (K, C / groups).
    """

    image: tuple[int, ...]
    count: int
    taps: int
    stride: int
    padding: int
    dilation: int
    groups: int

    @property
    def images(self) -> tuple[int, ...]:
        """The folded input's size."""
        n, channels, _, *rest = self.image
        return (n * self.count, channels * self.taps, *rest)

    def _along(self) -> list[tuple[int, ...]]:
        """Padding, window, stride and dilation; of the other dimensions every element is a window."""
        one = (1,) * (len(self.image) - 3)
        values = self.taps, self.stride, self.dilation
        return [(self.padding, *(0,) * len(one)), *((v, *one) for v in values)]

    def input(self, x: Tensor) -> Tensor:
        """The input's windows as channels of images."""
        n, channels, _, *rest = self.image
        padding, *along = self._along()
        x = windows(_around(x, padding), *along)
        x = x.reshape(n, channels, self.count, *rest, self.taps)
        last = x.ndim - 1
        return x.permute(0, 2, 1, last, *range(3, last)).reshape(self.images)

    def input_back(self, x: Tensor) -> Tensor:
        """The transpose of `input`: what lies in the windows added up."""
        n, channels, size, *rest = self.image
        padding, *along = self._along()
        x = x.reshape(n, self.count, channels, self.taps, *rest)
        x = x.permute(0, 2, 1, *range(4, x.ndim), 3)
        x = x.reshape(n, channels, self.count, *rest, self.taps, *(1,) * len(rest))
        x = windows_grad(x, (size + 2 * self.padding, *rest), *along)
        return crop(x, padding, (size, *rest))

    def output(self, y: Tensor) -> Tensor:
        """An output (N, O, D', *) as that of the images."""
        n, channels, count, *rest = y.shape
        return y.transpose(1, 2).reshape(n * count, channels, *rest)

    def output_back(self, y: Tensor) -> Tensor:
        """The transpose of `output`."""
        return y.reshape(self.image[0], self.count, *y.shape[1:]).transpose(1, 2)


def fold_weight(w: Tensor) -> Tensor:
    """The weight that folded inputs meet: its window's first dimension is one of channels."""
    out, per, taps, *rest = w.shape
    return w.reshape(out, per * taps, *rest)


def fold_weight_back(w: Tensor, size: tuple[int, ...]) -> Tensor:
    """The transpose of `fold_weight`, to a weight of this size."""
    return w.reshape(size)


def turn_weight(w: Tensor, groups: int) -> Tensor:
    """The weight that folded gradients of the output meet: mirrored, a group's outputs are (K, O)."""
    out, per, taps, *rest = w.shape
    return w.flip(2).transpose(1, 2).reshape(out * taps, per, *rest)


# ---------------------------------------------------------------- depthwise, one result a channel


def _per_window(x: Tensor, n: int) -> Tensor:
    """A value of each window, to meet all of its n dimensions' taps."""
    return x.reshape(*x.shape, *(1,) * n)


def _per_channel(w: Tensor) -> Tensor:
    """A depthwise weight (C, 1, *kernel), to meet the windows of each channel."""
    return w.reshape(w.shape[0], *(1,) * (w.ndim - 2), *w.shape[2:])


def depthwise(x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    """The sum over each window."""
    n = len(geometry.stride)
    kernel = tuple(w.shape[2:])
    x = windows(_around(x, geometry.padding), kernel, geometry.stride, geometry.dilation)
    return (x * _per_channel(w)).sum(tuple(range(-n, 0)))


def depthwise_input_grad(g: Tensor, w: Tensor, size: tuple[int, ...], geometry: Geometry) -> Tensor:
    """The gradient of `depthwise`'s input."""
    n = len(geometry.stride)
    kernel = tuple(w.shape[2:])
    if geometry.stride == (1,) * n:
        turned = geometry._replace(padding=geometry.turned(kernel))
        return depthwise(g, w.flip(tuple(range(2, w.ndim))), turned)
    padded = tuple(s + 2 * p for s, p in zip(size[2:], geometry.padding, strict=True))
    parts = _per_window(g, n) * _per_channel(w)
    x = windows_grad(parts, padded, kernel, geometry.stride, geometry.dilation)
    return crop(x, geometry.padding, size[2:])


def depthwise_weight_grad(
    g: Tensor, x: Tensor, size: tuple[int, ...], geometry: Geometry
) -> Tensor:
    """The gradient of `depthwise`'s weight."""
    n = len(geometry.stride)
    x = windows(_around(x, geometry.padding), tuple(size[2:]), geometry.stride, geometry.dilation)
    return (x * _per_window(g, n)).sum((0, *range(2, 2 + n))).reshape(size)
