"""The tape: what was done to whom, kept just long enough to go backward.

A tensor that requires grad points at the `TapeNode` that made it; a node's edges point at the nodes
(or leaf tensors) that made its inputs. A node saves only what its gradient rules name.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

import numpy as np

from ..dtypes import OF_NUMPY, float32, float64
from ..errors import KilnError, describe
from ..ops.registry import TENSOR, TENSORS, Op, Plan, Rule, _shape_of, code_of
from ..tensor import Tensor, _fresh, wrap
from .modes import DISABLED, mode

next_seq = itertools.count(1).__next__

ANOMALY: list[Any] = []
"""The watch of anomaly mode; empty almost always."""
SAVING: list[Any] = []
"""As many functions as there are blocks of saved_tensors_hooks on all threads; empty almost always."""

Edge = tuple  # (TapeNode or leaf Tensor, output index, shape, NumPy dtype)
Part = tuple[Plan, list]
"""What backward does for some of a node's edges, and these."""


def edge_of(x: Tensor) -> Edge | None:
    """Where gradients of `x` go; None if it does not require grad."""
    if x._base is not None:
        _fresh(x)
    if not x._rg:
        return None
    a = x._a
    return (x._fn or x, x._idx, a.shape, a.dtype)


def fit(g: Tensor, shape: tuple, np_dtype: Any) -> Tensor:
    """The gradient summed over broadcast dimensions and cast, to be one of the input."""
    a = g._a
    if a.shape != shape:
        if a.ndim < len(shape):
            raise KilnError(
                "backward", "a gradient has the wrong shape", f"{describe(g)} for {list(shape)}",
                "the gradient of an input has the input's shape",
            )  # fmt: skip
        lead = a.ndim - len(shape)
        dims = tuple(range(lead)) + tuple(
            i + lead for i, s in enumerate(shape) if s == 1 and a.shape[i + lead] != 1
        )
        if dims:
            g = g.sum(dims, a.shape[lead:] != shape)
        if g._a.shape != shape:
            g = g.reshape(shape)
        a = g._a
    if a.dtype != np_dtype:
        if a.dtype.kind == "c" and np_dtype.kind != "c":
            g = g.real
        g = g.to(dtype=np_dtype)
    return g


class TapeNode:
    """One recorded step: `backward(gs)` gives a gradient (or None) for each edge.

    `seq` numbers nodes in the order of recording, so every consumer of a node has a higher number
    and descending `seq` is an order in which gradients are complete.
    """

    __slots__ = ("__weakref__", "edges", "freed", "hooks", "n_out", "seq", "versions")
    hooks: dict[Any, Any] | None
    versions: Sequence[tuple[list, int]]
    mapped = True  # whether backward may be called under a vmap that began after this was recorded

    def __init__(self, edges: list[Edge | None], n_out: int):
        self.edges = edges
        self.n_out = n_out
        self.seq = next_seq()
        self.hooks = None
        self.versions = []
        self.freed = False
        if ANOMALY:
            ANOMALY[0].note(self)

    def name(self) -> str:
        """The node's class name as PyTorch shows it."""
        return type(self).__name__

    @property
    def next_functions(self) -> tuple:
        """(node, output index) of each input that requires grad."""
        return tuple(
            (None, 0)
            if e is None
            else (e[0], e[1])
            if isinstance(e[0], TapeNode)
            else (AccumulateGrad(e[0]), 0)
            for e in self.edges
        )

    @property
    def metadata(self) -> dict:
        """A dict for whatever users note about this node."""
        if self.hooks is None:
            self.hooks = {}
        return self.hooks.setdefault("metadata", {})

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

    def backward_arrays(self, gs: list[Any]) -> list[Any]:
        """`backward` on plain arrays, for a first-order pass in eager mode."""
        return self.by_rules(gs)

    def by_rules(self, gs: list[Any], *part: Any) -> list[Any]:
        """`backward_arrays` by `backward`, of a part of an op's edges where that is given."""
        given = [None if g is None else wrap(np.asarray(g)) for g in gs]
        return [None if r is None else r._a for r in self.backward(given, *part)]

    def free(self) -> None:
        """Drop what was saved."""
        self.freed = True
        self.versions = ()

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


