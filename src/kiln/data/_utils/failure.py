"""An exception on its way from one process to another."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

from ...errors import KilnError


class _Message(str):
    """A text that shows as it is where an error shows the repr of its argument, as KeyError does."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class ExceptionWrapper:
    """An exception and its traceback, as text: `reraise` raises one of the same class elsewhere.

    Where the class can't be found by others (it is local to a function), its nearest base that can serves.
    """

    def __init__(self, error: BaseException, where: str = "in background"):
        self.exc_type = next(c for c in type(error).__mro__ if _travels(c))
        self.exc_name, self.where = type(error).__name__, where
        self.exc_msg = "".join(traceback.format_exception(error))
        self._original, self.brief = _pickled(error), f"{error} ({where})"

    def reraise(self) -> None:
        """Raise it again, with the text of its traceback."""
        text = f"Caught {self.exc_name} {self.where}.\nOriginal {self.exc_msg}"
        raise self._again(text) from None

    def _again(self, text: str) -> BaseException:
        if issubclass(self.exc_type, KilnError):
            again = self.exc_type("DataLoader", text)
            again.brief = self.brief
            return again
        if issubclass(self.exc_type, KeyError):
            return self.exc_type(_Message(text))
        try:
            if getattr(self.exc_type, "message", None):
                return self.exc_type(message=text)
            made = self.exc_type(text)
            if text in str(made):
                return made
        except Exception:
            pass
        if self._original is not None:
            original = pickle.loads(self._original)
            original.add_note(text)
            return original
        return KilnError("DataLoader", text)


def _travels(what: Any) -> bool:
    try:
        return pickle.loads(pickle.dumps(what)) is what
    except Exception:
        return False


def _pickled(error: BaseException) -> bytes | None:
    try:
        text = pickle.dumps(error)
        return text if type(pickle.loads(text)) is type(error) else None
    except Exception:
        return None
