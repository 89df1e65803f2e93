"""Models that give what their layers give, by tracing (`kiln.fx`). Source: torchvision.models.feature_extraction."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ... import fx, nn
from ...errors import KilnValueError

__all__ = ["create_feature_extractor", "get_graph_node_names"]


class NodePathTracer(fx.Tracer):
    """Tells for each node where in the model it is: the path of its layer, or of its module and its own name."""

    def __init__(self, *args: Any, leaf_modules: tuple = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.leaf_modules = tuple(leaf_modules)
        self.current_module_qualname = ""
        self.node_to_qualname: dict[fx.Node, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        """Whether a module is one node."""
        return isinstance(m, self.leaf_modules) or super().is_leaf_module(m, module_qualname)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """A call of a module, within which its path is that of nodes."""
        before = self.current_module_qualname
        self.current_module_qualname = self.path_of_module(m)
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self.current_module_qualname = before

    def create_proxy(self, kind: str, *args: Any, **kwargs: Any) -> fx.Proxy:
        """A node, and where it is."""
        proxy = super().create_proxy(kind, *args, **kwargs)
        self.node_to_qualname[proxy.node] = self._path(proxy.node)
        return proxy

    def _path(self, node: fx.Node) -> str:
        path = self.current_module_qualname
        if node.op != "call_module":  # numbers of names are counted anew within each module
            path = f"{path}." * bool(path) + re.sub(r"_\d+$", "", node.name)
        for other in reversed(list(self.node_to_qualname.values())):
            if found := re.fullmatch(rf"{re.escape(path)}(?:_(\d+))?", other):
                return f"{path}_{int(found[1] or 0) + 1}"
        return path


def _traced(model: nn.Module, training: bool, options: dict[str, Any]) -> Any:
    was = {m: m.training for m in model.modules()}
    model.train(training)
    try:
        tracer = NodePathTracer(**options)
        return tracer.trace(model), tracer.node_to_qualname
    finally:
        for m, flag in was.items():
            m.training = flag


def get_graph_node_names(
    model: nn.Module, tracer_kwargs: dict[str, Any] | None = None, suppress_diff_warning: bool = False,
    concrete_args: dict[str, Any] | None = None,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """The names of a model's nodes in training and in eval mode."""
    both = (_traced(model, mode, tracer_kwargs or {})[1] for mode in (True, False))
    train, evaluate = (list(names.values()) for names in both)
    return train, evaluate


class DualGraphModule(fx.GraphModule):
    """A module with a Graph for training and one for eval mode."""

    def __init__(self, root: nn.Module, train_graph: fx.Graph, eval_graph: fx.Graph) -> None:
        super().__init__(root, train_graph)
        evaluates = fx.GraphModule(root, eval_graph)
        for name, m in evaluates.named_children():
            if name not in self._modules:
                self.add_module(name, m)
        self.graphs = {True: train_graph, False: eval_graph}
        self.train(root.training)

    def train(self, mode: bool = True) -> DualGraphModule:
        """Set the mode, and take its Graph."""
        if mode != self.training or self.graph is not self.graphs[mode]:
            self.graph = self.graphs[mode]
        super().train(mode)
        return self


def create_feature_extractor(
    model: nn.Module, return_nodes: Any = None, train_return_nodes: Any = None, eval_return_nodes: Any = None,
    tracer_kwargs: dict[str, Any] | None = None, suppress_diff_warning: bool = False,
    concrete_args: dict[str, Any] | None = None,
) -> fx.GraphModule:  # fmt: skip
    """A model that gives a dict of what the named nodes give; the name of a module is that of its last node.

    `return_nodes` is a list of names, or a dict of names and what they are called in the result.
    """
    if (return_nodes is None) == (train_return_nodes is None or eval_return_nodes is None):
        raise KilnValueError("create_feature_extractor", "either `return_nodes` or `train_return_nodes` and `eval_return_nodes` together, should be specified", None, "")  # fmt: skip
    graphs = {}
    for mode, wanted in ((True, train_return_nodes), (False, eval_return_nodes)):
        given: Any = return_nodes if return_nodes is not None else wanted
        names = dict(given) if isinstance(given, dict) else {n: n for n in given}
        graph, paths = _traced(model, mode, tracer_kwargs or {})
        found: dict[str, fx.Node] = {}
        for name, called in names.items():
            at = [n for n, p in paths.items() if p == name or p.startswith(f"{name}.")]
            if not at:
                raise KilnValueError("create_feature_extractor", f"node: '{name}' is not present in model. Hint: use `get_graph_node_names` to make sure the `return_nodes` you specified are present.", name, "")  # fmt: skip
            found[called] = at[-1]
        graph.erase_node(next(n for n in graph.nodes if n.op == "output"))
        graph.output(found)
        graph.eliminate_dead_code()
        graphs[mode] = graph
    return DualGraphModule(model, graphs[True], graphs[False])
