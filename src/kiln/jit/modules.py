"""Modules and functions that were scripted or traced."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from ..compile import CompiledFunction
from ..compile import compile as capture
from ..errors import KilnError, KilnTypeError, describe
from ..nn.modules.module import Module
from ..tensor import Tensor

_tracing = [False]


def is_tracing() -> bool:
    """Whether a function is being traced right now."""
    return _tracing[0]


@contextmanager
def _traced() -> Any:
    _tracing[0] = True
    try:
        yield
    finally:
        _tracing[0] = False


class TracerWarning(Warning):
    """What PyTorch warns of where a trace freezes a value; Kiln guards such values, and has nothing to warn of."""

    @staticmethod
    def ignore_lib_warnings() -> None:
        """Silence such warnings: there are none."""


class ScriptModule(Module):
    """A module that was scripted, or a class that asks for it: a module like any other, which can be saved once traced."""

    @property
    def original_name(self) -> str:
        """The name of the class that was scripted."""
        return getattr(type(self), "_original_name", type(self).__name__)

    def save(self, f: Any, _extra_files: Any = None, **kwargs: Any) -> None:
        """Write the module to a file, see `kiln.jit.save`."""
        from .files import save

        save(self, f, _extra_files)


class RecursiveScriptModule(ScriptModule):
    """A module that `script` gave, or `load`."""


class TopLevelTracedModule(ScriptModule):
    """A module that `trace` gave: it runs as the program that was captured, captured again for other shapes."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The program's results."""
        return self._program(*args, **kwargs)


class ScriptFunction:
    """A function that was scripted or traced."""

    def __init__(self, fn: Callable, program: CompiledFunction | None = None, example: Any = None):
        self.__wrapped__, self._program, self._example = fn, program, example
        self.__name__ = self.name = getattr(fn, "__name__", type(fn).__name__)
        self.__doc__, self.__module__ = fn.__doc__, getattr(fn, "__module__", __name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._program or self.__wrapped__)(*args, **kwargs)

    @property
    def code(self) -> str:
        """What it calls, as Python text."""
        from ..fx.values import symbolic_program

        return symbolic_program(self.__wrapped__).code

    def __get__(self, obj: Any, cls: Any = None) -> Any:
        return self if obj is None else self.__wrapped__.__get__(obj, cls)

    def save(self, f: Any, _extra_files: Any = None) -> None:
        """Write the function to a file, see `kiln.jit.save`."""
        from .files import save

        save(self, f, _extra_files)


def _same(module: Module) -> Any:
    """Another module with all that one holds, whatever its class says of copies and files."""
    out = object.__new__(type(module))
    out.__dict__.update(module.__dict__)
    for n in ("_parameters", "_buffers", "_modules"):
        out.__dict__[n] = module.__dict__[n].copy()
    return out


def _shared(module: Module, base: type[ScriptModule]) -> Any:
    """A module with the parameters, buffers and attributes of another, of its class and of a scripted one's."""
    kind = type(module)
    out = _same(module)
    name = {"_original_name": kind.__name__, "__module__": kind.__module__}
    out.__class__ = type(f"{base.__name__}({kind.__name__})", (base, kind), name)
    return out


def unscripted(module: Module) -> Module:
    """A scripted module, and those in it, of their own classes again: the same parameters and buffers."""
    out = _same(module)
    if "_original_name" in vars(type(module)):
        out.__class__ = type(module).__bases__[1]
    out._modules = {
        n: None if m is None else unscripted(m) if any(isinstance(k, ScriptModule) for k in m.modules()) else m
        for n, m in module._modules.items()
    }  # fmt: skip
    return out


def script(
    obj: Any,
    optimize: Any = None,
    _frames_up: int = 0,
    _rcb: Any = None,
    example_inputs: Any = None,
) -> Any:
    """A function, module or class as it is: Python runs it. Modules share their parameters with what they are made of.

    Errors: KilnTypeError for what can't be called. Source: torch.jit.script.
    """
    if isinstance(obj, Module):
        return obj if isinstance(obj, ScriptModule) else _shared(obj, RecursiveScriptModule)
    if isinstance(obj, type | ScriptFunction):
        return obj
    if not callable(obj):
        raise KilnTypeError(
            "jit.script", "expected a function, a module or a class", describe(obj), ""
        )
    return ScriptFunction(obj)


def trace(
    func: Any,
    example_inputs: Any = None,
    optimize: Any = None,
    check_trace: bool = True,
    check_inputs: Any = None,
    check_tolerance: float = 1e-5,
    strict: bool = True,
    _force_outplace: bool = False,
    _module_class: Any = None,
    _compilation_unit: Any = None,
    example_kwarg_inputs: dict[str, Any] | None = None,
    _store_inputs: bool = True,
) -> Any:
    """A function or module captured by `kiln.compile` at a call with example inputs.

    Unlike PyTorch's trace it freezes nothing: Python values and branches that it met are guarded, and it is captured
    again for other shapes. Errors: KilnError without example inputs, CaptureError. Source: torch.jit.trace.
    """
    if example_inputs is None and example_kwarg_inputs is None:
        raise KilnError(
            "jit.trace",
            "example_kwarg_inputs or example_inputs are needed",
            None,
            "trace(model, (x,))",
        )
    args = () if example_inputs is None else example_inputs
    if isinstance(args, Tensor | dict):
        args = (args,)
    example = (tuple(args), dict(example_kwarg_inputs or {}))
    if (
        isinstance(func, ScriptFunction | ScriptModule)
        and getattr(func, "_program", None) is not None
    ):
        return func
    program = CompiledFunction(func.__call__ if isinstance(func, Module) else func, None,
                               type(func).__name__ if isinstance(func, Module) else None)  # fmt: skip
    with _traced():
        program(*example[0], **example[1])
    if not isinstance(func, Module):
        return ScriptFunction(func, program, example)
    out = _shared(func, TopLevelTracedModule)
    object.__setattr__(out, "_program", program)
    object.__setattr__(out, "_example", example)
    return out


def trace_module(mod: Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """A module of which methods are captured with example inputs by name; `trace` for `forward`."""
    out = (
        trace(mod, inputs["forward"]) if "forward" in inputs else _shared(mod, TopLevelTracedModule)
    )
    for name, example in inputs.items():
        if name != "forward":
            method = capture(getattr(mod, name))
            with _traced():
                method(*(example if isinstance(example, tuple) else (example,)))
            object.__setattr__(out, name, method)
    return out


__all__ = ["RecursiveScriptModule", "ScriptFunction", "ScriptModule", "TopLevelTracedModule", "TracerWarning",
           "is_tracing", "script", "trace", "trace_module"]  # fmt: skip
