"""Proxies: what stands for a value while a function is traced, and records what is done with it."""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .. import dtypes as dt
from .. import formats
from ..device import device
from ..errors import KilnValueError
from ..overrides import notice
from ..shape import Size
from ..tensor import Tensor
from .graph import Graph
from .node import Node, Target

_BASE = (str, int, float, bool, complex, bytes, dt.dtype, device, Tensor, formats.layout, formats.memory_format,
         range, type(None), type(...), type)  # fmt: skip


class TraceError(KilnValueError):
    """What can't be known while a function is traced."""


def first_proxy(a: Any) -> Proxy | None:
    """The first Proxy in nested arguments, if any."""
    if isinstance(a, Proxy):
        return a
    if isinstance(a, slice):
        a = (a.start, a.stop, a.step)
    if not isinstance(a, list | tuple | dict):
        return None
    inside = map(first_proxy, a.values() if isinstance(a, dict) else a)
    return next((p for p in inside if p is not None), None)


def contains_proxy(a: Any) -> bool:
    """Whether there is a Proxy in nested arguments."""
    return first_proxy(a) is not None


class TracerBase:
    """What records calls in a Graph."""

    graph: Graph

    def create_node(
        self,
        kind: str,
        target: Target,
        args: tuple,
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
    ) -> Node:
        """A node of a call."""
        return self.graph.create_node(kind, target, args, kwargs, name, type_expr)

    def proxy(self, node: Node) -> Proxy:
        """What stands for a node's result."""
        return Proxy(node, self)

    def create_proxy(
        self, kind: str, target: Target, args: tuple, kwargs: dict[str, Any], name: str | None = None, type_expr: Any = None,
        proxy_factory_fn: Callable[[Node], Proxy] | None = None,
    ) -> Proxy:  # fmt: skip
        """A node of a call, and what stands for its result."""
        node = self.create_node(
            kind, target, self.create_arg(args), self.create_arg(kwargs), name, type_expr
        )
        return (proxy_factory_fn or self.proxy)(node)

    def create_arg(self, a: Any) -> Any:
        """An argument as nodes hold it: nodes for proxies. NotImplementedError for types that they can't hold."""
        if isinstance(a, Proxy):
            return a.node
        if isinstance(a, tuple) and hasattr(a, "_fields"):
            return type(a)(*(self.create_arg(x) for x in a))
        if isinstance(a, Size):
            return tuple(a)
        if isinstance(a, list | tuple):
            return type(a)(self.create_arg(x) for x in a)
        if isinstance(a, dict):
            return {k: self.create_arg(v) for k, v in a.items()}
        if isinstance(a, slice):
            return slice(*map(self.create_arg, (a.start, a.stop, a.step)))
        if isinstance(a, (Node, _BASE)) or callable(a):
            return a
        raise NotImplementedError(f"argument of type: {type(a)}")

    def to_bool(self, obj: Proxy) -> bool:
        """A proxy as a condition: TraceError."""
        raise TraceError(
            "fx", "symbolically traced variables cannot be used as inputs to control flow", repr(obj),
            "use where, or make the module a leaf of the trace",
        )  # fmt: skip

    def iter(self, obj: Proxy) -> Iterator:
        """A proxy's elements: as many as are unpacked, TraceError where that isn't known."""
        frame = sys._getframe(2)
        for i in dis.get_instructions(frame.f_code):
            if i.offset == frame.f_lasti and i.opname == "UNPACK_SEQUENCE":
                return (operator.getitem(obj, k) for k in range(int(i.arg or 0)))  # type: ignore[call-overload]
        raise TraceError(
            "fx", "Proxy object cannot be iterated: how many elements it has is not known", repr(obj),
            "index it, or unpack it into names",
        )  # fmt: skip

    def keys(self, obj: Proxy) -> Any:
        """What `**proxy` asks for: its method `keys`."""
        return Attribute(obj, "keys")()


class GraphAppendingTracer(TracerBase):
    """Records calls in a Graph that is there already."""

    def __init__(self, graph: Graph):
        self.graph = graph
        notice(Proxy)  # no trace is under way that would record functions


class Proxy:
    """What stands for a value: operations and functions of it give proxies and become nodes."""

    def __init__(self, node: Node, tracer: TracerBase | None = None):
        self.node, self.tracer = (
            node,
            tracer if tracer is not None else GraphAppendingTracer(node.graph),
        )

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(name)
        return Attribute(self, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Proxy:
        return self.tracer.create_proxy("call_method", "__call__", (self, *args), kwargs)

    def __iter__(self) -> Iterator:
        return self.tracer.iter(self)

    def __bool__(self) -> bool:
        return self.tracer.to_bool(self)

    def __len__(self) -> int:
        raise TraceError(
            "fx", "'len' is not supported in symbolic tracing by default", repr(self),
            "kiln.fx.wrap('len') at the module's level records it",
        )  # fmt: skip

    def __index__(self) -> int:
        raise TraceError("fx", "a proxy is no index: its value is not known", repr(self), "")

    def keys(self) -> Any:
        """What `**proxy` asks for."""
        return self.tracer.keys(self)

    def __deepcopy__(self, memo: dict) -> Any:
        raise TraceError("fx", "a proxy can't be copied", repr(self), "use clone()")

    def __repr__(self) -> str:
        return f"Proxy({self.node.name})"

    @classmethod
    def __torch_function__(
        cls, fn: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """What an op answers that is given a proxy while no trace is under way: a node of its call."""
        found = first_proxy((args, kwargs or {}))
        assert found is not None
        return found.tracer.create_proxy("call_function", fn, args, kwargs or {})

    __hash__ = object.__hash__


class Attribute(Proxy):
    """An attribute of a proxy: a node where it is read, a call of a method where it is called."""

    def __init__(self, root: Proxy, attr: str):
        self.root, self.attr, self.tracer = root, attr, root.tracer
        self._node: Node | None = None

    @property
    def node(self) -> Node:  # type: ignore[override]
        """The node that reads it, made when it is asked for."""
        if self._node is None:
            self._node = self.tracer.create_proxy(
                "call_function", getattr, (self.root, self.attr), {}
            ).node
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Proxy:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


def _binary(fn: Callable) -> tuple[Callable, Callable]:
    def here(self: Proxy, other: Any) -> Proxy:
        return self.tracer.create_proxy("call_function", fn, (self, other), {})

    def there(self: Proxy, other: Any) -> Proxy:
        return self.tracer.create_proxy("call_function", fn, (other, self), {})

    return here, there


def _unary(fn: Callable) -> Callable:
    return lambda self: self.tracer.create_proxy("call_function", fn, (self,), {})


for _name in "add sub mul truediv floordiv mod matmul pow lshift rshift and_ or_ xor".split():  # noqa: SIM905
    _short = _name.strip("_")
    _here, _there = _binary(getattr(operator, _name))
    setattr(Proxy, f"__{_short}__", _here)
    setattr(Proxy, f"__r{_short}__", _there)
for _name in "lt le gt ge eq ne getitem".split():  # noqa: SIM905
    setattr(Proxy, f"__{_name}__", _binary(getattr(operator, _name))[0])
for _name in "neg pos abs invert".split():  # noqa: SIM905
    setattr(Proxy, f"__{_name}__", _unary(getattr(operator, _name)))
