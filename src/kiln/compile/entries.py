"""The programs of a compiled function by the facts that they rely on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import count
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import DISABLED, mode
from ..backends.base import Program
from ..config import config
from ..errors import KilnTypeError, describe
from ..tensor import ACTIVE, Tensor
from .capture import Capture
from .facts import Fact, Same, plain
from .guards import GradientGuard, Guard, MemoryGuard, OwnerGuard, StateGuard, ValueGuard
from .inputs import Input, layout_of
from .plan import Plan
from .pytree import count as count_leaves
from .pytree import flatten
from .source import Source
from .stretches import Stretch, stretches

_PLAIN = (bool, int, str, bytes, type(None), dt.dtype, range, Enum)


class TensorFact(NamedTuple):
    """What must hold of a tensor argument; `history`: False, True (a leaf that requires grad) or 2 (computed)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    history: bool | int
    layout: Any


class Key(NamedTuple):
    """What a call is told apart by before anything that the function reads is looked at."""

    structure: Any
    facts: tuple[Any, ...]
    shared: Any
    stretches: tuple[Stretch, ...]
    grad: bool
    inference: bool
    dtype: dt.dtype
    backend: str
    precision: str
    autocast: dt.dtype | None

    def but_for_sizes(self) -> Key:
        """The key with the number of dimensions for each tensor's sizes."""
        facts = (
            f._replace(shape=(len(f.shape),), layout=None) if isinstance(f, TensorFact) else f
            for f in self.facts
        )
        return self._replace(facts=tuple(facts))


def leaf_fact(x: Any) -> Any:
    """What must hold of an argument for a captured program to serve it."""
    if isinstance(x, Tensor):
        a = x._a
        return TensorFact(a.shape, a.dtype, x._rg and (x._fn is None or 2), layout_of(a))
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


def passed(fact: Any, x: Any) -> Any:
    """What a program gets of an argument: nothing of a tensor that it reaches by itself."""
    return None if isinstance(fact, Same) and isinstance(fact.object, Tensor) else x


def shared(leaves: Sequence[Any]) -> Any:
    """Which argument tensors are one memory; None where each has its own."""
    ids = [id(x._a) for x in leaves if isinstance(x, Tensor)]
    return None if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))


class Path:
    """A node of the trace tree: a program to run, or a branch on a value with a path for each outcome."""

    __slots__ = ("apart", "children", "line", "plan", "predicate", "reads")

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.predicate: Any = None
        self.reads: list[Input] = []
        self.apart: Any = None
        self.children: dict[bool, Path] = {}
        self.line = ""

    def count(self) -> int:
        """How many programs there are at and below this node."""
        return (self.plan is not None) + sum(c.count() for c in self.children.values())

    def programs(self) -> Iterator[Program]:
        """The programs at and below this node, those of branches and of backward halves among them."""
        if self.predicate is not None:
            yield self.predicate
        if self.plan is not None:
            yield self.plan.program
            if self.plan.joint is not None:
                yield self.plan.joint.program
        for c in self.children.values():
            yield from c.programs()

    def plans(self) -> Iterator[Plan]:
        """The plans at and below this node."""
        if self.plan is not None:
            yield self.plan
        for c in self.children.values():
            yield from c.plans()


