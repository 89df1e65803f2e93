"""Modules made quicker for inference by changing their Graphs. Source: torch.fx.experimental.optimization."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from ... import nn
from ...nn.modules.module import Module
from ...nn.utils.fusion import fuse_conv_bn_eval
from .._symbolic_trace import symbolic_trace
from ..graph_module import GraphModule
from ..node import Node


def matches_module_pattern(pattern: Iterable[type], node: Node, modules: dict[str, Any]) -> bool:
    """Whether a node calls a module of the last class, on what one of the class before it gives."""
    if not node.args:
        return False
    for kind, current in zip(pattern, (node.args[0], node), strict=True):
        if (
            not isinstance(current, Node)
            or current.op != "call_module"
            or type(modules.get(str(current.target))) is not kind
        ):
            return False
    return True


def replace_node_module(node: Node, modules: dict[str, Any], new_module: Module) -> None:
    """Have a node call another module, in the place of the one that it calls."""
    parent, _, name = str(node.target).rpartition(".")
    modules[str(node.target)] = new_module
    setattr(modules[parent], name, new_module)


def fuse(model: Module, inplace: bool = False, no_trace: bool = False) -> Module:
    """Convolutions with the batch norm behind them as one, in a copy of the model unless `inplace`: for inference."""
    patterns = [
        (nn.Conv1d, nn.BatchNorm1d),
        (nn.Conv2d, nn.BatchNorm2d),
        (nn.Conv3d, nn.BatchNorm3d),
    ]
    model = model if inplace else copy.deepcopy(model)
    gm = model if no_trace and isinstance(model, GraphModule) else symbolic_trace(model)
    modules = dict(gm.named_modules())
    for pattern in patterns:
        for node in list(gm.graph.nodes):
            if not matches_module_pattern(pattern, node, modules):
                continue
            before = node.args[0]
            if len(before.users) > 1:  # the convolution's result is read by others too
                continue
            bn = modules[str(node.target)]
            if not bn.track_running_stats:
                continue
            replace_node_module(before, modules, fuse_conv_bn_eval(modules[str(before.target)], bn))
            node.replace_all_uses_with(before)
            gm.graph.erase_node(node)
    return GraphModule(gm, gm.graph)


def remove_dropout(model: Module) -> Module:
    """The model without its dropout layers."""
    gm = symbolic_trace(model)
    modules = dict(gm.named_modules())
    for node in list(gm.graph.nodes):
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)
    return GraphModule(gm, gm.graph)
