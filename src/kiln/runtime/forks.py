"""Locks across a fork: a thread that held one in the parent isn't there to give it back in the child."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

_makers: weakref.WeakKeyDictionary[Any, Callable[[], Any]] = weakref.WeakKeyDictionary()


def own_lock(owner: Any, make: Callable[[], Any] = threading.Lock) -> Any:
    """A lock for an object's attribute `lock`, which is another one in a forked child: look it up at each use."""
    _makers[owner] = make
    return make()


def never_within(lock: Any) -> None:
    """Have forks wait until no other thread holds this RLock, where half-done work can't be left behind."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )


def _renew() -> None:
    for owner, make in list(_makers.items()):
        owner.lock = make()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
