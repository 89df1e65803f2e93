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
    set_multithreading_enabled,
)

if TYPE_CHECKING:
    from . import forward_ad, function, functional, graph
    from .anomaly import detect_anomaly, set_detect_anomaly
    from .checks import GradcheckError, gradcheck, gradgradcheck
    from .engine import backward, grad
    from .function import Function
    from .variable import Variable

__all__ = [
    "Function", "GradcheckError", "Variable", "backward", "detect_anomaly", "enable_grad", "forward_ad",
    "function", "functional", "grad", "gradcheck", "gradgradcheck", "graph", "inference_mode",
    "is_grad_enabled", "is_inference_mode_enabled", "no_grad", "set_detect_anomaly", "set_grad_enabled",
    "set_multithreading_enabled",
]  # fmt: skip

_LAZY = {  # these need tensors, which need the modes above
    "backward": "engine", "grad": "engine", "Function": "function", "gradcheck": "checks",
    "gradgradcheck": "checks", "GradcheckError": "checks", "Variable": "variable",
    "detect_anomaly": "anomaly", "set_detect_anomaly": "anomaly",
}  # fmt: skip
_LAZY_MODULES = {"forward_ad", "function", "functional", "graph", "profiler", "profiler_util"}


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        value: Any = importlib.import_module(f".{name}", __name__)
    elif name in _LAZY:
        value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    else:
        raise AttributeError(f"module 'kiln.autograd' has no attribute {name!r}")
    globals()[name] = value
    return value
