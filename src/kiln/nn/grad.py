"""Gradients of convolutions as functions: with respect to the input, and to the weight.

https://docs.pytorch.org/docs/stable/nn.functional.html (torch.nn.grad)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.functional import vjp
from ..ops.creation import zeros
from ..tensor import Tensor
from . import functional as F
from .modules.utils import Ints


def _of(like: Sequence[int], g: Tensor, call: Callable[[Tensor], Any]) -> Tensor:
    """The gradient of a convolution, which is linear in the argument that `call` takes."""
    at = zeros(*like, dtype=g.dtype)
    return vjp(call, at, g, create_graph=g.requires_grad)[1]  # type: ignore[return-value]


def _pair(nd: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    conv = getattr(F, f"conv{nd}d")

    def input_gradient(
        input_size: Sequence[int], weight: Tensor, grad_output: Tensor, stride: Ints = 1,
        padding: Any = 0, dilation: Ints = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        def call(x: Tensor) -> Tensor:
            return conv(x, weight, None, stride, padding, dilation, groups)

        return _of(input_size, grad_output, call)

    def weight_gradient(
        input: Tensor, weight_size: Sequence[int], grad_output: Tensor, stride: Ints = 1,
        padding: Any = 0, dilation: Ints = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        def call(w: Tensor) -> Tensor:
            return conv(input, w, None, stride, padding, dilation, groups)

        return _of(weight_size, grad_output, call)

    for fn, what in ((input_gradient, "input"), (weight_gradient, "weight")):
        fn.__name__ = fn.__qualname__ = f"conv{nd}d_{what}"
        fn.__doc__ = f"The gradient of `conv{nd}d` with respect to its {what}, of the size given."
    return input_gradient, weight_gradient


conv1d_input, conv1d_weight = _pair(1)
conv2d_input, conv2d_weight = _pair(2)
conv3d_input, conv3d_weight = _pair(3)

__all__ = [
    "conv1d_input", "conv1d_weight", "conv2d_input", "conv2d_weight", "conv3d_input", "conv3d_weight",
]  # fmt: skip
