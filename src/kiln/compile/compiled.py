"""`kiln.compile`: a function that is captured once for each set of facts and then replayed."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import mode
from ..autograd.tape import TapeNode, edge_of
from ..backends import base
from ..config import config
from ..errors import CaptureError, KilnTypeError, describe
from ..graph.node import Graph, Node
from ..ops.dispatch import bump
from ..tensor import Tensor, _fresh, active_capture, wrap
from . import pipeline
from .capture import Branch, Capture, Input, SymArray
from .facts import Fact, Facts
from .gradient import Joint, differentiate
from .pytree import flatten, unflatten

_PLAIN = (bool, int, float, complex, str, bytes, type(None), dt.dtype)


def _leaf_fact(x: Any) -> Any:
    """What must hold of an argument for a captured program to serve it."""
    if isinstance(x, Tensor):
        a = x._a
        return (a.shape, a.dtype, x._rg)
    if isinstance(x, np.ndarray):
        raise KilnTypeError(
            "compile", "a compiled function takes tensors, not NumPy arrays", describe(x), "use kiln.from_numpy(x)"
        )
    return (type(x), x) if isinstance(x, _PLAIN) else id(x)


def _fetch(i: Input, leaves: list[Any]) -> np.ndarray:
    """The array of a Program's input at this call."""
    if i.kind == "arg":
        return leaves[i.leaf]._a
    if i.kind == "state":
        return i.tensor._a  # type: ignore[union-attr]
    if i.kind == "grad":
        return i.tensor._grad._a  # type: ignore[union-attr]
    owner, key = i.host  # type: ignore[misc]
    return np.asarray(owner[key], np.float64)


class Path:
    """A node of the trace tree: a program to run, or a branch on a value with a path for each outcome."""

    __slots__ = ("children", "line", "plan", "predicate", "reads")

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.predicate: Any = None
        self.reads: list[Input] = []
        self.children: dict[bool, Path] = {}
        self.line = ""

    def count(self) -> int:
        """How many programs there are at and below this node."""
        return (self.plan is not None) + sum(c.count() for c in self.children.values())


