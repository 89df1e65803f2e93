"""Padding: constant, mirrored, repeated, circular."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...tensor import Tensor
from .. import functional as F
from .module import Module
from .utils import ntuple


class _Pad(Module):
    _nd = 0
    _mode = "constant"
    _value: Any = None

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = ntuple(padding, 2 * self._nd)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self._mode, self._value)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


def _family(prefix: str, base: type[_Pad], doc: str, **facts: Any) -> list[type[Any]]:
    return [
        type(f"{prefix}{nd}d", (base,), {
            "__doc__": doc.format(nd=nd), "__module__": __name__, "_nd": nd, **facts,
        })
        for nd in (1, 2, 3)
    ]  # fmt: skip


ConstantPad1d, ConstantPad2d, ConstantPad3d = _family(
    "ConstantPad", _ConstantPad, "The last {nd} dimensions padded with a value."
)


ZeroPad1d, ZeroPad2d, ZeroPad3d = _family(
    "ZeroPad", _Pad, "The last {nd} dimensions padded with zeros.", _value=0.0
)


ReflectionPad1d, ReflectionPad2d, ReflectionPad3d = _family(
    "ReflectionPad",
    _Pad,
    "The last {nd} dimensions padded with their mirror image.",
    _mode="reflect",
)


ReplicationPad1d, ReplicationPad2d, ReplicationPad3d = _family(
    "ReplicationPad", _Pad, "The last {nd} dimensions padded with their edge.", _mode="replicate"
)


CircularPad1d, CircularPad2d, CircularPad3d = _family(
    "CircularPad", _Pad, "The last {nd} dimensions padded with their other end.", _mode="circular"
)
