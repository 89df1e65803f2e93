"""What must hold for a captured program to serve a call, in two forms.

`broken` is the truth: it looks at everything and says what changed. `test` writes an expression for the
same that is quick and errs only on the safe side: mostly whether the objects that were looked at last are
the same ones. Where it is false `broken` decides, and the expression follows what it found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tensor import Tensor
from .capture import Capture
from .facts import Fact, same_objects, unchanged
from .inputs import Input, layout_of
from .source import Source

Leaves = Sequence[Any]


class Guard:
    """Facts of one kind that captures relied on."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}
        self.names: dict[str, Any] = {}

    def learn(self, capture: Capture, facts: list[Fact]) -> None:
        """Add what a capture relied on."""
        raise NotImplementedError

    def broken(self, leaves: Leaves) -> str | None:
        """Why the programs do not serve these argument leaves now; None where they do."""
        raise NotImplementedError

    def test(self, s: Source, tensors: list[str]) -> list[str]:
        """Expressions that together say that nothing has changed; `tensors` names the tensor arguments."""
        raise NotImplementedError


class StateGuard(Guard):
    """Tensors that the function reaches: requires_grad, shape, dtype, layout, and that each has its own memory."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[Any] = []  # the arrays seen last, which need not be looked at again
        self.ids: set[int] = set()
        self.slots: list[str] = []

    def learn(self, capture: Capture, facts: list[Fact]) -> None:
        for t, (_, _, rg) in capture.requires:
            if id(t) not in self.known:
                a = t._a
                self.known[id(t)] = (t, rg, (a.shape, a.dtype, layout_of(a)))
                self.last.append(a)
                self.ids.add(id(a))

    def broken(self, leaves: Leaves) -> str | None:
        arrays = []
        for (t, rg, facts), last in zip(self.known.values(), self.last, strict=True):
            a = t._a
            if t._rg is not rg or (a is not last and (a.shape, a.dtype, layout_of(a)) != facts):
                return f"a tensor reached by the function changed: it was {facts[1]}{list(facts[0])}, requires_grad={rg}"
            arrays.append(a)
        ids = set(map(id, arrays))
        if len(ids) < len(arrays):
            return "two tensors that the function reaches had memory of their own and share it now"
        if any(isinstance(x, Tensor) and id(x._a) in ids for x in leaves):
            return "an argument is a tensor that the function also reaches by itself"
        self.last, self.ids = arrays, ids
        self.names.update(zip(self.slots, arrays, strict=False), state_ids=ids)
        return None

    def test(self, s: Source, tensors: list[str]) -> list[str]:
        self.names, self.slots = s.names, [s.variable(a) for a in self.last]
        s.names["state_ids"] = self.ids
        out = [
            f"{(name := s.constant(t))}._a is {a} and {name}._rg is {rg}"
            for (t, rg, _), a in zip(self.known.values(), self.slots, strict=True)
        ]
        return out + [f"id({x}._a) not in state_ids" for x in tensors if out]


class MemoryGuard(Guard):
    """Tensors that have the memory of an input found before (requires_grad too), or must keep theirs (views and bases)."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[tuple[Tensor, Any]] = []

    def learn(self, capture: Capture, facts: list[Fact]) -> None:
        for t, i in capture.aliases.values():
            self.known.setdefault(id(t), (t, i, t._rg))
        self.pinned += capture.pinned

    def broken(self, leaves: Leaves) -> str | None:
        for t, i, rg in self.known.values():
            if t._rg is not rg:
                return f"requires_grad of a tensor that shares its memory was {rg}"
            if t._a is not i.held(leaves):
                return "two tensors shared their memory and do not, or the other way round"
        for t, a in self.pinned:
            if t._a is not a:
                return "a view that the function reaches, or its base, has other memory"
        return None

    def test(self, s: Source, tensors: list[str]) -> list[str]:
        def array(i: Input) -> str:
            owner = f"x{i.leaf}" if i.leaf >= 0 else s.constant(i.tensor)
            return f"{owner}._grad._a" if i.kind == "grad" else f"{owner}._a"

        out = [
            f"{(name := s.constant(t))}._a is {array(i)} and {name}._rg is {rg}"
            for t, i, rg in self.known.values()
        ]
        return out + [f"{s.constant(t)}._a is {s.constant(a)}" for t, a in self.pinned]


class OwnerGuard(Guard):
    """Modules and optimizers, by their `__capture_facts__`.

    `__capture_version__` is a list with a count that all owners of a kind share: facts are the same where
    it is. An owner without one has `__capture_trace__`, objects that are the same ones where its facts are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any]] = []

    def learn(self, capture: Capture, facts: list[Fact]) -> None:
        for i, watched in capture.watched.items():
            self.known.setdefault(i, watched)

    def broken(self, leaves: Leaves) -> str | None:
        for owner, facts in self.known.values():
            if owner.__capture_facts__() != facts:
                return f"{type(owner).__name__} changed: training flag, hyper-parameter, parameter or hook"
        for name, owner in self.seen:
            self.names[name] = owner[0] if isinstance(owner, list) else owner.__capture_trace__()
        return None

    def test(self, s: Source, tensors: list[str]) -> list[str]:
        self.names, self.seen = s.names, []
        s.names["same_objects"] = same_objects
        out = []
        versions = set()
        for owner, _ in self.known.values():
            version = getattr(owner, "__capture_version__", None)
            name = s.variable(owner.__capture_trace__() if version is None else version[0])
            if version is None:
                self.seen.append((name, owner))
                out.append(f"same_objects({s.constant(owner)}.__capture_trace__(), {name})")
            elif id(version) not in versions:
                versions.add(id(version))
                self.seen.append((name, version))
                out.append(f"{s.constant(version)}[0] == {name}")
        return out


class ValueGuard(Guard):
    """Python values that the function read."""

    def __init__(self) -> None:
        super().__init__()
        self.slots: list[tuple[str, Fact]] = []

    def learn(self, capture: Capture, facts: list[Fact]) -> None:
        for f in facts:
            self.known.setdefault((id(f.holder), f.path), f)

    def broken(self, leaves: Leaves) -> str | None:
        for f in self.known.values():
            if not f.holds():
                return f.explain()
        for name, f in self.slots:
            self.names[name] = f.read()
        return None

    def test(self, s: Source, tensors: list[str]) -> list[str]:
        self.names, self.slots = s.names, []
        out = []
        for f in self.known.values():
            name = s.variable(f.keep)
            out.append(f"{f.text(s.constant(f.holder))} is {name}")
            inside = [] if f.live else unchanged(f.keep, s)
            out += inside
            if not inside:
                self.slots.append((name, f))
        return out


class GradientGuard(Guard):
    """Whether `.grad` fields that the function read were None."""

    def learn(self, capture: Capture, facts: list[Fact]) -> None:
        for leaf, _, _ in capture.stand_ins.values():
            if leaf in capture.arg_grads:
                self.known.setdefault(leaf, (leaf, capture.arg_grads[leaf] is None))
        for t, old, was_read in capture.grads.values():
            if was_read:
                self.known.setdefault(("tensor", id(t)), (t, old is None))

    def broken(self, leaves: Leaves) -> str | None:
        for target, none in self.known.values():
            t = leaves[target] if isinstance(target, int) else target
            if (t._grad is None) is not none:
                return "a tensor's .grad was None and is not, or the other way round"
        return None

    def test(self, s: Source, tensors: list[str]) -> list[str]:
        return [
            f"{f'x{t}' if isinstance(t, int) else s.constant(t)}._grad is {'' if none else 'not '}None"
            for t, none in self.known.values()
        ]