class Plan:
    """One captured path: its Program, where its inputs come from and where its outputs go."""

    def __init__(self, capture: Capture, leaves: list[Any], stand_ins: list[tuple[int, Tensor]], result: Any,
                 backend: str, name: str):  # fmt: skip
        self.inputs = capture.inputs
        outputs: list[Node] = []

        def output(node: Node) -> int:
            outputs.append(node)
            return len(outputs) - 1

        out_leaves: list[Any] = []
        self.structure = flatten(result, out_leaves)
        self.makers = [self._maker(capture, x, leaves, stand_ins, output) for x in out_leaves]
        grad_outputs = [
            (k, x) for k, x in zip(self.makers, out_leaves, strict=True)
            if isinstance(x, Tensor) and isinstance(x._a, SymArray) and _fresh(x)._rg and k[0] == "new"
        ]  # fmt: skip
        # a loss whose backward ran inside the function still says requires_grad, as in eager mode
        self.spent = {k[1] for k, x in grad_outputs if _is_spent(x)}
        grad_outputs = [(k, x) for k, x in grad_outputs if k[1] not in self.spent]
        self.grads: list[tuple[Tensor | int, str, int]] = []  # (tensor or argument, how, output)
        for t, old, _ in capture.grads.values():
            new = t._grad
            t._grad = old
            if new is old:
                continue
            self.grads.append((t, "set", -1 if new is None else output(capture.payload(new).node())))
        for leaf, t in stand_ins:
            if t._grad is not None:
                self.grads.append((leaf, "add", output(capture.payload(t._grad).node())))
        self.joint: Joint | None = None
        if grad_outputs:
            self.joint = differentiate(capture, [x for _, x in grad_outputs], [k[1] for k, _ in grad_outputs], output)
        updates = {}
        self.written: list[Input] = []
        for sym, _ in capture.storages.values():
            s = sym.storage
            if s.written and s.origin is not None and s.origin not in self.written:
                self.written.append(s.origin)
                updates[output(s.value)] = s.origin.index
        self.visible = [k for k in range(len(outputs)) if k not in updates]
        graph = Graph([i.node for i in self.inputs], outputs, updates)
        self.graph = graph
        self.program = base.get(backend).compile(pipeline.optimize(graph, backend, name), name)
        if self.joint is not None:
            self.joint.compile(backend, name + ".backward")

    def _maker(self, capture: Capture, x: Any, leaves: list[Any], stand_ins: Any, output: Callable) -> tuple:
        """How an output leaf is made at each call."""
        if not isinstance(x, Tensor):
            return ("value", x)
        a = x._a
        if not isinstance(a, SymArray):
            known = capture.storages.get(id(a))
            if known is None:
                return ("value", x)
            return ("same", x)
        origin = a.storage.origin
        if origin is not None and origin.kind in ("arg", "state"):
            return ("input", origin, a.chain)
        return ("new", output(a.node()))

    def run(self, leaves: list[Any]) -> Any:
        """Execute once for these argument leaves."""
        arrays = [_fetch(i, leaves) for i in self.inputs]
        results = self.program.run(arrays)
        slots = dict(zip(self.visible, results, strict=True))
        for i in self.written:
            if i.kind == "arg":
                bump(leaves[i.leaf])
            elif i.kind == "state":
                bump(i.tensor)  # type: ignore[arg-type]
        for target, how, k in self.grads:
            t = leaves[target] if isinstance(target, int) else target
            g = None if k < 0 else wrap(slots[k])
            t._grad = g if how == "set" or t._grad is None else t._grad + g
        node = None
        if self.joint is not None and mode.grad:
            node = ProgramNode(self.joint, self.inputs, leaves, slots)
        made: list[Any] = []
        for m in self.makers:
            if m[0] == "new":
                t = wrap(slots[m[1]])
                if node is not None and m[1] in node.position:
                    t._fn, t._idx, t._rg = node, node.position[m[1]], True
                elif m[1] in self.spent:
                    t._fn, t._rg = SpentNode(), True
                made.append(t)
            elif m[0] == "input":
                t = leaves[m[1].leaf] if m[1].kind == "arg" else m[1].tensor
                for name, rest in m[2]:
                    from ..ops.registry import REGISTRY

                    t = REGISTRY[name].fn(t, *rest)
                made.append(t)
            else:
                made.append(m[1])
        return unflatten(self.structure, iter(made).__next__)


def _is_spent(t: Tensor) -> bool:
    """Whether a backward pass inside the function has used up this tensor's history."""
    seen: set[Any] = set()
    stack = [t._fn]
    while stack:
        n = stack.pop()
        if isinstance(n, TapeNode) and n not in seen:
            if n.freed:
                return True
            seen.add(n)
            stack.extend(e[0] for e in n.edges if e is not None)
    return False


class SpentNode(TapeNode):
    """The history of an output whose backward ran inside the program: it can't run again."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__([], 1)
        self.freed = True

    def name(self) -> str:
        return "CompiledBackward0"

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        return []


class ProgramNode(TapeNode):
    """The tape's record of a compiled forward: its backward is one Program too."""

    __slots__ = ("joint", "metas", "position", "saved")

    def __init__(self, joint: Joint, inputs: list[Input], leaves: list[Any], slots: dict[int, np.ndarray]):
        sources = [leaves[inputs[i].leaf] if inputs[i].kind == "arg" else inputs[i].tensor for i in joint.wanted]
        super().__init__([edge_of(t) for t in sources], len(joint.outputs))  # type: ignore[arg-type]
        self.metas = [(slots[k].shape, slots[k].dtype) for k in joint.outputs]
        self.joint = joint
        self.position = {k: j for j, k in enumerate(joint.outputs)}
        self.saved: Any = [slots[k] for k in joint.saved]
        for i in joint.saved_inputs:
            t = leaves[inputs[i].leaf] if inputs[i].kind == "arg" else inputs[i].tensor
            if t._ver is None:
                t._ver = [0, 0]
            self.versions.append((t._ver, t._ver[0]))
        self.saved += [_fetch(inputs[i], leaves) for i in joint.saved_inputs]

    def name(self) -> str:
        return "CompiledBackward0"

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        if mode.grad:
            raise CaptureError(
                "compile", "a compiled function's gradient can't be differentiated again", self.name(),
                "compile the function that takes the gradient too, or run it eagerly for create_graph=True",
            )  # fmt: skip
        arrays = [
            np.zeros(shape, d) if g is None else g._a for g, (shape, d) in zip(gs, self.metas, strict=True)
        ]
        return [wrap(a) for a in self.joint.program.run([*self.saved, *arrays])]

    def free(self) -> None:
        super().free()
        self.saved = None


