"""PyTorch's symbolic numbers: in Kiln sizes are Python's, so nothing is an instance of these, and functions of them are Python's own."""

from __future__ import annotations

import builtins
import math
from typing import Any

from .refusal import refused

_HELP = "sizes are int, float and bool here"
SymInt = refused("SymInt", "symbolic integers", _HELP)
SymFloat = refused("SymFloat", "symbolic floats", _HELP)
SymBool = refused("SymBool", "symbolic truth values", _HELP)


def sym_int(a: Any) -> int:
    """A number as an integer, towards zero."""
    return builtins.int(a)


def sym_float(a: Any) -> float:
    """A number as a float."""
    return builtins.float(a)


def sym_not(a: Any) -> bool:
    """Not."""
    return not a


def sym_max(a: Any, b: Any) -> Any:
    """The larger number; a float where one is."""
    return (
        builtins.float(builtins.max(a, b))
        if isinstance(a + b, builtins.float)
        else builtins.max(a, b)
    )


def sym_min(a: Any, b: Any) -> Any:
    """The smaller number; a float where one is."""
    return (
        builtins.float(builtins.min(a, b))
        if isinstance(a + b, builtins.float)
        else builtins.min(a, b)
    )


def sym_sqrt(a: Any) -> float:
    """The square root of a number."""
    return math.sqrt(a)


def sym_sum(args: Any) -> Any:
    """The sum of numbers."""
    return builtins.sum(args)


def sym_ite(b: Any, t: Any, f: Any) -> Any:
    """`t` if `b` else `f`."""
    return t if b else f
