"""Files of TensorBoard's projector: points, their labels and their pictures.

https://www.tensorflow.org/tensorboard/tensorboard_projector_plugin
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import KilnValueError
from .pictures import array, grid, png


def write(
    folder: str, mat: Any, metadata: Sequence[Any] | None, label_img: Any, step: int, tag: str,
    header: Sequence[str] | None,
) -> str:  # fmt: skip
    """Write the files of some points; returns their entry for the projector's configuration."""
    points = array(mat)
    if points.ndim != 2:
        raise KilnValueError(
            "add_embedding", "mat should be 2D, where mat.size(0) is the number of data points",
            list(points.shape), "",
        )  # fmt: skip
    safe = "".join(c if c.isalnum() or c in "-._ " else f"%{ord(c):02x}" for c in tag)
    place = f"{str(step).zfill(5)}/{safe}"
    os.makedirs(os.path.join(folder, place), exist_ok=True)
    entry = {
        "tensor_name": json.dumps(f"{tag}:{str(step).zfill(5)}"),
        "tensor_path": json.dumps(f"{place}/tensors.tsv"),
    }
    _write(folder, place, "tensors.tsv", _table(points.tolist()))
    if metadata is not None:
        if len(metadata) != len(points):
            raise KilnValueError("add_embedding", "#labels should equal with #data points",
                                 f"{len(metadata)} labels, {len(points)} points", "")  # fmt: skip
        if header and len(header) != len(metadata[0]):
            raise KilnValueError(
                "add_embedding", "len of header must be equal to the number of columns in metadata",
                f"{len(header)} names, {len(metadata[0])} columns", "",
            )  # fmt: skip
        rows = [header, *metadata] if header else [[x] for x in metadata]
        _write(folder, place, "metadata.tsv", _table(rows))
        entry["metadata_path"] = json.dumps(f"{place}/metadata.tsv")
    if label_img is not None:
        pictures = array(label_img)
        if len(pictures) != len(points):
            raise KilnValueError("add_embedding", "#images should equal with #data points",
                                 f"{len(pictures)} images, {len(points)} points", "")  # fmt: skip
        side = math.ceil(len(pictures) ** 0.5)
        sheet = grid(pictures, side).transpose(1, 2, 0)
        square = np.zeros((side * pictures.shape[2], sheet.shape[1], 3), np.float32)
        square[: sheet.shape[0]] = sheet
        scale = 1 if pictures.dtype == np.uint8 else 255
        _write(folder, place, "sprite.png", png((square * scale).clip(0, 255).astype(np.uint8)))
        path = json.dumps(f"{place}/sprite.png")
        dims = "".join(f"    single_image_dim: {n}\n" for n in pictures.shape[:1:-1])
        entry["sprite"] = "{\n    image_path: " + path + "\n" + dims + "  }"
    lines = "".join(f"  {k}{'' if k == 'sprite' else ':'} {v}\n" for k, v in entry.items())
    return "embeddings {\n" + lines + "}\n"


def _table(rows: Sequence[Sequence[Any]]) -> bytes:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()


def _write(folder: str, place: str, name: str, content: bytes) -> None:
    with open(os.path.join(folder, place, name), "wb") as f:
        f.write(content)
