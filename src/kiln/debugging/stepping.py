"""A debugger for captured programs: node by node, with values, as pdb goes line by line."""

from __future__ import annotations

import cmd
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import KilnKeyError
from ..graph.node import CONST, INPUT, Evaluator, Node
from ..tensor import Tensor, wrap
from .numerics import _unfit, stats
from .watching import Labels, compiled


class Step(NamedTuple):
    """A node that has been computed: its name (`%12`), op, layer, place, and value (a Tensor, or a tuple of them)."""

    name: str
    op: str
    layer: str
    place: str
    value: Any


class Stepper(cmd.Cmd):
    """A captured program at a standstill between two nodes.

    `step()` computes the next node by its op's reference, `until(test)` goes on to the first for which the test of
    a Step is true, `value("%3")` is a value computed so far. `interact()` (or `cmdloop`) reads commands: see `help`.
    Nothing is written: parameters and gradients stay as they are.
    """

    prompt = "(kiln) "

    def __init__(self, fn: Any, *args: Any, **kwargs: Any):
        super().__init__()
        owner = compiled(fn)
        plan, leaves = owner.find(args, kwargs)
        self.title = owner.name
        self.plan, self.labels = plan, Labels(plan)
        self.nodes = [n for n in self.labels.nodes if n.op is not INPUT]
        inputs = zip(
            plan.graph.inputs, (np.array(i.fetch(leaves)) for i in plan.inputs), strict=True
        )
        self.values: dict[Node, Any] = dict(inputs)
        self.at = 0
        self.breaks: list[str] = []
        self.last: Step | None = None

    # ---- as an object

    @property
    def done(self) -> bool:
        """Whether every node has been computed."""
        return self.at >= len(self.nodes)

    def _raw(self, x: Any) -> Any:
        if isinstance(x, Node):
            return self.values[x]
        if isinstance(x, tuple) and any(isinstance(y, Node) for y in x):
            return [self._raw(y) for y in x]
        return x

    def step(self) -> Step | None:
        """Compute the next node; None at the end."""
        if self.done:
            return None
        n = self.nodes[self.at]
        with np.errstate(all="ignore"):
            self.values[n] = Evaluator._value(n, self._raw)
        self.at += 1
        self.last = self._step(n)
        return self.last

    def _step(self, n: Node) -> Step:
        return Step(self.labels.names[n], n.name, self.labels.layer(n), str(self.labels.place(n)), self._tensors(n))  # fmt: skip

    def __iter__(self) -> Iterator[Step]:
        """The steps from here to the end."""
        while (s := self.step()) is not None:
            yield s

    def until(self, test: Callable[[Step], bool]) -> Step | None:
        """Go on to the first node for which `test` is true; None where there is none."""
        return next((s for s in self if test(s)), None)

    def _node(self, name: str) -> Node:
        found = self.labels.select(name if not name.isdigit() else f"%{name}")
        for n in found:
            if n in self.values:
                return n
        raise KilnKeyError("step", "no value of this name has been computed yet", repr(name), "s computes the next node, c goes on")  # fmt: skip

    def _tensors(self, n: Node) -> Any:
        v = self.values[n]
        return tuple(map(wrap, map(np.asarray, v))) if isinstance(v, tuple | list) else wrap(v)

    def value(self, name: str) -> Tensor | tuple[Tensor, ...]:
        """A value computed so far, by any name that `kiln.watch` takes; KilnKeyError where there is none."""
        return self._tensors(self._node(name))

    # ---- at the prompt

    def interact(self) -> None:
        """Read commands until `q`, or the end of the input."""
        self.cmdloop(f"{self.title}: {len(self.nodes)} nodes; help lists the commands")

    def _say(self, text: str) -> None:
        self.stdout.write(text + "\n")

    def _line(self, n: Node) -> str:
        at = self.labels._at(n)
        args = str(n.args[0]) if n.op is CONST else ", ".join(self.labels.names.get(x, "?") for x in n.inputs)  # fmt: skip
        value = self.values.get(n)
        shown = (
            ""
            if value is None
            else f" = {stats(value if not isinstance(value, tuple | list) else value[0])}"
        )
        where = " ".join(filter(None, (self.labels.layer(n), at)))
        return f"{self.labels.names[n]} {n.name}({args}){shown}" + (f"  [{where}]" if where else "")

    def _breaks(self, s: Step) -> bool:
        n = self.nodes[self.at - 1]
        return any(
            bool(_unfit(self.values[n], True))
            if b == "nan"
            else b in (s.op, s.name, s.layer) or s.layer.startswith(b + ".") or (":" in b and b in s.place)
            for b in self.breaks
        )  # fmt: skip

    def default(self, line: str) -> None:
        """Tell of a command that is not there."""
        self._say("no such command: help lists them")

    def emptyline(self) -> bool:
        """The next node, as on an empty line nothing else is meant."""
        return bool(self.onecmd("s"))

    def onecmd(self, line: str) -> bool:
        """Run a command; the end of the input leaves."""
        if line == "EOF":
            return True
        try:
            return bool(super().onecmd(line))
        except KilnKeyError as e:
            self._say(str(e))
            return False

    def do_s(self, _: str) -> None:
        """s: compute the next node."""
        self._say("the end" if self.step() is None else self._line(self.nodes[self.at - 1]))

    do_n = do_s

    def do_c(self, _: str) -> None:
        """c: go on to the next breakpoint, or to the end."""
        self._say("the end" if self.until(self._breaks) is None else self._line(self.nodes[self.at - 1]))  # fmt: skip

    def do_b(self, what: str) -> None:
        """b WHAT: stop after an op, a layer's nodes, a line (train.py:12), a node (%12), or "nan": what is not finite."""
        if what:
            self.breaks.append(what)
        self._say("breakpoints: " + ", ".join(self.breaks))

    def do_p(self, name: str) -> None:
        """p NAME: print a value that has been computed."""
        self._say(str(self.value(name)))

    def do_w(self, _: str) -> None:
        """w: where the last node was made: layer, line and its text; for gradients the forward call's."""
        if self.at:
            n = self.nodes[self.at - 1]
            self._say(self._line(n) + "\n  " + self.labels._at(n).text)

    def do_a(self, _: str) -> None:
        """a: what the last node was given."""
        for x in self.nodes[self.at - 1].inputs if self.at else ():
            self._say(f"{self.labels.inputs.get(x, '')} {self._line(x)}".strip())

    def do_l(self, _: str) -> None:
        """l: the nodes around here; the next one is marked."""
        for i in range(max(self.at - 5, 0), min(self.at + 6, len(self.nodes))):
            self._say(("-> " if i == self.at else "   ") + self._line(self.nodes[i]))

    def do_cl(self, _: str) -> None:
        """cl: clear all breakpoints."""
        self.breaks.clear()

    def do_help(self, arg: str) -> None:
        """help: all commands; help b: one of them."""
        names = [n for n in self.get_names() if n.startswith("do_") and n != "do_n"]
        told = [getattr(self, n).__doc__ for n in names if arg in ("", n[3:])]
        self._say("\n".join(told) or f"no such command: {arg}")

    def do_q(self, _: str) -> bool:
        """q: leave."""
        return True


def step(fn: Any, *args: Any, **kwargs: Any) -> None:
    """Step through a call of a compiled function at a prompt, pdb's commands: `s`, `c`, `b`, `p`, `w`, `a`, `l`, `q`.

    `Stepper(fn, *args)` is the same as an object, for programs.
    """
    Stepper(fn, *args, **kwargs).interact()
