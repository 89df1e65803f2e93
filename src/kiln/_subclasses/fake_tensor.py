"""Fake tensors: none are made here, but what stands for tensors while a function is captured counts as fake."""

from __future__ import annotations

from typing import Any

from ..tensor import Tensor


class FakeTensor(Tensor):
    """The class of PyTorch's fake tensors: no tensor is one."""


def is_fake(x: Any) -> bool:
    """Whether a tensor has no data as a function is being captured, and stands for those that it will be called with."""
    from ..compile.symbolic import SymArray

    return isinstance(x, Tensor) and isinstance(x._a, SymArray)
