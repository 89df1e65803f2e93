"""Anchors: the boxes at each place of feature maps beside which networks tell theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import kiln

from .... import nn
from ....errors import KilnAssertionError, KilnValueError
from ....tensor import Tensor
from .transform import ImageList


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The row and the column of each place, row by row."""
    y, x = kiln.meshgrid(kiln.arange(height), kiln.arange(width), indexing="ij")
    return y.reshape(-1), x.reshape(-1)


class AnchorGenerator(nn.Module):
    """Boxes of some sizes and some ratios of height to width, around each place of each map."""

    def __init__(
        self, sizes: Any = ((128, 256, 512),), aspect_ratios: Any = ((0.5, 1.0, 2.0),)
    ) -> None:
        super().__init__()
        if not isinstance(sizes[0], list | tuple):
            sizes = tuple((s,) for s in sizes)
        if not isinstance(aspect_ratios[0], list | tuple):
            aspect_ratios = (aspect_ratios,) * len(sizes)
        self.sizes, self.aspect_ratios = sizes, aspect_ratios
        self.cell_anchors = [
            self.generate_anchors(s, r) for s, r in zip(sizes, aspect_ratios, strict=False)
        ]

    def generate_anchors(
        self, scales: Any, aspect_ratios: Any, dtype: Any = kiln.float32, device: Any = "cpu"
    ) -> Tensor:
        """The boxes of one place at 0 [ratios * sizes, 4], to whole pixels."""
        size = kiln.as_tensor(scales, dtype=dtype)
        tall = kiln.as_tensor(aspect_ratios, dtype=dtype).sqrt()
        w, h = ((r[:, None] * size).reshape(-1) for r in (1 / tall, tall))
        return (kiln.stack([-w, -h, w, h], 1) / 2).round()

    def set_cell_anchors(self, dtype: Any, device: Any = None) -> None:
        """Have the boxes of one place in a dtype."""
        self.cell_anchors = [a.to(dtype) for a in self.cell_anchors]

    def num_anchors_per_location(self) -> list[int]:
        """How many boxes each place of each map has."""
        return [len(s) * len(a) for s, a in zip(self.sizes, self.aspect_ratios, strict=False)]

    def grid_anchors(self, grid_sizes: Sequence[Any], strides: Sequence[Any]) -> list[Tensor]:
        """The boxes of maps of these heights and widths, whose places are so many pixels apart."""
        if not len(grid_sizes) == len(strides) == len(self.cell_anchors):
            raise KilnAssertionError(
                "AnchorGenerator", "There needs to be a match between the number of feature maps passed and the number of "
                "sizes / aspect ratios specified", f"{len(grid_sizes)} maps, {len(self.cell_anchors)} tuples of sizes",
                "one tuple of sizes and of ratios for each map",
            )  # fmt: skip
        made = []
        for (height, width), (down, right), cell in zip(
            grid_sizes, strides, self.cell_anchors, strict=True
        ):
            y, x = _grid(height, width)
            y, x = y * down, x * right
            shifts = kiln.stack([x, y, x, y], 1)
            made.append((shifts[:, None] + cell).reshape(-1, 4))
        return made

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        sizes = [m.shape[-2:] for m in feature_maps]
        height, width = image_list.tensors.shape[-2:]
        self.set_cell_anchors(feature_maps[0].dtype)
        made = self.grid_anchors(sizes, [(height // h, width // w) for h, w in sizes])
        return [kiln.cat(made) for _ in image_list.image_sizes]


class DefaultBoxGenerator(nn.Module):
    """The anchors of SSD: of each map two squares, and boxes of some ratios both ways (Liu et al. 2016)."""

    def __init__(
        self, aspect_ratios: list[list[int]], min_ratio: float = 0.15, max_ratio: float = 0.9,
        scales: list[float] | None = None, steps: list[int] | None = None, clip: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if steps is not None and len(aspect_ratios) != len(steps):
            raise KilnValueError(
                "DefaultBoxGenerator", "aspect_ratios and steps should have the same length", (len(aspect_ratios), len(steps)), ""
            )  # fmt: skip
        self.aspect_ratios, self.steps, self.clip = aspect_ratios, steps, clip
        n = len(aspect_ratios)
        if scales is None:
            apart = max_ratio - min_ratio
            steady = [min_ratio + apart * k / (n - 1.0) for k in range(n)] if n > 1 else []
            scales = [*steady, 1.0] if n > 1 else [min_ratio, max_ratio]
        self.scales = scales
        self._wh_pairs = [self._sizes(k) for k in range(n)]

    def _sizes(self, k: int) -> Tensor:
        """Widths and heights of the boxes of map k, as shares of the picture."""
        here, after = self.scales[k], self.scales[k + 1]
        between = math.sqrt(here * after)
        pairs = [[here, here], [between, between]]
        for ratio in self.aspect_ratios[k]:
            root = math.sqrt(ratio)
            w, h = here * root, here / root
            pairs += [[w, h], [h, w]]
        return kiln.tensor(pairs, dtype=kiln.float32)

    def num_anchors_per_location(self) -> list[int]:
        """How many boxes each place of each map has."""
        return [2 + 2 * len(r) for r in self.aspect_ratios]

    def _grid_default_boxes(self, grid_sizes: Sequence[Any], image_size: Any) -> Tensor:
        """Middles and sizes [N, 4] of all maps' boxes, as shares of the picture."""
        made = []
        for k, (height, width) in enumerate(grid_sizes):
            down, right = float(height), float(width)
            if self.steps is not None:
                down, right = (size / self.steps[k] for size in image_size)
            y, x = _grid(height, width)
            pairs = self._wh_pairs[k].clamp(0, 1) if self.clip else self._wh_pairs[k]
            at = kiln.stack([(x + 0.5) / right, (y + 0.5) / down], 1)
            at = at[:, None].expand(-1, len(pairs), -1).reshape(-1, 2)
            made.append(kiln.cat([at, pairs.repeat(height * width, 1)], 1))
        return kiln.cat(made)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        size = image_list.tensors.shape[-2:]
        shares = self._grid_default_boxes([m.shape[-2:] for m in feature_maps], size)
        shares = shares.to(feature_maps[0].dtype)
        at, half = shares[:, :2], 0.5 * shares[:, 2:]
        whole = kiln.tensor([size[1], size[0]], dtype=shares.dtype)
        boxes = kiln.cat([(at - half) * whole, (at + half) * whole], 1)
        return [boxes.clone() for _ in image_list.image_sizes]

    def __repr__(self) -> str:
        words = ("aspect_ratios", "clip", "scales", "steps")
        return f"DefaultBoxGenerator({', '.join(f'{w}={getattr(self, w)}' for w in words)})"
