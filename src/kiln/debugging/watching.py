"""Values inside of compiled programs, as they run: `kiln.watch`."""

from __future__ import annotations

import ast
import linecache
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ..errors import KilnKeyError, KilnTypeError, KilnValueError, describe
from ..graph.node import INPUT, ITEM, Graph, Leaf, Node, item
from ..places import Place, names_of
from ..tensor import Tensor, wrap
from .numerics import input_names, made_at

if TYPE_CHECKING:
    from ..compile.compiled import CompiledFunction
    from ..compile.plan import Plan


def compiled(fn: Any) -> CompiledFunction:
    """The compiled function behind what `kiln.compile` gave, or behind a module whose `compile()` was called."""
    from ..compile.compiled import CompiledFunction

    owner = getattr(getattr(fn, "memory_stats", None), "__self__", None)
    for x in (fn, owner, getattr(fn, "_compiled_call_impl", None)):
        if isinstance(x, CompiledFunction):
            return x
    raise KilnTypeError(
        "debugging", "expected a compiled function or module", describe(fn), "pass what kiln.compile gave",
    )  # fmt: skip


class Labels:
    """What the nodes of a captured program are called: `%12` as the Graph prints them, places, modules' paths."""

    def __init__(self, plan: Plan):
        self.graph, self.known = plan.graph, plan.places
        order = [n for n in plan.graph.nodes() if n.op is not INPUT]
        self.nodes = [*plan.graph.inputs, *order]
        self.names = {n: f"%{i}" for i, n in enumerate(self.nodes)}
        self.inputs = dict(zip(plan.graph.inputs, input_names(plan), strict=True))
        modules = {id(m): m for m in (self.place(n).module for n in self.nodes) if m is not None}
        self.paths = names_of(modules.values())
        self.kinds = {key: type(m).__name__ for key, m in modules.items()}

    def place(self, n: Node) -> Place:
        """Where a node was made."""
        return made_at(self.known, n)

    def layer(self, n: Node) -> str:
        """The path of the module in which a node was made, or for gradients the forward call's; its class where it has none."""
        at = self.place(n)
        m = (at.forward or at).module
        return "" if m is None else self.paths[id(m)] or self.kinds[id(m)]

    def select(self, what: Any, phase: str = "forward") -> list[Node]:
        """The nodes that a name stands for: see `watch`."""
        if callable(what):
            return [n for n in self.nodes if what(n)]
        if what.startswith("%"):
            return [n for n, name in self.names.items() if name == what]
        made = [n for n in self.nodes if not isinstance(n.op, Leaf) or n.op is ITEM]
        for test in (self._in_layer, self._on_line, self._in_variable):
            found = [n for n in made if test(n, what) and bool(self.place(n).forward) is (phase == "backward")]  # fmt: skip
            if found and phase == "backward":
                return found
            if found:
                return [max(found, key=lambda n: (self.place(n).order, self.nodes.index(n)))]
        return [n for n, name in self.inputs.items() if what in (name, n.args[1])] or [
            n for n in made if n.name == what
        ]

    def _in_layer(self, n: Node, what: str) -> bool:
        at = self.layer(n)
        return at == what or at.startswith(what + ".")

    def _at(self, n: Node) -> Place:
        at = self.place(n)
        return at.forward or at

    def _on_line(self, n: Node, what: str) -> bool:
        at = self._at(n)
        return ":" in what and (at == what or at.startswith(what + " "))

    def _in_variable(self, n: Node, what: str) -> bool:
        at = self._at(n)
        return bool(at.file) and any(
            a <= at.line <= b for a, b in _assignments(at.file).get(what, ())
        )


