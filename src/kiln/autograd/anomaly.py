"""Anomaly mode: backward names the line of forward whose gradient is NaN or fails.

Each node remembers the line that made it, for as long as the mode is on when it is made; nothing is
looked at, nor paid, while it is off.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..errors import KilnError
from ..places import Place, here, layer, told
from ..tensor import Tensor, watch_calls
from . import tape
from .tape import ANOMALY, TapeNode


class Watch:
    """What the mode does while it is on; `checker` looks at values of forward as well (`debugging.numerics`)."""

    def __init__(self, check_nan: bool, checker: Any = None):
        self.check_nan, self.checker = check_nan, checker

    def note(self, node: TapeNode) -> None:
        """Remember the line and the module that make a node."""
        _places[node] = here()[0]

    def run(self, node: Any, gs: list[Tensor | None], *part: Any) -> list[Tensor | None]:
        """A node's backward, or that of some of its edges; an error where it gives NaN."""
        at = place_of(node)
        outer, _now.node = current(), node
        joint = getattr(node, "joint", None)
        try:
            if joint is not None and self.check_nan and not node.freed:
                from ..debugging.numerics import look

                look(joint.graph, joint.places, node.inputs(gs), self.checker)
            results = node.backward(gs, *part)
        except Exception as e:
            if not isinstance(e, FloatingPointError):  # which has told
                e.add_note(f"anomaly mode: the forward call of {node.name()} is {_told(at)}")
            raise
        finally:
            _now.node = outer
        for i, r in enumerate(results) if self.check_nan else ():
            if r is not None and _has_nan(r._a):
                raise self.error(node, i, at)
        return results

    def error(self, node: TapeNode, i: int, at: Place) -> KilnError:
        """The error for a node whose output `i` is NaN."""
        from ..debugging import numerics

        e = numerics.NumericsError(
            "backward", f"Function '{node.name()}' returned nan values in its {i}th output",
            f"the forward call is {_told(at)}", "look at the values there: 0 / 0, log or sqrt of 0, inf - inf, …",
        )  # fmt: skip
        where = layer(at.module)
        e.operation, e.place, e.backward = node.name(), str(at), True
        e.layer = where.rpartition(" (")[0] or where
        return e

    def run_plan(self, fn: Any, plan: Any, leaves: tuple) -> Any:
        """A call of a compiled function: as it is, or with a look at what it computes."""
        if not self.check_nan:
            return plan.run(leaves)
        from ..debugging.numerics import run_plan

        return run_plan(fn, plan, leaves, self.checker)


_places: WeakKeyDictionary[TapeNode, Place] = WeakKeyDictionary()
_BEFORE = Place("was made before anomaly mode was on")


class _Now(threading.local):
    node: TapeNode | None = None


_now = _Now()


def current() -> TapeNode | None:
    """The node whose backward this thread runs."""
    return _now.node


def place_of(node: TapeNode) -> Place:
    """Where the forward call of a node is."""
    return _places.get(node, _BEFORE)


def _told(at: Place) -> str:
    where = layer(at.module)
    return told(at) + (f", in layer {where}" if where else "")


def _has_nan(a: Any) -> bool:
    """Whether an array holds NaN; those of a capture have no values."""
    return isinstance(a, np.ndarray) and a.dtype.kind in "fcV" and bool(np.isnan(a).any())


class set_detect_anomaly:
    """Turn anomaly mode on or off, at once; as a context manager it is as before at the end.

    With the mode on, an error of backward names the module and the line of forward that it belongs to, and
    a gradient that is NaN is an error (`debugging.NumericsError`) unless `check_nan` is False: in compiled
    functions too, which are run node by node first and name the op that gave NaN. It costs time.
    `debugging.check_numerics` looks at the values of forward too. Source: torch.autograd.set_detect_anomaly.
    """

    def __init__(self, mode: bool, check_nan: bool = True):
        self.old = ANOMALY[:]
        ANOMALY[:] = [Watch(check_nan)] if mode else []
        switch()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        ANOMALY[:] = self.old
        switch()


def set_anomaly_enabled(enabled: bool, check_nan: bool = True) -> None:
    """Turn anomaly mode on or off: see `set_detect_anomaly`."""
    set_detect_anomaly(enabled, check_nan)


class detect_anomaly(set_detect_anomaly):
    """`set_detect_anomaly(True)` for a block."""

    def __init__(self, check_nan: bool = True):
        self.check_nan = check_nan

    def __enter__(self) -> None:
        super().__init__(True, self.check_nan)


def _noted(cls: type) -> Any:
    node = object.__new__(cls)
    if ANOMALY:
        ANOMALY[0].note(node)
    return node


def switch() -> None:
    """Have the tape make nodes that remember their lines, or plain ones, and compiled functions ask what to do."""
    tape._node = _noted if ANOMALY else object.__new__
    watch_calls("anomaly", bool(ANOMALY))


def is_anomaly_enabled() -> bool:
    """Whether anomaly mode is on."""
    return bool(ANOMALY)


def is_anomaly_check_nan_enabled() -> bool:
    """Whether anomaly mode is on and looks for NaN."""
    return bool(ANOMALY) and ANOMALY[-1].check_nan
