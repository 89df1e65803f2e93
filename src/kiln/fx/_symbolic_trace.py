"""Tracing: a module's `forward` is run on proxies, and what it calls becomes a Graph.

While a trace is under way on this thread, Kiln's functions are found replaced by ones that record calls with
proxies: in Kiln's namespaces, and by name in the modules of the functions that are traced.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from ..errors import KilnError, describe
from ..naming import home
from ..nn.modules.container import Sequential
from ..nn.modules.module import Module
from ..nn.parameter import Parameter
from ..ops.registry import FUNCTIONS
from ..tensor import Tensor
from ._compatibility import compatibility as compatibility  # by which programs mark methods
from .graph import Graph
from .graph_module import GraphModule
from .node import Target
from .proxy import TracerBase, contains_proxy, first_proxy

_ROOMS = ("kiln", "kiln.nn.functional", "kiln.linalg", "kiln.fft", "kiln.special", "kiln.nn.init")
_WRAPPED: list[tuple[dict[str, Any], str]] = []


def wrap(fn_or_name: str | Callable) -> Any:
    """Have a function of this module recorded as one call; at the module's level, by name or as a decorator."""
    if not isinstance(fn_or_name, str) and not callable(fn_or_name):
        raise KilnError(
            "fx.wrap", "Unsupported type for global function! Must be either a callable or string name",
            describe(fn_or_name), "",
        )  # fmt: skip
    frame = sys._getframe(1)
    if frame.f_code.co_name != "<module>":
        raise NotImplementedError("wrap must be called at the top level of a module")
    name = fn_or_name if isinstance(fn_or_name, str) else fn_or_name.__name__
    _WRAPPED.append((frame.f_globals, name))
    return fn_or_name


def _recorded(fn: Callable) -> Callable:
    unpacks = getattr(fn, "unpacks", False)

    def call(*args: Any, **kwargs: Any) -> Any:
        if unpacks and len(args) == 2 and isinstance(args[1], list | tuple):
            args = (args[0], *args[1])
        found = first_proxy((args, kwargs))
        if found is None:
            return fn(*args, **kwargs)
        return found.tracer.create_proxy("call_function", fn, args, kwargs)

    call.__name__, call.__wrapped__ = getattr(fn, "__name__", "call"), fn  # type: ignore[attr-defined]
    return call


class _Patches:
    """Names that stand for something else until the trace is over."""

    def __init__(self) -> None:
        self.undo: list[tuple[dict[str, Any], str, Any]] = []
        self.instead: dict[int, Callable] = {}
        self.done: set[int] = set()

    def set(self, names: dict[str, Any], name: str, value: Any) -> None:
        self.undo.append((names, name, names.get(name, ...)))
        names[name] = value

    def rooms(self, more: tuple[ModuleType, ...]) -> None:
        for room in map(importlib.import_module, _ROOMS):
            for name in dir(room) if room.__name__ != "kiln" else FUNCTIONS:
                value = getattr(room, name, None) if name[:1] != "_" and "." not in name else None
                if isinstance(value, FunctionType):
                    self.instead[id(value)] = _recorded(value)
        for module in (
            *map(importlib.import_module, _ROOMS),
            *(m for n, m in list(sys.modules.items()) if _is_face(n, m)),
        ):
            self.names(vars(module))
        for module in (math, *more):
            for name, value in list(vars(module).items()):
                if callable(value) and not name.startswith("_") and not isinstance(value, type):
                    self.set(vars(module), name, _recorded(value))
        for names, name in _WRAPPED:
            value = names.get(name, getattr(builtins, name, None))
            if callable(value):
                self.set(names, name, _recorded(value))

    def names(self, names: dict[str, Any]) -> None:
        """Replace Kiln's functions among the names of a module."""
        if id(names) in self.done:
            return
        self.done.add(id(names))
        for name, value in list(names.items()):
            if id(value) in self.instead and isinstance(value, FunctionType):
                self.set(names, name, self.instead[id(value)])

    def restore(self) -> None:
        for names, name, value in reversed(self.undo):
            if value is ...:
                del names[name]
            else:
                names[name] = value


def _is_face(name: str, module: Any) -> bool:
    return name.partition(".")[0] == "torch" and isinstance(module, ModuleType)


