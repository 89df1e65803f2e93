"""Pictures resized and cut, and changed at random in training: (batch, height, width, channels) unless `data_format="channels_first"`.

https://keras.io/api/layers/preprocessing_layers/image_augmentation/
"""

from __future__ import annotations

import math
from typing import Any

from ...dtypes import float32
from ...nn import functional as F
from ...ops.creation import arange
from ...ops.drawing import rand
from ...ops.joining import stack
from ...ops.selection import where
from ...tensor import Tensor
from .convolution import Spatial


class Resizing(Spatial):
    """Of another size."""

    def __init__(
        self, height: int, width: int, interpolation: str = "bilinear", crop_to_aspect_ratio: bool = False, data_format: str | None = None,
        antialias: bool = False, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(data_format, **common)
        self.height, self.width, self.interpolation = height, width, interpolation
        self.crop_to_aspect_ratio, self.antialias = crop_to_aspect_ratio, antialias

    def call(self, inputs: Tensor) -> Tensor:
        alone = inputs.ndim == 3
        x = self.first((inputs.unsqueeze(0) if alone else inputs).to(float32))
        if self.crop_to_aspect_ratio:
            h, w = x.shape[2:]
            high, wide = min(h, int(w * self.height / self.width)), min(w, int(h * self.width / self.height))  # fmt: skip
            top, left = (h - high) // 2, (w - wide) // 2
            x = x[:, :, top : top + high, left : left + wide]
        kind = {"nearest": "nearest-exact"}.get(self.interpolation, self.interpolation)
        more = {"antialias": self.antialias} if kind in ("bilinear", "bicubic") else {}
        out = self.last(F.interpolate(x, (self.height, self.width), mode=kind, **more))
        return out[0] if alone else out


class CenterCrop(Spatial):
    """The middle of a picture; a smaller one is resized."""

    def __init__(self, height: int, width: int, data_format: str | None = None, **common: Any) -> None:  # fmt: skip
        super().__init__(data_format, **common)
        self.height, self.width = height, width

    def call(self, inputs: Tensor) -> Tensor:
        alone = inputs.ndim == 3
        x = self.first(inputs.unsqueeze(0) if alone else inputs)
        h, w = x.shape[2:]
        if h < self.height or w < self.width:
            return Resizing(self.height, self.width, crop_to_aspect_ratio=True, data_format=self.data_format)(inputs)  # fmt: skip
        top, left = (h - self.height) // 2, (w - self.width) // 2
        out = self.last(x[:, :, top : top + self.height, left : left + self.width])
        return out[0] if alone else out


class _Random(Spatial):
    """Changes pictures in training, each by a draw of its own."""

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training:
            return inputs
        alone = inputs.ndim == 3
        x = self.first((inputs.unsqueeze(0) if alone else inputs).to(float32))
        out = self.last(self.changed(x))
        return out[0] if alone else out

    def changed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def draw(x: Tensor, low: float, high: float) -> Tensor:
        """A number for each picture."""
        return rand(x.shape[0]) * (high - low) + low


def _range(factor: Any, low: float | None = None) -> tuple[float, float]:
    """From -factor to factor, or between two."""
    return tuple(factor) if isinstance(factor, list | tuple) else (-factor if low is None else low, factor)  # type: ignore[return-value] # fmt: skip


class RandomFlip(_Random):
    """Mirrored, "horizontal", "vertical" or both ways."""

    def __init__(self, mode: str = "horizontal_and_vertical", seed: int | None = None, data_format: str | None = None, **common: Any) -> None:  # fmt: skip
        super().__init__(data_format, **common)
        self.mode, self.seed = mode, seed

    def changed(self, x: Tensor) -> Tensor:
        for name, dim in (("horizontal", 3), ("vertical", 2)):
            if name in self.mode:
                x = where((rand(x.shape[0]) < 0.5).reshape(-1, 1, 1, 1), x.flip(dim), x)
        return x


class RandomCrop(_Random):
    """A part of a size somewhere; the middle where it does not train."""

    def __init__(self, height: int, width: int, seed: int | None = None, data_format: str | None = None, **common: Any) -> None:  # fmt: skip
        super().__init__(data_format, **common)
        self.height, self.width, self.seed = height, width, seed

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        return super().call(inputs, True) if training else CenterCrop(self.height, self.width, self.data_format)(inputs)  # fmt: skip

    def changed(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        top = (rand(n) * (h - self.height + 1)).long().reshape(-1, 1, 1, 1)
        left = (rand(n) * (w - self.width + 1)).long().reshape(-1, 1, 1, 1)
        rows = (top + arange(self.height).reshape(1, 1, -1, 1)).expand(n, x.shape[1], self.height, w)  # fmt: skip
        x = x.gather(2, rows)
        columns = (left + arange(self.width)).expand(n, x.shape[1], self.height, self.width)
        return x.gather(3, columns)


class _Moved(_Random):
    """Seen through a plane map; what comes from outside is mirrored ("reflect"), the edge's ("nearest") or 0 ("constant")."""

    def __init__(
        self, fill_mode: str = "reflect", interpolation: str = "bilinear", seed: int | None = None, data_format: str | None = None,
        **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(data_format, **common)
        self.fill_mode, self.interpolation, self.seed = fill_mode, interpolation, seed

    def sampled(self, x: Tensor, rows: tuple[Tensor, ...]) -> Tensor:
        """x at the places that maps (a, b, c, d, e, f) give: (a x + b y + c, d x + e y + f), from -1 to 1."""
        theta = stack(rows, -1).reshape(-1, 2, 3)
        outside = {"reflect": "reflection", "nearest": "border"}.get(self.fill_mode, "zeros")
        grid = F.affine_grid(theta, list(x.shape), False)
        return F.grid_sample(x, grid, self.interpolation, outside, False)


class RandomRotation(_Moved):
    """Turned by up to `factor` of a full turn."""

    def __init__(self, factor: Any, fill_mode: str = "reflect", interpolation: str = "bilinear", seed: int | None = None, **common: Any) -> None:  # fmt: skip
        super().__init__(fill_mode, interpolation, seed, **common)
        self.factor = factor

    def changed(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        angle = self.draw(x, *_range(self.factor)) * 2 * math.pi
        c, s, o = angle.cos(), angle.sin(), angle * 0
        return self.sampled(x, (c, -s * (h / w), o, s * (w / h), c, o))


class RandomTranslation(_Moved):
    """Moved by up to factors of height and width."""

    def __init__(
        self, height_factor: Any, width_factor: Any, fill_mode: str = "reflect", interpolation: str = "bilinear", seed: int | None = None,
        **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(fill_mode, interpolation, seed, **common)
        self.height_factor, self.width_factor = height_factor, width_factor

    def changed(self, x: Tensor) -> Tensor:
        down = self.draw(x, *_range(self.height_factor))
        right = self.draw(x, *_range(self.width_factor))
        o = down * 0
        return self.sampled(x, (o + 1, o, -2 * right, o, o + 1, -2 * down))


class RandomZoom(_Moved):
    """Smaller (positive factors) or larger, height and width alike where there is one factor."""

    def __init__(
        self, height_factor: Any, width_factor: Any = None, fill_mode: str = "reflect", interpolation: str = "bilinear", seed: int | None = None,
        **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(fill_mode, interpolation, seed, **common)
        self.height_factor, self.width_factor = height_factor, width_factor

    def changed(self, x: Tensor) -> Tensor:
        high = 1 + self.draw(x, *_range(self.height_factor))
        wide = high if self.width_factor is None else 1 + self.draw(x, *_range(self.width_factor))
        o = high * 0
        return self.sampled(x, (wide, o, o, o, high, o))


class RandomContrast(_Random):
    """Distances from the mean of each channel times 1 - lower to 1 + upper; values stay within `value_range`."""

    def __init__(self, factor: Any, value_range: Any = (0, 255), seed: int | None = None, **common: Any) -> None:  # fmt: skip
        super().__init__(**common)
        self.factor, self.value_range, self.seed = factor, tuple(value_range), seed

    def changed(self, x: Tensor) -> Tensor:
        low, high = self.factor if isinstance(self.factor, list | tuple) else (self.factor, self.factor)  # fmt: skip
        by = self.draw(x, 1 - low, 1 + high).reshape(-1, 1, 1, 1)
        mean = x.mean((2, 3), keepdim=True)
        return ((x - mean) * by + mean).clamp(*self.value_range)


class RandomBrightness(_Random):
    """Lighter or darker by up to `factor` of the range of values."""

    def __init__(self, factor: Any, value_range: Any = (0, 255), seed: int | None = None, **common: Any) -> None:  # fmt: skip
        super().__init__(**common)
        self.factor, self.value_range, self.seed = factor, tuple(value_range), seed

    def changed(self, x: Tensor) -> Tensor:
        low, high = self.value_range
        by = self.draw(x, *_range(self.factor)) * (high - low)
        return (x + by.reshape(-1, 1, 1, 1)).clamp(low, high)


__all__ = [
    "CenterCrop", "RandomBrightness", "RandomContrast", "RandomCrop", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom",
    "Resizing",
]  # fmt: skip
