"""Linear algebra: PyTorch's `torch.linalg`, from the op registry."""

from __future__ import annotations

from typing import Any

from . import ops as _ops  # noqa: F401  (fills the registry)
from .errors import LinAlgError
from .ops.registry import room as _room

globals().update(_room("linalg"))
__all__ = ["LinAlgError", *sorted(_room("linalg"))]


def __getattr__(name: str) -> Any:
    """Only for type checkers: every function is in the module's globals."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
