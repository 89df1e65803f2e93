"""Checkpoints on the way: written whole or not at all, off the training's thread, the last and the best kept."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import KilnTypeError, KilnValueError, describe
from ..io.checkpoint import Snapshot
from ..io.files import remove_drafts
from .callbacks import Callback, Logs, Monitor
from .state import SUFFIX, snapshot


class Saver:
    """Writes snapshots in order, one at a time, on a thread of its own; what fails there is raised at the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, taken: Snapshot, then: Callable[[Snapshot], None], wait: bool = False) -> None:
        """Have `then(taken)` write it; waits for what was asked before and, with `wait`, for this too."""
        self.join()
        if wait:
            then(taken)
            return
        self._thread = threading.Thread(
            target=self._run, args=(taken, then), name="kiln-checkpoint"
        )
        self._thread.start()

    def _run(self, taken: Snapshot, then: Callable[[Snapshot], None]) -> None:
        try:
            then(taken)
        except BaseException as e:
            self._error = e

    def join(self) -> None:
        """Wait until all is written; raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error


class ModelCheckpoint(Callback):
    """Saves training on the way, so that `fit(resume=filepath)` goes on where it was, bit for bit.

    `filepath` is a folder, in which files are called `epoch-0003-step-00000960.kiln`, or a file's name that may hold
    `{epoch}`, `{step}` and values: `"runs/{epoch:02d}-{val_loss:.3f}.kiln"`. Each is one file with all of the
    training's state; a process that is killed at any instant leaves the last one whole.

    `save_freq` is "epoch" or a number of batches. `keep` is how many are kept, None for all: by default 3 in a folder, and all
    where `filepath` names files. In a folder the one with the best `monitor` is beside them as `best.kiln`, if there is such a value;
    `save_best_only` saves at a better value alone, and `initial_value_threshold` is a first value to be beaten.
    `save_weights_only` writes the model's `state_dict`. The state is copied on the training's thread and written on another;
    an error there ends training at the next save (`asynchronous=False` writes at once).
    """

    saves = True
    REFUSED: tuple[str, ...] = (".h5", ".hdf5", ".keras")
    """Endings of others' files."""

    def __init__(
        self, filepath: str | os.PathLike[str], monitor: str = "val_loss", verbose: int = 0,
        save_best_only: bool = False, save_weights_only: bool = False, mode: str = "auto",
        save_freq: str | int = "epoch", initial_value_threshold: float | None = None, *,
        keep: int | str | None = "auto", asynchronous: bool = True,
    ) -> None:  # fmt: skip
        if save_freq != "epoch" and (not isinstance(save_freq, int) or isinstance(save_freq, bool) or save_freq < 1):  # fmt: skip
            raise KilnValueError("ModelCheckpoint", "no such save_freq", describe(save_freq), "'epoch' or a number of batches")  # fmt: skip
        if keep not in (None, "auto") and (not isinstance(keep, int) or keep < 1):
            raise KilnValueError("ModelCheckpoint", "keep is a number of files", describe(keep), "at least 1, or None for all")  # fmt: skip
        if not isinstance(filepath, str | os.PathLike):
            raise KilnTypeError("ModelCheckpoint", "filepath is a folder or a file's name", describe(filepath), "'checkpoints'")  # fmt: skip
        path = Path(filepath)
        if path.suffix in self.REFUSED:
            raise KilnValueError("ModelCheckpoint", "Kiln writes files of its own", str(path), f"another ending, e.g. {path.stem}{SUFFIX}")  # fmt: skip
        self.in_folder = path.suffix == "" and "{" not in path.name
        self.folder = path if self.in_folder else path.parent
        self.name = "epoch-{epoch:04d}-step-{step:08d}" + SUFFIX if self.in_folder else path.name
        self.monitor = Monitor("ModelCheckpoint", monitor, mode)
        self.verbose, self.save_best_only, self.save_weights_only = verbose, save_best_only, save_weights_only  # fmt: skip
        self.save_freq, self.asynchronous = save_freq, asynchronous
        self.keep: Any = (3 if self.in_folder else None) if keep == "auto" else keep
        self.threshold = initial_value_threshold
        self.saver = Saver()
        self._reset()

    def _reset(self) -> None:
        self.best = self.monitor.worst if self.threshold is None else self.threshold
        self.best_path: str | None = None
        self.last_path: str | None = None
        self.saved: list[str] = []

    def on_train_begin(self, logs: Logs) -> None:
        """Make the folder, and take away what a killed process left unfinished there."""
        self._reset()
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_drafts(self.folder, Path(self.name).suffix)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Wait before workers of a loader are forked, beside which no thread should be writing."""
        feed = self.trainer.feed
        if feed is not None and getattr(feed.loader, "num_workers", 0):
            self.saver.join()

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Save after every `save_freq` batches."""
        if self.save_freq != "epoch" and self.trainer.step % self.save_freq == 0:  # type: ignore[operator]
            self._save(self.trainer.epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Save after an epoch, or the best of all epochs where steps are counted."""
        if self.save_freq == "epoch":
            self._save(epoch, logs)
        elif self.in_folder and self.monitor.name in logs and not self.save_best_only:
            self._best(self._taken, epoch, logs)

    def _taken(self) -> Snapshot:
        return (
            Snapshot(self.model.state_dict()) if self.save_weights_only else snapshot(self.trainer)
        )

    def _save(self, epoch: int, logs: Logs) -> None:
        if self.save_best_only:
            self._best(self._taken, epoch, logs)
            return
        path = self._path(epoch, logs)
        if str(path) in self.saved:
            self.saved.remove(str(path))
        self.saved.append(str(path))
        self.last_path = str(path)
        old = self.saved[: -self.keep] if self.keep is not None else []
        del self.saved[: len(old)]
        best = self.in_folder and self.save_freq == "epoch" and self._is_best(logs)
        if best:
            self.best_path = str(self.folder / f"best{SUFFIX}")
        taken = self._taken()

        def write(taken: Snapshot) -> None:
            if best:
                taken.write(self.best_path)
            taken.write(path)
            self._remove(old)

        self._give(taken, write, path, epoch)

    def _best(self, take: Callable[[], Snapshot], epoch: int, logs: Logs) -> None:
        if not self._is_best(logs):
            return
        path = self.folder / f"best{SUFFIX}" if self.in_folder else self._path(epoch, logs)
        old = [self.best_path] if self.best_path not in (None, str(path)) and self.keep is not None else []  # fmt: skip
        self.best_path = str(path)

        def write(taken: Snapshot) -> None:
            taken.write(path)
            self._remove(old)

        self._give(take(), write, path, epoch)

    def _is_best(self, logs: Logs) -> bool:
        if not self.save_best_only and self.monitor.name not in logs:
            return False
        value = self.monitor.get(logs)
        if value is None or not self.monitor.improves(value, self.best):
            return False
        self.best = value
        return True

    def _give(
        self, taken: Snapshot, write: Callable[[Snapshot], None], path: Path, epoch: int
    ) -> None:
        self.saver.save(taken, write, wait=not self.asynchronous)
        if self.verbose:
            print(f"epoch {epoch + 1}: saving to {path}")

    def _path(self, epoch: int, logs: Logs) -> Path:
        try:
            values = {} if self.in_folder or "{" not in self.name else dict(logs)
            return self.folder / self.name.format(**{**values, "epoch": epoch + 1, "step": self.trainer.step})  # fmt: skip
        except (KeyError, IndexError, ValueError) as e:
            raise KilnValueError(
                "ModelCheckpoint", f"the file's name asks for what is not there: {e}", self.name,
                "it may hold {epoch}, {step} and " + ", ".join(logs),
            ) from None  # fmt: skip

    @staticmethod
    def _remove(files: list[Any]) -> None:
        for f in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f)

    def on_train_end(self, logs: Logs) -> None:
        """Wait until all is on disk."""
        self.saver.join()

    def on_exception(self, error: BaseException) -> None:
        """The same; an error of the writing is told with the error that ended training."""
        try:
            self.saver.join()
        except Exception as e:
            error.add_note(f"the last checkpoint could not be written either: {e}")

    def state_dict(self) -> dict[str, Any]:
        """The best value, and which files are there."""
        return {
            "best": self.best, "best_path": self.best_path, "last_path": self.last_path, "saved": list(self.saved),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there: older files go as new ones come."""
        self.best, self.best_path = state["best"], state["best_path"]
        self.last_path, self.saved = state["last_path"], list(state["saved"])
        if (
            self.in_folder and self.last_path is not None
        ):  # one that should have gone when we were killed
            newest = Path(self.last_path).name
            there = self.folder.glob(f"epoch-*-step-*{SUFFIX}")
            self.saved = sorted(str(f) for f in there if f.name <= newest)


__all__ = ["ModelCheckpoint", "Saver"]
