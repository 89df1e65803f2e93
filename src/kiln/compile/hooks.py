"""What layers and optimizers tell a capture; each is free, or nearly so, where nothing is captured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from ..errors import CaptureError
from ..tensor import CAPTURING, captured


@contextmanager
def eager() -> Iterator[None]:
    """Run the block eagerly even while a function is captured (to create optimizer state, say)."""
    me = get_ident()
    capture = CAPTURING.pop(me, None)
    try:
        yield
    finally:
        if capture is not None:
            CAPTURING[me] = capture


def host_scalar(owner: Any, key: Any) -> Any:
    """`owner[key]`, a number that captured programs read again at every call (a learning rate)."""
    if CAPTURING and (ctx := captured()):
        return ctx.host_scalar(owner, key)
    return owner[key]


def watch(owner: Any) -> None:
    """Guard the Python facts of a module or an optimizer that the captured function uses."""
    if CAPTURING and (ctx := captured()):
        ctx.watch(owner)


def rebind(table: dict[str, Any], name: str) -> None:
    """Say that a module's attribute `table[name]` is about to hold another tensor."""
    if CAPTURING and (ctx := captured()):
        ctx.rebind(table, name)


def made(table: dict[Any, Any], key: Any) -> None:
    """Say that `table[key]` was made for good (optimizer state); a capture that fails takes it back."""
    if CAPTURING and (ctx := captured()):
        ctx.made.append((table, key))


def refuse(what: str, cure: str) -> None:
    """Raise where `what` is called inside a captured function, whose replay would not repeat it."""
    if CAPTURING and (ctx := captured()):
        raise CaptureError(
            "compile", f"{what} changes Python state and can't be captured", ctx.where(), cure
        )
