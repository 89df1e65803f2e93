"""Gradients clipped by their joint norm or by value."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ...autograd.modes import no_grad
from ...dtypes import float32, float64
from ...errors import KilnError
from ...ops.creation import tensor as make_tensor
from ...ops.dispatch import LARGE
from ...ops.joining import stack
from ...ops.reduction import accurate_sum
from ...ops.statistics import norm_op
from ...tensor import CAPTURING, PLAIN, Tensor, wrap


def _grads(parameters: Any) -> list[Tensor]:
    params = [parameters] if isinstance(parameters, Tensor) else parameters
    return [g for p in params if (g := p.grad) is not None]


def _squares(tensors: list[Tensor]) -> np.ndarray | None:
    """The sum of each tensor's squares, of plain ones of one dtype of 32 or 64 bits without a history; else None."""
    if CAPTURING:
        return None
    d, found = tensors[0]._a.dtype, []
    for t in tensors:
        a = t._a
        if t.__class__ not in PLAIN or a.__class__ is not np.ndarray or a.dtype is not d:
            return None
        if (d is not float32.np and d is not float64.np) or t._rg or t._base is not None:
            return None
        if a.size < LARGE:
            found.append(accurate_sum(a * a))
        else:
            found.append(np.square(norm_op.op.eager(a, 2.0, None, False)))
    return np.array(found, d)


def get_total_norm(
    tensors: Any,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all elements of the tensors together, a 0-d tensor."""
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not tensors:
        return make_tensor(0.0)
    norm_type = float(norm_type)
    if norm_type == float("inf"):
        total = stack([t.abs().amax() for t in tensors]).amax()
    elif norm_type == 2.0 and (squares := _squares(tensors)) is not None:
        total = wrap(np.asarray(np.sqrt(np.add.reduce(squares))))
    elif norm_type == 2.0:
        total = stack([(t * t).sum() for t in tensors]).sum().sqrt()
    else:
        total = stack([(t.abs() ** norm_type).sum() for t in tensors]).sum() ** (1.0 / norm_type)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise KilnError(
            "clip_grad_norm_", f"The total norm of order {norm_type} for gradients from `parameters` is "
            "non-finite, so it cannot be clipped", None, "pass error_if_nonfinite=False to scale anyway",
        )  # fmt: skip
    return total


def clip_grads_with_norm_(
    parameters: Any, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale the gradients by max_norm / total_norm where that is below 1."""
    factor: Any = (max_norm / (total_norm + 1e-6)).clamp(max=1.0)
    if not CAPTURING and factor.__class__ is Tensor and factor._a.__class__ is np.ndarray:
        factor = factor.item()  # with a number the common case of `mul_` is short
        if factor == 1:
            return
    with no_grad():
        for g in _grads(parameters):
            g.mul_(factor)


def clip_grad_norm_(
    parameters: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """Scale gradients in place so that their joint norm is at most `max_norm`; gives the norm before."""
    params = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    with no_grad():
        total = get_total_norm(_grads(params), norm_type, error_if_nonfinite)
        clip_grads_with_norm_(params, float(max_norm), total)
    return total


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Clamp gradients in place to [-clip_value, clip_value]."""
    limit = float(clip_value)
    with no_grad():
        for g in _grads(parameters):
            g.clamp_(-limit, limit)


def clip_grad_norm(
    parameters: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:  # fmt: skip
    """The former name of `clip_grad_norm_`."""
    warnings.warn(
        "`clip_grad_norm` is now deprecated in favor of `clip_grad_norm_`.", FutureWarning, stacklevel=2
    )  # fmt: skip
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


__all__ = [
    "clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm",
]  # fmt: skip
