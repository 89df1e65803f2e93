"""Whether objects take part in PyTorch's functions by a protocol of their own.

Ops ask what they are given in place of a tensor (`__torch_function__`); tensors of other classes are not asked.
"""

from __future__ import annotations

from typing import Any

from .refusal import Refusal
from .tensor import Tensor


def has_torch_function(args: Any) -> bool:
    """Whether any argument answers for functions itself before a function runs: False, ops ask on their own."""
    return False


class TorchFunctionMode(metaclass=Refusal):
    """A way to stand between programs and functions: not built, it can be imported and subclassed."""

    _name, _why = "overrides.TorchFunctionMode", "functions are not handed to objects of a program"
    _help = "call a function of your own instead"


def is_tensor_like(inp: Any) -> bool:
    """Whether an object is a tensor or says that it acts as one."""
    return isinstance(inp, Tensor) or hasattr(type(inp), "__torch_function__")


def get_ignored_functions() -> set:
    """The functions that ask no argument to answer for them."""
    return set()