class AccumulateGrad(TapeNode):
    """The end of the tape at a leaf, the `variable`, where its gradients are added up.

    Made when it is asked for; nodes of one leaf are equal.
    """

    __slots__ = ("variable",)

    def __init__(self, variable: Tensor):
        super().__init__([], 1)
        self.variable = variable

    def register_hook(self, hook: Any) -> Any:
        """Call `hook((), (grad,))` after the leaf's `.grad` is up to date."""
        return self.variable.register_post_accumulate_grad_hook(lambda x: hook((), (x.grad,)))

    def register_prehook(self, hook: Any) -> Any:
        """Call `hook((grad,))` before a gradient is added; it may return another."""

        def before(g: Tensor) -> Tensor | None:
            out = hook((g,))
            return out[0] if isinstance(out, tuple) else out

        return self.variable.register_hook(before)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AccumulateGrad) and other.variable is self.variable

    def __hash__(self) -> int:
        return hash((AccumulateGrad, id(self.variable)))


class OpNode(TapeNode):
    """A recorded call of an op."""

    __slots__ = ("args", "label", "op", "outs", "plan")
    args: Any
    label: str  # a name other than its op has: most nodes have none
    op: Op
    outs: Any
    plan: Plan

    def name(self) -> str:
        usual = "".join(w.capitalize() for w in self.op.name.split("_")) + "Backward0"
        known = getattr(self, "label", "") or self.op.node or usual
        if isinstance(known, tuple):
            known = known[0] if self.args is None else known[1](self)
        return known

    def rank(self, param: int) -> int:
        """How many dimensions the tensor given for a parameter has, where that is still known."""
        x = self.args[param]
        if isinstance(x, Tensor):
            return x.ndim
        found = [
            e[2] for e, (i, _) in zip(self.edges, self.plan.slots, strict=True) if e and i == param
        ]
        return len(found[0]) if found else 0

    def outputs(self) -> tuple[Tensor, ...]:
        """The saved outputs as tensors that lead back to this node."""
        payloads, ver = self.outs
        if len(payloads) == 1:
            t = wrap(payloads[0])
            t._ver, t._fn, t._rg = ver, self, True
            return (t,)
        out = []
        for i, a in enumerate(payloads):
            t = wrap(a)
            t._ver = ver
            if i not in self.op.nondiff_outputs:
                t._fn, t._idx, t._rg = self, i, True
            out.append(t)
        return tuple(out)

    def backward(self, gs: list[Tensor | None], part: Part | None = None) -> list[Tensor | None]:
        if self.freed or self.versions:
            self.check()
        plan, edges = part or (self.plan, self.edges)
        single = self.n_out == 1
        if single and gs[0] is None:
            return [None] * len(edges)
        if plan.ruled is None:
            results = plan.differentiate(gs, self.args, self.outputs, edges)
        else:
            results = plan.ruled(gs[0] if single else gs, self.args, self.outputs, edges, single)
        return self.formal(results) if self.op.formal and mode.grad else results

    def differentiate(
        self, gs: Sequence[Any], args: Sequence[Any], outputs: Callable[[], Sequence[Tensor]]
    ) -> list[Tensor | None]:
        """`Plan.differentiate` for this node's edges."""
        return self.plan.differentiate(gs, args, outputs, self.edges)

    def part(self, which: tuple[bool, ...]) -> Part:
        """The plan for some of the edges, and these."""
        plan = self.plan.parts.get(which)
        if plan is None:
            slots = itertools.compress(self.plan.slots, which)
            plan = self.op.plan(tuple([i if j is None else (i, j) for i, j in slots]))
            self.plan.parts[which] = plan
        return plan, list(itertools.compress(self.edges, which))

    def only(self, part: Part) -> OpNode:
        """This call as one with a part of its edges, for gradients on plain arrays."""
        node = object.__new__(OpNode)
        node.op, node.args, node.outs, node.seq = self.op, self.args, self.outs, self.seq
        node.n_out, node.hooks, node.freed, node.versions = self.n_out, None, False, ()
        node.plan, node.edges = part
        return node

    def formal(self, results: list[Tensor | None]) -> list[Tensor | None]:
        """Gradients that require grad where the op's formal inputs do: their derivatives are zeros."""
        edges = [
            e for e, (i, _) in zip(self.edges, self.plan.slots, strict=True) if i in self.op.formal
        ]
        out: list[Tensor | None] = []
        for r in results:
            if r is not None and not r._rg and edges:
                r = wrap(r._a)
                r._fn, r._rg = Zeros(edges, 1), True
            out.append(r)
        return out

    def backward_arrays(self, gs: list[Any], part: Part | None = None) -> list[Any]:
        plan, edges = part or (self.plan, self.edges)
        quick = plan.quick
        single = self.n_out == 1
        g: Any = gs[0] if single else next(x for x in gs if x is not None)
        if quick is None or g.size >= LARGE:
            if self.freed or self.versions:
                self.check()
            if native is not None:
                found = native(self if part is None else self.only(part), gs)
                if found is not None:
                    return found
        if quick is None or (g.dtype is not _F32 and g.dtype is not _F64):
            return self.by_rules(gs, part)
        if self.freed or self.versions:
            self.check()
        outs = self.outs
        if outs is not None:
            outs = outs[0][0] if single else outs[0]
        try:
            return quick(g if single else gs, self.args, outs, edges)
        except (RuntimeWarning, NotImplementedError):  # somebody turns warnings into errors
            return self.otherwise(gs, part)

    def otherwise(self, gs: list[Any], part: Part | None = None) -> list[Any]:
        """The gradients that quick rules leave to others."""
        found = None if native is None else native(self if part is None else self.only(part), gs)
        return self.by_rules(gs, part) if found is None else found

    def free(self) -> None:
        if self.plan.saves:  # else nothing hinders a second pass
            self.freed = True
            self.versions = ()
            self.args = self.outs = None


