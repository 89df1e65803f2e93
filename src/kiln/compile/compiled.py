"""`kiln.compile`: a function that is captured once for each set of facts and then replayed."""

from __future__ import annotations

import functools
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
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
from ..ops.registry import REGISTRY
from ..tensor import Tensor, _fresh, active_capture, wrap
from .capture import Branch, Capture, Input, SymArray, layout_of, may_share
from .facts import Fact, Facts, Same, plain
from .gradient import Joint, differentiate
from .pytree import flatten, unflatten

_PLAIN = (bool, int, str, bytes, type(None), dt.dtype, range, Enum)


def _leaf_fact(x: Any) -> Any:
    """What must hold of an argument for a captured program to serve it."""
    if isinstance(x, Tensor):
        a = x._a
        return (a.shape, a.dtype, x._rg and (x._fn is None or 2), layout_of(a))
    if isinstance(x, np.ndarray):
        raise KilnTypeError(
            "compile",
            "a compiled function takes tensors, not NumPy arrays",
            describe(x),
            "use kiln.from_numpy(x)",
        )
    if isinstance(x, _PLAIN):
        return (type(x), x)
    if isinstance(x, float | complex):
        return plain(x)
    if isinstance(x, np.generic):
        return (type(x), plain(x.item()))
    if isinstance(x, slice):
        return (slice, _leaf_fact(x.start), _leaf_fact(x.stop), _leaf_fact(x.step))
    if isinstance(x, set | frozenset):
        return (type(x), frozenset(map(_leaf_fact, x)))
    return Same(x)


def _shared(leaves: list[Any]) -> Any:
    """Which argument tensors are one memory; None where each has its own."""
    ids = [id(x._a) for x in leaves if isinstance(x, Tensor)]
    return None if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))


