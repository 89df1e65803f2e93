"""What PyTorch marks its functions by: nothing follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_Fn = TypeVar("_Fn", bound=Callable)


def compatibility(is_backward_compatible: bool) -> Callable[[_Fn], _Fn]:
    """A decorator that says whether a function will stay: the function as it is."""
    return lambda fn: fn
