"""The graph of a model as Kiln captures it, named for TensorBoard's graph tab: each node in the module that made it."""

from __future__ import annotations

import copy
import inspect
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import compile, get_rng_state, set_rng_state
from ..autograd.modes import no_grad
from ..compile.symbolic import SymArray
from ..errors import KilnError, describe
from ..graph.node import CONST, INPUT, ITEM, LITERAL, Graph, Node
from ..ops.registry import Op
from ..random import default_generator
from ..tensor import Tensor
from ..utils._pytree import tree_leaves

Drawn = tuple[str, str, list[str], dict[str, Any], list[list[int]]]
"""A node's name, op, inputs, attributes and the shapes of its outputs."""


RANDOM = "random"
"""The scope of the random numbers' state."""


def nodes_of(model: Any, inputs: Any) -> list[Drawn]:
    """The nodes of a model called with these inputs, in the modules that made them; parameters go by their names in the model.

    A copy of the model is run once, so that the model's own buffers and the random numbers stay as
    they are.
    """
    if inputs is None:
        raise KilnError(
            "add_graph", "a graph needs example inputs", describe(model), "add_graph(model, x)"
        )
    args = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    twin, state = copy.deepcopy(model), get_rng_state()
    scopes = _Scopes(twin)
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
    known = {id(default_generator.state): f"{RANDOM}/state"}
    for n, p in [*twin.named_parameters(), *twin.named_buffers()]:
        owner, _, own = n.rpartition(".")
        known[id(p)] = f"{scopes.names[owner]}/{own}".lstrip("/")
    given = _arguments(twin, args)
    names: dict[Node, str] = {}
    for i in plan.inputs:
        name = known.get(id(i.tensor)) if i.tensor is not None else None
        kind, k = ("input", given[i.leaf]) if i.leaf >= 0 else (i.kind, i.index)
        names[i.node] = name or f"{kind}/{k}"
    return _named(plan.graph, names, scopes.of)


def _arguments(model: Any, args: tuple) -> Sequence[Any]:
    """What the tensors among the inputs are called: as the parameters of `forward`, or by number."""
    numbers = range(len(tree_leaves(args)))
    try:
        names = [*inspect.signature(model.forward).bind(*args).arguments]
    except (TypeError, ValueError, AttributeError):
        return numbers
    return names if len(names) == len(numbers) == len(args) else numbers


class _Scopes:
    """Which module each node was made in, seen while the function is captured.

    A node is first met behind an argument of some module's call, where it was made before that call, or behind its
    results. What lies behind a call's results and was first met since the call began was made in it, or in
    a call inside it that has taken it already.
    """

    def __init__(self, model: Any):
        self.of: dict[Node, str] = {}
        self.names = {"": ""}
        """Modules' scopes by their paths: "body.0" is ModuleList[body]/Linear[0], as in PyTorch."""
        self._met: dict[Node, int] = {}
        self._began: list[int] = []
        self._now = 0
        for name, module in model.named_modules(remove_duplicate=False):
            above, _, own = name.rpartition(".")
            if name:
                self.names[name] = f"{self.names[above]}/{type(module).__name__}[{own}]".lstrip("/")
        for name, module in model.named_modules():
            if name:
                module.register_forward_pre_hook(self._enter, with_kwargs=True)
                module.register_forward_hook(self._leave(self.names[name]), always_call=False)

    def _enter(self, module: Any, args: Any, kwargs: Any) -> None:
        for node in self._behind((args, kwargs), -1):
            self._met.setdefault(node, self._now)
        self._now += 1
        self._began.append(self._now)

    def _leave(self, name: str) -> Any:
        def leave(module: Any, args: Any, result: Any) -> None:
            for node in self._behind(result, self._began.pop()):
                self._met.setdefault(node, self._now)
                if node.inputs:
                    self.of.setdefault(node, name)

        return leave

    def _behind(self, values: Any, since: int) -> Iterator[Node]:
        """The nodes behind values that were not met before that time; with -1 those that were never met."""
        waiting = [
            x._a.node() for x in tree_leaves(values) if isinstance(x, Tensor) and type(x._a) is SymArray
        ]  # fmt: skip
        passed: set[Node] = set()
        while waiting:
            node = waiting.pop()
            met = self._met.get(node)
            if node in passed or (met is not None and (since < 0 or met < since)):
                continue
            passed.add(node)
            yield node
            waiting += node.inputs


