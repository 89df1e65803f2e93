"""Batch norm in evaluation mode, folded into the convolution or linear layer before it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from ...errors import KilnAssertionError, describe
from ...ops.creation import ones_like, zeros_like
from ...tensor import Tensor
from ..parameter import Parameter

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]  # fmt: skip


def _fused(weight: Tensor, bias: Tensor | None, mean: Tensor, var: Tensor, eps: float, scale: Tensor | None,
           shift: Tensor | None, shape: tuple[int, ...]) -> tuple[Parameter, Parameter]:  # fmt: skip
    b = zeros_like(mean) if bias is None else bias
    factor = (var + eps).rsqrt() * (ones_like(mean) if scale is None else scale)
    new = (b - mean) * factor + (zeros_like(mean) if shift is None else shift)
    trained = bias is None or bias.requires_grad
    return (
        Parameter((weight * factor.reshape(shape)).to(weight.dtype).detach(), weight.requires_grad),
        Parameter(new.to(weight.dtype if bias is None else bias.dtype).detach(), trained),
    )


def fuse_conv_bn_weights(conv_w: Tensor, conv_b: Tensor | None, bn_rm: Tensor, bn_rv: Tensor, bn_eps: float,
                         bn_w: Tensor | None, bn_b: Tensor | None, transpose: bool = False) -> tuple[Parameter, Parameter]:  # fmt: skip
    """Weight and bias of a convolution that gives what batch norm made of another one's result."""
    lead = (1, -1) if transpose else (-1, 1)
    return _fused(conv_w, conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, (*lead, *(1,) * (conv_w.dim() - 2)))  # fmt: skip


def fuse_linear_bn_weights(linear_w: Tensor, linear_b: Tensor | None, bn_rm: Tensor, bn_rv: Tensor, bn_eps: float,
                           bn_w: Tensor | None, bn_b: Tensor | None) -> tuple[Parameter, Parameter]:  # fmt: skip
    """Weight and bias of a linear layer that gives what batch norm made of another one's result."""
    return _fused(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b, (-1, 1))


def _checked(layer: Any, bn: Any, ok: bool = True) -> Any:
    if layer.training or bn.training or bn.running_mean is None or bn.running_var is None or not ok:
        raise KilnAssertionError(
            "fuse", "fusion is for layers in evaluation mode, with running statistics, of sizes that fit",
            describe([layer, bn]), "call eval() first",
        )  # fmt: skip
    return deepcopy(layer)


def fuse_conv_bn_eval(conv: Any, bn: Any, transpose: bool = False) -> Any:
    """A convolution that computes bn(conv(x)); both in evaluation mode. `transpose` for transposed ones."""
    new = _checked(conv, bn)
    new.weight, new.bias = fuse_conv_bn_weights(
        new.weight, new.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias, transpose
    )
    return new


def fuse_linear_bn_eval(linear: Any, bn: Any) -> Any:
    """A linear layer that computes bn(linear(x)); both in evaluation mode."""
    new = _checked(linear, bn, bn.num_features in (1, linear.out_features))
    new.weight, new.bias = fuse_linear_bn_weights(
        new.weight, new.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return new
