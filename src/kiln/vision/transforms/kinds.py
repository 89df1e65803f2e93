"""What geometric changes of pictures do to masks and boxes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

import kiln

from ...errors import KilnValueError
from ...tensor import Tensor
from ..ops import box_convert
from ..tv_tensors import BoundingBoxes, Mask, TVTensor, wrap

BOXES: dict[str, Callable] = {}
"""What each function of pictures does to boxes: of corners, the canvas and its arguments, new corners and canvas."""


def of_kinds(fn: Callable) -> Callable:
    """Let a function of pictures take masks and boxes as well, and give what it was given."""

    signature = inspect.signature(fn)
    of_masks = {"interpolation": 0, "antialias": False, "fill": 0 if fn.__name__ == "pad" else None}

    @functools.wraps(fn)
    def call(img: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(img, TVTensor):
            return fn(img, *args, **kwargs)
        if isinstance(img, BoundingBoxes):
            return _boxes(BOXES[fn.__name__], img, args, kwargs)
        plain = img.as_subclass(Tensor)
        if isinstance(img, Mask):
            flat = plain.ndim == 2
            given = signature.bind(plain.unsqueeze(0) if flat else plain, *args, **kwargs)
            given.arguments |= {k: v for k, v in of_masks.items() if k in signature.parameters}
            out = fn(*given.args, **given.kwargs)
            return wrap(out.squeeze(0) if flat else out, like=img)
        return wrap(fn(plain, *args, **kwargs), like=img)

    return call


def _boxes(change: Callable, boxes: BoundingBoxes, args: tuple, kwargs: dict[str, Any]) -> Any:
    plain, name = boxes.as_subclass(Tensor), boxes.format.value.lower()
    corners = box_convert(plain.double(), name, "xyxy")
    corners, canvas = change(corners, boxes.canvas_size, *args, **kwargs)
    out = box_convert(corners, "xyxy", name).to(plain.dtype)
    return wrap(out, like=boxes, canvas_size=tuple(canvas))


def clamped(corners: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Corners within the canvas."""
    h, w = canvas
    return corners.clamp(min=0).minimum(kiln.tensor([w, h, w, h], dtype=corners.dtype))


def _rule(fn: Callable) -> Callable:
    BOXES[fn.__name__.strip("_")] = fn
    return fn


@_rule
def _hflip(c: Tensor, canvas: tuple[int, int]) -> Any:
    w = canvas[1]
    return kiln.stack([w - c[:, 2], c[:, 1], w - c[:, 0], c[:, 3]], 1), canvas


@_rule
def _vflip(c: Tensor, canvas: tuple[int, int]) -> Any:
    h = canvas[0]
    return kiln.stack([c[:, 0], h - c[:, 3], c[:, 2], h - c[:, 1]], 1), canvas


@_rule
def _crop(c: Tensor, canvas: tuple[int, int], top: int, left: int, height: int, width: int) -> Any:
    moved = c - kiln.tensor([left, top, left, top], dtype=c.dtype)
    return clamped(moved, (height, width)), (height, width)


