"""`SummaryWriter`: PyTorch's interface to TensorBoard's event files."""

from __future__ import annotations

import io
import os
import time
from typing import Any, Self

import numpy as np

from ..errors import KilnError, KilnTypeError, describe
from ..extras import need
from ..tensor import Tensor


class SummaryWriter:
    """Writes an event file into `log_dir`; read it with `tensorboard --logdir log_dir`.

    >>> with SummaryWriter("runs/first") as board:
    ...     board.add_scalar("loss", 0.25, global_step=1)
    """

    def __init__(self, log_dir: str | os.PathLike[str] = "runs", filename_suffix: str = ""):
        feature = "SummaryWriter"
        self._event = need("tensorboard.compat.proto.event_pb2", "board", feature).Event
        self._summary = need("tensorboard.compat.proto.summary_pb2", "board", feature)
        self._tensor = need("tensorboard.compat.proto.tensor_pb2", "board", feature).TensorProto
        writer = need("tensorboard.summary.writer.event_file_writer", "board", feature)
        self.log_dir = os.fspath(log_dir)
        try:
            self._file = writer.EventFileWriter(self.log_dir, filename_suffix=filename_suffix)
        except OSError as e:
            raise KilnError(
                feature,
                f"can't write event files here: {e}",
                self.log_dir,
                "choose another log_dir",
            ) from None

    def _add(self, value: Any, global_step: int | None, walltime: float | None) -> None:
        event = self._event(wall_time=time.time() if walltime is None else walltime)
        if global_step is not None:
            event.step = int(global_step)
        event.summary.value.append(value)
        self._file.add_event(event)

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Add a number, or a tensor with one element, to the curve `tag`."""
        try:
            value = float(scalar_value)
        except (TypeError, ValueError):
            raise KilnTypeError(
                "add_scalar", "the value is not one number", describe(scalar_value), "pass x.mean()"
            ) from None
        self._add(self._summary.Summary.Value(tag=tag, simple_value=value), global_step, walltime)

    def add_text(
        self,
        tag: str,
        text_string: str,
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Add a text in Markdown."""
        plugin = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        value = self._summary.Summary.Value(
            tag=f"{tag}/text_summary",
            metadata=self._summary.SummaryMetadata(plugin_data=plugin),
            tensor=self._tensor(dtype="DT_STRING", string_val=[text_string.encode()]),
        )
        self._add(value, global_step, walltime)

    def add_image(
        self, tag: str, img_tensor: Any, global_step: int | None = None, walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:  # fmt: skip
        """Add a picture: uint8 in [0, 255] or floats in [0, 1], with 1, 3 or 4 channels."""
        a = (
            img_tensor.detach().numpy()
            if isinstance(img_tensor, Tensor)
            else np.asarray(img_tensor)
        )
        if sorted(dataformats) not in (["C", "H", "W"], ["H", "W"]) or a.ndim != len(dataformats):
            raise KilnTypeError(
                "add_image", "dataformats must name the picture's dimensions, e.g. 'CHW', 'HWC' or 'HW'",
                f"{describe(img_tensor)}, dataformats={dataformats!r}", "",
            )  # fmt: skip
        a = np.transpose(a, [dataformats.index(d) for d in "HWC" if d in dataformats])
        if a.dtype != np.uint8:
            a = (np.clip(a, 0, 1) * 255 + 0.5).astype(np.uint8)
        if a.ndim == 3 and a.shape[2] == 1:
            a = a[:, :, 0]
        picture = need("PIL.Image", "board", "add_image").fromarray(a)
        png = io.BytesIO()
        picture.save(png, "PNG")
        image = self._summary.Summary.Image(
            height=a.shape[0], width=a.shape[1], colorspace=1 if a.ndim == 2 else a.shape[2],
            encoded_image_string=png.getvalue(),
        )  # fmt: skip
        self._add(self._summary.Summary.Value(tag=tag, image=image), global_step, walltime)

    def flush(self) -> None:
        """Write out what is buffered."""
        self._file.flush()

    def close(self) -> None:
        """Write out what is buffered and close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
