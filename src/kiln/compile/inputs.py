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

    __slots__ = ("array", "host", "index", "kind", "leaf", "node", "stretch", "tensor")

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

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        """The array at this call, whose argument leaves are given."""
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