@_rule
def _pad(
    c: Tensor, canvas: tuple[int, int], padding: Any, fill: Any = 0, padding_mode: str = "constant"
) -> Any:
    if padding_mode != "constant":
        raise KilnValueError(
            "pad",
            f"Padding mode '{padding_mode}' is not supported with bounding boxes",
            padding_mode,
            "",
        )
    p = [padding] * 4 if isinstance(padding, int) else list(padding) * (4 // len(padding))
    left, top, right, bottom = p
    moved = c + kiln.tensor([left, top, left, top], dtype=c.dtype)
    return moved, (canvas[0] + top + bottom, canvas[1] + left + right)


@_rule
def _resize(
    c: Tensor, canvas: tuple[int, int], size: Any, interpolation: Any = None, max_size: int | None = None,
    antialias: Any = True,
) -> Any:  # fmt: skip
    from .functional import _output_size

    h, w = canvas
    height, width = _output_size(h, w, size, max_size)
    x, y = width / w, height / h
    return c * kiln.tensor([x, y, x, y], dtype=c.dtype), (height, width)


@_rule
def _rotate(
    c: Tensor, canvas: tuple[int, int], angle: float, interpolation: Any = None, expand: bool = False,
    center: Any = None, fill: Any = None,
) -> Any:  # fmt: skip
    return _moved(c, canvas, -angle, (0.0, 0.0), 1.0, (0.0, 0.0), center, expand)


@_rule
def _affine(
    c: Tensor, canvas: tuple[int, int], angle: float, translate: Any, scale: float, shear: Any, interpolation: Any = None,
    fill: Any = None, center: Any = None,
) -> Any:  # fmt: skip
    slant = (float(shear), 0.0) if isinstance(shear, int | float) else tuple(map(float, shear))
    slant = (slant[0], 0.0) if len(slant) == 1 else slant
    return _moved(c, canvas, angle, translate, scale, slant, center, False)


@_rule
def _perspective(
    c: Tensor, canvas: tuple[int, int], startpoints: Any, endpoints: Any, interpolation: Any = None, fill: Any = None
) -> Any:  # fmt: skip
    from .functional import _homography

    forward = np.linalg.inv(np.array([*_homography(startpoints, endpoints), 1.0]).reshape(3, 3))

    def through(points: np.ndarray) -> np.ndarray:
        moved = points @ forward[:, :2].T + forward[:, 2]
        return moved[..., :2] / moved[..., 2:]

    return clamped(_around(c, through), canvas), canvas


@_rule
def _elastic_transform(
    c: Tensor, canvas: tuple[int, int], displacement: Tensor, interpolation: Any = None, fill: Any = None
) -> Any:  # fmt: skip
    h, w = canvas
    ways = displacement[0].numpy() * np.array([w, h]) / 2

    def through(points: np.ndarray) -> np.ndarray:
        x, y = (points[..., i].astype(int).clip(0, n - 1) for i, n in ((0, w), (1, h)))
        return points - ways[y, x]

    return clamped(_around(c, through), canvas), canvas


def _around(
    c: Tensor, through: Callable[[np.ndarray], np.ndarray], by: np.ndarray | float = 0.0
) -> Tensor:
    """The boxes around boxes whose corners were moved."""
    a = c.detach().numpy()
    moved = through(a[:, [[0, 1], [2, 1], [2, 3], [0, 3]]].astype(np.float64)) + by
    return kiln.from_numpy(np.concatenate([moved.min(1), moved.max(1)], 1)).to(c.dtype)


def _moved(
    c: Tensor, canvas: tuple[int, int], angle: float, translate: Any, scale: float, shear: Any, center: Any, expand: bool,
) -> Any:  # fmt: skip
    """The boxes around boxes that were turned, moved, scaled and slanted."""
    from .functional import _inverse_affine

    h, w = canvas
    middle = (w * 0.5, h * 0.5) if center is None else tuple(center)
    inverse = np.array([*_inverse_affine(middle, angle, translate, scale, shear), 0, 0, 1]).reshape(
        3, 3
    )
    forward = np.linalg.inv(inverse)[:2]

    def through(points: np.ndarray) -> np.ndarray:
        return points @ forward[:, :2].T + forward[:, 2]

    new, by = (h, w), np.zeros(2)
    if expand:
        corners = through(np.array([[0.0, 0.0], [w, 0.0], [w, h], [0.0, h]]))
        low, high = np.floor(corners.min(0) + 1e-3), np.ceil(corners.max(0) - 1e-3)
        new = int(high[1] - low[1]), int(high[0] - low[0])
        by = np.array([new[1], new[0]]) / 2 - (corners.max(0) + corners.min(0)) / 2
    return clamped(_around(c, through, by), new), new