class Entry:
    """The programs for one set of facts about arguments, state and Python values."""

    def __init__(self, key: Any) -> None:
        self.key = key
        self.root = Path()
        self.facts: list[Fact] = []
        self.watched: list[tuple[Any, Any]] = []
        self.state: list[tuple[Tensor, Any, Any, bool]] = []
        self.grads: list[tuple[Tensor, bool]] = []
        self.seen: set[Any] = set()

    def learn(self, capture: Capture, facts: list[Fact]) -> None:
        """Add the facts that a capture relied on."""
        known = {(id(f.holder), f.path) for f in self.facts}
        self.facts += [f for f in facts if (id(f.holder), f.path) not in known]
        ids = {id(o) for o, _ in self.watched}
        self.watched += [w for i, w in capture.watched.items() if i not in ids]
        for t, rg in capture.requires:
            if id(t) not in self.seen:
                self.seen.add(id(t))
                self.state.append((t, t._a.shape, t._a.dtype, rg))
        for t, old, was_read in capture.grads.values():
            if was_read and ("grad", id(t)) not in self.seen:
                self.seen.add(("grad", id(t)))
                self.grads.append((t, old is None))

    def broken(self) -> str | None:
        """Why the programs do not serve now; None where they do."""
        for t, shape, dtype, rg in self.state:
            a = t._a
            if a.shape != shape or a.dtype is not dtype or t._rg is not rg:
                return f"a tensor reached by the function changed: it was {dtype}{list(shape)}, requires_grad={rg}"
        for owner, facts in self.watched:
            if owner.__capture_facts__() != facts:
                return f"{type(owner).__name__} changed: training flag, hyper-parameter, parameter or hook"
        for f in self.facts:
            if not f.holds():
                return f.explain()
        for t, none in self.grads:
            if (t._grad is None) is not none:
                return "a tensor's .grad was None and is not, or the other way round"
        return None


