"""Reductions and normalisations under masks: PyTorch's `torch.masked`, from the op registry."""

from __future__ import annotations

from typing import Any

from .ops import masked as _functions  # noqa: F401  (fills the registry)
from .ops.registry import room as _room

globals().update(_room("masked"))
__all__ = sorted(_room("masked"))


def __getattr__(name: str) -> Any:
    """Only for type checkers: every function is in the module's globals."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
