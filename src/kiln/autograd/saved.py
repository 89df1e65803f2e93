"""What nodes save for backward, through the hooks of `saved_tensors_hooks`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..errors import KilnError, KilnTypeError, describe
from ..tensor import Tensor, wrap
from .tape import SAVING, OpNode, Part, Through, edge_of

Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]


class _Blocks(threading.local):
    """The hooks of the blocks that this thread is in, the innermost last, and why there may be none."""

    def __init__(self) -> None:
        self.hooks: list[Hooks] = []
        self.messages: list[str] = []


blocks = _Blocks()


class saved_tensors_hooks:
    """Within the block, what backward needs of forward is kept as `pack_hook(tensor)` and got by `unpack_hook`.

    What `unpack_hook` gives has the values, shape and dtype of what was saved. Backward may run outside
    of the block. Source: torch.autograd.graph.saved_tensors_hooks.
    """

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]):
        self.hooks = (pack_hook, unpack_hook)

    def __enter__(self) -> None:
        if blocks.messages:
            raise KilnError("saved_tensors_hooks", blocks.messages[-1], None, "")
        blocks.hooks.append(self.hooks)
        SAVING.append(pack_node)

    def __exit__(self, *_: object) -> None:
        blocks.hooks.pop()
        SAVING.pop()


class Packed:
    """A saved tensor as the hooks keep it."""

    __slots__ = ("history", "kept", "unpack")

    def __init__(self, t: Tensor, hooks: Hooks):
        pack, self.unpack = hooks
        edge = edge_of(t)
        if edge is not None and t._fn is None:
            self.history: tuple = (Through([edge], 1), 0, True)
        else:
            self.history = (t._fn, t._idx, t._rg)
        bare = wrap(t._a)
        bare._ver = t._ver
        self.kept = pack(bare)

    def tensor(self) -> Tensor:
        """What was saved, with its history."""
        t = self.unpack(self.kept)
        if not isinstance(t, Tensor):
            raise KilnTypeError(
                "saved_tensors_hooks", "the unpack hook must return a Tensor", describe(t),
                "give back what was packed",
            )  # fmt: skip
        out = wrap(t._a)
        out._fn, out._idx, out._rg = self.history
        return out


class PackedNode(OpNode):
    """A call of an op whose saved tensors the hooks keep."""

    __slots__ = ()

    def backward(self, gs: list[Tensor | None], part: Part | None = None) -> list[Tensor | None]:
        kept = self.args
        if not self.freed:
            self.args = tuple(_unpacked(x) for x in kept)
        try:
            return super().backward(gs, part)
        finally:
            if not self.freed:
                self.args = kept

    def backward_arrays(self, gs: list[Any], part: Part | None = None) -> list[Any]:
        return self.by_rules(gs, part)

    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(p.tensor() for p in self.outs[0])


def pack_node(node: OpNode, outs: tuple[Tensor, ...]) -> None:
    """Hand what a node has saved to this thread's hooks."""
    if not blocks.hooks:
        return
    hooks = blocks.hooks[-1]
    node.args = tuple(_packed(x, hooks) for x in node.args)
    if node.outs is not None:
        packed = tuple(Packed(t, hooks) for t in outs)
        for i, p in enumerate(packed):
            p.history = (None, 0, False) if i in node.op.nondiff_outputs else (node, i, True)
        node.outs = (packed, node.outs[1])
    node.versions = ()
    node.__class__ = PackedNode


def _packed(x: Any, hooks: Hooks) -> Any:
    if isinstance(x, Tensor):
        return Packed(x, hooks)
    if isinstance(x, list | tuple) and any(isinstance(y, Tensor) for y in x):
        return [_packed(y, hooks) for y in x]
    return x


def _unpacked(x: Any) -> Any:
    if isinstance(x, Packed):
        return x.tensor()
    return [_unpacked(y) for y in x] if isinstance(x, list) else x
