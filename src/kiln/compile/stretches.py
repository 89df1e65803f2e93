"""Arguments that share memory of which a function writes a part: they are captured as views of one input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from ..errors import CaptureError, describe
from ..sharing import outermost, root_of
from ..tensor import Tensor
from .inputs import Input, may_share

_MEMORY = ("arg", "stretch", "state")


class Aliased(CaptureError):
    """A path took arguments for memory of their own, writes one of them, and another shares its memory."""


class Stretch(NamedTuple):
    """Arguments that lie in one stretch of memory; sizes and offsets in elements.

    `places`: by argument leaf where it begins, and the view ops that make it of the flat stretch.
    `why`: why it can't be captured as that; empty where it can.
    """

    size: int
    places: tuple[tuple[int, int, Any], ...]
    why: str = ""

    def array(self, leaves: Sequence[Any]) -> np.ndarray:
        """The stretch at this call, flat."""
        leaf, offset, _ = self.places[0]
        a = leaves[leaf]._a
        whole = _bytes(a)
        start = _address(a) - _address(whole) - offset * a.itemsize
        return whole[start : start + self.size * a.itemsize].view(a.dtype)


def stretches(leaves: Sequence[Any]) -> tuple[Stretch, ...]:
    """The stretches that hold more than one of the argument tensors; () where each has its own memory."""
    found = {i: x._a for i, x in enumerate(leaves) if isinstance(x, Tensor) and x._a.size}
    bounds = {i: byte_bounds(a) for i, a in found.items()}
    groups: list[tuple[list[int], int]] = []  # with the end of the farthest
    for i in sorted(found, key=bounds.__getitem__):
        together = [i]
        end = bounds[i][1]
        for g in [g for g in groups if g[1] > bounds[i][0]]:
            if any(root_of(found[i]) is root_of(found[j]) and may_share(found[i], found[j]) for j in g[0]):  # fmt: skip
                groups.remove(g)
                together, end = [*g[0], *together], max(end, g[1])
        groups.append((together, end))
    return tuple(
        _stretch({i: found[i] for i in sorted(g)}) for g, _ in groups
        if len({id(found[i]) for i in g}) > 1
    )  # fmt: skip


def _stretch(arrays: dict[int, np.ndarray]) -> Stretch:
    some = next(iter(arrays.values()))

    def refused(why: str) -> Stretch:
        return Stretch(0, tuple((i, 0, None) for i in arrays), why)

    if any(a.dtype != some.dtype for a in arrays.values()):
        return refused("their dtypes differ")
    if not all(a.flags.writeable for a in arrays.values()):
        return refused("one of them is read-only or expanded")
    if any(s <= 0 or s % a.itemsize for a in arrays.values() for s in a.strides):
        return refused("one of them has strides that no view has")
    whole = _bytes(some)
    if whole is None:
        return refused("the memory that they are part of has gaps")
    zero, n = _address(whole), some.itemsize
    low = min(_address(a) for a in arrays.values()) - zero
    high = max(byte_bounds(a)[1] for a in arrays.values()) - zero
    # rows are whole ones where the memory goes on
    row = n * max(_dims(a.shape, _strides(a))[0][0] if a.size > 1 else 1 for a in arrays.values())
    for start, end in ((low, high), (low - low % row, high + -high % row)):
        if start >= 0 and end <= whole.size and start % n == 0:
            size = (end - start) // n
            offsets = {i: (_address(a) - zero - start) // n for i, a in arrays.items()}
            chains = {i: _chain(size, offsets[i], a.shape, _strides(a)) for i, a in arrays.items()}
            if None not in chains.values():
                return Stretch(size, tuple((i, offsets[i], chains[i]) for i in arrays))
    return refused("their strides don't divide each other")


def _address(a: np.ndarray) -> int:
    return a.__array_interface__["data"][0]


def _strides(a: np.ndarray) -> tuple[int, ...]:
    return tuple(s // a.itemsize for s in a.strides)


def _bytes(a: np.ndarray) -> Any:
    """The bytes of the whole array that an array is part of; None where they don't lie side by side."""
    a = outermost(a)
    if not a.flags.c_contiguous:
        a = a.T
    return a.reshape(-1).view(np.uint8) if a.flags.c_contiguous else None


