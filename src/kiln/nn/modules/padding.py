"""Padding: constant, mirrored, repeated, circular."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import KilnValueError, describe
from ...tensor import Tensor
from .. import functional as F
from .module import Module
from .utils import ntuple


class _Pad(Module):
    _nd = 0
    _mode = ""

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = ntuple(padding, 2 * self._nd)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPadNd(_Pad):
    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _Zeros(_ConstantPadNd):
    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


def _family(prefix: str, base: type[_Pad], doc: str, **facts: Any) -> list[type[Any]]:
    return [
        type(f"{prefix}{nd}d", (base,), {
            "__doc__": doc.format(nd=nd), "__module__": __name__, "_nd": nd, **facts,
        })
        for nd in (1, 2, 3)
    ]  # fmt: skip


ConstantPad1d, ConstantPad2d, ConstantPad3d = _family(
    "ConstantPad", _ConstantPadNd, "The last {nd} dimensions padded with a value."
)


class ZeroPad1d(_Zeros, ConstantPad1d):
    """The last dimension padded with zeros."""


class ZeroPad2d(_Zeros, ConstantPad2d):
    """The last two dimensions padded with zeros."""


class ZeroPad3d(_Zeros, ConstantPad3d):
    """The last three dimensions padded with zeros."""


ReflectionPad1d, ReflectionPad2d, ReflectionPad3d = _family(
    "ReflectionPad",
    _Pad,
    "The last {nd} dimensions padded with their mirror image.",
    _mode="reflect",
)


ReplicationPad1d, ReplicationPad2d, ReplicationPad3d = _family(
    "ReplicationPad", _Pad, "The last {nd} dimensions padded with their edge.", _mode="replicate"
)


class _CircularPadNd(_Pad):
    _mode = "circular"

    def _check_input_dim(self, input: Tensor) -> None:
        n = self._nd
        if input.ndim not in (n + 1, n + 2):
            raise KilnValueError(
                f"CircularPad{n}d", f"expected {n + 1}D or {n + 2}D input (got {input.ndim}D input)", describe(input)
            )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        return super().forward(input)


CircularPad1d, CircularPad2d, CircularPad3d = _family(
    "CircularPad", _CircularPadNd, "The last {nd} dimensions padded with their other end."
)
