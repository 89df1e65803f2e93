"""Gradients of captured functions: the forward and backward halves of one joint Graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autograd.engine import run
from ..autograd.modes import no_grad
from ..autograd.passes import Targets
from ..graph.node import CONST, LITERAL, Graph, Node, input_node, substitute, toposort
from ..places import Place
from ..tensor import Tensor, wrap
from .capture import Capture
from .symbolic import Storage, SymArray


class Joint:
    """The backward half: which inputs get gradients, and what the forward half saves for it.

    `outputs` are the forward outputs with gradients, `metas` their tensors' shapes and dtypes, `saved` forward outputs kept for backward,
    `saved_inputs` forward inputs that backward reads, `wanted` what gets gradients: argument leaves by
    number, tensors reached by the function themselves (which may be views of an input).
    """

    def __init__(self) -> None:
        self.outputs: list[int] = []
        self.metas: list[tuple[Any, Any]] = []
        self.saved: list[int] = []
        self.saved_inputs: list[int] = []
        self.wanted: list[Tensor | int] = []
        self.graph: Graph = None  # type: ignore[assignment]
        self.program: Any = None
        self.places: dict[Node, Place] = {}


def differentiate(
    capture: Capture, roots: list[Tensor], outputs: list[int], output: Callable[[Node], int]
) -> Joint | None:
    """Differentiate the captured outputs with respect to every input that requires grad."""
    seeds = [
        wrap(SymArray(capture, Storage(_seed(k, t)), (), t._a.shape, t._a.dtype))
        for k, t in enumerate(roots)
    ]
    leaves = [t for t in _leaves_below(roots) if capture.payload(t).storage.origin is not None]
    if not leaves:
        return None
    targets = Targets(leaves, roots)
    with no_grad():
        run(roots, seeds, True, False, targets, accumulate=False)
    joint = Joint()
    joint.outputs = outputs
    joint.metas = [(t._a.shape, t._a.dtype) for t in roots]
    pairs = [
        (capture.outside(t), targets.found[key])
        for t, key in zip(leaves, targets.keys, strict=True)
        if key in targets.found
    ]
    joint.wanted = [t for t, _ in pairs]
    grads = [capture.payload(g).node() for _, g in pairs]
    _split(capture, joint, grads, output)
    return joint


def _seed(k: int, t: Tensor) -> Node:
    return input_node(-1 - k, t._a.shape, t.dtype, f"grad_output{k}")


def _leaves_below(roots: list[Tensor]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    stack: list[Any] = [r._fn or r for r in roots]
    while stack:
        n = stack.pop()
        if isinstance(n, Tensor):
            found.setdefault(id(n), n)
        elif n not in seen:
            seen.add(n)
            stack.extend(e[0] for e in n.edges if e is not None)
    return list(found.values())


def _split(
    capture: Capture, joint: Joint, grads: list[Node], output: Callable[[Node], int]
) -> None:
    """Cut the joint Graph where nodes begin to depend on the output gradients."""
    late: set[Node] = set()
    order = toposort(grads)
    for n in order:
        if (n.name == "input" and n.args[0] < 0) or any(x in late for x in n.inputs):
            late.add(n)
    written = capture.written()
    cut: list[Node] = []
    needed = {x for n in order if n in late for x in n.inputs} | set(grads)
    for n in order:
        if n in needed and n not in late and n.op is not CONST and n.op is not LITERAL:
            cut.append(n)
    replaced: dict[Node, Node] = {}
    inputs: list[Node] = []

    def stand_in(n: Node, name: str) -> None:
        replaced[n] = input_node(len(inputs), n.shape, n.dtype, name)
        inputs.append(replaced[n])

    kept = [n for n in cut if n.name == "input" and capture.inputs[n.args[0]] not in written
            and capture.inputs[n.args[0]].kind not in ("host", "stretch")]  # fmt: skip
    for n in cut:
        if n not in kept:
            joint.saved.append(output(n))
            stand_in(n, "saved")
    for n in kept:
        joint.saved_inputs.append(n.args[0])
        stand_in(n, n.args[1])
    seeds = {n.args[0]: n for n in order if n.name == "input" and n.args[0] < 0}
    for k in range(len(joint.outputs)):
        n = seeds.get(-1 - k)
        if n is None:
            inputs.append(input_node(len(inputs), (), capture.inputs[0].node.dtype, "unused"))
        else:
            stand_in(n, n.args[1])
    joint.graph = Graph(inputs, substitute(grads, replaced))
    joint.places = {replaced[n]: at for n, at in capture.places.items() if n in replaced}