class CompiledFunction:
    """A function that runs as captured native programs; made by `kiln.compile`."""

    def __init__(self, fn: Callable, backend: str | None, name: str | None = None):
        functools.update_wrapper(self, fn, updated=())
        self.fn, self.backend = fn, backend
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        self.entries: list[Entry] = []
        self.captures = 0
        self.lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if active_capture() is not None:  # inside another captured function: its ops join that Graph
            return self.fn(*args, **kwargs)
        leaves: list[Any] = []
        structure = flatten((args, kwargs), leaves)
        key = (structure, tuple(map(_leaf_fact, leaves)), mode.grad, mode.inference, dt.get_default_dtype(), self.backend or config.backend)
        entry = None
        reasons = []
        for e in self.entries:
            if e.key == key:
                why = e.broken()
                if why is None:
                    entry = e
                    break
                reasons.append(why)
        if entry is None:
            with self.lock:
                entry = Entry(key)
                if config.explain:
                    self._explain(key, reasons)
                path = self._resolve(entry, entry.root, (), leaves, structure)
                self.entries.insert(0, entry)
                del self.entries[config.max_paths * 4 :]
            return path.run(leaves)
        return self._resolve(entry, entry.root, (), leaves, structure).run(leaves)

    def _resolve(self, entry: Entry, path: Path, decisions: tuple[bool, ...], leaves: list[Any], structure: Any) -> Plan:
        """The plan for these arguments: follows the branches, capturing paths not seen yet."""
        while path.plan is None:
            if path.predicate is None:
                with self.lock:
                    if path.plan is None and path.predicate is None:
                        self._capture(entry, path, decisions, leaves, structure)
                continue
            outcome = bool(path.predicate.run([_fetch(i, leaves) for i in path.reads])[0])
            if outcome not in path.children:
                if entry.root.count() >= config.max_paths:
                    raise CaptureError(
                        "compile", f"more than {config.max_paths} paths through branches on tensor values", path.line,
                        "use kiln.where or a masked form instead of the branch, or raise KILN_MAX_PATHS",
                    )  # fmt: skip
                if config.explain:
                    self._say(f"a new path: the branch at {path.line} went {outcome}")
                path.children[outcome] = Path()
            path = path.children[outcome]
            decisions = (*decisions, outcome)
        return path.plan

    def _capture(self, entry: Entry, path: Path, decisions: tuple[bool, ...], leaves: list[Any], structure: Any) -> None:
        """Capture along the decisions made so far; ends in a plan, or at the next branch."""
        self.captures += 1
        capture, facts = Capture(decisions), Facts()
        stand_ins: list[tuple[int, Tensor]] = []
        backend = self.backend or config.backend
        try:
            with capture.active():
                numbered = iter(range(len(leaves)))

                def leaf() -> Any:
                    i = next(numbered)
                    x = leaves[i]
                    if not isinstance(x, Tensor):
                        return x
                    _fresh(x)
                    t = capture.argument(x, i)
                    stand_ins.append((i, t))
                    return t

                args, kwargs = unflatten(structure, leaf)
                with facts.watching():
                    result = self.fn(*args, **kwargs)
                capture.settle()
                path.plan = Plan(capture, leaves, stand_ins, result, backend, self.name)
        except Branch as b:
            graph = Graph([i.node for i in capture.inputs], [b.node])
            path.predicate = base.get(backend).compile(pipeline.optimize(graph, backend, self.name), self.name + ".branch")
            path.reads, path.line = capture.inputs, b.where
        finally:
            for t, old, _ in capture.grads.values():
                t._grad = old
            capture.restore()
        entry.learn(capture, facts.settle())

    def _say(self, text: str) -> None:
        print(f"[kiln.compile] {self.name}: {text}", file=sys.stderr)

    def _explain(self, key: Any, reasons: list[str]) -> None:
        if not self.entries:
            self._say("captured for the first time")
        elif reasons:
            self._say("captured again: " + "; ".join(reasons))
        else:
            old, new = self.entries[0].key[1], key[1]
            changed = [f"argument {i}: {a} became {b}" for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
            self._say("captured again: " + ("; ".join(changed) or "the arguments' structure or the grad mode changed"))

    def __get__(self, obj: Any, cls: Any = None) -> Any:
        return self if obj is None else functools.partial(self, obj)

    def __repr__(self) -> str:
        return f"<compiled {self.name}: {self.captures} captures>"


def compile(
    model: Callable | None = None, *, fullgraph: bool = True, dynamic: bool | None = None, backend: str | None = None,
    mode: str | None = None, options: Any = None, disable: bool = False,
) -> Any:  # fmt: skip
    """A function (or module) captured whole at its first call and replayed as one native program.

    Captured again where shapes, dtypes or Python values that it read differ; `KILN_EXPLAIN=1` says
    why. `backend` is "cpu" or "reference" (default: `KILN_BACKEND`). Whole training steps, with
    `backward()` and `optimizer.step()` inside, are one program. `fullgraph`, `mode` and `options`
    are accepted for PyTorch's sake: there are never graph breaks. Errors: CaptureError.
    """
    if model is None:
        return lambda fn: compile(fn, dynamic=dynamic, backend=backend, disable=disable)
    if not callable(model):
        raise KilnTypeError("compile", "expected a function or a module", describe(model), "pass a callable")
    if dynamic:
        raise CaptureError("compile", "dynamic=True is not supported yet", "dynamic=True",
                           "leave it out: each new shape is captured once")  # fmt: skip
    if backend is not None:
        base.get(backend)
    if disable:
        return model
    from ..nn.module import Module

    if isinstance(model, Module):
        return model.compiled(CompiledFunction(model.__call__, backend, type(model).__name__))
    return CompiledFunction(model, backend)
