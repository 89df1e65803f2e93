"""Utilities beside the framework: PyTorch's `torch.utils`."""

from __future__ import annotations

import importlib
from typing import Any

from . import checkpoint

__all__ = ["checkpoint"]

_ROOMS = {"benchmark", "collect_env", "cpp_extension", "dlpack", "model_zoo"}


def __getattr__(name: str) -> Any:
    if name == "data":
        return importlib.import_module("kiln.data")
    if name not in _ROOMS:
        raise AttributeError(f"module 'kiln.utils' has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
