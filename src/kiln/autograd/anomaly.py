"""Anomaly mode: backward names the line of forward whose gradient is NaN or fails.

Each node remembers the line that made it, for as long as the mode is on when it is made; nothing is
looked at, nor paid, while it is off.
"""

from __future__ import annotations

import linecache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..errors import KilnError, place, users_frame
from ..tensor import Tensor
from . import tape
from .tape import ANOMALY, TapeNode


def line() -> str:
    """The user's line that runs now: `train.py:12 in loss: y = x.sqrt()`."""
    f = users_frame()
    if f is None:
        return "a line that is not known"
    text = linecache.getline(f.f_code.co_filename, f.f_lineno).strip()
    return place(f) + (f": {text}" if text else "")


class Watch:
    """What the mode does while it is on."""

    def __init__(self, check_nan: bool):
        self.check_nan = check_nan

    def note(self, node: TapeNode) -> None:
        """Remember the line that makes a node."""
        _lines[node] = line()

    def run(self, node: Any, gs: list[Tensor | None], *part: Any) -> list[Tensor | None]:
        """A node's backward, or that of some of its edges; an error where it gives NaN."""
        at = _lines.get(node, "was made before anomaly mode was on")
        try:
            results = node.backward(gs, *part)
        except Exception as e:
            e.add_note(f"anomaly mode: the forward call of {node.name()} is {at}")
            raise
        for i, r in enumerate(results) if self.check_nan else ():
            if r is not None and _has_nan(r._a):
                raise KilnError(
                    "backward", f"Function '{node.name()}' returned nan values in its {i}th output",
                    f"the forward call is {at}", "look at the values there: 0 / 0, log or sqrt of 0, inf - inf, …",
                )  # fmt: skip
        return results


_lines: WeakKeyDictionary[TapeNode, str] = WeakKeyDictionary()


def _has_nan(a: Any) -> bool:
    """Whether an array holds NaN; those of a capture have no values."""
    return isinstance(a, np.ndarray) and a.dtype.kind in "fcV" and bool(np.isnan(a).any())


class set_detect_anomaly:
    """Turn anomaly mode on or off, at once; as a context manager it is as before at the end.

    With the mode on, an error of backward names the line of forward that it belongs to, and a gradient
    that is NaN is an error (KilnError) unless `check_nan` is False. It costs time. Source:
    torch.autograd.set_detect_anomaly.
    """

    def __init__(self, mode: bool, check_nan: bool = True):
        self.old = ANOMALY[:]
        ANOMALY[:] = [Watch(check_nan)] if mode else []
        _switch()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        ANOMALY[:] = self.old
        _switch()


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


def _switch() -> None:
    """Have the tape make nodes that remember their lines, or plain ones."""
    tape._node = _noted if ANOMALY else object.__new__


def is_anomaly_enabled() -> bool:
    """Whether anomaly mode is on."""
    return bool(ANOMALY)


def is_anomaly_check_nan_enabled() -> bool:
    """Whether anomaly mode is on and looks for NaN."""
    return bool(ANOMALY) and ANOMALY[-1].check_nan
