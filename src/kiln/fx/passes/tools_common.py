"""What passes share. Source: torch.fx.passes.tools_common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...nn.modules.module import Module
from ..code import target_name
from ..graph import Graph
from ..graph_module import GraphModule
from ..node import Node

CALLABLE_NODE_OPS = {"call_module", "call_function", "call_method"}
NodeList, NodeSet, Names = list[Node], set[Node], list[str]


def get_node_target(submodules: Mapping[str, Module], node: Node) -> str:
    """The name of what a node calls: a module's class, a function with its module, a method."""
    if node.op == "call_module":
        kind = type(submodules[str(node.target)])
        return f"{kind.__module__}.{kind.__name__}"
    return target_name(node.target)


def is_node_output_tensor(node: Node) -> bool:
    """Whether a node's result is known to be one tensor: `meta["type"]` says so."""
    found = node.meta.get("type")
    from ...tensor import Tensor

    return isinstance(found, type) and issubclass(found, Tensor)


def legalize_graph(gm: GraphModule) -> GraphModule:
    """The same module with its nodes in an order in which each stands behind what it reads."""
    due = {n: len(n.all_input_nodes) for n in gm.graph.nodes}
    ready = [n for n, k in due.items() if not k]
    graph, new, copied = Graph(), {}, []
    while ready:
        n = ready.pop(0)
        new[n] = graph.node_copy(n, lambda x: new[x])
        copied.append(n)
        for user in n.users:
            due[user] -= 1
            if not due[user]:
                ready.append(user)
    if len(copied) < len(due):
        left = [n for n in due if n not in new]
        raise RuntimeError(f"Input graph has cycles, unable to add {left}")
    gm.graph = graph
    return gm


def get_tensor_from_gm(gm: Any, node: Node) -> Any:
    """The tensor that a node of an attribute reads; None for others."""
    if node.op != "get_attr":
        return None
    for part in str(node.target).split("."):
        gm = getattr(gm, part)
    return gm
