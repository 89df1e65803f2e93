"""A module cut into several, by what each node belongs to. Source: torch.fx.passes.split_module."""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem
from typing import Any

from ...nn.modules.module import Module
from ..graph import Graph
from ..graph_module import GraphModule
from ..node import Node, map_arg


class Partition:
    """The nodes that belong together, what they read of others, and what others read of them."""

    def __init__(self, name: str):
        self.name = name
        self.submod_name = f"submod_{name}"
        self.inputs: dict[Node, None] = {}
        self.outputs: dict[Node, None] = {}
        self.graph = Graph()
        self.environment: dict[Node, Node] = {}


def split_module(
    m: GraphModule, root_m: Module, split_callback: Callable[[Node], int], qualname_map: dict[str, str] | None = None,
    keep_original_order: bool = False, keep_original_node_name: bool = False,
) -> GraphModule:  # fmt: skip
    """A module that calls one submodule, `submod_0` and so on, for each part into which `split_callback` puts nodes.

    Parts are called in the order in which the first of their nodes stood, those first that others read.
    """
    parts: dict[str, Partition] = {}
    of: dict[Node, Partition] = {}
    calls = [n for n in m.graph.nodes if n.op not in ("placeholder", "get_attr", "output")]
    for n in calls:
        name = str(split_callback(n))
        of[n] = parts.setdefault(name, Partition(name))
    for n in m.graph.nodes:
        for x in n.all_input_nodes:
            if x.op == "get_attr" or (n in of and of.get(x) is of[n]):
                continue
            if x in of:
                of[x].outputs[x] = None
            if n in of:
                of[n].inputs[x] = None
    for part in parts.values():
        for x in part.inputs:
            part.environment[x] = part.graph.placeholder(x.name, x.type)
    reads: dict[Node, Any] = {}  # attributes are read in each part that needs them
    for n in calls:
        part = of[n]
        for x in n.all_input_nodes:
            if x.op == "get_attr" and x not in part.environment:
                part.environment[x] = part.graph.get_attr(str(x.target))
        new = part.graph.node_copy(n, lambda x, part=part: part.environment[x])
        part.environment[n] = new
        if qualname_map is not None and n.op in ("call_module", "get_attr"):
            qualname_map[f"{part.submod_name}.{n.target}"] = str(n.target)
    base, here, pieces = Graph(), reads, {}
    for n in m.graph.nodes:
        if n.op == "placeholder":
            here[n] = base.placeholder(n.name, n.type, *(n.args[:1] or (...,)))
        elif n.op == "get_attr" and any(u.op == "output" for u in n.users):
            here[n] = base.get_attr(str(n.target))
    left = list(parts.values())
    while left:
        part = next((p for p in left if all(x in here for x in p.inputs)), None)
        if part is None:
            raise RuntimeError("cycle exists between partitions!")
        left.remove(part)
        results = [part.environment[x] for x in part.outputs]
        part.graph.output(results[0] if len(results) == 1 else tuple(results))
        pieces[part.submod_name] = GraphModule(root_m, part.graph, part.submod_name)
        call = base.call_module(part.submod_name, tuple(here[x] for x in part.inputs))
        for i, x in enumerate(part.outputs):
            here[x] = call if len(results) == 1 else base.call_function(getitem, (call, i))
    last = m.graph.output_node()
    base.output(map_arg(last.args[0], lambda x: here[x]), last.type)
    root = Module()
    for name, piece in pieces.items():
        root.add_module(name, piece)
    for n in base.nodes:
        if n.op == "get_attr":
            setattr(root, str(n.target), getattr(root_m, str(n.target)))
    return GraphModule(root, base)