class Through(TapeNode):
    """The history of what is its input under another name: gradients pass through."""

    __slots__ = ()

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        return gs

    def free(self) -> None:
        """Nothing is saved."""


class Zeros(TapeNode):
    """The history of what depends on its inputs in form only."""

    __slots__ = ()

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        g = gs[0]
        assert g is not None
        return [g.new_zeros(e[2], dtype=OF_NUMPY[e[3]]) for e in self.edges if e is not None]

    def free(self) -> None:
        """Nothing is saved."""


_node: Any = object.__new__
_F32, _F64 = float32.np, float64.np
LARGE = 1 << 14
native: Callable[[OpNode, list[Any]], list[Any] | None] | None = None
"""A backend's first-order gradients of large calls on plain arrays; None where it leaves one to the rules."""


_FIRST, _SECOND, _BOTH = (0,), (1,), (0, 1)


def record_binary(op: Op, x: Tensor, y: Any, out: Tensor) -> None:
    """`record` for two operands, attributes at their defaults and one output: the hot path."""
    if DISABLED and get_ident() in DISABLED:
        return
    if x._base is not None:
        _fresh(x)
    edges: list[Edge | None]
    if x._rg:
        a = x._a
        edges = [(x._fn or x, x._idx, a.shape, a.dtype)]
        needed = _FIRST
    else:
        edges, needed = [], _SECOND
    if y.__class__ is Tensor or isinstance(y, Tensor):
        if y._base is not None:
            _fresh(y)
        if y._rg:
            a = y._a
            edges.append((y._fn or y, y._idx, a.shape, a.dtype))
            if needed is _FIRST:
                needed = _BOTH
    if not edges or not op.rules:
        return
    plan = op._plans.get(needed) or op.plan(needed)
    node = _node(OpNode)
    node.op, node.plan, node.edges, node.seq = op, plan, edges, next_seq()
    node.n_out, node.hooks, node.freed, node.outs = 1, None, False, None
    if plan.blank is not None:
        node.args, node.versions = plan.blank, ()
    else:
        (plan.save or saver(op, plan))(node, (x, y, *op.defaults), (out,))
    out._fn, out._rg = node, True


