"""Modules whose `forward` is a Graph."""

from __future__ import annotations

import copy
import itertools
import linecache
from typing import Any

from ..errors import KilnError, describe
from ..nn.modules.module import Module
from ..tensor import Tensor
from .graph import Graph

_USER_PRESERVED_ATTRIBUTES_KEY = "_user_preserved_attributes"
_count = itertools.count()


class _CodeOnlyModule(Module):
    """A module that holds what another one held, without its class."""

    def __init__(self, body: dict[str, Any]):
        super().__init__()
        self.__dict__ = body


def _copy_attr(from_module: Module, to_module: Module, target: str) -> None:
    """Set an attribute, by its path, to what it is in another module."""
    *path, field = target.split(".")
    for part in path:
        source, there = getattr(from_module, part), getattr(to_module, part, None)
        if source is there:
            return
        if there is None:
            there = Module()
            setattr(to_module, part, there)
        from_module, to_module = source, there
    value = getattr(from_module, field)
    if isinstance(value, Tensor) and field in from_module._buffers:
        to_module.register_buffer(field, value)
    else:
        setattr(to_module, field, value)


def _assign_attr(value: Any, to_module: Module, target: str) -> None:
    *path, field = target.split(".")
    for part in path:
        if getattr(to_module, part, None) is None:
            setattr(to_module, part, Module())
        to_module = getattr(to_module, part)
    if isinstance(value, Tensor) and not hasattr(value, "_is_param") and type(value) is Tensor:
        to_module.register_buffer(field, value)
    else:
        setattr(to_module, field, value)


class GraphModule(Module):
    """A module whose `forward` is made of a Graph: `recompile()` makes it again where the Graph was changed.

    `root` is a module, or a dict by path, that has what the Graph calls and reads. Source: torch.fx.GraphModule.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if "_made" not in cls.__dict__:  # a forward of its own
            cls = type(cls.__name__, (cls,), {"__module__": cls.__module__, "_made": True})
        return super().__new__(cls)  # type: ignore[arg-type]

    def __init__(self, root: Any, graph: Graph, class_name: str = "GraphModule"):
        super().__init__()
        type(self).__name__ = class_name
        used = [str(n.target) for n in graph.nodes if n.op in ("get_attr", "call_module")]
        if isinstance(root, Module):
            self.training = root.training
            for target in used:
                _copy_attr(root, self, target)
        elif isinstance(root, dict):
            for target in sorted(used, key=lambda t: t.count(".")):
                if target not in root:
                    raise KilnError(
                        "fx.GraphModule",
                        f"the Graph reads {target!r}, which the dict doesn't have",
                        sorted(root),
                        "",
                    )
                _assign_attr(root[target], self, target)
        else:
            raise KilnError("fx.GraphModule", "root is a module or a dict", describe(root), "")
        self.graph = graph
        self.meta: dict[str, Any] = {}

    @property
    def graph(self) -> Graph:
        """The Graph; setting it makes `forward` again."""
        return self._graph

    @graph.setter
    def graph(self, g: Graph) -> None:
        if not isinstance(g, Graph):
            raise AssertionError(f"Expected a Graph instance, but got {type(g)}")
        self.__dict__["_graph"] = g
        g.owning_module = self
        self.recompile()

    @property
    def code(self) -> str:
        """`forward` as Python."""
        return self.__dict__["_code"]

    def recompile(self) -> Any:
        """Make `forward` of the Graph as it is now."""
        made = self._graph.python_code()
        self.__dict__["_code"] = made.src
        file = f"<kiln.fx {next(_count)}>"
        linecache.cache[file] = (len(made.src), None, made.src.splitlines(keepends=True), file)
        names = dict(made.globals)
        exec(compile(made.src, file, "exec"), names)
        type(self).forward = names["forward"]
        return made

    def print_readable(self, print_output: bool = True, **options: Any) -> str:
        """`forward` as Python, printed."""
        text = f"class {type(self).__name__}(torch.nn.Module):\n" + "".join(
            f"    {line}\n" for line in self.code.splitlines()
        )
        if print_output:
            print(text)
        return text

    def add_submodule(self, target: str, m: Module) -> bool:
        """Put a module at a path; False where something else is in the way."""
        *path, field = target.split(".")
        at: Any = self
        for part in path:
            if not hasattr(at, part):
                setattr(at, part, Module())
            at = getattr(at, part)
            if not isinstance(at, Module):
                return False
        at.add_module(field, m)
        return True

    def delete_submodule(self, target: str) -> bool:
        """Take the module at a path away; False where there is none."""
        *path, field = target.split(".")
        at: Any = self
        for part in path:
            at = getattr(at, part, None)
        if not isinstance(getattr(at, field, None), Module):
            return False
        delattr(at, field)
        return True

    def delete_all_unused_submodules(self) -> None:
        """Take away the modules that the Graph neither calls nor reads from."""
        used: set[str] = set()
        for n in self._graph.nodes:
            if n.op in ("call_module", "get_attr"):
                parts = str(n.target).split(".")
                used.update(".".join(parts[: i + 1]) for i in range(len(parts)))
                if n.op == "call_module":
                    found = self.get_submodule(str(n.target))
                    used.update(f"{n.target}.{name}" for name, _ in found.named_modules() if name)
        for name, _ in list(self.named_modules()):
            if name and name not in used:
                self.delete_submodule(name)

    def __deepcopy__(self, memo: dict) -> GraphModule:
        root = Module()
        root.__dict__.update(
            {
                k: copy.deepcopy(v, memo)
                for k, v in self.__dict__.items()
                if k not in ("_graph", "_code")
            }
        )
        out = GraphModule(root, copy.deepcopy(self._graph), type(self).__name__)
        out.meta = dict(self.meta)
        out.training = self.training
        return out

    def __copy__(self) -> GraphModule:
        return GraphModule(self, self._graph, type(self).__name__)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise KilnError("fx.GraphModule", "a module made of a Graph is not pickled", type(self).__name__,
                        "save its state_dict(), and trace it again")  # fmt: skip

    def __str__(self) -> str:
        return f"{super().__repr__()}\n{self.code}\n# To see more debug info, please use `graph_module.print_readable()`"
