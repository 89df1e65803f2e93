"""Utilities beside the framework: PyTorch's `torch.utils`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import checkpoint, data

__all__ = ["checkpoint", "data"]

_ROOMS = {
    "_pytree", "benchmark", "checkpoint", "collect_env", "cpp_extension", "data", "dlpack", "flop_counter", "hooks",
    "model_zoo", "tensorboard", "weak",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'kiln.utils' has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
