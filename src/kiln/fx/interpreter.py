"""Running a Graph node by node, and making another of it."""

from __future__ import annotations

from typing import Any

from ..errors import KilnError
from ..nn.modules.module import Module
from .graph import Graph
from .graph_module import GraphModule
from .node import Node, Target, map_arg
from .proxy import Proxy, TracerBase


class Interpreter:
    """Runs a module's Graph node by node; subclasses change what kinds of nodes do. Source: torch.fx.Interpreter."""

    def __init__(
        self, module: Module, garbage_collect_values: bool = True, graph: Graph | None = None
    ):
        self.module, self.garbage_collect_values = module, garbage_collect_values
        self.submodules = dict(module.named_modules())
        self.graph: Graph = graph if graph is not None else module.graph  # type: ignore[assignment]
        self.env: dict[Node, Any] = {}

    def run(
        self,
        *args: Any,
        initial_env: dict[Node, Any] | None = None,
        enable_io_processing: bool = True,
    ) -> Any:
        """What the Graph gives for these arguments."""
        self.env = dict(initial_env or {})
        self.args_iter = iter(args)
        last = {n: user for user in self.graph.nodes for n in user.all_input_nodes}
        for node in self.graph.nodes:
            if node not in self.env:
                self.env[node] = self.run_node(node)
            if node.op == "output":
                return self.env[node]
            if self.garbage_collect_values:
                for n in node.all_input_nodes:
                    if last[n] is node:
                        self.env.pop(n, None)
        return None

    def run_node(self, n: Node) -> Any:
        """What one node gives."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[tuple, dict[str, Any]]:
        """The values of a node's arguments."""
        return self.map_nodes_to_values((n.args, n.kwargs), n)

    def map_nodes_to_values(self, args: Any, n: Node) -> Any:
        """Nested arguments with the values of nodes."""

        def value(i: Node) -> Any:
            if i not in self.env:
                raise KilnError(
                    "fx.Interpreter",
                    f"Node {n} referenced nonexistent value {i}!",
                    None,
                    "graph.lint() finds such",
                )
            return self.env[i]

        return map_arg(args, value)

    def fetch_attr(self, target: str) -> Any:
        """An attribute of the module by its path."""
        at: Any = self.module
        for part in target.split("."):
            at = getattr(at, part)
        return at

    def placeholder(self, target: Target, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The next argument."""
        if str(target).startswith("*"):
            return list(self.args_iter)
        try:
            return next(self.args_iter)
        except StopIteration:
            if args:
                return args[0]
            raise KilnError(
                "fx.Interpreter", f"Expected positional argument for parameter {target}", None, ""
            ) from None

    def get_attr(self, target: Target, args: tuple, kwargs: dict[str, Any]) -> Any:
        """An attribute of the module."""
        return self.fetch_attr(str(target))

    def call_function(self, target: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A function's result."""
        return target(*args, **kwargs)

    def call_method(self, target: Target, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A method's result."""
        return getattr(args[0], str(target))(*args[1:], **kwargs)

    def call_module(self, target: Target, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A module's result."""
        return self.fetch_attr(str(target))(*args, **kwargs)

    def output(self, target: Target, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What the Graph gives."""
        return args[0]


class _Building(TracerBase):
    def __init__(self, graph: Graph, module: Module):
        self.graph, self.root = graph, module

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return True


class Transformer(Interpreter):
    """Makes another Graph by running one on proxies; subclasses change what kinds of nodes become."""

    def __init__(self, module: Module):
        super().__init__(module)
        self.new_graph = Graph()
        self.tracer = _Building(self.new_graph, module)

    def placeholder(self, target: Target, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The argument in the new Graph."""
        return Proxy(
            self.new_graph.placeholder(str(target), default_value=args[0] if args else ...),
            self.tracer,
        )

    def get_attr(self, target: Target, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The attribute in the new Graph."""
        return self.tracer.create_proxy("get_attr", target, args, kwargs)

    def call_function(self, target: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The call in the new Graph."""
        return self.tracer.create_proxy("call_function", target, args, kwargs)

    def call_method(self, target: Target, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The call in the new Graph."""
        return self.tracer.create_proxy("call_method", target, args, kwargs)

    def call_module(self, target: Target, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The call in the new Graph."""
        return self.tracer.create_proxy("call_module", target, args, kwargs)

    def transform(self) -> GraphModule:
        """The module of the new Graph."""
        result = super().run()
        if result is not None:
            self.new_graph.output(self.tracer.create_arg(result))
        return GraphModule(self.module, self.new_graph)

    def run_node(self, n: Node) -> Any:
        """What becomes of one node; its `meta` goes on."""
        out = super().run_node(n)
        if isinstance(out, Proxy):
            out.node.meta = {**n.meta, **out.node.meta}
        return out
