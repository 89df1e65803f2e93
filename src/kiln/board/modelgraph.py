"""The graph of a model as Kiln captures it, named for TensorBoard's graph tab."""

from __future__ import annotations

import copy
from typing import Any

from .. import compile, get_rng_state, set_rng_state
from ..autograd.modes import no_grad
from ..errors import KilnError, describe
from ..graph.node import Graph, Node


def nodes_of(model: Any, inputs: Any) -> list[tuple[str, str, list[str], dict[str, Any], Any]]:
    """Each node's name, op, inputs, attributes and shape; parameters go by their names in the model.

    A copy of the model is run once, so that the model's own buffers and the random numbers stay as
    they are.
    """
    if inputs is None:
        raise KilnError(
            "add_graph", "a graph needs example inputs", describe(model), "add_graph(model, x)"
        )
    args = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    twin, state = copy.deepcopy(model), get_rng_state()
    run = compile(lambda *xs: twin(*xs), backend="reference")
    try:
        with no_grad():
            run(*args)
    finally:
        set_rng_state(state)
    path = run.entries[0].root
    while path.plan is None:  # a branch on a value: the way that these inputs took
        path = next(iter(path.children.values()))
    plan = path.plan
    known = {id(p): n for n, p in [*twin.named_parameters(), *twin.named_buffers()]}
    names: dict[Node, str] = {}
    for i in plan.inputs:
        name = known.get(id(i.tensor)) if i.tensor is not None else None
        kind = "input" if i.leaf >= 0 else i.kind
        names[i.node] = name.replace(".", "/") if name else f"{kind}/{i.index}"
    return _named(plan.graph, names)


def _named(
    graph: Graph, names: dict[Node, str]
) -> list[tuple[str, str, list[str], dict[str, Any], Any]]:
    out = []
    counts: dict[str, int] = {}
    for n in graph.nodes():
        if n not in names:
            counts[n.name] = k = counts.get(n.name, -1) + 1
            names[n] = f"{n.name}_{k}" if k else n.name
        op = "IO Node" if n.name == "input" else f"kiln::{n.name}"
        attributes: dict[str, Any] = {}
        if n.dtype is not None:
            attributes["dtype"] = n.dtype.name
        if n.source:
            attributes["source"] = n.source
        shape = None if n.outputs else [d if isinstance(d, int) else -1 for d in n.shape]
        out.append((names[n], op, [names[m] for m in n.inputs], attributes, shape))
    for i, n in enumerate(graph.outputs):
        out.append((f"output/{i}", "IO Node", [names[n]], {}, list(n.shape)))
    return out
