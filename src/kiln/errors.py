"""Errors that help: what happened, what was received, what to do.

Every error that Kiln raises on a user's path is a `KilnError` with three lines. It is also an
instance of the class that a PyTorch user would catch (`TypeError`, `ValueError`, `IndexError`, …).
"""

from __future__ import annotations

import sys
from typing import Any

_KILN = __name__.partition(".")[0] + "."


class KilnError(RuntimeError):
    """A failed operation, told in three lines: `[op] what`, `received: …`, `help: …`.

    wrong:  KilnError("shapes differ")
    right:  KilnError("matmul", "inner sizes differ", "a=f32[2, 3], b=f32[4, 5]", "transpose b")

    `brief` is what to tell instead where another error tells of this one, if that is not all of it. With nothing but
    a text it is that text: programs raise the class of an error again with more to say.
    """

    brief = ""

    def __init__(
        self, op: str = "", what: str | None = None, received: object = None, help: str = ""
    ):
        self.op, self.what, self.received, self.help = op, what, received, help
        super().__init__(op, what, received, help)

    @property
    def args(self) -> tuple[str, ...]:  # type: ignore[override]
        """The text, where programs look for a word of it."""
        return (str(self),)

    def __reduce__(self) -> tuple:
        return type(self), (self.op, self.what, self.received, self.help), self.__dict__

    def __str__(self) -> str:
        if self.what is None:
            return str(self.op)
        lines = [f"[{self.op}] {self.what}"]
        if self.received is not None:
            lines.append(f"received: {self.received}")
        if self.help:
            lines.append(f"help: {self.help}")
        return "\n".join(lines)


class KilnTypeError(KilnError, TypeError):
    """An argument of the wrong type or dtype."""


class KilnValueError(KilnError, ValueError):
    """An argument of the right type with a value that cannot be used."""


class KilnAssertionError(KilnError, AssertionError):
    """Arguments that contradict each other, where PyTorch asserts that they do not."""


class KilnIndexError(KilnError, IndexError):
    """A dimension or an index out of range."""


class KilnKeyError(KilnError, KeyError):
    """A name that is not there, or that cannot be used."""


class KilnAttributeError(KilnError, AttributeError):
    """An attribute that an object does not have, or cannot take."""


class KilnNotImplementedError(KilnError, NotImplementedError):
    """Something that Kiln names but does not do (yet)."""


class LinAlgError(KilnError):
    """A matrix that does not have the factorisation, inverse or solution that was asked for."""


class KilnBufferError(KilnError, BufferError):
    """Memory that can't be exchanged with another library (DLPack)."""


class KilnMemoryError(KilnError, MemoryError):
    """More memory is needed than can be had."""


class CaptureError(KilnError):
    """A function that `kiln.compile` cannot capture, with the line and the cure."""


class KilnWarning(UserWarning):
    """Base class of Kiln's warnings."""


class KilnCacheWarning(KilnWarning):
    """The disk cache of compiled kernels can't be used; work goes on without it."""


def users_frame() -> Any:
    """The innermost frame that runs code other than Kiln's; None where there is none."""
    f: Any = sys._getframe(1)
    while f is not None and f.f_globals.get("__name__", "").startswith(_KILN):
        f = f.f_back
    return f


def place(frame: Any) -> str:
    """The line that a frame runs, as messages name it: `train.py:12 in step`."""
    code = frame.f_code
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno} in {code.co_name}"


def describe(x: Any) -> str:
    """A short text for an argument in an error: `f32[2, 3]` for a tensor, its repr otherwise."""
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        name = getattr(dtype, "abbr", None) or str(dtype)
        return f"{name}[{', '.join(map(str, shape))}]"
    if isinstance(x, list | tuple) and any(hasattr(v, "shape") for v in x):
        return "(" + ", ".join(map(describe, x)) + ")"
    text = repr(x)
    return text if len(text) <= 60 else text[:57] + "..."
