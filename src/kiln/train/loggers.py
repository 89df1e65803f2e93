"""Callbacks that write down what training does: CSV files, TensorBoard's event files, MLflow, W&B."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import KilnValueError, describe
from .callbacks import Callback, Logs


class CSVLogger(Callback):
    """Writes each epoch's values as a line of a CSV file; Keras's options.

    A training that was resumed goes on in its file, and lines of epochs that are run again are replaced.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:  # fmt: skip
        self.path, self.separator, self.append = Path(filename), separator, append

    def _begin(self, before: int | None) -> None:
        """Begin the file: with the lines it has of epochs before that number, or with all of them."""
        with open(self.path, newline="") as f:
            rows = list(csv.reader(f, delimiter=self.separator))
        if rows:
            self._names = rows[0]
            self._write("w", [r for i, r in enumerate(rows) if i == 0 or before is None or int(r[0]) < before])  # fmt: skip

    def _write(self, mode: str, rows: list[Any]) -> None:
        with open(self.path, mode, newline="") as f:
            csv.writer(f, delimiter=self.separator).writerows(rows)

    def on_train_begin(self, logs: Logs) -> None:
        """Wait for the first epoch, which says whether this training goes on."""
        self._opened = False
        self._names: list[str] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write a line."""
        if not self._opened:
            self._opened = True
            self.path.parent.mkdir(parents=True, exist_ok=True)
            resumed = epoch > self.trainer.first_epoch
            if (self.append or resumed) and self.path.exists():
                self._begin(epoch if resumed else None)
        if self._names is None:
            self._names = ["epoch", *(k for k, v in logs.items() if isinstance(v, int | float))]
            self._write("w", [self._names])
        self._write("a", [[epoch, *(logs.get(n, "") for n in self._names[1:])]])


class Board(Callback):
    """Writes values with a writer of `kiln.board`, which `make()` gives when training begins; the base of those below.

    Values of epochs, the learning rate, and with `update_freq` "batch" or a number of batches also those of steps;
    with `histogram_freq` histograms of the parameters every so many epochs; with `write_graph` the model's graph.
    """

    def __init__(
        self, make: Callable[[], Any], histogram_freq: int = 0, write_graph: bool = False,
        update_freq: str | int = "epoch",
    ) -> None:  # fmt: skip
        if update_freq not in ("epoch", "batch") and not isinstance(update_freq, int):
            raise KilnValueError(
                type(self).__name__, "no such update_freq", describe(update_freq), "'epoch', 'batch' or a number of batches"
            )  # fmt: skip
        self.make, self.histogram_freq, self.write_graph = make, histogram_freq, write_graph
        self.every = update_freq if isinstance(update_freq, int) else int(update_freq == "batch")
        self._writers: dict[str, Any] = {}
        self._graph = False

    def writer(self, validation: bool = False) -> Any:
        """What values are written with."""
        return self._made("", self.make)

    def _made(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._writers:
            self._writers[name] = make()
        return self._writers[name]

    def tag(self, name: str) -> str:
        """What an epoch's value is called."""
        return name

    def on_train_begin(self, logs: Logs) -> None:
        """Begin to write; the graph comes with the first batch."""
        self.writer()
        self._graph = self.write_graph

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Write a step's values."""
        step = self.trainer.step
        if self._graph and self.trainer.last_args is not None:
            self._graph = False
            self.writer().add_graph(self.model, self.trainer.last_args)
        if self.every and step % self.every == 0:
            for name, value in self.trainer.last.items():
                self.writer().add_scalar(f"batch_{name}", float(value), step)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write an epoch's values."""
        values = {k: v for k, v in logs.items() if isinstance(v, int | float)}
        values.setdefault("learning_rate", float(self.trainer.optimizer.param_groups[0]["lr"]))
        for name, value in values.items():
            self.writer(name.startswith("val_")).add_scalar(self.tag(name), value, epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            for name, p in self.model.named_parameters():
                self.writer().add_histogram(name.replace(".", "/"), p, epoch)
        for w in self._writers.values():
            w.flush()

    def on_train_end(self, logs: Logs) -> None:
        """Close what was written."""
        for w in self._writers.values():
            w.close()
        self._writers.clear()

    def on_exception(self, error: BaseException) -> None:
        """The same."""
        self.on_train_end({})


class TensorBoard(Board):
    """Writes what TensorBoard shows: training under `log_dir/train`, validation under `log_dir/validation`, as Keras does.

    Options as in `Board`; `kiln board LOG_DIR` shows them.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str] = "logs", histogram_freq: int = 0, write_graph: bool = False,
        update_freq: str | int = "epoch",
    ) -> None:  # fmt: skip
        super().__init__(lambda: None, histogram_freq, write_graph, update_freq)
        self.log_dir = Path(log_dir)

    def writer(self, validation: bool = False) -> Any:
        """That of a run's folder."""
        from ..board import SummaryWriter

        run = "validation" if validation else "train"
        return self._made(run, lambda: SummaryWriter(self.log_dir / run))

    def tag(self, name: str) -> str:
        """Training's and validation's values share a chart."""
        return f"epoch_{name.removeprefix('val_')}"


class MLflowLogger(Board):
    """Keeps values in MLflow (extra [mlflow]): `settings` are those of `kiln.board.MLflowWriter`. ImportError without the package."""

    def __init__(self, experiment: str = "kiln", update_freq: str | int = "epoch", **settings: Any) -> None:  # fmt: skip
        def make() -> Any:
            from ..board import MLflowWriter

            return MLflowWriter(experiment, **settings)

        super().__init__(make, update_freq=update_freq)


class WandbLogger(Board):
    """Keeps values in Weights & Biases (extra [wandb]): `settings` are those of `wandb.init`. ImportError without the package."""

    def __init__(self, project: str = "kiln", update_freq: str | int = "epoch", **settings: Any) -> None:  # fmt: skip
        def make() -> Any:
            from ..board import WandbWriter

            return WandbWriter(project=project, **settings)

        super().__init__(make, update_freq=update_freq)


__all__ = ["Board", "CSVLogger", "MLflowLogger", "TensorBoard", "WandbLogger"]