def _fetch(i: Input, leaves: list[Any]) -> np.ndarray:
    """The array of a Program's input at this call."""
    if i.kind == "arg":
        return leaves[i.leaf]._a
    if i.kind == "state":
        return i.tensor._a  # type: ignore[union-attr]
    if i.kind == "grad":
        return (i.tensor if i.leaf < 0 else leaves[i.leaf])._grad._a
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

    def __init__(self, capture: Capture, result: Any, backend: str, name: str):
        self.inputs = capture.inputs
        outputs: list[Node] = []

        def output(node: Node) -> int:
            outputs.append(node)
            return len(outputs) - 1

        out_leaves: list[Any] = []
        self.structure = flatten(result, out_leaves)
        self.makers = _makers(capture, out_leaves, output)
        late = {"alias": 1, "again": 2}
        self.order = sorted(enumerate(self.makers), key=lambda p: late.get(p[1][0], 0))
        grad_outputs = [
            (k, x) for k, x in zip(self.makers, out_leaves, strict=True) if k[0] == "new" and _fresh(x)._rg
        ]  # fmt: skip
        # a loss whose backward ran inside the function still says requires_grad, as in eager mode
        self.spent = {k[1] for k, x in grad_outputs if _is_spent(x)}
        grad_outputs = [(k, x) for k, x in grad_outputs if k[1] not in self.spent]
        self.grads: list[
            tuple[Tensor | int, int]
        ] = []  # (tensor or argument, output that becomes its .grad)
        changed = [(t, old, t._grad) for t, old, _ in capture.grads.values()]
        changed += [
            (leaf, capture.arg_grads.get(leaf), t._grad)
            for leaf, t, _ in capture.stand_ins.values()
        ]
        for target, old, new in changed:
            if isinstance(target, Tensor):
                target._grad = old
            if new is not old:
                self.grads.append(
                    (target, -1 if new is None else output(capture.payload(new).node()))
                )
        self.joint: Joint | None = None
        if grad_outputs:
            self.joint = differentiate(
                capture, [x for _, x in grad_outputs], [k[1] for k, _ in grad_outputs], output
            )
        updates = {}
        self.written: list[Input] = []
        for sym, _ in capture.storages.values():
            s = sym.storage
            if s.written and s.origin is not None and s.origin not in self.written:
                self.written.append(s.origin)
                updates[output(s.value)] = s.origin.index
        capture.check_overlap(self.written)
        args = [i for i in self.inputs if i.kind == "arg"]
        self.pairs = [(w.index, i.index) for w in self.written for i in args if i is not w]
        self.parts = [i.index for i in args] if self.written else []
        self.visible = [k for k in range(len(outputs)) if k not in updates]
        graph = Graph([i.node for i in self.inputs], outputs, updates)
        self.graph = graph
        self.program = base.get(backend).compile(graph, name)
        if self.joint is not None:
            self.joint.compile(backend, name + ".backward")
        for i in self.inputs:  # the first call's memory is not needed any more
            i.array = None
            if i.leaf >= 0:
                i.tensor = None

    def run(self, leaves: list[Any]) -> Any:
        """Execute once for these argument leaves."""
        arrays = [_fetch(i, leaves) for i in self.inputs]
        shared = self.pairs if any(arrays[i].base is not None for i in self.parts) else ()
        for w, i in shared:
            a, b = arrays[w], arrays[i]
            if _root(a) is _root(b) and may_share(a, b):
                raise CaptureError(
                    "compile", "the function writes a tensor whose memory another argument shares in part",
                    f"argument {self.inputs[i].leaf}: {describe(leaves[self.inputs[i].leaf])}",
                    "pass one of them and take the view inside the function",
                )  # fmt: skip
        results = self.program.run(arrays)
        slots = dict(zip(self.visible, results, strict=True))
        for i in self.written:
            if i.kind == "arg":
                bump(leaves[i.leaf])
            elif i.kind == "state":
                bump(i.tensor)  # type: ignore[arg-type]
        for target, k in self.grads:
            t = leaves[target] if isinstance(target, int) else target
            t._grad = None if k < 0 else wrap(slots[k])
        node = None
        if self.joint is not None and mode.grad:
            node = ProgramNode(self.joint, self.inputs, leaves, slots)
        made: list[Any] = [None] * len(self.makers)
        for at, m in self.order:
            if m[0] == "new":
                t = wrap(slots[m[1]])
                if node is not None and m[1] in node.position:
                    t._fn, t._idx, t._rg = node, node.position[m[1]], True
                elif m[1] in self.spent:
                    t._fn, t._rg = SpentNode(), True
                made[at] = t
            elif m[0] == "again":
                made[at] = made[m[1]]
            elif m[0] == "value":
                made[at] = m[1]
            elif m[0] == "arg":
                made[at] = leaves[m[1]]
            else:
                source = m[1]
                if isinstance(source, Input):
                    source = leaves[source.leaf] if source.kind == "arg" else source.tensor
                elif isinstance(source, int):
                    source = made[source]
                made[at] = _alias(source, m[2], m[3])
        return unflatten(self.structure, iter(made).__next__)


