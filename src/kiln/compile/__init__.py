"""How programs get fast: capture, guards, passes, schedules, kernels."""

from .compiled import CompiledFunction, compile

__all__ = ["CompiledFunction", "compile"]
