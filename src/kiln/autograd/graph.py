"""The recorded graph: nodes, hooks on what is saved, hooks on several gradients. PyTorch's `torch.autograd.graph`."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..tensor import Tensor, _fresh
from .engine import RUNNING, running
from .hooks import RemovableHandle
from .saved import blocks, saved_tensors_hooks
from .tape import AccumulateGrad
from .tape import TapeNode as Node

GradientEdge = namedtuple("GradientEdge", "node output_nr")  # noqa: PYI024


def get_gradient_edge(tensor: Tensor) -> Any:
    """The node that the gradient of a tensor comes to, and which output of it the tensor is."""
    if not _fresh(tensor)._rg:
        raise KilnError(
            "get_gradient_edge", "It is not possible to get the gradient edge for a Tensor that does not "
            "require gradients", describe(tensor), "set requires_grad=True first",
        )  # fmt: skip
    return GradientEdge(tensor._fn or AccumulateGrad(tensor), tensor._idx)


def increment_version(tensor: Tensor | Sequence[Tensor]) -> None:
    """Count a change of a tensor's memory that Kiln could not see."""
    from ..ops.storing import bump

    for t in [tensor] if isinstance(tensor, Tensor) else tensor:
        bump(t)


class save_on_cpu(saved_tensors_hooks):
    """Within the block, what backward needs is kept as copies in main memory, where Kiln's tensors are anyway.

    In-place ops on the originals don't change the copies. `pin_memory` has no effect.
    """

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda"):
        super().__init__(lambda t: t.clone(), lambda kept: kept)


@contextmanager
def allow_mutation_on_saved_tensors() -> Iterator[None]:
    """Within the block, what backward needs is kept as copies, so that in-place ops on the originals do no harm."""
    with saved_tensors_hooks(lambda t: t.clone(), lambda kept: kept):
        yield


@contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
    """Within the block `saved_tensors_hooks` are an error with this message."""
    if blocks.hooks:
        raise KilnError(
            "disable_saved_tensors_hooks", error_message, None, "leave the hooks' block first"
        )
    blocks.messages.append(error_message)
    try:
        yield
    finally:
        blocks.messages.pop()


def register_multi_grad_hook(
    tensors: Sequence[Tensor], fn: Callable, *, mode: str = "all"
) -> RemovableHandle:
    """Call `fn` once in each backward pass with the gradients of several tensors.

    With "all", when all that the pass computes are known: `fn(grads)`, None for those that it does not
    compute. With "any", `fn(grad)` for the first one. Source: torch.autograd.graph.register_multi_grad_hook.
    """
    if mode not in ("all", "any"):
        raise KilnValueError(
            "register_multi_grad_hook", "Expects mode to be one of ('all', 'any')", mode, ""
        )
    for t in tensors:
        if not isinstance(t, Tensor):
            raise KilnTypeError("register_multi_grad_hook", "expected tensors", describe(t), "")
    return _Several(list(tensors), fn, mode)


class _Several(RemovableHandle):
    """Hooks on several tensors, and the gradients of a pass as they come in."""

    def __init__(self, tensors: list[Tensor], fn: Callable, mode: str):
        super().__init__({})
        self.tensors, self.fn, self.mode, self.lock = tensors, fn, mode, Lock()
        self.seen: Any = None  # the pass that the rest is of
        self.grads: list[Tensor | None] = []
        self.left = 0
        RUNNING.append(self)
        self.handles = [
            t.register_hook(lambda g, i=i: self.arrived(i, g)) for i, t in enumerate(tensors)
        ]

    def arrived(self, i: int, g: Tensor) -> None:
        now = running()
        with self.lock:
            if now is not self.seen:
                self.seen, self.grads = now, [None] * len(self.tensors)
                self.left = 1 if self.mode == "any" else sum(map(now.computes, self.tensors))
            self.grads[i] = g
            self.left -= 1
            ready = self.left == 0
        if ready:
            self.fn(g if self.mode == "any" else list(self.grads))

    def remove(self) -> None:
        for h in self.handles:
            h.remove()
        if self in RUNNING:
            RUNNING.remove(self)


__all__ = [
    "GradientEdge", "Node", "allow_mutation_on_saved_tensors", "disable_saved_tensors_hooks", "get_gradient_edge", "increment_version",
    "register_multi_grad_hook", "save_on_cpu", "saved_tensors_hooks",
]  # fmt: skip
