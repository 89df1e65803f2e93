"""Utilities beside the framework: PyTorch's `torch.utils`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import KilnTypeError
from ..tensor import Tensor

if TYPE_CHECKING:
    from . import checkpoint, data

__all__ = ["checkpoint", "data"]

_ROOMS = {
    "_python_dispatch", "_pytree", "benchmark", "checkpoint", "collect_env", "cpp_extension", "data", "deterministic", "dlpack",
    "file_baton", "flop_counter", "hooks", "mobile_optimizer", "model_zoo", "module_tracker", "tensorboard", "weak",
}  # fmt: skip


def swap_tensors(t1: Tensor, t2: Tensor) -> None:
    """Exchange what two tensors are, all of it: whoever holds one of them now holds the other's values, gradient and history."""
    for slot in ("_a", "_base", "_fn", "_grad", "_hooks", "_idx", "_rg", "_seen", "_ver", "_view"):
        a, b = getattr(t1, slot, None), getattr(t2, slot, None)
        setattr(t1, slot, b)
        setattr(t2, slot, a)
    t1.__class__, t2.__class__ = type(t2), type(t1)
    t1.__dict__, t2.__dict__ = t2.__dict__, t1.__dict__


def set_module(obj: Any, mod: str) -> None:
    """Have an object say that it is defined in a module of this name."""
    if not isinstance(mod, str):
        raise KilnTypeError("set_module", "The mod argument should be a string", repr(mod), "")
    obj.__module__ = mod


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'kiln.utils' has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