def _dims(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """(stride, size) of the dimensions, outermost first, those joined that are one run."""
    out: list[tuple[int, int]] = []
    for stride, size in sorted(((t, s) for t, s in zip(strides, shape, strict=True) if s > 1), reverse=True):  # fmt: skip
        if out and out[-1][0] == stride * size:
            out[-1] = (stride, out[-1][1] * size)
        else:
            out.append((stride, size))
    return out


@lru_cache(1024)
def _chain(
    size: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple | None:
    """The view ops that make a view of a flat array of so many elements; None where there are none.

    The flat array is a grid whose dimensions have the view's strides, and the view a box of it.
    """
    dims = _dims(shape, strides) or [(1, 1)]
    grid, box, around = [], [], size
    for k, (stride, n) in enumerate(dims):
        last = k + 1 == len(dims)
        if not last and around % stride:
            return None
        grid.append(around if last else around // stride)
        first, offset = (offset, 0) if last else divmod(offset, stride)
        step = stride if last else 1
        box.append((first, first + (n - 1) * step + 1, step))
        if box[-1][1] > grid[-1]:
            return None
        around = stride
    order = sorted(range(len(shape)), key=lambda d: (shape[d] == 1, -strides[d]))
    inner = tuple(shape[d] for d in order)
    chain: list[tuple[str, tuple]] = []
    if len(grid) > 1:
        chain.append(("reshape", (tuple(grid),)))
    if box != [(0, n, 1) for n in grid]:
        chain.append(("basic_index", (tuple(box),)))
    if inner != tuple(n for _, n in dims):
        chain.append(("reshape", (inner,)))
    if order != sorted(order):
        chain.append(("permute", (tuple(order.index(d) for d in range(len(order))),)))
    return tuple(chain)


class Apart:
    """Inputs that a path takes for memory of their own, as it writes some of them.

    Errors: Aliased where two arguments are not; CaptureError where one is not a tensor reached by the function.
    """

    def __init__(self, inputs: Sequence[Input], written: Sequence[Input]) -> None:
        _check(inputs, written)
        self.written = [i for i in written if i.kind in _MEMORY]
        kinds = _MEMORY if any(i.kind != "state" for i in self.written) else _MEMORY[:2]
        self.others = [i for i in inputs if i.kind in kinds] if self.written else []
        involved = dict.fromkeys((*self.written, *self.others))
        self.given = [i.leaf for i in self.others if i.kind == "arg"]
        self.states = [i for i in involved if i.kind == "state"] if self.others else []
        self.always = any(
            i.kind == "stretch" or not i.lay(i.array).flags.c_contiguous
            for i in involved if i.kind != "arg" and self.others
        )  # fmt: skip
        self.owners: set[int] = set()
        self.follow()

    def follow(self) -> None:
        """Learn which arrays own the memory that tensors reached by the function are a part of."""
        arrays = [i.tensor._a for i in self.states]  # type: ignore[union-attr]
        self.owners.clear()
        self.owners.update(id(root_of(a)) for a in arrays if a.base is not None)

    def check(self, leaves: Sequence[Any]) -> None:
        """Look at a call's memory; it can only clash where `always`, or an argument is a part or an owner of other memory."""
        parts: dict[int, list[tuple[Input, np.ndarray]]] = {}
        for w in self.written:
            a = w.held(leaves)
            parts.setdefault(id(root_of(a)), []).append((w, a))
        for i in self.others:
            b = i.held(leaves)
            for w, a in parts.get(id(root_of(b)), ()):
                if w is not i and not w.kind == i.kind == "state" and may_share(a, b):
                    _clash(w, a, i, b)


def _check(inputs: Sequence[Input], written: Sequence[Input]) -> None:
    """The same for the first call's memory, and for all inputs."""
    arrays = [(*byte_bounds(i.array), i) for i in inputs if i.array is not None and i.array.size]
    changed = set(written)
    open_: list[tuple[int, Input]] = []  # (end, input) of those that reach beyond the last start
    for start, end, i in sorted(arrays, key=lambda x: x[:2]):
        open_ = [(e, o) for e, o in open_ if e > start]
        for _, o in open_:
            a, b = i.array, o.array
            assert a is not None
            assert b is not None
            if not changed.isdisjoint((i, o)) and a is not b and may_share(a, b):
                _clash(i, a, o, b)
        open_.append((end, i))


def _clash(i: Input, a: np.ndarray, o: Input, b: np.ndarray) -> None:
    raise (Aliased if i.kind == o.kind == "arg" else CaptureError)(
        "compile", "the function writes a tensor that shares memory with another one in a way Kiln can't follow",
        f"{describe(a)} and {describe(b)}", "pass one of them and take the view inside the function",
    )  # fmt: skip
