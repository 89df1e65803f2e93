"""`torch.jit`'s names: functions and modules as programs, by capture.

`script` gives the function or module as it is, with the marks that programs ask for: there is no second language to
translate it to. `trace` captures it with `kiln.compile`; what it captured can be saved, and loaded where its code is
not there.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Final

from ..compile.pytree import flatten
from ..futures import Future
from ..refusal import refused
from ..tensor import Tensor
from .files import load, save
from .modules import (
    RecursiveScriptModule,
    ScriptFunction,
    ScriptModule,
    TopLevelTracedModule,
    TracerWarning,
    is_tracing,
    script,
    trace,
    trace_module,
)

__all__ = [
    "Attribute", "CompilationUnit", "Error", "Final", "Future", "JITException", "RecursiveScriptModule", "ScriptFunction", "ScriptModule",
    "TopLevelTracedModule", "TracerWarning", "annotate", "enable_onednn_fusion", "export", "export_opnames", "fork", "freeze",
    "ignore", "interface", "is_scripting", "is_tracing", "isinstance", "load", "onednn_fusion_enabled",
    "optimize_for_inference", "optimized_execution", "save", "script", "script_if_tracing", "script_method",
    "set_fusion_strategy", "strict_fusion", "trace", "trace_module", "unused", "wait",
]  # fmt: skip

Error = JITException = RuntimeError
CompilationUnit = refused(
    "jit.CompilationUnit", "TorchScript's language is PyTorch's own", "write Python functions"
)


def is_scripting() -> bool:
    """Whether code is being translated to TorchScript: False, it runs as Python."""
    return False


def _mark(fn: Any = None, **kwargs: Any) -> Any:
    return fn if callable(fn) else lambda f: f


def ignore(drop: Any = False, **kwargs: Any) -> Any:
    """A mark on functions that are not translated: the function."""
    return _mark(drop)


def unused(fn: Callable) -> Callable:
    """A mark on functions that are not translated: the function."""
    return fn


def export(fn: Callable) -> Callable:
    """A mark on methods that are translated too: the method."""
    return fn


def interface(obj: type) -> type:
    """A mark on classes that only name methods: the class."""
    return obj


def script_method(fn: Callable) -> Callable:
    """A mark on methods of a `ScriptModule`: the method."""
    return fn


def script_if_tracing(fn: Callable) -> Callable:
    """A mark on functions with branches on values: the function, whose branches capture follows and guards."""
    return fn


_script_if_tracing = script_if_tracing


def _overload(fn: Callable) -> Callable:
    """A mark on signatures of an overloaded function: the function."""
    return fn


_overload_method = _overload


def annotate(the_type: Any, the_value: Any) -> Any:
    """A value, of which the type is said."""
    return the_value


def Attribute(value: Any, type: Any = None) -> Any:
    """A value, of which the type is said."""
    return value


def isinstance(obj: Any, target_type: Any) -> bool:
    """Whether an object is of a type; of a generic one such as `list[int]`, by its elements too."""
    if builtins.isinstance(target_type, tuple):
        return any(isinstance(obj, t) for t in target_type)
    origin: Any = getattr(target_type, "__origin__", None)
    args: tuple[Any, ...] = getattr(target_type, "__args__", ())
    if origin is None:
        return builtins.isinstance(obj, target_type)
    if not builtins.isinstance(origin, type):  # Union
        return any(isinstance(obj, type(None) if t is None else t) for t in args)
    if not builtins.isinstance(obj, origin):
        return False
    if origin is dict:
        return all(isinstance(k, args[0]) and isinstance(v, args[1]) for k, v in obj.items())
    if origin is tuple:
        return len(obj) == len(args) and all(
            isinstance(v, t) for v, t in zip(obj, args, strict=True)
        )
    return all(isinstance(v, args[0]) for v in obj) if args else True


def freeze(mod: Any, preserved_attrs: Any = None, optimize_numerics: bool = True) -> Any:
    """A module for inference: in eval mode already, and itself. What is computed of weights alone is kept by compiled programs."""
    if getattr(mod, "training", False):
        raise Error(
            "Freezing is currently only implemented for modules in eval mode. Please call .eval() first."
        )
    return mod


def optimize_for_inference(mod: Any, other_methods: Any = None) -> Any:
    """A module for inference: itself, in eval mode."""
    return mod.eval()


def fork(func: Callable, *args: Any, **kwargs: Any) -> Future:
    """A function's result as a future: it is computed at once."""
    out: Future = Future()
    try:
        out.set_result(func(*args, **kwargs))
    except Exception as e:
        out.set_exception(e)
    return out


def wait(future: Future) -> Any:
    """The result of `fork`."""
    return future.wait()


def set_fusion_strategy(strategy: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """How TorchScript fuses: nothing follows from it."""
    return [("STATIC", 2), ("DYNAMIC", 10)]


def enable_onednn_fusion(enabled: bool) -> None:
    """Whether TorchScript uses oneDNN: nothing follows from it."""


def onednn_fusion_enabled() -> bool:
    """Whether TorchScript uses oneDNN: False."""
    return False


def export_opnames(m: Any) -> list[str]:
    """The operators that a traced module's program has."""
    found = getattr(m, "program_graph", None)
    return sorted({n.name for n in found.nodes()}) if found is not None else []


@contextmanager
def optimized_execution(should_optimize: bool) -> Any:
    """Whether TorchScript optimises inside of a `with` block: nothing follows from it."""
    yield


class strict_fusion:
    """A `with` block in which all must be fused: it is for TorchScript, and does nothing."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


def _flatten(obj: Any) -> tuple[tuple[Tensor, ...], Any]:
    """The tensors of nested containers, and their structure."""
    leaves: list[Any] = []
    structure = flatten(obj, leaves)
    return tuple(x for x in leaves if builtins.isinstance(x, Tensor)), structure
