"""The tape: what was done to whom, kept just long enough to go backward.

A tensor that requires grad points at the `TapeNode` that made it; a node's edges point at the nodes
(or leaf tensors) that made its inputs. A node saves only what its gradient rules name.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..errors import KilnError
from ..ops.registry import GRAD, OUT, SHAPE, Op, Rule
from ..tensor import Tensor, _fresh, wrap
from .modes import mode

next_seq = itertools.count(1).__next__

Edge = tuple  # (TapeNode or leaf Tensor, output index, shape, NumPy dtype)


def edge_of(x: Tensor) -> Edge | None:
    """Where gradients of `x` go; None if it does not require grad."""
    if x._base is not None:
        _fresh(x)
    if not x._rg:
        return None
    a = x._a
    return (x._fn or x, x._idx, a.shape, a.dtype)


class TapeNode:
    """One recorded step: `backward(gs)` gives a gradient (or None) for each edge.

    `seq` numbers nodes in the order of recording, so every consumer of a node has a higher number
    and descending `seq` is an order in which gradients are complete.
    """

    __slots__ = ("__weakref__", "edges", "freed", "hooks", "metas", "seq", "versions")

    def __init__(self, edges: list[Edge | None], metas: list[tuple]):
        self.edges = edges
        self.metas = metas  # (shape, NumPy dtype) of each output
        self.seq = next_seq()
        self.hooks: dict[Any, Any] | None = None
        self.versions: list[tuple[list, int]] = []
        self.freed = False

    def name(self) -> str:
        """The node's class name as PyTorch shows it."""
        return type(self).__name__

    @property
    def next_functions(self) -> tuple:
        """(node, output index) of each input that requires grad."""
        return tuple((None, 0) if e is None else (e[0], e[1]) for e in self.edges)

    def register_hook(self, hook: Any) -> Any:
        """Call `hook(grad_inputs, grad_outputs)` after this node has run."""
        from .hooks import register_node_hook

        return register_node_hook(self, "post", hook)

    def register_prehook(self, hook: Any) -> Any:
        """Call `hook(grad_outputs)` before this node runs."""
        from .hooks import register_node_hook

        return register_node_hook(self, "pre", hook)

    def check(self) -> None:
        """Raise if what was saved is gone or was changed in place."""
        if self.freed:
            raise KilnError(
                "backward", "trying to backward through the graph a second time: its saved values are freed",
                self.name(), "pass retain_graph=True to the first backward",
            )  # fmt: skip
        for ver, seen in self.versions:
            if ver[0] != seen:
                raise KilnError(
                    "backward",
                    "one of the variables needed for gradient computation has been modified by an inplace operation",
                    f"needed by {self.name()}: saved at version {seen}, now at version {ver[0]}",
                    "clone() the tensor before the in-place op, or use the out-of-place form",
                )  # fmt: skip

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        """Gradients for the edges from the gradients of the outputs."""
        raise NotImplementedError

    def free(self) -> None:
        """Drop what was saved."""
        self.freed = True
        self.versions = []

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


class OpNode(TapeNode):
    """A recorded call of an op."""

    __slots__ = ("args", "op", "outs", "rules", "slots")
    args: Any
    op: Op
    outs: Any
    rules: tuple[Rule, ...]
    slots: list[tuple[int, int | None]]

    def name(self) -> str:
        return "".join(w.capitalize() for w in self.op.name.split("_")) + "Backward0"

    def outputs(self) -> tuple[Tensor, ...]:
        """The saved outputs as tensors that lead back to this node."""
        payloads, ver = self.outs
        out = []
        for i, a in enumerate(payloads):
            t = wrap(a)
            t._ver = ver
            if i not in self.op.nondiff_outputs:
                t._fn, t._idx, t._rg = self, i, True
            out.append(t)
        return tuple(out)

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        single = len(gs) == 1
        if single:
            g = gs[0]
            if g is None:
                return [None] * len(self.edges)
        else:
            g = gs
        outs = None
        args, slots = self.args, self.slots
        found: dict[int, Any] = {}
        for rule in self.rules:
            values = []
            for s in rule.slots:
                if s >= 0:
                    values.append(args[s])
                elif s == GRAD:
                    values.append(g)
                elif s == OUT:
                    outs = outs or self.outputs()
                    values.append(outs[0] if single else outs)
                elif s == SHAPE:
                    k = next(k for k, (i, _) in enumerate(slots) if i in rule.targets)
                    values.append(self.edges[k][2])
                else:
                    wanted = {i for i, _ in slots}
                    values.append(tuple(t in wanted for t in rule.targets))
            r = rule.fn(*values)
            if rule.joint:
                found.update(zip(rule.targets, r, strict=True))
            else:
                found[rule.targets[0]] = r
        return [found.get(i) if sub is None else found[i][sub] for i, sub in slots]

    def free(self) -> None:
        super().free()
        self.args = self.outs = None


def record(op: Op, args: tuple, outs: tuple[Tensor, ...], inplace: bool = False) -> OpNode | None:
    """Put a call on the tape where an input requires grad; outputs then point at the new node."""
    if not mode.grad:
        return None
    edges: list[Edge | None] = []
    slots: list[tuple[int, int | None]] = []
    needed = []
    for i in op.tensor_slots:
        x = args[i]
        if isinstance(x, Tensor):
            e = edge_of(x)
            if e is not None:
                edges.append(e)
                slots.append((i, None))
                needed.append(i)
        elif isinstance(x, list | tuple):
            n = len(edges)
            for j, y in enumerate(x):
                if isinstance(y, Tensor) and (e := edge_of(y)) is not None:
                    edges.append(e)
                    slots.append((i, j))
            if len(edges) > n:
                needed.append(i)
    if not edges or not op.rules:
        return None
    rules, saved, save_out = op.plan(tuple(needed))
    node = OpNode(edges, [(o._a.shape, o._a.dtype) for o in outs])
    node.op, node.rules, node.slots = op, rules, slots
    kept = list(args)
    for i in op.tensor_slots:
        x = kept[i]
        if i not in saved:
            kept[i] = None
        elif isinstance(x, Tensor):
            _save_version(node, x)
            if inplace and x._ver is outs[0]._ver:  # what is saved was overwritten: backward must refuse
                node.versions[-1] = (x._ver, x._ver[0] - 1)
        elif isinstance(x, list | tuple):
            kept[i] = list(x)
            for y in x:
                if isinstance(y, Tensor):
                    _save_version(node, y)
    node.args = tuple(kept)
    node.outs = None
    if save_out:
        o = outs[0]
        _save_version(node, o)
        node.outs = (tuple(t._a for t in outs), o._ver)
    for i, o in enumerate(outs):
        if i not in op.nondiff_outputs and not inplace:
            o._fn, o._idx, o._rg = node, i, True
    return node


def _save_version(node: TapeNode, x: Tensor) -> None:
    ver = x._ver
    if ver is None:
        ver = x._ver = [0, 0]
    node.versions.append((ver, ver[0]))


__all__ = ["Edge", "OpNode", "Rule", "TapeNode", "edge_of", "record"]
