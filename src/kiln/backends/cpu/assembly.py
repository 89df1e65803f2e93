"""Launches written down: the table of their arguments, and the plan of kernels and jumps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...graph.node import Node
from ...graph.work import between, flops, title
from . import control, kernel
from .control import Control, Part
from .isa import Isa
from .recipe import Kernel

if TYPE_CHECKING:
    from .layout import Memory

Place = tuple[str, int, int]  # an entry of the table: kind, where, extra bytes


class Step(NamedTuple):
    """An address that a loop moves: its first place, the offset at the first step and the stride, in bytes."""

    loop: Loop
    base: Any  # a Place, or a Step of an outer loop
    offset: int
    stride: int

    def moved(self, extra: int) -> Step:
        """The address some bytes further on."""
        return self._replace(offset=self.offset + extra)


class Loop:
    """The entries of the table that a loop patches."""

    def __init__(self) -> None:
        self.patches: list[tuple[Step, int]] = []


Resolve = Callable[[Place], Any]
"""From a place among a body's inputs, outputs and values to one in the program, or to a Step."""


class Body(NamedTuple):
    """A part about to be written: its memory, and where that is in the program."""

    part: Part
    memory: Memory
    inner: Resolve


class Assembly:
    """The table, the plan and the kernels' texts of a program, as its launches are written one by one."""

    def __init__(self, isa: Isa):
        self.isa = isa
        self.table: list[Place] = []
        self.kernels: list[Kernel] = []
        self.texts: dict[str, str] = {}
        self.arrays: list[np.ndarray] = []

    def literals(self, m: Memory) -> list[np.ndarray]:
        """The arrays of all literals, which a body's follow its program's."""
        self.arrays += [np.ascontiguousarray(n.args[0]) for n in m.literals]
        return self.arrays

    def launch(self, m: Memory, j: int, resolve: Resolve) -> None:
        """Write launch j of a Memory."""
        x = m.launches[j]
        if x.control is not None:
            self._control(m, j, x.control, resolve)
        elif x.kernel is not None and not m.copies_itself(x):
            at = len(self.table)
            for a in x.arguments:
                self._argument(resolve(m.argument(a, j)))
            touched = sum(n.numel() * n.dtype.itemsize for n in {*x.reads, *x.writes})
            # of a node that several launches fill, nothing says whose part is what
            nodes = [x.writes[0]] if x.partial else between(x.writes, x.reads)
            work = 0 if x.partial else sum(map(flops, nodes))
            self._kernel(x.kernel, at, title(x.writes[0], nodes), touched, work)

    def _kernel(
        self, k: kernel.Kernel, at: int, label: str, touched: int = 0, flops: int = 0
    ) -> None:
        phases = list(k.phases())
        main = max(phases, key=lambda p: p.ntasks)  # others prepare it, or add up what it gave
        for phase in phases:
            self.texts.setdefault(phase.symbol, phase.text)
            work = flops if phase is main else 0
            self.kernels.append(Kernel(phase.symbol, at, phase.ntasks, label, touched, work))

    def _argument(self, place: Any) -> None:
        if isinstance(place, Step):
            place.loop.patches.append((place, len(self.table)))
            place = ("null", 0, 0)
        self.table.append(place)

    def _copy(self, n: Node, target: Any, source: Any) -> None:
        at = len(self.table)
        self._argument(target)
        self._argument(source)
        self._argument(("null", 0, 0))
        self._kernel(control.copy(n, self.isa), at, f"copy {n!r}", 2 * n.numel() * n.dtype.itemsize)

    def _jump(self, symbol: str, label: str, *more: Any) -> int:
        """A jump, whose distance is filled in by `_land`; gives its number in the plan."""
        at = len(self.table)
        self.table.append(("int", 0, 0))
        for place in more:
            self._argument(place)
        self._kernel(control.entry(symbol), at, label)
        return len(self.kernels) - 1

    def _land(self, jump: int, target: int | None = None) -> None:
        """Let a jump go to an entry of the plan: the next one that is written, or an earlier one."""
        to = len(self.kernels) if target is None else target
        self.table[self.kernels[jump].at] = ("int", to - jump - 1, 0)

    # ---- nodes with bodies

    def _control(self, m: Memory, j: int, x: Control, resolve: Resolve) -> None:
        n, scratch = x.node, m.scratch_at[j]
        operands = [resolve(m.argument(a, j)) for a in x.operands]
        results = [resolve(m.argument(r, j)) for r in x.results]
        flag = resolve(("arena", scratch, 0))
        bases = [scratch + 64]
        for body in x.memories:
            bases.append(bases[-1] + -(-body.bytes // 64) * 64)
        label = repr(n)
        if n.name == "cond_op":
            pred, rest = operands[0], operands[1:]
            to_other = self._jump("kiln_unless", label, pred)
            self._steps(self._body(x, 0, bases[0], rest, results, resolve))
            to_end = self._jump("kiln_jump", label)
            self._land(to_other)
            self._steps(self._body(x, 1, bases[1], rest, results, resolve))
            self._land(to_end)
            return
        carried = n.arg("init")
        for k, c in enumerate(carried):
            self._copy(c, results[k], operands[k])
        inputs = [*results[: len(carried)], *operands[len(carried) :]]
        if n.name == "while_op":
            test = self._body(x, 0, bases[0], inputs, [flag], resolve)
            body = self._body(x, 1, bases[1], inputs, results, resolve)
            start = len(self.kernels)
            self._steps(test)
            leave = self._jump("kiln_unless", label, flag)
            self._steps(body)
            self._land(self._jump("kiln_jump", label), start)
            self._land(leave)
            return
        self._scan(x, bases[0], inputs, results, resolve, label)

    def _scan(
        self, x: Control, base: int, inputs: list[Any], results: list[Any], resolve: Resolve, label: str,
    ) -> None:  # fmt: skip
        n, loop = x.node, Loop()
        body, init, xs, _, length, reverse = n.args
        last = length - 1 if reverse else 0

        def moving(place: Any, stride: int) -> Step:
            return Step(loop, place, last * stride, -stride if reverse else stride)

        first = len(init)
        for i in range(first, first + len(xs)):
            inputs[i] = moving(inputs[i], x.strides[i] * n.inputs[i].dtype.itemsize)
        for k in range(first, len(results)):
            o = body.outputs[k]
            results[k] = moving(results[k], o.numel() * o.dtype.itemsize)
        steps = self._body(x, 0, base, inputs, results, resolve)
        begin = len(self.kernels)
        self._kernel(control.entry("kiln_begin"), 0, label)
        self._steps(steps)
        self._kernel(control.entry("kiln_next"), 0, label)
        at = len(self.table)
        for k in (begin, len(self.kernels) - 1):
            self.kernels[k] = self.kernels[k]._replace(at=at)
        self.table += [("int", v, 0) for v in (0, length, begin + 1 - len(self.kernels), len(loop.patches))]  # fmt: skip
        for step, target in loop.patches:
            self._argument(step.base)
            self.table += [("int", v, 0) for v in (step.offset, step.stride, target - at)]

    def _body(
        self, x: Control, k: int, base: int, inputs: list[Any], results: list[Any], resolve: Resolve
    ) -> Body:
        """A part whose inputs and outputs lie where the lists say; what it does ahead is written now."""
        part, m = x.parts[k], x.memories[k]
        first = len(self.arrays)
        self.literals(m)

        def inner(place: Place) -> Any:
            kind, where, extra = place
            if kind == "ext":
                return _further(inputs[where], extra)
            if kind == "out":
                return _further(results[part.outputs[where]], extra)
            if kind == "arena":
                return resolve(("arena", base + where, extra))
            return (kind, first + where if kind == "literal" else where, extra)

        for j in range(part.ahead):
            self.launch(m, j, inner)
        return Body(part, m, inner)

    def _steps(self, body: Body) -> None:
        """Write the launches of a part that each step runs."""
        part, m, inner = body
        for j in range(part.ahead, len(m.launches)):
            self.launch(m, j, inner)
        for source, target in m.copies:
            self._copy(source, inner((*target, 0)), inner((*m.place[source], 0)))


def _further(place: Any, extra: int) -> Any:
    """A place some bytes further on."""
    if isinstance(place, Step):
        return place.moved(extra)
    kind, where, more = place
    return kind, where, more + extra
