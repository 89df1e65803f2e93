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
        self._constants: dict[int, str] = {}

    def variable(self, x: Any) -> str:
        """A name for an object that another may replace."""
        out = f"v{len(self.names)}"
        self.names[out] = x
        return out

    def constant(self, x: Any) -> str:
        """The name of an object for good."""
        out = self._constants.get(id(x))
        if out is None:
            out = self._constants[id(x)] = f"c{len(self.names)}"
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
