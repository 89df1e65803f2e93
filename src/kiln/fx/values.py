"""Traces of whole programs: symbolic ones, and ones that know example values and which sizes may differ.

Note [Two examples]
A trace for export runs the program on two examples at once, which differ in the sizes that are said to be dynamic. A size,
or anything else that is no tensor, is a fact of the program where both have the same, and a value that the
program computes where they differ. What can only be Python (a branch, a range) is refused there, with the size's name.
"""

from __future__ import annotations

import copy
import functools
import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from .. import random as rng
from ..amp.autocast_mode import is_autocast_enabled
from ..autograd.modes import is_grad_enabled, no_grad
from ..errors import KilnError
from ..nn.modules.module import Module
from ..nn.parameter import Parameter
from ..shape import Size
from ..tensor import Tensor
from ._symbolic_trace import Tracer
from .graph import Graph
from .node import Node, Target, map_arg
from .program import Program, skeleton
from .proxy import Proxy

_DRAWS = ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson")
_READS = ("item", "tolist", "numpy", "data_ptr", "untyped_storage", "storage")


class SpecializedError(KilnError):
    """Python needs a size that was said to be dynamic."""


class ProgramTracer(Tracer):
    """Traces a module as a `Program`: draws are calls, buffers are read when it runs."""

    def path_of_module(self, mod: Module) -> str:
        """The path of a module in the one that is traced."""
        return "" if mod is self.root else super().path_of_module(mod)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter or buffer: what stands for it."""
        if not isinstance(attr_val, Tensor):
            return attr_val
        for name, t in (*self.root.named_parameters(), *self.root.named_buffers()):
            if t is attr_val:
                if name not in parameter_proxy_cache:
                    parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
                return parameter_proxy_cache[name]
        return attr_val

    def create_node(self, kind: str, target: Target, *args: Any, **kwargs: Any) -> Node:
        """A node of a call, which remembers whether gradients were off."""
        if is_autocast_enabled("cpu"):
            raise KilnError(
                "export", "an autocast region inside of the program is not kept", str(target),
                "convert dtypes in the module, or call the program inside of autocast",
            )  # fmt: skip
        node = super().create_node(kind, target, *args, **kwargs)
        if not is_grad_enabled() and kind not in ("placeholder", "output"):
            node.meta["no_grad"] = True
        return node

    @contextmanager
    def _patched(self) -> Iterator[None]:
        with super()._patched():
            for names, name, fn in self._patches.undo:
                if isinstance(fn, FunctionType) and fn.__name__ in _DRAWS:
                    names[name] = functools.partial(self.draw, fn)
            yield

    def draw(self, fn: Callable, *args: Any, **kwargs: Any) -> Any:
        """A draw of random numbers, which is drawn anew in each run."""
        return self.create_proxy("call_function", fn, args, kwargs)


def symbolic_program(m: Any) -> Program:
    """A module, or a function, as a Program for any sizes: what it calls on proxies, in training and in evaluation.

    TraceError where it branches on values or sizes.
    """
    if not isinstance(m, Module):
        tracer = ProgramTracer()
        graph = tracer.trace(m)
        return Program(_bare(tracer.root, [graph]), {False: graph})
    graphs: dict[bool, Graph] = {}
    modes = {k: k.training for k in m.modules()}
    root = copy.copy(m)
    try:
        for training in (True, False):
            for k in (root, *modes):
                k.training = training
            graphs[training] = ProgramTracer().trace(root)
    finally:
        for k, training in modes.items():
            k.training = training
    root.training = m.training
    return Program(_bare(root, [*graphs.values()]), graphs)


def _bare(root: Module, graphs: list[Graph]) -> Module:
    """What the Graphs of a module call and read: its layers, tensors, and constants as buffers that are no state."""
    out = skeleton(root, {str(n.target) for g in graphs for n in g.find_nodes(op="call_module")})
    for graph in graphs:
        for n in graph.nodes:
            t = vars(root).get(str(n.target)) if n.op == "get_attr" else None
            if isinstance(t, Tensor) and n.target not in out._buffers:
                out.register_buffer(str(n.target), t.detach(), persistent=False)
    return out


class Valued(Proxy):
    """A proxy that knows its value in each example."""

    @property
    def values(self) -> tuple:
        """The values, one for each example."""
        return self.tracer.values[self.node]  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(name)
        found = getattr(self.values[0], name)
        if not callable(found):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        if name in _READS:
            self._refuse(f"{name}() reads a value out of a tensor, which a program can't know")
        return lambda *args, **kwargs: self.tracer.create_proxy(
            "call_method", name, (self, *args), kwargs
        )

    def _same(self, what: str) -> Any:
        first, *others = self.values
        if isinstance(first, Tensor):
            self._refuse(f"{what} depends on values of a tensor")
        if any(x != first for x in others):
            raise SpecializedError(
                "export", "a size was marked dynamic, but the program needs it as a Python number", f"{self!r} in {what}",
                "write it in tensors' functions, or leave that size static",
            )  # fmt: skip
        return first

    def _refuse(self, why: str) -> None:
        raise KilnError(
            "export", f"Could not guard on data-dependent expression: {why}", repr(self),
            "use where, or kiln.cond, in place of Python's branches",
        )  # fmt: skip

    def __bool__(self) -> bool:
        return bool(self._same("a branch"))

    def __len__(self) -> int:
        sizes = {len(v) for v in self.values}
        return sizes.pop() if len(sizes) == 1 else self._differs("len")

    def _differs(self, what: str) -> Any:
        raise SpecializedError(
            "export", "a size was marked dynamic, but the program needs it as a Python number", f"{what}({self!r})",
            "write it in tensors' functions, or leave that size static",
        )  # fmt: skip

    def __index__(self) -> int:
        return operator.index(self._same("an index"))

    def __int__(self) -> int:
        return int(self._same("int"))

    def __float__(self) -> float:
        return float(self._same("float"))

    def __iter__(self) -> Iterator:
        return iter([self[i] for i in range(len(self))])  # type: ignore[index]


class ExampleTracer(ProgramTracer):
    """Traces with example values, of which there may be two: Note [Two examples]."""

    def __init__(self, examples: int) -> None:
        super().__init__()
        self.examples = examples
        self.values: dict[Node, tuple] = {}
        self.computing = False

    def trace_call(
        self, root: Module, names: list[str], values: list[tuple], call: Callable
    ) -> Graph:
        """The Graph of `call(root, proxies)`, of a placeholder for each of the names."""
        self.root, self.graph = root, Graph(tracer_cls=type(self))
        self.values = {}
        proxies = []
        for name, value in zip(names, values, strict=True):
            node = self.create_node("placeholder", name, (), {})
            self.values[node] = value
            proxies.append(Valued(node, self))
        held = {b: b.detach().clone() for b in root.buffers()}
        cache: dict[str, Any] = {}
        plain, attribute = Module.__call__, Module.__getattr__

        def called(mod: Module, *args: Any, **kwargs: Any) -> Any:
            if self.computing:
                return plain(mod, *args, **kwargs)
            return self.call_module(mod, lambda *a, **k: plain(mod, *a, **k), args, kwargs)

        def read(mod: Module, name: str) -> Any:
            found = attribute(mod, name)
            return found if self.computing else self.getattr(name, found, cache)

        try:
            with rng.fork_rng(), self._patched():
                Module.__call__, Module.__getattr__ = called, read  # type: ignore[method-assign]
                try:
                    self._patches.names(vars(root))
                    self._patches.names(inspect.unwrap(type(root).forward).__globals__)
                    result = call(root, proxies)
                finally:
                    Module.__call__, Module.__getattr__ = plain, attribute  # type: ignore[method-assign]
            self.create_node("output", "output", (self.create_arg(result),), {})
            self.mutated = [n for n, b in root.named_buffers() if not b.equal(held[b])]
        finally:
            with no_grad():
                for b, old in held.items():
                    b.copy_(old)
        self.graph.eliminate_dead_code(
            lambda n: n.is_impure() or "expected" in n.meta or n.op == "call_module"
        )
        return self.graph

    def draw(self, fn: Callable, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs) if self.computing else super().draw(fn, *args, **kwargs)

    def create_node(self, kind: str, target: Target, *args: Any, **kwargs: Any) -> Node:
        node = super().create_node(kind, target, *args, **kwargs)
        if kind == "get_attr":
            self.values[node] = tuple(self._value(node, i) for i in range(self.examples))
        return node

    def create_proxy(self, kind: str, target: Target, args: tuple, kwargs: dict[str, Any], *rest: Any, **options: Any) -> Any:  # fmt: skip
        """A node of a call with its values; what is the same in all examples and no tensor is itself."""
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs))
        found = []
        for i in range(self.examples):
            try:
                found.append(self.values[node][i] if node in self.values else self._value(node, i))
            except RuntimeError as e:
                if not i:
                    raise
                raise SpecializedError(
                    "export", "a size was marked dynamic, but the program is for one size only", str(e),
                    "leave that size static",
                ) from None  # fmt: skip
        self.values[node] = tuple(found)
        first = found[0]
        if isinstance(first, Size):
            return self._sizes(Valued(node, self), found)
        if isinstance(first, Tensor | tuple | list | dict) or any(x != first for x in found):
            return Valued(node, self)
        if any(self._is_size(i) for i in node.all_input_nodes):
            node.meta["expected"] = (
                first  # it is so for other sizes too, or this is not their program
            )
        elif kind != "call_module":
            self.graph.erase_node(node)
        return first

    def _is_size(self, n: Node) -> bool:
        """Whether a node is a number that differs between examples."""
        first, *others = self.values[n]
        return not isinstance(first, Tensor) and any(x != first for x in others)

    def _sizes(self, whole: Valued, found: list[Size]) -> Any:
        if len({len(s) for s in found}) > 1:
            raise SpecializedError(
                "export", "how many dimensions there are depends on a dynamic size", repr(whole), ""
            )
        if all(s == found[0] for s in found):
            self.graph.erase_node(whole.node)
            return found[0]
        return tuple(
            n[0] if len(set(n)) == 1 else whole[i]  # type: ignore[index]
            for i, n in enumerate(zip(*found, strict=True))
        )

    def _value(self, n: Node, example: int) -> Any:
        args, kwargs = map_arg((n.args, n.kwargs), lambda i: self.values[i][example])
        before, self.computing = self.computing, True
        try:
            with no_grad():
                if n.op == "get_attr":
                    t = _attribute(self.root, str(n.target))
                    return t if isinstance(t, Parameter) else t.detach().clone()
                if n.op == "call_module":
                    return _attribute(self.root, str(n.target))(*args, **kwargs)
                if n.op == "call_method":
                    return getattr(args[0], str(n.target))(*args[1:], **kwargs)
                return n.target(*args, **kwargs)  # type: ignore[operator]
        finally:
            self.computing = before


def _attribute(root: Module, path: str) -> Any:
    at: Any = root
    for part in path.split("."):
        at = getattr(at, part)
    return at


def example_program(
    m: Module, names: list[str], values: list[tuple], call: Callable
) -> tuple[Program, list[str]]:
    """A module as a Program for `call(module, proxies)`, and the buffers that it writes."""
    root = copy.copy(m)
    tracer = ExampleTracer(len(values[0]) if values else 1)
    graph = tracer.trace_call(root, names, values, call)
    return Program(_bare(root, [graph]), {m.training: graph}), tracer.mutated
