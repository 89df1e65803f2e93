"""Whether objects take part in PyTorch's functions by a protocol of their own: none do in Kiln."""

from __future__ import annotations

from typing import Any

from .tensor import Tensor


def has_torch_function(args: Any) -> bool:
    """Whether any argument answers for functions itself (`__torch_function__`): False, Kiln asks none."""
    return False


def is_tensor_like(inp: Any) -> bool:
    """Whether an object is a tensor or says that it acts as one."""
    return isinstance(inp, Tensor) or hasattr(type(inp), "__torch_function__")


def get_ignored_functions() -> set:
    """The functions that ask no argument to answer for them."""
    return set()
