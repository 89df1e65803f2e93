"""Python functions written out as text, for calls in which a loop over what is known costs too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Source:
    """The text of a function under way, and the objects that it names.

    The objects are the function's globals, so that what a name stands for can be replaced later.
    """

    def __init__(self, **names: Any) -> None:
        self.names = names
        self.lines: list[str] = []

    def name(self, x: Any, prefix: str = "v") -> str:
        """A name for an object."""
        out = f"{prefix}{len(self.names)}_"
        self.names[out] = x
        return out

    def line(self, text: str, depth: int = 1) -> None:
        """Add a line."""
        self.lines.append("    " * depth + text)

    def function(self, head: str, title: str) -> Callable[..., Any]:
        """The function with that head and the lines so far as its body."""
        text = "\n".join((f"def {head}:", *self.lines, ""))
        exec(compile(text, f"<kiln {title}>", "exec"), self.names)
        return self.names[head.partition("(")[0]]
