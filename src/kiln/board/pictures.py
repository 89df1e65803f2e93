"""Pictures as TensorBoard shows them: arrays to PNG, several to a grid, boxes on them, videos to GIF."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import KilnTypeError, KilnValueError, describe
from ..extras import need
from .wire import data, integer


def array(x: Any) -> np.ndarray:
    """A tensor, an array or a number as an array."""
    if hasattr(x, "detach"):
        x = x.detach()
        x = x.float() if x.dtype.name == "bfloat16" else x
        return x.cpu().numpy()
    return np.asarray(x)


def grid(pictures: np.ndarray, columns: int = 8) -> np.ndarray:
    """Pictures [N, C, H, W] beside and below each other, as one [3, H', W']."""
    n, channels, height, width = pictures.shape
    if channels not in (1, 3):
        raise KilnValueError(
            "add_images", "pictures must have 1 or 3 channels", list(pictures.shape), ""
        )
    columns = max(1, min(n, columns))
    rows = math.ceil(n / columns)
    out = np.zeros((3, rows, height, columns, width), pictures.dtype)
    for i, p in enumerate(pictures):
        out[:, i // columns, :, i % columns] = p
    return out.reshape(3, rows * height, columns * width)


def as_rows(x: Any, dataformats: str, op: str) -> np.ndarray:
    """A picture, or several as a grid, as uint8 [H, W, C]: floats in [0, 1] are scaled, uint8 are kept."""
    a, names = array(x), dataformats.upper()
    if sorted(names) not in (["C", "H", "N", "W"], ["C", "H", "W"], ["H", "W"]) or a.ndim != len(
        names
    ):
        raise KilnTypeError(
            op, "dataformats must name each of the picture's dimensions once, e.g. 'CHW', 'NHWC' or 'HW'",
            f"{describe(x)}, dataformats={dataformats!r}", "",
        )  # fmt: skip
    a = a.transpose([names.index(c) for c in "NCHW" if c in names])
    if len(names) == 4:
        a = grid(a)
    elif len(names) == 2 or a.shape[0] == 1:
        a = np.broadcast_to(a, (3, *a.shape[-2:]))
    a = a.transpose(1, 2, 0)
    scale = 1 if a.dtype == np.uint8 else 255
    return (a.astype(np.float32) * scale).clip(0, 255).astype(np.uint8)


def png(a: np.ndarray) -> bytes:
    """The PNG file of a picture [H, W, C] of 1 to 4 channels (ISO 15948), each row as it is."""
    height, width, channels = a.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}.get(channels)
    if kind is None:
        raise KilnValueError("png", "a picture has 1 to 4 channels", list(a.shape), "")
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 1:] = a.reshape(height, -1)

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def image(a: np.ndarray, encoded: bytes | None = None) -> bytes:
    """The message of a picture [H, W, C]."""
    height, width, channels = a.shape
    size = integer(1, height) + integer(2, width) + integer(3, channels)
    return size + data(4, png(a) if encoded is None else encoded)


def rescaled(a: np.ndarray, factor: float) -> np.ndarray:
    """A picture [H, W, C] times as large."""
    if factor == 1:
        return a
    found = need("PIL.Image", "board", "a picture of another size").fromarray(a)
    size = (int(a.shape[1] * factor), int(a.shape[0] * factor))
    return np.asarray(found.resize(size, 1))


def with_boxes(a: np.ndarray, boxes: np.ndarray, labels: Sequence[str] | None) -> np.ndarray:
    """A picture [H, W, 3] with boxes (left, top, right, bottom) in red, and their labels."""
    Image = need("PIL.Image", "board", "add_image_with_boxes")
    ImageDraw = need("PIL.ImageDraw", "board", "add_image_with_boxes")
    picture = Image.fromarray(a)
    pen = ImageDraw.Draw(picture)
    for i, box in enumerate(boxes.reshape(-1, 4).tolist()):
        left, top, right, bottom = box
        corners = [(left, top), (left, bottom), (right, bottom), (right, top), (left, top)]
        pen.line(corners, width=2, fill="red")
        if labels is not None:
            _, _, w, h = pen.textbbox((0, 0), labels[i])
            pen.rectangle([(left, bottom - h - 2), (left + w, bottom)], fill="red")
            pen.text((left, bottom - h - 1), labels[i], fill="black")
    return np.asarray(picture)


def gif(frames: np.ndarray, fps: float) -> bytes:
    """The GIF file of frames [T, H, W, C]."""
    Image = need("PIL.Image", "board", "add_video")
    pictures = [Image.fromarray(f[:, :, 0] if f.shape[2] == 1 else f) for f in frames]
    out = io.BytesIO()
    pictures[0].save(
        out, "GIF", save_all=True, append_images=pictures[1:], duration=1000 / fps, loop=0
    )
    return out.getvalue()


def frames(video: np.ndarray) -> np.ndarray:
    """Videos [N, T, C, H, W] side by side as uint8 frames [T, H', W', C]."""
    n = video.shape[0]
    rows = 2 ** ((n.bit_length() - 1) // 2)
    columns = 2 ** (n - 1).bit_length() // rows
    scale = 1 if video.dtype == np.uint8 else 255
    full = np.zeros((rows * columns, *video.shape[1:]), np.float32)
    full[:n] = video.astype(np.float32) * scale
    t, c, h, w = video.shape[1:]
    out = full.reshape(rows, columns, t, c, h, w).transpose(2, 0, 4, 1, 5, 3)
    return out.reshape(t, rows * h, columns * w, c).clip(0, 255).astype(np.uint8)


def figure(figures: Any, close: bool) -> np.ndarray:
    """Matplotlib's figures as pictures [C, H, W], of a list [N, C, H, W]."""
    if isinstance(figures, list | tuple):
        return np.stack([figure(f, close) for f in figures])
    agg = need("matplotlib.backends.backend_agg", "board", "add_figure")
    canvas = agg.FigureCanvasAgg(figures)
    canvas.draw()
    out = np.asarray(canvas.buffer_rgba())[:, :, :3].transpose(2, 0, 1).copy()
    if close:
        need("matplotlib.pyplot", "board", "add_figure").close(figures)
    return out
