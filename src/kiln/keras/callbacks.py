"""Callbacks under Keras's names: those of `kiln.train`, and what has to do with Keras's files and averages.

https://keras.io/api/callbacks/
"""

from __future__ import annotations

import json
import urllib.request
import warnings
from pathlib import Path
from typing import Any

from ..errors import KilnTypeError, KilnWarning, describe
from ..train import (
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
)
from ..train import ModelCheckpoint as _ModelCheckpoint
from ..train import state as _state

KERAS = ".keras", ".h5"


class _File:
    """A model that is written in Keras's format when it is asked for."""

    def __init__(self, model: Any, weights: bool) -> None:
        self.model, self.weights = model, weights

    def write(self, path: Any) -> None:
        """Write it."""
        (self.model.save_weights if self.weights else self.model.save)(path)


class ModelCheckpoint(_ModelCheckpoint):
    """`kiln.train.ModelCheckpoint`; where `filepath` ends in `.keras` or `.weights.h5` files are Keras's, which hold the model alone."""

    REFUSED = ()

    def __init__(self, filepath: Any, *args: Any, **options: Any) -> None:
        self.in_keras = Path(filepath).suffix in KERAS
        if self.in_keras:
            options["asynchronous"] = False
        super().__init__(filepath, *args, **options)

    def _taken(self) -> Any:
        return (
            _File(self.model, str(self.name).endswith(".h5")) if self.in_keras else super()._taken()
        )


class BackupAndRestore(_ModelCheckpoint):
    """Saves all of the training's state to a folder, and goes on from there where training was interrupted, in the middle of an epoch too.

    The folder's files go when training has come to its end, unless `delete_checkpoint` is False.
    """

    def __init__(
        self, backup_dir: Any, save_freq: str | int = "epoch", double_checkpoint: bool = False, delete_checkpoint: bool = True
    ) -> None:  # fmt: skip
        super().__init__(backup_dir, save_freq=save_freq, keep=1)
        self.delete_checkpoint = delete_checkpoint

    def on_train_begin(self, logs: Any = None) -> None:
        """Go on where a training ended."""
        super().on_train_begin(logs)
        found = _state.find(self.folder)
        if found is not None:
            _state.load(self.trainer, found)

    def on_train_end(self, logs: Any = None) -> None:
        """Wait until all is on disk, and take it away."""
        super().on_train_end(logs)
        if self.delete_checkpoint and not self.trainer.history.interrupted:
            self._remove(_state.newest_first(self.folder))


class SwapEMAWeights(Callback):
    """Has `evaluate`, and with `swap_on_epoch` callbacks at an epoch's end (a ModelCheckpoint), see the averages that an optimizer with
    `use_ema` keeps.
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        self.swap_on_epoch = swap_on_epoch

    def _swap(self, averages: bool) -> None:
        from .optimizers import Averaged

        held = [c for c in self.trainer.running.all if isinstance(c, Averaged)]
        if not held:
            raise KilnTypeError("SwapEMAWeights", "the optimizer keeps no averages", describe(self.trainer.optimizer), "optimizers.Adam(use_ema=True)")  # fmt: skip
        if held[0].average and held[0]._swapped != averages:
            held[0].exchange()

    def on_test_begin(self, logs: Any = None) -> None:
        """The averages."""
        self._swap(True)

    def on_test_end(self, logs: Any = None) -> None:
        """The model's own again."""
        self._swap(False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The averages, until the next epoch begins."""
        if self.swap_on_epoch:
            self._swap(True)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """The model's own again."""
        self._swap(False)

    def on_train_end(self, logs: Any = None) -> None:
        """The same."""
        self._swap(False)


class RemoteMonitor(Callback):
    """Sends each epoch's values as JSON by POST to `root` + `path`; a server that does not answer is a warning."""

    def __init__(
        self, root: str = "http://localhost:9000", path: str = "/publish/epoch/end/", field: str = "data", headers: Any = None,
        send_as_json: bool = False,
    ) -> None:  # fmt: skip
        self.url, self.field, self.headers, self.send_as_json = root + path, field, headers or {}, send_as_json  # fmt: skip

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Send."""
        from urllib.parse import urlencode

        text = json.dumps({"epoch": epoch, **{k: float(v) for k, v in (logs or {}).items()}})
        kind = "application/json" if self.send_as_json else "application/x-www-form-urlencoded"
        data = (text if self.send_as_json else urlencode({self.field: text})).encode()
        request = urllib.request.Request(self.url, data, {"Content-Type": kind, **self.headers})
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError as e:
            warnings.warn(f"RemoteMonitor could not reach {self.url}: {e}", KilnWarning, stacklevel=2)  # fmt: skip


__all__ = [
    "BackupAndRestore", "CSVLogger", "Callback", "EarlyStopping", "History", "LambdaCallback", "LearningRateScheduler", "ModelCheckpoint",
    "ReduceLROnPlateau", "RemoteMonitor", "SwapEMAWeights", "TensorBoard", "TerminateOnNaN",
]  # fmt: skip
