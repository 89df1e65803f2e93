"""Forward mode with dual numbers: PyTorch's `torch.autograd.forward_ad`.

    with dual_level():
        x = make_dual(primal, tangent)
        y = unpack_dual(f(x))       # y.primal is f(primal), y.tangent its derivative along tangent

A tangent is computed when it is asked for, from what was recorded since `make_dual`: see Note
[Forward mode] in `kiln.func.derivatives`. So what is done within `no_grad` inside a level counts as
constant, other than in PyTorch; a level inside `no_grad` is fine.
"""

from __future__ import annotations

import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import KilnError, KilnValueError, describe
from ..tensor import Tensor, _fresh
from .modes import mode

UnpackedDualTensor = namedtuple("UnpackedDualTensor", "primal tangent")  # noqa: PYI024


class _Level:
    """The duals of a level."""

    def __init__(self) -> None:
        from ..func.derivatives import Flow

        self.flow = Flow()
        self.heads: list[Tensor] = []
        self.tangents: list[Tensor] = []
        self.old = mode.grad
        mode.grad = True

    def close(self) -> None:
        mode.grad = self.old


class _Current(threading.local):
    level: _Level | None = None


_current = _Current()


def enter_dual_level() -> int:
    """Begin a level, in which tensors may have tangents; gives its number. Errors: KilnError if one is open."""
    if _current.level is not None:
        raise KilnError(
            "forward_ad", "Nested forward mode AD is not supported at the moment", None,
            "nest kiln.func.jvp instead",
        )  # fmt: skip
    _current.level = _Level()
    return 0


def exit_dual_level(*, level: int | None = None) -> None:
    """End the level; tensors have no tangents any more."""
    if _current.level is None or level not in (None, 0):
        raise KilnError(
            "forward_ad", "Trying to exit a forward AD level that was not the last one that was created",
            f"level={level}", "enter_dual_level() first",
        )  # fmt: skip
    _current.level.close()
    _current.level = None


@contextmanager
def dual_level() -> Iterator[int]:
    """A level for the block."""
    number = enter_dual_level()
    try:
        yield number
    finally:
        exit_dual_level(level=number)


def _open(level: int | None, what: str) -> _Level:
    if _current.level is None or level not in (None, 0):
        raise KilnError(
            "forward_ad", f"Trying to {what} a dual Tensor for forward AD but no level exists, make sure to "
            "enter_dual_level() first", f"level={level}", "with forward_ad.dual_level(): …",
        )  # fmt: skip
    return _current.level


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """A tensor with the memory of `tensor` that moves along `tangent`, which has its shape and dtype."""
    here = _open(level, "create")
    if not mode.grad:
        raise KilnError(
            "make_dual", "a dual tensor is made within no_grad, where its tangent would be lost", describe(tensor),
            "put no_grad around dual_level(), not inside it",
        )  # fmt: skip
    for what, x in (("tensor", tensor), ("tangent", tangent)):
        if not (x.is_floating_point() or x.is_complex()):
            raise KilnValueError(
                "make_dual", f"Expected {what} to be floating point or complex, but got: {x.dtype}",
                describe(x), "convert it first",
            )  # fmt: skip
    if tensor.shape != tangent.shape or tensor.dtype is not tangent.dtype:
        raise KilnError(
            "make_dual", "Trying to set a forward gradient that has a different size or dtype than that of the "
            "original Tensor, this is not supported", f"{describe(tensor)}, {describe(tangent)}", "",
        )  # fmt: skip
    head = here.flow.head(tensor)
    here.heads.append(head)
    here.tangents.append(tangent)
    return head


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> Any:
    """The values of a tensor and its tangent, None where it does not depend on a dual or no level is open."""
    here = _current.level
    if here is None or level not in (None, 0) or not _fresh(tensor)._rg or not here.heads:
        return UnpackedDualTensor(tensor, None)
    from ..func.derivatives import Linear

    linear = Linear(here.flow, [tensor], here.heads)
    if all(g is None for g in linear.grads):
        return UnpackedDualTensor(here.flow.release(tensor), None)
    (tangent,) = linear(here.tangents)
    return UnpackedDualTensor(here.flow.release(tensor), here.flow.release(tangent))


__all__ = [
    "UnpackedDualTensor", "dual_level", "enter_dual_level", "exit_dual_level", "make_dual", "unpack_dual",
]  # fmt: skip
