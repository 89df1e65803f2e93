"""Native routines of eager mode: which op has which, and whether this processor has kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ..errors import KilnError
from ..ops.registry import REGISTRY


def routine(name: str) -> Callable[[Callable], Callable]:
    """Have eager mode call the decorated function for an op."""

    def register(fn: Callable) -> Callable:
        REGISTRY[name].eager = fn
        return fn

    return register


@cache
def native() -> bool:
    """Whether this processor has kernels."""
    from .cpu import isa

    try:
        isa.make_isa()
    except KilnError:
        return False
    return True
