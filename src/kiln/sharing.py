"""Who else may change a tensor's memory: what compiled programs keep of parameters depends on it.

Note [Kept results]: what a program has computed of a parameter it may use again for as long as the
parameter's memory is private and nothing was written there. Kiln's own writes tell (`written`): each
in-place op, `out=`, optimizer and compiled program, through whichever tensor or view. Writes through
NumPy, DLPack or a buffer can't be seen, so memory that code outside of Kiln can reach is not private:

- memory that came from outside (`from_numpy`, `frombuffer`, `from_dlpack`, a mapped file, shared memory)
  or whose address was given out (`data_ptr`), for good;
- memory that was given out as an array or a capsule, for as long as one of those lives: they have a
  `Loan` as their base, and NumPy has every view of them refer to it. Small arrays are given out as they
  are, for good, as a Loan takes longer than the rest of such a call.

All of this goes by the root of an array: whoever owns its memory.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from threading import RLock
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

SMALL = 1 << 12
"""Arrays of fewer bytes are given out without a Loan."""

OWNERS: list[type] = []
"""What owns memory of Kiln's, beside arrays that own theirs."""

watched: dict[int, tuple[Watch, ...]] = {}
"""Who looks after the memory of a root, by its id; nobody mostly, so look here before calling `written`."""

_lent: dict[int, int] = {}  # the id of each Loan, and that of its root
_exposed: dict[int, _Mark] = {}  # by the root's id
_lock = RLock()  # one that a finalizer may take while its thread has it


class _Mark(weakref.ref):
    """Says for as long as a root lives that its memory is not private."""

    __slots__ = ("key",)


def _gone(mark: Any, exposed: dict[int, _Mark] = _exposed) -> None:
    exposed.pop(mark.key, None)


class Loan:
    """The base of an array that was given out, whose memory belongs to another array, the `owner`."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, a: np.ndarray, root: Any):
        self.owner, self.__array_interface__ = a, a.__array_interface__
        _lent[id(self)] = id(root)

    def __del__(self, lent: dict[int, int] = _lent) -> None:
        lent.pop(id(self), None)


class Watch:
    """Whether memory may hold something else than when it was looked at last: `stale`, which writes set."""

    def __init__(self) -> None:
        self.stale = True
        self.roots: list[Any] = []

    def follow(self, arrays: Iterable[np.ndarray]) -> None:
        """Look after the memory of these arrays from now on, and of no others."""
        old, self.roots = self.roots, list({id(r): r for r in map(root_of, arrays)}.values())
        with _lock:
            for r in old:
                others = tuple(w for w in watched.get(id(r), ()) if w is not self)
                if others:
                    watched[id(r)] = others
                else:
                    watched.pop(id(r), None)
            for r in self.roots:
                watched[id(r)] = (*watched.get(id(r), ()), self)
        self.stale = True

    def settle(self) -> bool:
        """Count writes from now on only; gives whether all of them will be seen."""
        self.stale = False
        lent = set(_lent.copy().values())
        return all(_owned(r) and id(r) not in _exposed and id(r) not in lent for r in self.roots)


class Written:
    """Arrays that are written again and again: `written` for all of them, soon done where nobody watches them."""

    def __init__(self, arrays: Iterable[np.ndarray]):
        self.arrays = tuple(arrays)
        self.ids = frozenset(id(root_of(a)) for a in self.arrays)

    def tell(self) -> None:
        """As `written`."""
        if not self.ids.isdisjoint(watched):
            written(*self.arrays)


def written(*arrays: Any) -> None:
    """Tell that these arrays' memory changes; to be called both before and after, as Ctrl-C may come between."""
    for a in arrays:
        if isinstance(a, np.ndarray):
            for w in watched.get(id(a if a.base is None else root_of(a)), ()):
                w.stale = True


def lend(a: np.ndarray) -> np.ndarray:
    """The same memory as an array for code outside of Kiln, which may write there while it has it."""
    if a.nbytes < SMALL:
        expose(a)
        return a
    loan = Loan(a, root_of(a))
    if watched:
        written(a)
    out = np.asarray(loan)
    return out if out.dtype == a.dtype else out.view(a.dtype)


def expose(a: np.ndarray) -> None:
    """Note that code outside of Kiln may write to this array's memory for as long as that exists."""
    root = a if a.base is None else root_of(a)
    if id(root) not in _exposed and _owned(root):
        mark = _Mark(root, _gone)
        mark.key = id(root)
        _exposed[id(root)] = mark
    if watched:
        written(a)


def admit(a: np.ndarray) -> None:
    """Note that this array's memory came from outside of Kiln, where it may be written; a Loan says so itself."""
    around: Any = a
    while True:
        if isinstance(around, np.ndarray):
            around = around.base
        elif isinstance(around, memoryview):
            around = around.obj
        else:
            break
    if around.__class__ is not Loan:
        expose(a)


def root_of(a: np.ndarray) -> Any:
    """The owner of an array's memory."""
    a = outermost(a)
    return a if a.base is None else a.base


def outermost(a: np.ndarray) -> np.ndarray:
    """The array that an array is a part of and that is part of no other."""
    base: Any
    while (base := a.base) is not None:
        if base.__class__ is Loan:
            base = base.owner
        elif isinstance(base, memoryview):
            base = base.obj
        if not isinstance(base, np.ndarray):
            break
        a = base
    return a


def overlap(a: np.ndarray, b: np.ndarray) -> str:
    """Whether arrays without gaps lie in the same memory: "exact", "partial" or, as where there are gaps, ""."""
    (start, end), (first, last) = byte_bounds(a), byte_bounds(b)
    if end <= first or last <= start or end - start != a.nbytes or last - first != b.nbytes:
        return ""
    return (
        "exact" if start == first and a.strides == b.strides and a.shape == b.shape else "partial"
    )


def _owned(root: Any) -> bool:
    """Whether memory can be private by its kind: not a mapped file's, another library's or a buffer's."""
    if isinstance(root, np.ndarray):
        return root.flags.owndata
    return isinstance(root, tuple(OWNERS))


def _renew() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
