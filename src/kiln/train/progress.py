"""How training shows itself: a live bar on a terminal, a table in a notebook, lines that stay readable in a file."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..errors import KilnValueError, describe
from .callbacks import Callback, Logs

REFRESH = 0.1
"""Seconds between two pictures of a bar."""
REPORT = 60.0
"""Seconds after which a long epoch tells where it is, in a file."""


def number(value: float) -> str:
    """`0.1234`, or `1.234e-05`."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"


def text(logs: Mapping[str, Any]) -> str:
    """`loss 0.1234  accuracy 0.9100`."""
    return "  ".join(f"{k} {number(v)}" for k, v in logs.items() if isinstance(v, int | float))


class Silent:
    """Nothing is shown."""

    every = float("inf")

    def start(self, title: str, batches: int | None, done: int) -> None:
        """An epoch, an evaluation or a prediction begins."""

    def note(self, words: str) -> None:
        """Something takes long before the first batch is done."""

    def update(self, batch: int, logs: Logs) -> None:
        """So many batches are done; called at most every `every` seconds."""

    def end(self, logs: Logs) -> None:
        """It is done."""

    def close(self) -> None:
        """Nothing more will be shown."""


class Lines(Silent):
    """One line for each epoch, and one a minute in long ones."""

    every = REPORT

    def start(self, title: str, batches: int | None, done: int) -> None:
        self.title, self.batches, self.began = title, batches, time.perf_counter()

    def update(self, batch: int, logs: Logs) -> None:
        total = "" if self.batches is None else f"/{self.batches}"
        print(f"{self.title}  batch {batch}{total}  {text(logs)}", flush=True)

    def line(self, logs: Logs) -> str:
        """`epoch 1/5  0.3s  loss 0.1234`."""
        seconds = time.perf_counter() - self.began
        return f"{self.title}  {seconds:.{1 if seconds >= 1 else 2}f}s  {text(logs)}".rstrip()

    def end(self, logs: Logs) -> None:
        print(self.line(logs), flush=True)


class Bar(Lines):
    """A bar that moves with the batches; what is done leaves its line."""

    every = REFRESH

    def __init__(self) -> None:
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

    def start(self, title: str, batches: int | None, done: int) -> None:
        super().start(title, batches, done)
        self.task = self.bar.add_task(title, total=batches, completed=done, logs="")

    def note(self, words: str) -> None:
        self.bar.update(self.task, logs=words)

    def update(self, batch: int, logs: Logs) -> None:
        self.bar.update(self.task, completed=batch, logs=text(logs))

    def end(self, logs: Logs) -> None:
        self.bar.remove_task(self.task)
        self.bar.console.print(self.line(logs), highlight=False, soft_wrap=True)

    def close(self) -> None:
        self.bar.stop()


class Notebook(Lines):
    """A table of epochs under a bar, in one output that is drawn anew."""

    every = 0.5

    def __init__(self, display: Any, HTML: Any) -> None:
        self.html = HTML
        self.rows: list[dict[str, Any]] = []
        self.handle = display(HTML(""), display_id=True)

    def start(self, title: str, batches: int | None, done: int) -> None:
        super().start(title, batches, done)
        self.done = done
        self._draw(done)

    def note(self, words: str) -> None:
        self._draw(self.done, words)

    def update(self, batch: int, logs: Logs) -> None:
        self._draw(batch, text(logs))

    def end(self, logs: Logs) -> None:
        self.rows.append({"": self.title, "seconds": time.perf_counter() - self.began, **logs})
        self._draw(None)

    def _draw(self, batch: int | None, words: str = "") -> None:
        out = ""
        if batch is not None:
            total = "" if self.batches is None else f' max="{self.batches}"'
            out = f'<div>{self.title} <progress value="{batch}"{total}></progress> {batch} {html.escape(words)}</div>'
        names = list(dict.fromkeys(k for row in self.rows for k in row))
        if names:
            head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
            body = "".join(
                "<tr>" + "".join(f"<td>{_cell(row.get(n))}</td>" for n in names) + "</tr>" for row in self.rows
            )  # fmt: skip
            out += f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        self.handle.update(self.html(out))


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return number(value)
    return html.escape(value) if isinstance(value, str) else ""


def notebook() -> Any:
    """(display, HTML) of IPython where this runs in a notebook, else None."""
    shell = sys.modules.get("IPython")
    if shell is None or type(shell.get_ipython()).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import HTML, display  # type: ignore[import-not-found]

    return display, HTML


def chosen(verbose: Any) -> Silent:
    """The display that was asked for, or fits the place where training runs."""
    if verbose is True or verbose == "auto":
        found = notebook()
        if found is not None:
            return Notebook(*found)
        return Bar() if sys.stdout.isatty() else Lines()
    if verbose in (0, 1, 2):
        return (Silent, Bar, Lines)[int(verbose)]()
    raise KilnValueError("fit", "no such verbose", describe(verbose), "0 silent, 1 a bar, 2 lines, True by the place")  # fmt: skip


class Progress(Callback):
    """Shows a run on the display that fits; sees no more of it than any callback."""

    saves = True  # comes last: it tells what the others have added

    def __init__(self, verbose: Any = True) -> None:
        self.verbose = verbose
        self.show: Silent = Silent()
        if verbose not in (0, 1, 2, "auto"):
            chosen(verbose)
        self._next = 0.0

    def _start(self, title: str, batches: int | None, done: int = 0) -> None:
        self.show.start(title, batches, done)
        self._next = time.perf_counter() + self.show.every

    def _tick(self, batch: int, logs: Logs) -> None:
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + self.show.every
            self.show.update(batch + 1, logs)

    # ---- training

    def on_train_begin(self, logs: Logs) -> None:
        self.show = chosen(self.verbose)
        self._opened = self._stepped = False

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self._open()

    def _open(self) -> None:
        t = self.trainer
        assert t.feed is not None
        self._start(f"epoch {t.epoch + 1}/{t.last_epoch}", t.feed.length, t.batch)
        if t.compile and not self._stepped:
            self.show.note("compiling the first step")
        self._opened = True

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        self._stepped = True
        if not self._opened:  # training goes on in the middle of an epoch
            self._open()
        self._tick(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if not self._opened:
            self._open()
        self.show.end(logs)
        self._opened = False

    def on_train_end(self, logs: Logs) -> None:
        self.show.close()

    def on_exception(self, error: BaseException) -> None:
        self.show.close()

    # ---- evaluation and prediction by themselves

    def on_test_begin(self, logs: Logs) -> None:
        self._begin("evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        if not self.trainer.in_fit:
            self._tick(batch, logs)

    def on_test_end(self, logs: Logs) -> None:
        self._end(logs)

    def on_predict_begin(self, logs: Logs) -> None:
        self._begin("predict")

    def on_predict_batch_end(self, batch: int, logs: Logs) -> None:
        if not self.trainer.in_fit:
            self._tick(batch, {})

    def on_predict_end(self, logs: Logs) -> None:
        self._end({})

    def _begin(self, title: str) -> None:
        if not self.trainer.in_fit:
            self.show = chosen(self.verbose)
            self._start(title, self.trainer.test_length)

    def _end(self, logs: Logs) -> None:
        if not self.trainer.in_fit:
            self.show.end(logs)
            self.show.close()


def shown(verbose: Any) -> list[Progress]:
    """What shows a run: nothing where it is to be silent."""
    return [] if verbose is False or verbose == 0 else [Progress(verbose)]


__all__ = ["Bar", "Lines", "Notebook", "Progress", "Silent", "chosen", "number", "shown", "text"]
