"""Worker processes that take orders: one for each library that is measured, one at work at a time.

An order is a JSON list, its name first; the answer is one line of JSON. `Crew` is the side that asks,
`serve` the loop of a worker. What a worker prints goes to its standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

# The folder from which this package is imported: the checkout, or where the wheel was installed.
ROOT = Path(__file__).parents[__package__.count(".") + 1]


class WorkerGone(RuntimeError):
    """A worker's process ended without an answer; the text is its last line on standard error."""


class Crew:
    """A process for each name: `members` maps it to the arguments of Python, `env` to its environment.

    With `log`, a folder, what workers print is kept there in a file each, else it is passed through.
    """

    def __init__(
        self,
        members: Mapping[str, Sequence[str]],
        env: Mapping[str, Mapping[str, str]] | None = None,
        log: Path | None = None,
    ):
        self.logs = {m: log / f"{m.replace(' ', '-')}.log" for m in members} if log else {}
        self.hands: dict[str, subprocess.Popen[str]] = {}
        for name, argv in members.items():
            own = {**os.environ, **(env or {}).get(name, {})}
            with (self.logs[name] if log else Path(os.devnull)).open("w") as errors:
                self.hands[name] = subprocess.Popen(
                    [sys.executable, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=errors if log else None, text=True, cwd=ROOT, env=own,
                )  # fmt: skip

    def ask(self, name: str, *order: Any) -> Any:
        """Send an order and wait for the answer; raises WorkerGone."""
        p = self.hands[name]
        assert p.stdin is not None
        assert p.stdout is not None
        try:
            p.stdin.write(json.dumps(order) + "\n")
            p.stdin.flush()
            answer = p.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise WorkerGone(self._last_words(name, p.wait()))
        return json.loads(answer)

    def _last_words(self, name: str, status: int) -> str:
        said = self.logs[name].read_text(errors="replace").split("\n") if self.logs else []
        words = [line.strip() for line in said if line.strip()]
        return f"its process ended with status {status}" + (f": {words[-1]}" if words else "")

    def dismiss(self, name: str | None = None) -> None:
        """End every process, or one."""
        for n in [name] if name else list(self.hands):
            p = self.hands.pop(n)
            if p.stdin is not None:
                p.stdin.close()
            p.wait()
            if p.stdout is not None:
                p.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()


def serve(orders: Mapping[str, Callable[..., Any]]) -> None:
    """Answer orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not disturb the answers
    for line in sys.stdin:
        name, *args = json.loads(line)
        answers.write(json.dumps(orders[name](*args)) + "\n")
        answers.flush()
