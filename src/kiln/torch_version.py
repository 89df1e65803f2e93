"""Versions that compare with strings, tuples of numbers and parsed versions, as programs do with PyTorch's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_FORM = re.compile(r"v?(\d+(?:\.\d+)*)[._-]?((?:a|b|c|rc|dev|alpha|beta|pre)[._-]?\d*)?(?:\+(.*))?")


def _key(version: Any) -> tuple | None:
    """What orders versions: the numbers, finished after unfinished ones, the build; None for other texts."""
    if not isinstance(version, str) and isinstance(version, Iterable):
        version = ".".join(map(str, version))
    found = _FORM.fullmatch(str(version).strip().lower())
    if found is None:
        return None
    numbers = [int(n) for n in found[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers), found[2] is None, found[2] or "", found[3] or ""


def _compared(method: str) -> Any:
    def compare(self: str, other: Any) -> Any:
        ours, theirs = _key(str.__str__(self)), _key(other)
        if ours is None or theirs is None:
            return getattr(str, method)(self, other)
        return getattr(ours, method)(theirs)

    compare.__name__ = method
    return compare


class TorchVersion(str):
    """A version as a string that compares as a version: `TorchVersion("2.13.0") >= (2, 4)`."""

    __slots__ = ()
    __lt__, __le__, __gt__, __ge__ = map(_compared, ("__lt__", "__le__", "__gt__", "__ge__"))
    __eq__ = _compared("__eq__")
    __hash__ = str.__hash__
