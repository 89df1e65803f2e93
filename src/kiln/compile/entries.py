"""The programs of a compiled function by the facts that they rely on."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnTypeError, describe
from ..tensor import Tensor
from .capture import Capture
from .facts import Fact, Same, plain
from .inputs import Input, layout_of
from .plan import Plan

_PLAIN = (bool, int, str, bytes, type(None), dt.dtype, range, Enum)


def leaf_fact(x: Any) -> Any:
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
        return (slice, leaf_fact(x.start), leaf_fact(x.stop), leaf_fact(x.step))
    if isinstance(x, set | frozenset):
        return (type(x), frozenset(map(leaf_fact, x)))
    return Same(x)


def shared(leaves: list[Any]) -> Any:
    """Which argument tensors are one memory; None where each has its own."""
    ids = [id(x._a) for x in leaves if isinstance(x, Tensor)]
    return None if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))


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
            if t._a is not i.fetch(leaves):
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
