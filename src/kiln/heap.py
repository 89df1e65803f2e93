"""What lives in the process, that which `gc.freeze` keeps out of the collector's walks too."""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any


def is_module(x: Any) -> bool:
    """Whether an object is an `nn.Module`, which this room doesn't know."""
    return hasattr(type(x), "named_modules") and "_modules" in getattr(x, "__dict__", ())


def is_optimizer(x: Any) -> bool:
    """Whether an object is an optimizer."""
    return hasattr(type(x), "add_param_group")


def everything() -> list[Any]:
    """All objects that the collector knows; where some are frozen, all are when it returns."""
    if not gc.get_freeze_count():
        return gc.get_objects()
    gc.unfreeze()
    found = gc.get_objects()
    gc.freeze()
    return found


_closures: list[weakref.ref] = []
_owners: list[weakref.ref] = []
_at, _thawed = 0, False


def _look() -> None:
    """Look for what is frozen, once after each freeze."""
    global _thawed
    if gc.get_freeze_count() > _at:
        gc.unfreeze()
        _thawed = True
        _closures[:] = [
            weakref.ref(x)
            for x in gc.get_objects()
            if type(x) is types.FunctionType and x.__closure__
        ]
        _owners[:] = map(weakref.ref, _seen())


def _seen() -> Iterator[Any]:
    """The modules and optimizers that a walk meets; each class is asked once, of which there are thousands, not millions."""
    asked: dict[int, bool] = {}
    for x in gc.get_objects():
        at = id(type(x))
        if at not in asked:
            asked[at] = _told(_may_own, type(x))
        if asked[at] and _told(_owns, x):
            yield x


def _may_own(cls: type) -> bool:
    return hasattr(cls, "named_modules") or hasattr(cls, "add_param_group")


def _owns(x: Any) -> bool:
    return is_optimizer(x) or is_module(x)


def _told(ask: Callable[[Any], bool], x: Any) -> bool:
    try:
        return ask(x)
    except Exception:  # what a stranger's attributes do is no concern of this
        return False


def frozen_closures() -> list[types.FunctionType]:
    """The closures that `gc.freeze` keeps out of walks; `freeze_again` is to follow."""
    _look()
    return [f for r in _closures if (f := r()) is not None]


def freeze_again() -> None:
    """Freeze what was; not before the end of a capture, which tells by generations what the function made."""
    global _at, _thawed
    if _thawed:
        gc.freeze()
        _at, _thawed = gc.get_freeze_count(), False


def owners(capturing: bool) -> Iterator[Any]:
    """Every module and optimizer that lives."""
    _look()
    found = {id(x): x for r in _owners if (x := r()) is not None}
    found.update((id(x), x) for x in _seen())
    if not capturing:
        freeze_again()
    yield from found.values()