def _named(graph: Graph, names: dict[Node, str], scopes: dict[Node, str]) -> list[Drawn]:
    """The nodes in order, then the outputs; arguments that are no tensors are attributes."""
    results = [n for i, n in enumerate(graph.outputs) if i not in graph.updates]
    for i, k in graph.updates.items():  # what is written to a buffer is made in the buffer's module
        scope = names[graph.inputs[k]].rpartition("/")[0]
        for node in _only_behind(graph.outputs[i], results):
            scopes.setdefault(node, scope)
    _place_made(graph, scopes)
    out: list[Drawn] = []
    counts: dict[str, int] = {}
    for n in graph.nodes():
        if n.op is ITEM or _is_constant(n):
            continue
        if n not in names:
            scope = scopes.get(n)
            name = f"{scope}/{n.name}" if scope else n.name
            counts[name] = k = counts.get(name, -1) + 1
            names[n] = f"{name}_{k}" if k else name
        op = "IO Node" if n.op is INPUT else f"kiln::{n.name}"
        shapes = [shape for shape, _ in n.outputs] if n.outputs else [n.shape]
        attributes = _attributes(n)
        inputs = [_reference(m, names) for m in n.inputs if not _is_constant(m)]
        out.append((names[n], op, inputs, attributes, [_sizes(s) for s in shapes]))
    for i, n in enumerate(graph.outputs):
        if _is_constant(n):
            continue
        name, op = f"output/{i}", "IO Node"
        if i in graph.updates:
            scope, _, buffer = names[graph.inputs[graph.updates[i]]].rpartition("/")
            name, op = f"{scope}/new_{buffer}".lstrip("/"), "kiln::write"
        out.append((name, op, [_reference(n, names)], {}, [_sizes(n.shape)]))
    return out


def _place_made(graph: Graph, scopes: dict[Node, str]) -> None:
    """Have nodes that read nothing stand in the innermost module that holds all of their readers."""
    readers: dict[Node, list[str]] = {}
    for n in graph.nodes():
        for x in n.inputs:
            if scopes.get(n) != RANDOM:
                readers.setdefault(x, []).append(scopes.get(n, ""))
    for n, found in readers.items():
        if not n.inputs and n.op is not INPUT:
            scope = posixpath.commonpath(found)
            if scope:
                scopes.setdefault(n, scope)


def _is_constant(n: Any) -> bool:
    """Whether a node is one number, which is told among its users' attributes."""
    return isinstance(n, Node) and (n.op is CONST or (n.op is LITERAL and n.numel() == 1))


def _reference(n: Node, names: dict[Node, str]) -> str:
    """A node as others name it among their inputs: one of several outputs with its number."""
    if n.op is not ITEM:
        return names[n]
    of, index = n.args
    return f"{names[of]}:{index}" if index else names[of]


def _attributes(n: Node) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if n.dtype is not None:
        out["dtype"] = n.dtype.name
    if n.source:
        out["source"] = n.source
    if isinstance(n.op, Op):
        for p, arg in zip(n.op.params, n.args, strict=False):
            value = arg.args[0] if _is_constant(arg) else arg
            if isinstance(value, np.ndarray | np.generic):
                value = value.item()
            if isinstance(value, bool | int | float | str) or (
                isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
            ):
                out[p.name] = value
    return out


def _sizes(shape: Any) -> list[int]:
    return [d if isinstance(d, int) else -1 for d in shape]


def _only_behind(node: Node, others: list[Node]) -> list[Node]:
    """The nodes behind one that are not behind any of the others."""
    shared: set[Node] = set()
    waiting = list(others)
    while waiting:
        n = waiting.pop()
        if n not in shared:
            shared.add(n)
            waiting += n.inputs
    found, waiting = [], [node]
    while waiting:
        n = waiting.pop()
        if n not in shared:
            shared.add(n)
            found.append(n)
            waiting += n.inputs
    return found
