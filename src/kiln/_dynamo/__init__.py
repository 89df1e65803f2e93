"""Names of PyTorch's capture that programs touch; `kiln.compile` needs none of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..compile import compile
from ..compiler import (
    allow_in_graph,
    assume_constant_result,
    disable,
    is_compiling,
    list_backends,
    reset,
)
from ..nn.modules.module import Module
from . import config

__all__ = [
    "OptimizedModule", "allow_in_graph", "assume_constant_result", "config", "disable", "graph_break", "is_compiling", "list_backends",
    "mark_dynamic", "mark_static", "mark_static_address", "maybe_mark_dynamic", "optimize", "reset",
]  # fmt: skip


class _CompiledModule(type):
    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, Module) and hasattr(x, "_orig_mod")


class OptimizedModule(metaclass=_CompiledModule):
    """The kind of modules that `kiln.compile` gives: for `isinstance` alone."""


def __getattr__(name: str) -> Any:
    if name in ("eval_frame", "exc"):
        return import_module("." + name, __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def optimize(backend: Any = "inductor", *, nopython: bool = False, **options: Any) -> Callable:
    """The older form of `kiln.compile`, as a decorator."""
    return lambda fn: compile(fn)


def graph_break(msg: str = "") -> None:
    """Where PyTorch begins another graph; Kiln captures whole functions and goes on."""


def mark_dynamic(t: Any, index: Any, **options: Any) -> None:
    """Say that a size varies: a program is captured for each size that is met."""


def maybe_mark_dynamic(t: Any, index: Any) -> None:
    """Say that a size may vary: a program is captured for each size that is met."""


def mark_static_address(t: Any, guard: bool = True) -> None:
    """Say that a tensor's memory stays where it is: programs read state where it lies."""


def mark_static(t: Any, index: Any = None) -> None:
    """Say that a size stays: so does Kiln take it."""
