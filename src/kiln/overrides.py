"""Whether objects take part in PyTorch's functions by a protocol of their own.

Ops ask what they are given in place of a tensor (`__torch_function__`); tensors of other classes are not asked.
"""

from __future__ import annotations

from typing import Any

from .refusal import Refusal, refuse
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


def has_torch_function_unary(obj: Any) -> bool:
    """Whether an argument answers for functions itself: False, Kiln asks none."""
    return False


def has_torch_function_variadic(*args: Any) -> bool:
    """Whether any argument answers for functions itself: False, Kiln asks none."""
    return False


def is_tensor_method_or_property(func: Any) -> bool:
    """Whether a function is a method or property of tensors."""
    name = getattr(func, "__name__", "")
    return getattr(Tensor, name, None) is func or isinstance(func, property)


def get_default_nowrap_functions() -> set:
    """Properties of tensors whose results keep no subclass."""
    return {Tensor.grad}


refuse(
    __name__, "BaseTorchFunctionMode handle_torch_function wrap_torch_function get_testing_overrides "
    "get_overridable_functions resolve_name enable_reentrant_dispatch redispatch_function",
    "functions that objects and modes answer for themselves", "subclass kiln.Tensor for its methods, or wrap the calls in functions",
)  # fmt: skip