def record_reflected(op: Op, x: Any, y: Tensor, out: Tensor) -> None:
    """`record_binary` for a number and a tensor."""
    if DISABLED and get_ident() in DISABLED:
        return
    if y._base is not None:
        _fresh(y)
    if not y._rg or not op.rules:
        return
    a = y._a
    plan = op._plans.get(_SECOND) or op.plan(_SECOND)
    node = _node(OpNode)
    node.op, node.plan, node.seq = op, plan, next_seq()
    edges: list[Edge | None] = [(y._fn or y, y._idx, a.shape, a.dtype)]
    node.edges = edges
    node.n_out, node.hooks, node.freed, node.outs = 1, None, False, None
    (plan.save or saver(op, plan))(node, (x, y, *op.defaults), (out,))
    if op.reflected:
        node.label = op.reflected
    out._fn, out._rg = node, True


def record_unary(op: Op, x: Tensor, out: Tensor) -> None:
    """`record` for one operand, attributes at their defaults and one output: the hot path."""
    if DISABLED and get_ident() in DISABLED:
        return
    if x._base is not None:
        _fresh(x)
    if not x._rg or not op.rules:
        return
    a = x._a
    plan = op._plans.get(_FIRST) or op.plan(_FIRST)
    node = _node(OpNode)
    node.op, node.plan, node.seq = op, plan, next_seq()
    edges: list[Edge | None] = [(x._fn or x, x._idx, a.shape, a.dtype)]
    node.edges = edges
    node.n_out, node.hooks, node.freed, node.outs = 1, None, False, None
    if plan.blank is not None:
        node.args, node.versions = plan.blank, ()
    else:
        (plan.save or saver(op, plan))(node, (x, *op.defaults), (out,))
    out._fn, out._rg = node, True


def record_view(op: Op, x: Tensor, args: tuple, out: Tensor) -> None:
    """`record` for a view of `x`, the first argument, of which rules ask for the shape at most: the hot path."""
    if DISABLED and get_ident() in DISABLED:
        return
    if x._base is not None:
        _fresh(x)
    if not x._rg or not op.rules:
        return
    plan = op._plans.get(_FIRST) or op.plan(_FIRST)
    a = out._a
    if plan.keep or plan.sizes or plan.save_out or (a.dtype is not _F32 and a.dtype is not _F64):
        record(op, args, (out,))
        return
    node = _node(OpNode)
    a = x._a
    edges: list[Edge | None] = [(x._fn or x, x._idx, a.shape, a.dtype)]
    node.op, node.plan, node.edges, node.seq = op, plan, edges, next_seq()
    node.n_out, node.hooks, node.freed, node.outs = 1, None, False, None
    node.args, node.versions = (None, *args[1:]), ()
    out._fn, out._rg = node, True


def _save(node: OpNode, plan: Plan, args: tuple, outs: tuple[Tensor, ...], inplace: bool) -> None:
    """Keep what the rules need, and the versions at which it was seen: for calls in place and lists of tensors."""
    versions: list[tuple[list, int]] = []
    if plan.drop:
        kept = list(args)
        for i in plan.drop:
            kept[i] = _shape_of(args[i]) if i in plan.sizes else None
        args = tuple(kept)
    for i in plan.keep:
        x = args[i]
        if x is None:
            continue
        for y in (x,) if isinstance(x, Tensor) else x if isinstance(x, list | tuple) else ():
            ver = y._ver
            if ver is None:
                ver = y._ver = [0, 0]
            # an in-place op overwrites what it saved of its own target: backward must refuse
            versions.append((ver, ver[0] - 1 if inplace and ver is outs[0]._ver else ver[0]))
    if plan.save_out:
        o = outs[plan.seen]
        ver = o._ver
        if ver is None:
            ver = o._ver = [0, 0]
        versions.append((ver, ver[0]))
        node.outs = (tuple([t._a for t in outs]), ver)
    node.args, node.versions = args, versions
    if SAVING:
        SAVING[0](node, outs)


_SHAPES = {TENSOR: "{}._a.shape", TENSORS: "[y._a.shape for y in {}]"}


