"""Kiln's functions by the names of PyTorch's operators: `torch.ops.aten.add.Tensor`. Source: torch._ops.

Tables of handlers are keyed by them, and some programs call them. There is one function behind all overloads of a name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ..errors import KilnNotImplementedError
from ..tensor import Tensor
from .registry import FUNCTIONS, METHODS


def _slice(input: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return input[(slice(None),) * (dim % input.ndim) + (slice(start, end, step),)]


def _index(input: Tensor, indices: Any) -> Tensor:
    return input[tuple(slice(None) if i is None else i for i in indices)]


def _copied(input: Tensor, **options: Any) -> Tensor:
    return input.to(**options, copy=True)


_OTHERS: dict[str, Callable] = {
    "_local_scalar_dense": lambda input: input.item(), "_pin_memory": lambda input, device=None: input.pin_memory(),
    "_to_copy": _copied, "_unsafe_view": lambda input, size: input.reshape(size), "alias": lambda input: input.view_as(input),
    "index": _index, "slice": _slice, "index_put": lambda input, *given: input.index_put(*given),
    "sym_size": lambda input, dim=None: input.size(dim), "_sparse_addmm": lambda *given: FUNCTIONS["sparse.addmm"](*given),
}  # fmt: skip
_UNBUILT = ("_sparse_mm_reduce_impl",)


class OpOverload:
    """An operator with one of its signatures; called, it is Kiln's function."""

    def __init__(self, packet: OpOverloadPacket, name: str):
        self.overloadpacket, self._overloadname = packet, name
        self.namespace = "aten"
        self.__name__ = f"{packet.__name__}.{name}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.overloadpacket(*args, **kwargs)

    def name(self) -> str:
        """Its name, with that of the signature."""
        short = f"aten::{self.overloadpacket.__name__}"
        return short if self._overloadname == "default" else f"{short}.{self._overloadname}"

    def __repr__(self) -> str:
        return f"<OpOverload(op='aten.{self.overloadpacket.__name__}', overload='{self._overloadname}')>"

    def __str__(self) -> str:
        return f"aten.{self.__name__}"


class OpOverloadPacket:
    """All signatures of an operator: its attributes."""

    def __init__(self, name: str, fn: Callable | None):
        self.__name__, self._fn = name, fn

    def __getattr__(self, name: str) -> OpOverload:
        if name[:1] == "_":
            raise AttributeError(f"'OpOverloadPacket' object has no attribute {name!r}")
        made = self.__dict__[name] = OpOverload(self, name)
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._fn is None:
            raise KilnNotImplementedError(
                f"aten.{self.__name__}", "this operator is not built", "", "call the function that it belongs to"
            )  # fmt: skip
        return self._fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<OpOverloadPacket(op='aten.{self.__name__}')>"

    def __str__(self) -> str:
        return f"aten.{self.__name__}"


@cache
def __getattr__(name: str) -> OpOverloadPacket:
    fn = _OTHERS.get(name) or FUNCTIONS.get(name) or METHODS.get(name)
    fn = fn or FUNCTIONS.get(f"nn.functional.{name}")
    if name[:2] == "__" or (fn is None and name not in _UNBUILT):
        raise AttributeError(f"'_OpNamespace' 'aten' object has no attribute '{name}'")
    return OpOverloadPacket(name, fn)
