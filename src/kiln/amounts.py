"""Numbers of bytes and of operations, read from text and written as text."""

from __future__ import annotations

import re
from typing import Any

from .errors import KilnValueError, describe

_UNITS = {"": 1, **{p + "B": 1000**i for i, p in enumerate(("", "K", "M", "G", "T"))},
          **{p + "iB": 1024**i for i, p in enumerate("KMGT", 1)}}  # fmt: skip


def bytes_of(size: Any, op: str, name: str) -> int:
    """A number of bytes, which may be written with a unit; `op` and `name` are whose argument it is."""
    given = size
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", size)
        if found is not None and found[2] in _UNITS:
            size = int(float(found[1]) * _UNITS[found[2]])
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise KilnValueError(
            op, f"{name} is not a size", describe(given),
            "pass a number of bytes above 0, or a text such as '512MB' or '2GiB'",
        )  # fmt: skip
    return size


def in_bytes(n: int) -> str:
    """A number of bytes for readers: `1.50 GiB`."""
    return _short(n, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def in_flops(n: int) -> str:
    """A number of operations for readers: `3.64 G`."""
    return _short(n, 1000, ("", "K", "M", "G", "T", "P")).rstrip()


def _short(n: float, step: int, units: tuple[str, ...]) -> str:
    size = 0
    while abs(n) >= step and size < len(units) - 1:
        n, size = n / step, size + 1
    digits = str(n) if isinstance(n, int) else f"{n:.3g}" if n < 1000 else f"{n:.0f}"
    return f"{digits} {units[size]}"
