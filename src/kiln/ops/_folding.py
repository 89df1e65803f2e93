"""Convolutions of many dimensions as those of fewer: windows over the first one become channels and images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..tensor import Tensor
from .windows import crop, pad_around, windows, windows_grad


@dataclass(frozen=True)
class Fold:
    """How the first dimension of a convolution is folded away: (N, C, D, *) -> (N * D', C * K, *).

    `image` is the input's size, `weight` the weight's; D' is `count`, K the window's taps along D.
    A group's channels become (K, C / groups). In a depthwise convolution each tap is a channel of its
    own (`apart`), whose results are summed up afterwards.
    """

    image: tuple[Any, ...]
    weight: tuple[int, ...]
    count: Any
    stride: int
    padding: int
    dilation: int
    groups: int

    @property
    def apart(self) -> bool:
        """Whether the convolution is depthwise, with one result for each channel."""
        return self.groups > 1 and self.weight[0] == self.groups and self.weight[1] == 1

    @property
    def taps(self) -> int:
        """Taps of the window along the dimension."""
        return self.weight[2]

    @property
    def folded_groups(self) -> int:
        """Groups of the folded convolution."""
        return self.groups * self.taps if self.apart else self.groups

    @property
    def folded_image(self) -> tuple[Any, ...]:
        """The folded input's size."""
        n, channels, _, *rest = self.image
        return (n * self.count, channels * self.taps, *rest)

    @property
    def folded_weight(self) -> tuple[int, ...]:
        """The folded weight's size."""
        out, per, taps, *rest = self.weight
        return (out * taps, per, *rest) if self.apart else (out, taps * per, *rest)

    def fold_input(self, x: Tensor) -> Tensor:
        """The input's windows along the dimension, as channels of images."""
        n, channels, _, *rest = self.image
        x = x.permute(0, 1, *range(3, x.ndim), 2)
        x = windows(
            pad_around(x, (self.padding,), (0,), 0), (self.taps,), (self.stride,), (self.dilation,)
        )
        x = x.reshape(n, self.groups, channels // self.groups, *rest, self.count, self.taps)
        last = x.ndim - 1
        return x.permute(0, last - 1, 1, last, *range(2, last - 1)).reshape(self.folded_image)

    def unfold_input(self, x: Tensor) -> Tensor:
        """The transpose of `fold_input`: what lies in the windows added up."""
        n, channels, size, *rest = self.image
        x = x.reshape(n, self.count, self.groups, self.taps, channels // self.groups, *rest)
        x = x.permute(0, 2, *range(4, x.ndim), 1, 3).reshape(
            n, channels, *rest, self.count, self.taps
        )
        padded = (size + 2 * self.padding,)
        x = windows_grad(x, padded, (self.taps,), (self.stride,), (self.dilation,))
        x = crop(x, (self.padding,), (size,))
        return x.permute(0, 1, x.ndim - 1, *range(2, x.ndim - 1))

    def fold_weight(self, w: Tensor) -> Tensor:
        """The weight that the folded input meets."""
        return w.transpose(1, 2).reshape(self.folded_weight)

    def unfold_weight(self, w: Tensor) -> Tensor:
        """The transpose of `fold_weight`."""
        out, per, taps, *rest = self.weight
        return w.reshape(out, taps, per, *rest).transpose(1, 2)

    def fold_output(self, y: Tensor) -> Tensor:
        """An output (N, O, D', *) as images."""
        n, channels, count, *rest = y.shape
        y = y.transpose(1, 2)
        if self.apart:
            y = y.unsqueeze(3).expand(n, count, channels, self.taps, *rest)
            channels *= self.taps
        return y.reshape(n * count, channels, *rest)

    def unfold_output(self, y: Tensor) -> Tensor:
        """The transpose of `fold_output`."""
        n, channels = self.image[0], self.weight[0]
        rest = y.shape[2:]
        if self.apart:
            y = y.reshape(n * self.count, channels, self.taps, *rest).sum(2)
        return y.reshape(n, self.count, channels, *rest).transpose(1, 2)
