"""Scenes that are rendered: shapes on a background, with exact boxes and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..data import Dataset
from ..errors import KilnIndexError, KilnValueError
from ..ops.creation import from_numpy

_LEAST = 12
"""Pixels of an object that must be seen: others are not in the scene."""


class Scenes(Dataset[tuple[Any, dict[str, Any]]]):
    """Pictures f32[3, size, size] in [0, 1] of `objects` (least, most) discs, squares and triangles that may cover each other.

    A sample is (picture, target): boxes f32[n, 4] (left, top, right, bottom, at the edges of the pixels that are seen), labels
    i64[n] (1 disc, 2 square, 3 triangle), masks bool[n, size, size] of the pixels that are seen, and
    semantic i64[size, size], the label of each pixel, 0 for background. A pixel belongs to a shape where its
    middle lies inside; the circle around a shape has `radius` (least, most) times the picture's size. Sample i depends on
    the seed and on i alone, and is rendered when it is asked for; `transform(picture, target)` comes last.
    """

    classes = ("background", "disc", "square", "triangle")

    def __init__(
        self, length: int = 1000, size: int = 64, objects: tuple[int, int] = (1, 4), noise: float = 0.05,
        seed: int = 0, transform: Callable[[Any, Any], Any] | None = None, radius: tuple[float, float] = (0.08, 0.2),
    ) -> None:  # fmt: skip
        least, most = objects
        sizes = 0 < radius[0] <= radius[1] <= 0.5
        if not 0 <= least <= most or size < 16 or length < 0 or not sizes:
            raise KilnValueError(
                "Scenes", "no such scenes", f"length={length}, size={size}, objects={objects}, radius={radius}",
                "length >= 0, size >= 16, 0 <= least <= most, 0 < smallest radius <= largest <= 0.5",
            )  # fmt: skip
        self.length, self.size, self.objects, self.radius = length, size, (least, most), radius
        self.noise, self.seed, self.transform = noise, seed, transform
        at = np.arange(size) + 0.5
        self._y, self._x = at[:, None], at[None]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        i = int(index)
        if not -self.length <= i < self.length:
            raise KilnIndexError("Scenes", "index out of range", f"{i}, {self.length} samples")
        picture, target = self._render(np.random.default_rng([self.seed, i % self.length]))
        made = from_numpy(picture), {k: from_numpy(v) for k, v in target.items()}
        return made if self.transform is None else self.transform(*made)

    def _render(self, r: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        n = self.size
        slope = r.uniform(-0.2, 0.2, (2, 3, 1, 1))
        picture = r.uniform(0.2, 0.6, (3, 1, 1)) + slope[0] * self._x / n + slope[1] * self._y / n
        owner = np.zeros((n, n), np.int64)  # the number of the object that is seen, from 1
        labels = r.integers(1, 4, r.integers(self.objects[0], self.objects[1] + 1))
        for k, label in enumerate(labels, 1):
            inside = self._shape(r, int(label))
            color = r.uniform(0, 1, (3, 1))
            picture[:, inside] = color + 0.15 * np.sign(0.5 - color.mean())
            owner[inside] = k
        picture += r.normal(0, self.noise, picture.shape)
        seen = [k for k in range(1, len(labels) + 1) if (owner == k).sum() >= _LEAST]
        masks = np.array([owner == k for k in seen], np.bool_).reshape(-1, n, n)
        kept = labels[np.array(seen, np.int64) - 1].astype(np.int64)
        semantic = (masks * kept[:, None, None]).sum(0)
        target = {"boxes": _boxes(masks), "labels": kept, "masks": masks, "semantic": semantic}
        return picture.clip(0, 1).astype(np.float32), target

    def _shape(self, r: np.random.Generator, label: int) -> np.ndarray:
        """Which pixels a random shape covers."""
        n = self.size
        radius = r.uniform(*self.radius) * n
        x, y = r.uniform(radius, n - radius, 2)
        dx, dy = self._x - x, self._y - y
        if label == 1:
            return dx * dx + dy * dy <= radius * radius
        turn = r.uniform(0, 2 * np.pi)
        sides = 4 if label == 2 else 3
        inside = np.ones((n, n), np.bool_)
        for side in range(sides):  # what lies on the inner side of each line
            angle = turn + 2 * np.pi * side / sides
            inside &= dx * np.cos(angle) + dy * np.sin(angle) <= radius * np.cos(np.pi / sides)
        return inside


def _boxes(masks: np.ndarray) -> np.ndarray:
    out = np.zeros((len(masks), 4), np.float32)
    for k, mask in enumerate(masks):
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        out[k] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return out
