"""Pictures of tensors: grids, files, boxes.

https://docs.pytorch.org/vision/stable/utils.html
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

import kiln

from ..errors import KilnTypeError, KilnValueError, describe
from ..extras import need
from ..tensor import Tensor

__all__ = ["draw_bounding_boxes", "draw_segmentation_masks", "make_grid", "save_image"]


def make_grid(
    tensor: Any, nrow: int = 8, padding: int = 2, normalize: bool = False,
    value_range: tuple[float, float] | None = None, scale_each: bool = False, pad_value: float = 0.0,
) -> Tensor:  # fmt: skip
    """Pictures [N, C, H, W], or a list of them, side by side with `nrow` in each row.

    `normalize` maps their values, or `value_range`, to [0, 1]; each picture's own with `scale_each`.
    """
    if isinstance(tensor, list | tuple):
        if not all(isinstance(t, Tensor) for t in tensor):
            raise KilnTypeError(
                "make_grid", "tensor or list of tensors expected, got a list containing something else",
                describe(tensor),
            )  # fmt: skip
        tensor = kiln.stack(list(tensor), 0)
    if not isinstance(tensor, Tensor):
        raise KilnTypeError(
            "make_grid", f"tensor or list of tensors expected, got {type(tensor)}", describe(tensor)
        )
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.ndim == 3:
        tensor = (kiln.cat([tensor] * 3, 0) if tensor.shape[0] == 1 else tensor).unsqueeze(0)
    if tensor.ndim == 4 and tensor.shape[1] == 1:
        tensor = kiln.cat([tensor] * 3, 1)
    if normalize:
        if value_range is not None and not isinstance(value_range, tuple):
            raise KilnTypeError(
                "make_grid", "value_range has to be a tuple (min, max) if specified.", value_range
            )
        parts = list(tensor) if scale_each else [tensor]
        tensor = (
            kiln.stack([_to_unit(p, value_range) for p in parts])
            if scale_each
            else _to_unit(tensor, value_range)
        )
    if tensor.shape[0] == 1:
        return tensor.squeeze(0)
    n, channels, h, w = tensor.shape
    columns = min(nrow, n)
    rows = math.ceil(n / columns)
    h, w = h + padding, w + padding
    grid = tensor.new_full((channels, h * rows + padding, w * columns + padding), pad_value)
    for i in range(n):
        top, left = i // columns * h + padding, i % columns * w + padding
        grid[:, top : top + h - padding, left : left + w - padding] = tensor[i]
    return grid


def _to_unit(t: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    low, high = value_range or (float(t.min()), float(t.max()))
    return (t.clamp(low, high) - low) / max(high - low, 1e-5)


def save_image(tensor: Any, fp: Any, format: str | None = None, **kwargs: Any) -> None:
    """Write a tensor, or a grid of several (`make_grid`'s options), to a picture's file.

    A PNG needs no other package; other formats need Pillow.
    """
    grid = make_grid(tensor, **kwargs)
    a = grid.mul(255).add_(0.5).clamp_(0, 255).permute(1, 2, 0).to(kiln.uint8).numpy()
    if (format or os.path.splitext(str(fp))[1]).lower().lstrip(".") == "png":
        from ..board.pictures import png
        from ..io.files import write_bytes

        write_bytes("save_image", fp, png(np.ascontiguousarray(a)))
        return
    image = need("PIL.Image", "vision", "save_image").fromarray(a)
    image.save(fp, format=format)


def draw_bounding_boxes(
    image: Tensor, boxes: Tensor, labels: Sequence[str] | None = None, colors: Any = None,
    fill: bool | None = False, width: int = 1, font: str | None = None, font_size: int | None = None,
) -> Tensor:  # fmt: skip
    """A picture u8[3, H, W] with boxes (left, top, right, bottom) drawn on it."""
    if image.dtype is not kiln.uint8 or image.ndim != 3:
        raise KilnValueError(
            "draw_bounding_boxes",
            "The image must be uint8 [C, H, W]",
            describe(image),
            "convert it",
        )
    Image = need("PIL.Image", "vision", "draw_bounding_boxes")
    ImageDraw = need("PIL.ImageDraw", "vision", "draw_bounding_boxes")
    shown = kiln.cat([image] * 3, 0) if image.shape[0] == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(shown.permute(1, 2, 0).numpy()))
    pen = ImageDraw.Draw(picture, "RGBA" if fill else None)
    for i, box in enumerate(boxes.to(kiln.int64).tolist()):
        color = colors[i] if isinstance(colors, list) else colors or "red"
        inside = (*color[:3], 100) if fill and isinstance(color, tuple) else None
        pen.rectangle(box, width=width, outline=color, fill=inside)
        if labels is not None and labels[i] is not None:
            pen.text((box[0] + width + 1, box[1] + width + 1), labels[i], fill=color)
    return kiln.from_numpy(np.array(picture).transpose(2, 0, 1).copy())


def draw_segmentation_masks(
    image: Tensor, masks: Tensor, alpha: float = 0.8, colors: Any = None
) -> Tensor:
    """A picture u8[3, H, W] with masks bool[N, H, W] laid over it."""
    masks = masks.unsqueeze(0) if masks.ndim == 2 else masks
    palette = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]
    given = palette if colors is None else colors if isinstance(colors, list) else [colors]
    laid = image.clone()
    for i, mask in enumerate(masks):
        color = kiln.tensor(given[i % len(given)], dtype=kiln.uint8)[:, None]
        laid[:, mask] = color.expand(3, int(mask.sum().item()))
    return (image.float() * (1 - alpha) + laid.float() * alpha).to(image.dtype)
