"""How training shows itself: a live bar on a terminal, one line for each epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any


def text(logs: dict[str, float]) -> str:
    """`loss 0.1234  accuracy 0.9100`."""
    return "  ".join(
        f"{k} {v:.4f}" if 1e-3 <= abs(v) < 1e4 or v == 0 else f"{k} {v:.3e}"
        for k, v in logs.items()
    )


class Silent:
    """Nothing is shown."""

    def start(self, epoch: int, batches: int | None) -> None:
        """An epoch begins."""

    def batch(self, logs: dict[str, float]) -> None:
        """A batch is done."""

    def end(self, logs: dict[str, float]) -> None:
        """The epoch is done."""

    def close(self) -> None:
        """Training is over."""


class Lines(Silent):
    """One line for each epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.epoch, self.began = epochs, 0, 0.0

    def start(self, epoch: int, batches: int | None) -> None:
        self.epoch, self.began = epoch, time.perf_counter()

    def end(self, logs: dict[str, float]) -> None:
        seconds = time.perf_counter() - self.began
        print(f"epoch {self.epoch + 1}/{self.epochs}  {seconds:.1f}s  {text(logs)}", flush=True)


class Bar(Lines):
    """A bar that moves with the batches; finished epochs leave their line."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs)
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.bar: Any = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[logs]}"), transient=True,
        )  # fmt: skip
        self.task: Any = None
        self.bar.start()

    def start(self, epoch: int, batches: int | None) -> None:
        super().start(epoch, batches)
        name = f"epoch {epoch + 1}/{self.epochs}"
        self.task = self.bar.add_task(name, total=batches, logs="")

    def batch(self, logs: dict[str, float]) -> None:
        self.bar.update(self.task, advance=1, logs=text(logs))

    def end(self, logs: dict[str, float]) -> None:
        self.bar.remove_task(self.task)
        seconds = time.perf_counter() - self.began
        self.bar.console.print(
            f"epoch {self.epoch + 1}/{self.epochs}  {seconds:.1f}s  {text(logs)}",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        self.bar.stop()


def display(epochs: int, verbose: bool) -> Silent:
    """The display that fits the place where training runs."""
    if not verbose:
        return Silent()
    return Bar(epochs) if sys.stdout.isatty() else Lines(epochs)