def saver(op: Op, plan: Plan) -> Callable[[OpNode, tuple, tuple], None]:
    """`_save` as it is for calls of a plan that are not in place, written out: from then on `plan.save`."""
    if any(op.params[i].kind == TENSORS for i in plan.keep):
        plan.save = lambda node, args, outs: _save(node, plan, args, outs, False)
        return plan.save
    kept, lines, versions = [f"args[{i}]" for i in range(len(op.params))], [], []
    several = any(op.params[i].kind != TENSOR for i in plan.keep)  # which may be none

    def version(i: int, x: str, space: str) -> None:
        lines.append(
            f"{space}v{i} = {x}._ver\n{space}if v{i} is None:\n{space}    v{i} = {x}._ver = [0, 0]\n"
        )
        seen = f"(v{i}, v{i}[0])"
        if several:
            lines.append(f"{space}versions.append({seen})\n")
        else:
            versions.append(seen + ", ")

    for i in plan.drop:
        shape = _SHAPES.get(op.params[i].kind, "_shape_of({})")
        kept[i] = shape.format(kept[i]) if i in plan.sizes else "None"
    if several:
        lines.append("    versions = []\n")
    for i in plan.keep:
        lines.append(f"    x{i} = args[{i}]\n")
        if op.params[i].kind == TENSOR:
            version(i, f"x{i}", "    ")
        else:
            lines.append(f"    if isinstance(x{i}, Tensor):\n")
            version(i, f"x{i}", "        ")
    if plan.save_out:
        lines.append(f"    o = outs[{plan.seen}]\n")
        version(len(kept), "o", "    ")
        lines.append(f"    node.outs = (tuple([t._a for t in outs]), v{len(kept)})\n")
    lines.append(
        f"    node.args = ({', '.join(kept)},)\n" if plan.drop else "    node.args = args\n"
    )
    seen = "versions" if several else f"({''.join(versions)})"
    lines.append(f"    node.versions = {seen}\n")
    body = "".join(lines)
    code = code_of(
        f"def save(node, args, outs):\n{body}    if SAVING:\n        SAVING[0](node, outs)\n",
        "<kiln tape>",
    )
    plan.save = types.FunctionType(code, globals())
    return plan.save


def record(op: Op, args: tuple, outs: tuple[Tensor, ...], inplace: bool = False) -> OpNode | None:
    """Put a call on the tape where an input requires grad; outputs then point at the new node."""
    if DISABLED and get_ident() in DISABLED:
        return None
    edges: list[Edge | None] = []
    needed: list = []
    for i in op.tensor_slots:
        x = args[i]
        if isinstance(x, Tensor):
            if x._base is not None:
                _fresh(x)
            if x._rg:
                a = x._a
                edges.append((x._fn or x, x._idx, a.shape, a.dtype))
                needed.append(i)
        elif x.__class__ is list or x.__class__ is tuple:
            for j, y in enumerate(x):
                if isinstance(y, Tensor):
                    if y._base is not None:
                        _fresh(y)
                    if y._rg:
                        a = y._a
                        edges.append((y._fn or y, y._idx, a.shape, a.dtype))
                        needed.append((i, j))
    if not edges or not op.rules:
        return None
    if len(outs) == 1 and not op.nondiff_outputs:
        tracked: Any = (0,) if _differentiable(outs[0]) else ()
    else:
        tracked = [
            i for i, o in enumerate(outs) if i not in op.nondiff_outputs and _differentiable(o)
        ]
    if not tracked:
        return None
    which = tuple(needed)
    plan = op._plans.get(which) or op.plan(which)
    node = _node(OpNode)
    node.op, node.plan, node.edges, node.seq = op, plan, edges, next_seq()
    node.n_out, node.hooks, node.freed, node.outs = len(outs), None, False, None
    if inplace:
        _save(node, plan, args, outs, True)
    else:
        (plan.save or saver(op, plan))(node, args, outs)
        for i in tracked:
            outs[i]._fn, outs[i]._idx, outs[i]._rg = node, i, True
    return node


def _differentiable(x: Tensor) -> bool:
    """Whether numbers of this dtype have gradients: integers and bools have none, whatever made them."""
    if x._a.dtype is _F32:
        return True
    d = x.dtype
    return d.is_floating_point or d.is_complex


__all__ = [
    "Edge",
    "OpNode",
    "Rule",
    "TapeNode",
    "edge_of",
    "fit",
    "record",
    "record_binary",
    "record_unary",
    "record_view",
    "saver",
]
