"""Pictures in files as tensors: `torchvision.io`. Pillow decodes and encodes; videos are not read.

https://docs.pytorch.org/vision/stable/io.html
"""

from __future__ import annotations

import io
from enum import Enum
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

import kiln

from ..errors import KilnError, KilnValueError, describe
from ..extras import need
from ..refusal import refuse
from ..tensor import Tensor

__all__ = [
    "ImageReadMode", "decode_gif", "decode_image", "decode_jpeg", "decode_png", "decode_webp", "encode_jpeg", "encode_png",
    "read_file", "read_image", "write_file", "write_jpeg", "write_png",
]  # fmt: skip


class ImageReadMode(Enum):
    """Which channels a picture is given with."""

    UNCHANGED, GRAY, GRAY_ALPHA, RGB, RGB_ALPHA = range(5)


_MODES = {"GRAY": "L", "GRAY_ALPHA": "LA", "RGB": "RGB", "RGB_ALPHA": "RGBA"}


def read_file(path: str | PathLike) -> Tensor:
    """The bytes of a file: uint8, one dimension."""
    return kiln.from_numpy(np.frombuffer(bytearray(Path(path).read_bytes()), np.uint8))


def write_file(filename: str | PathLike, data: Tensor) -> None:
    """Write bytes (uint8, one dimension) to a file."""
    if data.dtype is not kiln.uint8 or data.dim() != 1:
        raise KilnError("write_file", "expected bytes: uint8, one dimension", describe(data), "")
    Path(filename).write_bytes(data.numpy().tobytes())


def decode_image(
    input: Tensor | str | PathLike, mode: ImageReadMode | str = ImageReadMode.UNCHANGED, apply_exif_orientation: bool = False
) -> Tensor:  # fmt: skip
    """The pixels [C, H, W] of a picture, uint8: of its bytes or of a file; `mode` says which channels.

    RuntimeError where the bytes are no picture that Pillow knows, or tensors that are no bytes.
    """
    image = need("PIL.Image", "vision", "decode_image")
    data = input if isinstance(input, Tensor) else read_file(input)
    if data.dtype is not kiln.uint8 or data.dim() != 1 or not data.numel():
        raise KilnError("decode_image", "expected bytes: uint8, one dimension", describe(data), "")
    try:
        picture = image.open(io.BytesIO(data.numpy().tobytes()))
        picture.load()
    except OSError as e:
        where = describe(input) if isinstance(input, Tensor) else fspath(input)
        raise KilnError("decode_image", f"no picture: {e}", where, "") from None
    if apply_exif_orientation:
        picture = need("PIL.ImageOps", "vision", "decode_image").exif_transpose(picture)
    name = mode.upper() if isinstance(mode, str) else mode.name
    if name not in ImageReadMode.__members__:
        raise KilnValueError(
            "decode_image", "no such mode", mode, ", ".join(ImageReadMode.__members__)
        )
    as_is = "RGB" if picture.mode in ("P", "CMYK", "YCbCr") else picture.mode
    pixels = np.array(picture.convert(_MODES.get(name, as_is)), np.uint8)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return kiln.from_numpy(np.ascontiguousarray(pixels))


def read_image(
    path: str | PathLike, mode: ImageReadMode | str = ImageReadMode.UNCHANGED, apply_exif_orientation: bool = False
) -> Tensor:  # fmt: skip
    """The pixels [C, H, W] of a picture's file, uint8: see `decode_image`."""
    return decode_image(read_file(path), mode, apply_exif_orientation)


decode_png = decode_jpeg = decode_webp = decode_gif = decode_image


def _encoded(name: str, input: Tensor, form: str, **options: Any) -> Tensor:
    if input.dtype is not kiln.uint8 or input.dim() != 3 or input.shape[0] not in (1, 3):
        raise KilnError(
            name, "expected pixels [1 or 3, H, W] of dtype uint8", describe(input), "x.to(kiln.uint8)"
        )  # fmt: skip
    pixels = input.permute(1, 2, 0).numpy()
    image = need("PIL.Image", "vision", name)
    out = io.BytesIO()
    image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)).save(
        out, form, **options
    )
    return kiln.from_numpy(np.frombuffer(bytearray(out.getvalue()), np.uint8))


def encode_png(input: Tensor, compression_level: int = 6) -> Tensor:
    """The bytes of pixels [1 or 3, H, W] as a PNG file."""
    return _encoded("encode_png", input, "PNG", compress_level=compression_level)


def encode_jpeg(input: Tensor, quality: int = 75) -> Tensor:
    """The bytes of pixels [1 or 3, H, W] as a JPEG file."""
    return _encoded("encode_jpeg", input, "JPEG", quality=quality)


def write_png(input: Tensor, filename: str | PathLike, compression_level: int = 6) -> None:
    """Write pixels [1 or 3, H, W] as a PNG file."""
    write_file(filename, encode_png(input, compression_level))


def write_jpeg(input: Tensor, filename: str | PathLike, quality: int = 75) -> None:
    """Write pixels [1 or 3, H, W] as a JPEG file."""
    write_file(filename, encode_jpeg(input, quality))


refuse(
    __name__, "VideoReader read_video read_video_timestamps write_video", "videos are not read or written",
    "read their pictures with another package",
)  # fmt: skip