@lru_cache(64)
def _assignments(file: str) -> dict[str, list[tuple[int, int]]]:
    """The lines of a file's assignments, by the variable that is assigned."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    out: dict[str, list[tuple[int, int]]] = {}
    for s in ast.walk(tree):
        if not isinstance(s, ast.Assign | ast.AnnAssign | ast.AugAssign):
            continue
        targets = s.targets if isinstance(s, ast.Assign) else [s.target]
        for t in targets:
            for x in ast.walk(t):
                if isinstance(x, ast.Name | ast.Attribute):
                    name = x.id if isinstance(x, ast.Name) else x.attr
                    out.setdefault(name, []).append((s.lineno, s.end_lineno or s.lineno))
    return out


class Seen(NamedTuple):
    """A watched value: of which call (from 1), under which name, made where, and the Tensor on the host."""

    call: int
    name: str
    place: str
    value: Tensor


class Watch:
    """A watch on values of a compiled function, made by `watch`; `values` are those seen last."""

    def __init__(
        self, fn: CompiledFunction, what: Any, callback: Callable[[Seen], Any] | None,
        every: int, phase: str, keep: int,
    ):  # fmt: skip
        self.fn, self.what, self.callback, self.every, self.phase = fn, what, callback, every, phase
        self.values: deque[Seen] = deque(maxlen=keep)
        self.calls = 0
        self._found: dict[Plan, tuple[list[Node], Labels, Any]] = {}

    def around(self, plan: Plan, run: Callable[[tuple], Any]) -> Callable[[tuple], Any]:
        """A plan's run with a look at values before it."""

        def looked(leaves: tuple) -> Any:
            self.calls += 1
            if (self.calls - 1) % self.every == 0:
                self.look(plan, leaves)
            return run(leaves)

        return looked

    def look(self, plan: Plan, leaves: tuple) -> None:
        """Compute the values that this call will have, by the kernels of the same backend."""
        if plan not in self._found:
            labels = Labels(plan)
            nodes = labels.select(self.what, self.phase)
            nodes = [item(n, 0) if n.outputs is not None else n for n in nodes]
            inner = [n for n in nodes if n.op is not INPUT]
            program = self.fn._program(Graph(plan.graph.inputs, inner), f"{self.fn.name}.watch")
            self._found[plan] = nodes, labels, program
            if not any(found for found, _, _ in self._found.values()):
                self._refuse(labels)
        nodes, labels, program = self._found[plan]
        if not nodes:
            return
        plan.apart.check(leaves)
        inputs = [i.fetch(leaves) for i in plan.inputs]
        made = iter(program.run(inputs))
        for n in nodes:
            a = np.array(inputs[n.args[0]]) if n.op is INPUT else next(made)
            name = labels.names.get(n, labels.names.get(n.inputs[0] if n.inputs else n, ""))
            title = self.what if len(nodes) == 1 and isinstance(self.what, str) else f"{name} {n.name}"  # fmt: skip
            seen = Seen(self.calls, title, str(labels._at(n)), wrap(a))
            if self.callback is None:
                self.values.append(seen)
            else:
                self.callback(seen)

    def _refuse(self, labels: Labels) -> None:
        self.remove()
        paths = sorted(set(labels.paths.values()) - {""})
        known = f" ({', '.join(paths[:8])}{', …' if len(paths) > 8 else ''})" if paths else ""
        raise KilnKeyError(
            "watch", f"the program {self.fn.name} has no value of this name in its {self.phase} part", repr(self.what),
            f"a module's path{known}, a line ('train.py:12'), a variable, an op, "
            "a parameter, or %12 as str(graph) prints it",
        )  # fmt: skip

    def remove(self) -> None:
        """Watch no more."""
        if self in self.fn.watchers:
            self.fn.watchers.remove(self)
            self.fn.rewatch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<watch on {self.what!r} of {self.fn.name}: {self.calls} calls>"


def watch(
    fn: Any, what: str | Callable[[Node], bool], callback: Callable[[Seen], Any] | None = None, *,
    every: int = 1, phase: str = "forward", keep: int = 1000,
) -> Watch:  # fmt: skip
    """Look at values inside of a compiled function or module at its calls from now on, every so many.

    `what` is a module's path (its output; "encoder.layers.0"), a line ("model.py:12", the last value made there), a
    variable of the program (what was assigned to it), an input ("arg0", "head.weight"), an op ("softmax", all of them), a node as
    the Graph prints it ("%12"), or a predicate on nodes. With `phase="backward"` all values of the gradients of
    that module, line or variable. Each value is a Tensor of its own, handed to `callback(seen)` or kept in `values` (the last
    `keep`): `seen.call`, `.name`, `.place`, `.value`. The program and its results stay as they are, bit for bit: the
    values are computed by a second program from the same inputs. `remove()`, or the end of a `with` block, ends it.
    Errors: KilnKeyError at the first call where nothing has the name; KilnTypeError; KilnValueError.

    >>> import kiln
    >>> def f(x):
    ...     return (x * 2).exp().sum()
    >>> fast = kiln.compile(f, backend="reference")
    >>> with watch(fast, "mul") as w:
    ...     out = fast(kiln.ones(2))
    >>> w.values[0].value
    tensor([2., 2.])
    """
    owner = compiled(fn)
    if not isinstance(what, str) and not callable(what):
        raise KilnTypeError("watch", "what to watch is a text or a predicate", describe(what), "pass a module's path")  # fmt: skip
    if phase not in ("forward", "backward") or every < 1:
        raise KilnValueError(
            "watch", "phase is 'forward' or 'backward', and every a positive number", f"phase={phase!r}, every={every}", "",
        )  # fmt: skip
    w = Watch(owner, what, callback, every, phase, keep)
    owner.watchers.append(w)
    owner.rewatch()
    return w
