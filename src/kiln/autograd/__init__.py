"""Automatic differentiation: the tape, the backward engine, grad modes, custom functions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)

if TYPE_CHECKING:
    from .checks import GradcheckError, gradcheck, gradgradcheck
    from .engine import backward, grad
    from .function import Function
    from .variable import Variable

__all__ = [
    "Function", "GradcheckError", "Variable", "backward", "enable_grad", "grad", "gradcheck", "gradgradcheck",
    "inference_mode", "is_grad_enabled", "is_inference_mode_enabled", "no_grad", "set_grad_enabled",
]  # fmt: skip

_LAZY = {  # these need tensors, which need the modes above
    "backward": "engine", "grad": "engine", "Function": "function", "gradcheck": "checks",
    "gradgradcheck": "checks", "GradcheckError": "checks", "Variable": "variable",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kiln.autograd' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value