class Tracer(TracerBase):
    """Traces modules and functions. Subclasses say by `is_leaf_module` which modules are one call. Source: torch.fx.Tracer."""

    def __init__(
        self, autowrap_modules: tuple[ModuleType, ...] = (), autowrap_functions: tuple[Callable, ...] = (),
        param_shapes_constant: bool = False,
    ) -> None:  # fmt: skip
        self._modules, self._functions = tuple(autowrap_modules), tuple(autowrap_functions)
        self.root: Module = Module()
        self._patches = _Patches()

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        """Whether a module is one call: Kiln's own layers are, but for Sequential."""
        return home(type(m)).startswith("kiln.nn") and not isinstance(m, Sequential)

    def path_of_module(self, mod: Module) -> str:
        """The path of a module in the one that is traced."""
        for name, m in self.root.named_modules():
            if m is mod:
                return name
        raise NameError("module is not installed as a submodule")

    def call_module(
        self, m: Module, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """A call of a module: one node for a leaf, its own calls for others."""
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return self.create_proxy("call_module", path, args, kwargs)
        self._patches.names(inspect.unwrap(type(m).forward).__globals__)
        self._patches.names(vars(m))  # as in self.act = F.gelu
        return forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """An attribute of a module: for a parameter, what stands for it."""
        if not isinstance(attr_val, Parameter):
            return attr_val
        for name, p in self.root.named_parameters():
            if p is attr_val:
                if name not in parameter_proxy_cache:
                    parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
                return parameter_proxy_cache[name]
        return attr_val

    def create_arg(self, a: Any) -> Any:
        """An argument as nodes hold it; tensors are attributes of the module."""
        if isinstance(a, Module):
            return self.create_node("get_attr", self.path_of_module(a), (), {})
        if isinstance(a, Tensor):
            for name, t in (*self.root.named_parameters(), *self.root.named_buffers()):
                if t is a:
                    return self.create_node("get_attr", name, (), {})
            for name, t in vars(self.root).items():
                if t is a:
                    return self.create_node("get_attr", name, (), {})
            n = 0
            while hasattr(self.root, f"_tensor_constant{n}"):
                n += 1
            object.__setattr__(self.root, f"_tensor_constant{n}", a)
            return self.create_node("get_attr", f"_tensor_constant{n}", (), {})
        return super().create_arg(a)

    def create_args_for_root(
        self, root_fn: Callable, is_module: bool, concrete_args: dict[str, Any] | None = None
    ) -> Any:
        """The function and its arguments: proxies, and what `concrete_args` gives."""
        given: list[Any] = [self.root] if is_module else []
        named: dict[str, Any] = {}
        parameters = list(inspect.signature(root_fn).parameters.values())[len(given) :]
        for p in parameters:
            if concrete_args and p.name in concrete_args:
                value: Any = concrete_args[p.name]
                default = (value,)
                self.create_proxy(
                    "placeholder", p.name, default if not contains_proxy(value) else (), {}
                )
            else:
                stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
                default = () if p.default is p.empty else (p.default,)
                value = self.create_proxy("placeholder", stars + p.name, default, {})
            if p.kind is p.VAR_POSITIONAL:
                given.append(value)
            elif p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD):
                named[p.name] = value
            else:
                given.append(value)
        return root_fn, given, named

    def trace(self, root: Module | Callable, concrete_args: dict[str, Any] | None = None) -> Graph:
        """The Graph of a module's `forward`, or of a function."""
        is_module = isinstance(root, Module)
        self.root = root if isinstance(root, Module) else Module()
        fn: Any = type(root).forward if is_module else root
        self.graph = Graph(tracer_cls=type(self))
        cache: dict[str, Any] = {}
        call, attribute = Module.__call__, Module.__getattr__

        def called(mod: Module, *args: Any, **kwargs: Any) -> Any:
            return self.call_module(mod, lambda *a, **k: call(mod, *a, **k), args, kwargs)

        def read(mod: Module, name: str) -> Any:
            return self.getattr(name, attribute(mod, name), cache)

        plain, given, named = self.create_args_for_root(fn, is_module, concrete_args)
        with self._patched():
            Module.__call__, Module.__getattr__ = called, read  # type: ignore[method-assign]
            try:
                self._patches.names(vars(self.root))
                if hasattr(inspect.unwrap(plain), "__globals__"):
                    self._patches.names(inspect.unwrap(plain).__globals__)
                result = plain(*given, **named)
            finally:
                Module.__call__, Module.__getattr__ = call, attribute  # type: ignore[method-assign]
        self.create_node("output", "output", (self.create_arg(result),), {})
        return self.graph

    @contextmanager
    def _patched(self) -> Iterator[None]:
        self._patches = _Patches()
        for f in self._functions:
            self._patches.instead[id(f)] = _recorded(f)
        try:
            self._patches.rooms(self._modules)
            yield
        finally:
            self._patches.restore()


def symbolic_trace(
    root: Module | Callable, concrete_args: dict[str, Any] | None = None
) -> GraphModule:
    """A module or function as a `GraphModule`: what it calls on proxies of its arguments.

    Branches on values and loops over them are a `TraceError`. Source: torch.fx.symbolic_trace.
    """
    tracer = Tracer()
    graph = tracer.trace(root, concrete_args)
    name = (
        type(root).__name__
        if isinstance(root, Module)
        else getattr(root, "__name__", "GraphModule")
    )
    return GraphModule(tracer.root, graph, name)


__all__ = ["Target", "Tracer", "symbolic_trace", "wrap"]
