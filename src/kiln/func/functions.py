"""Custom functions under vmap, where gradients are asked for outside of it as well.

The tape inside has the function's own node. Outside, where its ops would be recorded one by one, there
is one node as well: a function of the tensors with the batch, whose forward and backward are the custom
ones under this vmap.
"""

from __future__ import annotations

import copy
from typing import Any

from ..autograd.function import Function, FunctionCtx
from ..errors import KilnError, describe
from ..ops.batching import Lane
from ..tensor import Tensor, active_capture, wrap
from .level import Level


def forward(node: FunctionCtx, args: tuple) -> Any:
    """The output of a custom function for tensors under vmap; `node` is its node inside."""
    level: Level = active_capture()
    inside = [
        wrap(level.payload(a)) if isinstance(a, Tensor) and not level.owns(a) else a for a in args
    ]
    tensors = [a for a in inside if isinstance(a, Tensor)]
    output: Any = None
    outs: list[Any] = []

    class Outside(Function):
        @staticmethod
        def forward(ctx: Any, *_: Tensor) -> Any:
            nonlocal output
            with level.active():
                output = node.forward(tuple(inside))
            if node.dirty:
                raise KilnError(
                    node.name(), "a custom Function that changes its input can't be differentiated from outside "
                    "of vmap", describe(args), "compute a new tensor in forward",
                )  # fmt: skip
            outs.extend(output if isinstance(output, tuple) else (output,))
            whole = {id(t): level.payload(t).tensor for t in outs if isinstance(t, Tensor)}
            ctx.mark_non_differentiable(*(whole[id(t)] for t in node.non_differentiable))
            ctx.set_materialize_grads(node.materialize_grads)
            ctx.saved = node.to_save
            return tuple(whole.values())

        @staticmethod
        def backward(ctx: Any, *gs: Tensor | None) -> tuple:
            mine = copy.copy(node)  # what forward has noted, for whoever asks outside
            needs = iter(ctx.needs_input_grad)
            mine.needs_input_grad = tuple(isinstance(a, Tensor) and next(needs) for a in inside)
            mine.versions = []
            mine._saved = [t if t is None else lambda t=t: wrap(t._a) for t in ctx.saved]
            with level.active():
                given = iter(gs)
                found = mine.derivative([
                    None if not isinstance(t, Tensor) or (g := next(given)) is None
                    else wrap(Lane(level, g, t._a.batched))
                    for t in outs
                ])  # fmt: skip
            return tuple(_summed(level, a, g) for a, g in zip(inside, found, strict=False) if isinstance(a, Tensor))  # fmt: skip

    with level.below():
        whole = iter(Outside.apply(*(t._a.tensor for t in tensors)))
    for t in {id(t): t for t in outs if isinstance(t, Tensor)}.values():
        t._a = Lane(level, next(whole), level.payload(t).batched)
    return output


def _summed(level: Level, x: Tensor, g: Tensor | None) -> Tensor | None:
    """The gradient of the tensor outside: of all of the batch, or their sum where all share it."""
    if g is None:
        return None
    lane = level.payload(g)
    if x._a.batched:
        return lane.whole
    return lane.whole.sum(0)
