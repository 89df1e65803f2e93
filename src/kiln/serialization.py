"""Files of tensors: `torch.serialization`'s names. See `kiln.save` and `kiln.load`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from .device import device
from .io import load, save
from .io.safe import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals

__all__ = [
    "add_safe_globals",
    "clear_safe_globals",
    "get_safe_globals",
    "load",
    "safe_globals",
    "save",
]

MAP_LOCATION: TypeAlias = Callable[[Any, str], Any] | device | str | dict[str, str] | None
"""What `load` takes as `map_location`."""
