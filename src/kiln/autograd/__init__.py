"""Automatic differentiation: the tape, the backward engine, grad modes, custom functions."""

from .modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)

__all__ = [
    "backward", "enable_grad", "grad", "inference_mode", "is_grad_enabled",
    "is_inference_mode_enabled", "no_grad", "set_grad_enabled",
]  # fmt: skip


def __getattr__(name: str) -> object:  # the engine needs tensors, which need the modes above
    if name in ("backward", "grad"):
        from . import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'kiln.autograd' has no attribute {name!r}")
