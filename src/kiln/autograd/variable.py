"""`Variable(x)`: what older programs wrap tensors in before using them."""

from __future__ import annotations

from typing import Any

from ..refusal import refused
from ..tensor import Tensor


class _Tensors(type):
    _execution_engine = refused(
        "autograd.Variable._execution_engine", "callbacks of PyTorch's engine are its own",
        "Tensor.register_post_accumulate_grad_hook, or code after backward()", ("queue_callback", "run_backward"),
    )  # fmt: skip

    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, Tensor)

    def __call__(cls, data: Tensor, requires_grad: bool = False, volatile: bool = False) -> Tensor:
        out = data.detach()
        out.requires_grad = requires_grad
        return out


class Variable(metaclass=_Tensors):
    """Every tensor is a Variable; a call gives the same memory as a new leaf."""
