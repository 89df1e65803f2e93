"""Graphs of Python calls: a list of nodes that can be changed, and written as Python again."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import KilnError
from .code import PythonCode, public_name, python_code, target_name
from .node import Node, Target, map_arg


class _Nodes:
    """The nodes of a Graph in their order; nodes may be added and erased while they are walked."""

    def __init__(self, graph: Graph):
        self._graph = graph

    def __iter__(self) -> Iterator[Node]:
        root = self._graph._root
        at = root._next
        while at is not root:
            if not at._erased:
                yield at
            at = at._next

    def __reversed__(self) -> Iterator[Node]:
        root = self._graph._root
        at = root._prev
        while at is not root:
            if not at._erased:
                yield at
            at = at._prev

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, node: object) -> bool:
        return any(n is node for n in self)


class Graph:
    """A function as a list of calls, in the order in which they are made. Source: torch.fx.Graph."""

    def __init__(
        self, owning_module: Any = None, tracer_cls: Any = None, tracer_extras: Any = None
    ):
        self._root = Node(self, "", "output", "", (), {})
        self._at = self._root  # new nodes stand before it
        self._names: dict[str, int] = {}
        self.owning_module, self._tracer_cls = owning_module, tracer_cls

    @property
    def nodes(self) -> _Nodes:
        """The nodes in their order."""
        return _Nodes(self)

    def _name(self, candidate: str) -> str:
        base = re.sub(r"\W+", "_", candidate).lower() if not candidate.isidentifier() else candidate
        base = base if base and not base[0].isdigit() else f"_{base}"
        if base not in self._names and not keyword.iskeyword(base) and not hasattr(builtins, base):
            self._names[base] = 0
            return base
        stem = re.sub(r"_\d+$", "", base)
        n = self._names.get(stem, 0)
        while (name := f"{stem}_{n + 1}") in self._names:
            n += 1
        self._names[stem] = n + 1
        self._names[name] = 0
        return name

    def create_node(
        self, op: str, target: Target, args: tuple | None = None, kwargs: dict[str, Any] | None = None,
        name: str | None = None, type_expr: Any = None,
    ) -> Node:  # fmt: skip
        """A new node where nodes are being put: at the end, or see `inserting_before`."""
        if name is None:
            called = (
                target
                if isinstance(target, str)
                else (public_name(target) or "").rpartition(".")[2]
                or str(getattr(target, "__name__", type(target).__name__))
            )
            name = (
                re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", called.lstrip("*").replace(".", "_"))
                .lower()
                .strip("_")
                or "node"
            )
        node = Node(self, self._name(name), op, target, args or (), kwargs or {}, type_expr)
        self._at.prepend(node)
        return node

    def placeholder(self, name: str, type_expr: Any = None, default_value: Any = ...) -> Node:
        """An argument of the function."""
        args = () if default_value is ... else (default_value,)
        return self.create_node("placeholder", name, args, type_expr=type_expr)

    def get_attr(self, qualified_name: str, type_expr: Any = None) -> Node:
        """A parameter, buffer or other attribute of the module."""
        return self.create_node("get_attr", qualified_name, type_expr=type_expr)

    def call_module(
        self,
        module_name: str,
        args: tuple | None = None,
        kwargs: dict | None = None,
        type_expr: Any = None,
    ) -> Node:
        """A call of a module inside of the module."""
        return self.create_node("call_module", module_name, args, kwargs, type_expr=type_expr)

    def call_method(
        self,
        method_name: str,
        args: tuple | None = None,
        kwargs: dict | None = None,
        type_expr: Any = None,
    ) -> Node:
        """A call of a method of the first argument."""
        return self.create_node("call_method", method_name, args, kwargs, type_expr=type_expr)

    def call_function(
        self, the_function: Callable, args: tuple | None = None, kwargs: dict | None = None, type_expr: Any = None,
        name: str | None = None,
    ) -> Node:  # fmt: skip
        """A call of a function."""
        return self.create_node("call_function", the_function, args, kwargs, name, type_expr)

    def output(self, result: Any, type_expr: Any = None) -> Node:
        """What the function gives."""
        return self.create_node("output", "output", (result,), type_expr=type_expr)

    def output_node(self) -> Node:
        """The node of what the function gives."""
        return next(n for n in reversed(self.nodes) if n.op == "output")

    def find_nodes(self, *, op: str, target: Any = None, sort: bool = True) -> list[Node]:
        """The nodes of a kind, and of a target where one is given."""
        return [n for n in self.nodes if n.op == op and (target is None or n.target == target)]

    def node_copy(self, node: Node, arg_transform: Callable[[Node], Any] = lambda n: n) -> Node:
        """A copy here of a node, of another Graph maybe, whose inputs `arg_transform` gives."""
        args, kwargs = map_arg((node.args, node.kwargs), arg_transform)
        out = self.create_node(node.op, node.target, args, kwargs, node.name, node.type)
        out.meta = dict(node.meta)
        return out

    def graph_copy(
        self, g: Graph, val_map: dict[Node, Node], return_output_node: bool = False
    ) -> Any:
        """Copies here of another Graph's nodes; gives what its output stands for."""
        for node in g.nodes:
            if node in val_map:
                continue
            if node.op == "output":
                result = map_arg(node.args[0], lambda n: val_map[n])
                return (result, node) if return_output_node else result
            val_map[node] = self.node_copy(node, lambda n: val_map[n])
        return None

    def erase_node(self, to_erase: Node) -> None:
        """Take a node out; an error where its result is read."""
        if to_erase.users:
            raise KilnError(
                "fx.Graph", f"Tried to erase Node {to_erase} but it still had {len(to_erase.users)} users in the graph",
                list(to_erase.users), "replace_all_uses_with another node first",
            )  # fmt: skip
        if to_erase._erased:
            return
        to_erase._remove()
        to_erase._erased = True
        to_erase._set((), {})

    @contextmanager
    def _inserting(self, at: Node) -> Iterator[None]:
        before, self._at = self._at, at
        try:
            yield
        finally:
            self._at = before

    def inserting_before(self, n: Node | None = None) -> Any:
        """New nodes stand before this one inside of a `with` block, or at the beginning."""
        return self._inserting(self._root._next if n is None else n)

    def inserting_after(self, n: Node | None = None) -> Any:
        """New nodes stand after this one inside of a `with` block, or at the end."""
        return self._inserting(self._root if n is None else n._next)

    def eliminate_dead_code(self, is_impure_node: Callable[[Node], bool] | None = None) -> bool:
        """Take out what nothing reads; whether there was any."""
        impure = is_impure_node or Node.is_impure
        found = False
        for n in reversed(self.nodes):
            if not n.users and not impure(n):
                self.erase_node(n)
                found = True
        return found

    def lint(self) -> None:
        """KilnError where a node reads what is not before it, or calls what the module doesn't have."""
        seen: set[Node] = set()
        for n in self.nodes:
            for i in n.all_input_nodes:
                if i not in seen:
                    raise KilnError(
                        "fx.Graph",
                        f"Argument '{i}' of Node '{n}' was used before it has been defined!",
                        None,
                        "",
                    )
            seen.add(n)
            if self.owning_module is not None and n.op in ("call_module", "get_attr"):
                at = self.owning_module
                for part in str(n.target).split("."):
                    if not hasattr(at, part):
                        raise KilnError(
                            "fx.Graph",
                            f"Node {n} target {n.target} references nonexistent attribute {part}",
                            None,
                            "",
                        )
                    at = getattr(at, part)

    def python_code(self, root_module: str = "self", **options: Any) -> PythonCode:
        """The Graph as a Python method `forward`."""
        return python_code(list(self.nodes), root_module)

    def print_tabular(self) -> None:
        """Print the nodes as a table."""
        rows = [("opcode", "name", "target", "args", "kwargs")]
        rows += [
            (n.op, n.name, target_name(n.target), str(n.args), str(n.kwargs)) for n in self.nodes
        ]
        widths = [max(len(r[i]) for r in rows) for i in range(5)]
        for i, r in enumerate(rows):
            print("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip())
            if not i:
                print("  ".join("-" * w for w in widths))

    def __deepcopy__(self, memo: dict) -> Graph:
        out = Graph(tracer_cls=self._tracer_cls)
        result, node = out.graph_copy(self, {}, True) or (None, None)
        if node is not None:
            out.output(result, node.type).meta = dict(node.meta)
        return out

    def __str__(self) -> str:
        return "\n".join(["graph():", *(f"    {n.format_node()}" for n in self.nodes)])
