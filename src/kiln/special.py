"""Special functions: PyTorch's `torch.special`, from the op registry."""

from __future__ import annotations

from typing import Any

from .ops import special_functions as _functions  # noqa: F401  (fills the registry)
from .ops.registry import room as _room

globals().update(_room("special"))
__all__ = sorted(_room("special"))


def __getattr__(name: str) -> Any:
    """Only for type checkers: every function is in the module's globals."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
