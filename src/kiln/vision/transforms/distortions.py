"""Transforms that distort pictures and their values at random.

https://docs.pytorch.org/vision/stable/transforms.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kiln

from ...errors import KilnTypeError, KilnValueError, describe
from ...nn import Module
from ...tensor import Tensor
from . import functional as F
from .classes import _Maybe
from .functional import InterpolationMode


class RandomAdjustSharpness(_Maybe):
    """A picture sharpened or blurred, at times."""

    def __init__(self, sharpness_factor: float, p: float = 0.5) -> None:
        super().__init__(p)
        self.sharpness_factor = sharpness_factor

    def change(self, img: Any) -> Any:
        return F.adjust_sharpness(img, self.sharpness_factor)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(sharpness_factor={self.sharpness_factor},p={self.p})"


class RandomAutocontrast(_Maybe):
    """Values spread over the whole range, at times."""

    def change(self, img: Any) -> Any:
        return F.autocontrast(img)


class RandomEqualize(_Maybe):
    """Bytes spread so that each comes up about as often, at times."""

    def change(self, img: Any) -> Any:
        return F.equalize(img)


class RandomPerspective(_Maybe):
    """A picture as seen from elsewhere, at times."""

    def __init__(
        self, distortion_scale: float = 0.5, p: float = 0.5, interpolation: Any = InterpolationMode.BILINEAR, fill: Any = 0
    ) -> None:  # fmt: skip
        super().__init__(p)
        self.distortion_scale, self.interpolation, self.fill = distortion_scale, interpolation, fill

    @staticmethod
    def get_params(width: int, height: int, distortion_scale: float) -> tuple[list, list]:
        """The four corners, and where they come to lie."""

        def drawn(low: int, high: int) -> int:
            return int(kiln.randint(low, high, size=(1,)).item())

        x, y = int(distortion_scale * (width // 2)), int(distortion_scale * (height // 2))
        moved = []
        for right, low in ((False, False), (True, False), (True, True), (False, True)):
            across = drawn(width - x - 1, width) if right else drawn(0, x + 1)
            moved.append([across, drawn(height - y - 1, height) if low else drawn(0, y + 1)])
        return [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], moved

    def change(self, img: Any) -> Any:
        c, h, w = F.get_dimensions(img)
        fill = self.fill
        if isinstance(img, Tensor) and isinstance(fill, int | float):
            fill = [float(fill)] * c
        start, end = self.get_params(w, h, self.distortion_scale)
        return F.perspective(img, start, end, self.interpolation, fill)


class ElasticTransform(Module):
    """Pixels moved by smooth noise, `alpha` strong and `sigma` smooth (along x and y)."""

    def __init__(
        self, alpha: Any = 50.0, sigma: Any = 5.0, interpolation: Any = InterpolationMode.BILINEAR, fill: Any = 0
    ) -> None:  # fmt: skip
        super().__init__()
        self.alpha, self.sigma = self._two("alpha", alpha), self._two("sigma", sigma)
        self.interpolation, self.fill = interpolation, fill

    @staticmethod
    def _two(name: str, value: Any) -> list[float]:
        values = list(value) if isinstance(value, Sequence) else [value]
        if len(values) not in (1, 2):
            raise KilnValueError("ElasticTransform", f"{name} is a sequence its length should be 1 or 2. Got {len(values)}", value, "")  # fmt: skip
        if not all(isinstance(v, int | float) for v in values):
            raise KilnTypeError("ElasticTransform", f"{name} should be a sequence of floats.", describe(value), "")  # fmt: skip
        return [float(v) for v in values * (2 // len(values))]

    @staticmethod
    def get_params(alpha: Sequence[float], sigma: Sequence[float], size: Sequence[int]) -> Tensor:
        """How far each pixel is moved [1, H, W, 2]."""
        ways = []
        for a, s, n in zip(alpha, sigma, size, strict=True):
            way = kiln.rand([1, 1, *size]) * 2 - 1
            if s > 0.0:
                k = int(8 * s + 1) | 1
                way = F.gaussian_blur(way, [k, k], list(sigma))
            ways.append(way * a / n)
        return kiln.cat(ways, 1).permute(0, 2, 3, 1)

    def forward(self, tensor: Any) -> Any:
        _, h, w = F.get_dimensions(tensor)
        moved = self.get_params(self.alpha, self.sigma, [h, w])
        return F.elastic_transform(tensor, moved, self.interpolation, self.fill)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(alpha={self.alpha}, sigma={self.sigma}, interpolation={self.interpolation}, "
            f"fill={self.fill})"
        )


class LinearTransformation(Module):
    """A tensor less a mean, times a matrix: whitening."""

    def __init__(self, transformation_matrix: Tensor, mean_vector: Tensor) -> None:
        super().__init__()
        rows, columns = transformation_matrix.shape
        if rows != columns:
            raise KilnValueError("LinearTransformation", f"transformation_matrix should be square. Got {rows} x {columns} rectangular matrix.", [rows, columns], "")  # fmt: skip
        if mean_vector.shape[0] != rows:
            raise KilnValueError("LinearTransformation", f"mean_vector should have the same length {mean_vector.shape[0]} as any one of the dimensions of the transformation_matrix [{rows} x {columns}]", [rows, columns], "")  # fmt: skip
        self.transformation_matrix, self.mean_vector = transformation_matrix, mean_vector

    def forward(self, tensor: Tensor) -> Tensor:
        n = self.transformation_matrix.shape[0]
        if tensor[..., :, :, :].shape[-3:].numel() != n:
            raise KilnValueError("LinearTransformation", f"Input tensor and transformation matrix have incompatible shape. {list(tensor.shape)} against {n}", describe(tensor), "")  # fmt: skip
        flat = tensor.reshape(-1, n) - self.mean_vector
        return (flat @ self.transformation_matrix).reshape(tensor.shape)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(transformation_matrix={self.transformation_matrix.tolist()}, "
            f"mean_vector={self.mean_vector.tolist()})"
        )
