"""Where the inputs of a captured Graph come from, and what is asked of their memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..graph.node import Node
from ..tensor import Tensor


class Input:
    """Where an input of the Graph comes from at each call.

    `kind`: "arg" (leaf number of the arguments), "stretch" (memory that several arguments lie in),
    "state" (a tensor reached by closure), "grad" (the `.grad` of a tensor, or of an argument where there
    is a leaf number) or "host" (a Python number in `owner[key]`).
    """

    __slots__ = ("array", "host", "index", "kind", "leaf", "node", "order", "stretch", "tensor")

    def __init__(self, kind: str, index: int, node: Node, tensor: Tensor | None = None, leaf: int = -1,
                 host: tuple[Any, Any] | None = None, stretch: Any = None):  # fmt: skip
        self.kind, self.index, self.node, self.tensor, self.leaf, self.host = (
            kind,
            index,
            node,
            tensor,
            leaf,
            host,
        )
        self.stretch = stretch
        self.array = tensor._a if tensor is not None else None
        self.order: tuple[int, ...] | None = None

    def lay(self, a: np.ndarray) -> np.ndarray:
        """An array as the Graph has it: see Note [Channels-last inputs]."""
        return a if self.order is None else a.transpose(self.order)

    @property
    def chain(self) -> tuple:
        """The view ops that make the tensor of the Graph's input."""
        if self.order is None:
            return ()
        return (("permute", (tuple(self.order.index(i) for i in range(len(self.order))),)),)

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        """The array at this call, whose argument leaves are given, as the Graph has it."""
        return self.lay(self.held(leaves))

    def held(self, leaves: Sequence[Any]) -> np.ndarray:
        """The array at this call, as its tensor holds it."""
        if self.kind == "arg":
            return leaves[self.leaf]._a
        if self.kind == "stretch":
            return self.stretch.array(leaves)
        if self.kind == "state":
            return self.tensor._a  # type: ignore[union-attr]
        if self.kind == "grad":
            return (self.tensor if self.leaf < 0 else leaves[self.leaf])._grad._a
        owner, key = self.host  # type: ignore[misc]
        return np.asarray(owner[key], np.float64)


# Note [Channels-last inputs]
# Images and filters that lie channels-last are inputs of a Graph as they lie, row-major with the channels
# as their last dimension, and the tensor is a permuted view of that: nothing is copied at a call, and what
# is computed of parameters alone is computed once.


def layout_of(a: np.ndarray) -> Any:
    """How an array lies in memory, where that is not the usual way: its strides, and whether it can be written."""
    f = a.flags
    return None if f.carray else (a.strides, f.writeable)


_WORK = 1000
"""How many candidates are looked at for an element that two arrays have in common."""


def may_share(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have elements in common, or may have where that is hard to say."""
    if a.base is None and b.base is None:
        return a is b
    try:
        return bool(a.size and b.size and np.shares_memory(a, b, max_work=_WORK))
    except np.exceptions.TooHardError:
        return True