def _root(a: np.ndarray) -> Any:
    """The owner of an array's memory."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a if a.base is None else a.base


def _alias(t: Tensor, chain: tuple | None, tracked: bool) -> Tensor:
    """A view of a tensor, or the tensor itself where the chain is None; without its history if not tracked."""
    if chain is None:
        return t
    if not tracked:
        t = t.detach()
    for name, rest in chain:
        t = REGISTRY[name].fn(t, *rest)
    return t


def _makers(capture: Capture, found: list[Any], output: Callable[[Node], int]) -> list[tuple]:
    """How each output leaf is made at each call.

    ("value", x) a Python value; ("new", k) from the Program's output k; ("again", j) the same tensor as
    output leaf j; ("arg", i) argument leaf i; ("alias", source, chain, tracked) a view of an input, of a
    tensor reached by the function or of output leaf j, or that tensor itself (no chain).
    """
    out: list[Any] = [None] * len(found)
    first: dict[int, int] = {}
    wholes: dict[Any, int] = {}  # storage -> the leaf that is all of it
    later: list[int] = []
    for j, x in enumerate(found):
        if not isinstance(x, Tensor):
            out[j] = ("value", x)
        elif id(x) in first:
            out[j] = ("again", first[id(x)])
        else:
            first[id(x)] = j
            later.append(j)
            a = x._a
            whole = isinstance(a, SymArray) and not a.chain and a.storage.origin is None
            if whole and (a.storage not in wholes or _fresh(x)._rg):
                wholes[a.storage] = j
    for j in later:
        x = found[j]
        a = x._a
        if not isinstance(a, SymArray):
            out[j] = ("alias", x, None, True)
            continue
        origin, tracked = a.storage.origin, _fresh(x)._rg
        if origin is not None and origin.kind in ("arg", "state"):
            known = capture.stand_ins.get(id(x))
            if known is not None:
                out[j] = ("arg", known[0])
            else:
                out[j] = ("alias", origin, None if origin.tensor is x else a.chain, tracked)
            continue
        k = wholes.get(a.storage)
        if k is not None and k != j and (_fresh(found[k])._rg or not tracked):
            out[j] = ("alias", k, a.chain, tracked)
        else:
            out[j] = ("new", output(a.node()))
    return out


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

    def __init__(
        self, joint: Joint, inputs: list[Input], leaves: list[Any], slots: dict[int, np.ndarray]
    ):
        sources = [
            leaves[inputs[i].leaf] if inputs[i].kind == "arg" else inputs[i].tensor
            for i in joint.wanted
        ]
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
            np.zeros(shape, d) if g is None else g._a
            for g, (shape, d) in zip(gs, self.metas, strict=True)
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
        self.state: list[
            list[Any]
        ] = []  # [tensor, requires_grad, (shape, dtype, layout), array seen last]
        self.grads: list[tuple[Tensor | int, bool]] = []
        self.aliases: list[tuple[Tensor, Input]] = []
        self.pinned: list[tuple[Tensor, Any]] = []
        self.seen: set[Any] = set()

    def learn(self, capture: Capture, facts: list[Fact]) -> None:
        """Add the facts that a capture relied on."""
        known = {(id(f.holder), f.path) for f in self.facts}
        self.facts += [f for f in facts if (id(f.holder), f.path) not in known]
        ids = {id(o) for o, _ in self.watched}
        self.watched += [w for i, w in capture.watched.items() if i not in ids]
        for t, (_, _, rg) in capture.requires:
            if id(t) not in self.seen:
                self.seen.add(id(t))
                a = t._a
                self.state.append([t, rg, (a.shape, a.dtype, layout_of(a)), a])
        for t, i in capture.aliases.values():
            if ("alias", id(t)) not in self.seen:
                self.seen.add(("alias", id(t)))
                self.aliases.append((t, i))
        self.pinned += capture.pinned
        for leaf, _, _ in capture.stand_ins.values():
            if leaf in capture.arg_grads and ("grad", leaf) not in self.seen:
                self.seen.add(("grad", leaf))
                self.grads.append((leaf, capture.arg_grads[leaf] is None))
        for t, old, was_read in capture.grads.values():
            if was_read and ("grad", id(t)) not in self.seen:
                self.seen.add(("grad", id(t)))
                self.grads.append((t, old is None))

    def broken(self, leaves: list[Any]) -> str | None:
        """Why the programs do not serve these arguments now; None where they do."""
        mine = {id(x._a) for x in leaves if isinstance(x, Tensor)}
        for known in self.state:
            t, rg, facts, seen = known
            a = t._a
            if t._rg is not rg or (a is not seen and (a.shape, a.dtype, layout_of(a)) != facts):
                return f"a tensor reached by the function changed: it was {facts[1]}{list(facts[0])}, requires_grad={rg}"
            known[3] = a  # the same array need not be looked at again
            if id(a) in mine:
                return "an argument is a tensor that the function also reaches by itself"
        for t, i in self.aliases:
            if t._a is not _fetch(i, leaves):
                return "two tensors shared their memory and do not, or the other way round"
        for t, a in self.pinned:
            if t._a is not a:
                return "a view that the function reaches, or its base, has other memory"
        for owner, facts in self.watched:
            if owner.__capture_facts__() != facts:
                return f"{type(owner).__name__} changed: training flag, hyper-parameter, parameter or hook"
        for f in self.facts:
            if not f.holds():
                return f.explain()
        for target, none in self.grads:
            t = leaves[target] if isinstance(target, int) else target
            if (t._grad is None) is not none:
                return "a tensor's .grad was None and is not, or the other way round"
        return None


@contextmanager
def _collector_resting() -> Iterator[None]:
    """No garbage collection: a capture makes many small objects that live until its end."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


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
        if (
            active_capture() is not None
        ):  # inside another captured function: its ops join that Graph
            return self.fn(*args, **kwargs)
        leaves: list[Any] = []
        structure = flatten((args, kwargs), leaves)
        key = (
            structure,
            tuple(map(_leaf_fact, leaves)),
            _shared(leaves),
            mode.grad,
            mode.inference,
            dt.get_default_dtype(),
            self.backend or config.backend,
        )
        entry = None
        reasons = []
        for e in self.entries:
            if e.key == key:
                why = e.broken(leaves)
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

    def _resolve(
        self,
        entry: Entry,
        path: Path,
        decisions: tuple[bool, ...],
        leaves: list[Any],
        structure: Any,
    ) -> Plan:
        """The plan for these arguments: follows the branches, capturing paths not seen yet."""
        while path.plan is None:
            if path.predicate is None:
                with self.lock:
                    if path.plan is None and path.predicate is None:
                        with _collector_resting():
                            self._capture(entry, path, decisions, leaves, structure)
                continue
            outcome = bool(path.predicate.run([_fetch(i, leaves) for i in path.reads])[0])
            if outcome not in path.children:
                if max(entry.root.count(), len(decisions)) >= config.max_paths:
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

    def _capture(
        self,
        entry: Entry,
        path: Path,
        decisions: tuple[bool, ...],
        leaves: list[Any],
        structure: Any,
    ) -> None:
        """Capture along the decisions made so far; ends in a plan, or at the next branch."""
        self.captures += 1
        capture, facts = Capture(decisions), Facts(self.fn)
        backend = self.backend or config.backend
        try:
            with capture.active():
                numbered = iter(range(len(leaves)))
                given: list[Any] = []

                def leaf() -> Any:
                    i = next(numbered)
                    x = leaves[i]
                    if isinstance(x, Tensor):
                        x = capture.argument(_fresh(x), i)
                    given.append(x)
                    return x

                args, kwargs = unflatten(structure, leaf)
                try:
                    with facts.watching():
                        result = self.fn(*args, **kwargs)
                except Branch:
                    self._check_containers((args, kwargs), structure, given)
                    raise
                self._check_containers((args, kwargs), structure, given)
                capture.settle()
                capture.check()
                guards = facts.settle()
                plan = Plan(capture, result, backend, self.name)
            entry.learn(capture, guards)
            path.plan = plan
            capture.kept = True
        except Branch as b:
            guards = facts.settle()
            graph = Graph([i.node for i in capture.inputs], [b.node])
            predicate = base.get(backend).compile(graph, self.name + ".branch")
            capture.restore()
            entry.learn(capture, guards)
            path.reads, path.line, path.predicate = capture.inputs, b.where, predicate
        finally:
            capture.restore()

    def _check_containers(self, args: Any, structure: Any, given: list[Any]) -> None:
        """Refuse a function that changes lists or dicts among its arguments: replays would not."""
        now: list[Any] = []
        if flatten(args, now) != structure or any(
            a is not b for a, b in zip(now, given, strict=False)
        ):
            raise CaptureError(
                "compile", "the function changes a list, dict or other container that it was given", self.name,
                "return the new values instead, or copy the container first",
            )  # fmt: skip

    def _say(self, text: str) -> None:
        print(f"[kiln.compile] {self.name}: {text}", file=sys.stderr)

    def _explain(self, key: Any, reasons: list[str]) -> None:
        if not self.entries:
            self._say("captured for the first time")
        elif reasons:
            self._say("captured again: " + "; ".join(reasons))
        else:
            old, new = self.entries[0].key[1], key[1]
            changed = [
                f"argument {i}: {a} became {b}"
                for i, (a, b) in enumerate(zip(old, new, strict=False))
                if a != b
            ]
            self._say(
                "captured again: "
                + ("; ".join(changed) or "the arguments' structure or the grad mode changed")
            )

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
        raise KilnTypeError(
            "compile", "expected a function or a module", describe(model), "pass a callable"
        )
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
