"""What the user lets files make, beside tensors and plain containers: classes and functions by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import KilnTypeError, describe
from . import objects
from .pickled import Function

_added: dict[str, Any] = {}


def add_safe_globals(safe_globals: Iterable[Any]) -> None:
    """Let `kiln.load` make objects of these classes, and call these functions, where a file names them.

    An element may be (object, name) where files call it by another name.
    """
    for x in safe_globals:
        obj, name = x if isinstance(x, tuple) else (x, None)
        if not callable(obj):
            raise KilnTypeError(
                "add_safe_globals", "neither a class nor a function", describe(obj), ""
            )
        _added[name or f"{obj.__module__}.{obj.__qualname__}"] = obj


def get_safe_globals() -> list[Any]:
    """What was added."""
    return list(_added.values())


def clear_safe_globals() -> None:
    """Take back all that was added."""
    _added.clear()


@contextmanager
def safe_globals(safe_globals: Iterable[Any]) -> Iterator[None]:
    """`add_safe_globals` for what is loaded inside."""
    before = dict(_added)
    add_safe_globals(safe_globals)
    try:
        yield
    finally:
        _added.clear()
        _added.update(before)


def find(module: str, name: str) -> Function | None:
    """The function that a name in a file stands for, if it was added; Kiln's own go by PyTorch's names."""
    obj = _added.get(f"{module}.{name}")
    if obj is None and _added:
        x = objects.ours(module, name)
        obj = next((a for a in _added.values() if a is x), None)
    if obj is None:
        return None
    if not isinstance(obj, type):
        return Function(obj, value=obj)
    return Function(obj, _build, lambda *args: obj.__new__(obj, *args), obj)


def _build(x: Any, state: Any) -> None:
    """Give an object of an added class its state."""
    if hasattr(x, "__setstate__"):
        x.__setstate__(state)
    else:
        x.__dict__.update(state)