class Entry:
    """The programs for one set of facts about arguments, state and Python values."""

    def __init__(self, key: Key, backend: str | None) -> None:
        self.key, self.backend = key, backend
        self.root = Path()
        self.guards: list[Guard] = [
            StateGuard(), MemoryGuard(), OwnerGuard(), ValueGuard(), GradientGuard(),
        ]  # fmt: skip

    def learn(self, capture: Capture, facts: list[Fact]) -> None:
        """Add the facts that a capture relied on."""
        for g in self.guards:
            g.learn(capture, facts)
        self.__dict__.pop("match", None)

    def match(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """The argument leaves of a call that these programs serve, else None; knows nothing before `write_match`."""
        return None

    def broken(self, leaves: tuple[Any, ...]) -> str | None:
        """Why the programs do not serve these arguments now; None where they do."""
        return next((why for g in self.guards if (why := g.broken(leaves)) is not None), None)

    def write_match(self) -> None:
        """Write `match` out as a function of this entry; to be called where nothing is broken."""
        s = Source(
            DISABLED=DISABLED, Tensor=Tensor, config=config, default=dt.get_default_dtype, flatten=flatten,
            layout_of=layout_of, leaf_fact=leaf_fact, mode=mode, shared=shared, stretches=stretches,
        )  # fmt: skip
        s.line("try:")
        (_, ((_, args), (_, kwargs))), numbers = self.key.structure, count()
        _unpack("args", tuple, args, s, numbers)
        _unpack("kwargs", dict, kwargs, s, numbers)
        _require(self._calls(s), "return None", s)
        given = (passed(f, f"x{i}") for i, f in enumerate(self.key.facts))
        s.line(f"leaves = ({''.join(f'{x}, ' for x in given)})", 2)
        tensors = [f"x{i}" for i, f in enumerate(self.key.facts) if isinstance(f, TensorFact)]
        for g in self.guards:
            again = f"if {s.constant(g.broken)}(leaves): return None"
            _require(g.test(s, tensors), again, s)
        s.line("return leaves", 2)
        s.line("except (AttributeError, KeyError, ValueError):  # what was read is gone")
        s.line("return None", 2)
        self.match = s.function("match(args, kwargs)", "guards")  # type: ignore[method-assign]

    def _calls(self, s: Source) -> list[str]:
        """Tests of the leaves x0, x1, … and of the modes against the key."""
        key, out = self.key, list[str]()
        arrays = []
        for i, fact in enumerate(key.facts):
            if isinstance(fact, TensorFact):
                arrays.append(f"a{i}")
                out += _tensor_tests(i, fact, s)
            elif isinstance(fact, Same):
                out.append(f"x{i} is {s.constant(fact.object)}")
            elif fact[0] in (bool, type(None)):
                out.append(f"x{i} is {fact[1]}")
            elif fact[0] in (int, str):
                out.append(f"type(x{i}) is {fact[0].__name__} and x{i} == {s.constant(fact[1])}")
            else:
                out.append(f"leaf_fact(x{i}) == {s.constant(fact)}")
        if key.shared is not None:
            out.append(
                f"shared([{', '.join(f'x{i}' for i in range(len(key.facts)))}]) == {key.shared}"
            )
        elif len(arrays) == 2:
            out.append(f"{arrays[0]} is not {arrays[1]}")
        elif len(arrays) > 2:
            out.append(f"len({{{', '.join(f'id({a})' for a in arrays)}}}) == {len(arrays)}")
        if key.stretches:
            given = ", ".join(f"x{i}" for i in range(len(key.facts)))
            out.append(f"stretches([{given}]) == {s.constant(key.stretches)}")
        out.append("(not DISABLED or mode.grad)" if key.grad else "not mode.grad")
        out.append(f"mode.inference is {key.inference}")
        out.append(f"default() is {s.constant(key.dtype)}")
        out.append(f"config.float32_matmul_precision == {key.precision!r}")
        s.names["ACTIVE"], s.names["get_ident"] = ACTIVE, get_ident
        out.append(
            "(not ACTIVE or get_ident() not in ACTIVE)"
            if key.autocast is None
            else f"ACTIVE.get(get_ident()) is {s.constant(key.autocast)}"
        )
        if self.backend is None:
            out.append(f"config.backend == {key.backend!r}")
        return out


def _tensor_tests(i: int, fact: TensorFact, s: Source) -> list[str]:
    dtype = s.constant(fact.dtype)
    history = {
        False: "x{i}._rg is False",
        True: "x{i}._rg is True and x{i}._fn is None",
        2: "x{i}._rg is True and x{i}._fn is not None",
    }
    layout = s.constant(fact.layout)
    return [
        f"isinstance(x{i}, Tensor) and (a{i} := x{i}._a).shape == {fact.shape}",
        f"(a{i}.dtype is {dtype} or a{i}.dtype == {dtype})",
        history[fact.history].format(i=i),
        f"a{i}.flags.carray" if fact.layout is None else f"layout_of(a{i}) == {layout}",
    ]


def _require(tests: list[str], otherwise: str, s: Source) -> None:
    if tests:
        s.line(f"if not ({' and '.join(tests)}):", 2)
        s.line(otherwise, 3)


def _unpack(text: str, kind: type, parts: Any, s: Source, numbers: Iterator[int]) -> None:
    """Lines that take a tuple, list or dict apart as `flatten` does."""
    if kind is dict:
        keys = [k for k, _ in parts]
        wrong = f"[*{text}] != {s.constant(keys)}" if keys else text
        inner = [(f"{text}[{s.constant(k)}]", p) for k, p in parts]
    else:
        wrong = f"len({text}) != {len(parts)}"
        inner = [(f"{text}[{i}]", p) for i, p in enumerate(parts)]
    s.line(f"if {wrong}: return None", 2)
    for part, structure in inner:
        if structure is None:
            s.line(f"x{next(numbers)} = {part}", 2)
        elif structure[0] in (tuple, list, dict):
            name = f"p{len(s.lines)}"
            s.line(f"{name} = {part}", 2)
            s.line(f"if type({name}) is not {structure[0].__name__}: return None", 2)
            _unpack(name, structure[0], structure[1], s, numbers)
        else:
            s.line("found = []", 2)
            s.line(f"if flatten({part}, found) != {s.constant(structure)}: return None", 2)
            names = "".join(f"x{next(numbers)}, " for _ in range(count_leaves(structure)))
            s.line(f"{names.rstrip(' ')} = found" if names else "", 2)
