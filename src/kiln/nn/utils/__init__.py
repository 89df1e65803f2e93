"""Helpers for parameters and their gradients: clipping, packing into one vector; parametrizations."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from ...autograd.modes import no_grad
from ...errors import KilnError, KilnTypeError, describe
from ...ops.creation import tensor as make_tensor
from ...ops.joining import cat, stack
from ...tensor import Tensor


def _grads(parameters: Any) -> list[Tensor]:
    params = [parameters] if isinstance(parameters, Tensor) else parameters
    return [g for p in params if (g := p.grad) is not None]


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
    factor = (max_norm / (total_norm + 1e-6)).clamp(max=1.0)
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


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters flattened into one vector."""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Give parameters the values of a vector, in order."""
    if not isinstance(vec, Tensor):
        raise KilnTypeError("vector_to_parameters", "expected a Tensor", describe(vec))
    start = 0
    for p in parameters:
        n = p.numel()
        p.data = vec[start : start + n].reshape(p.shape).detach().clone()
        start += n


_LAZY = {  # these import layers, which import this module
    "parametrize": "", "parametrizations": "", "fusion": "", "rnn": "",
    "weight_norm": "hooked", "remove_weight_norm": "hooked", "spectral_norm": "hooked", "remove_spectral_norm": "hooked",
    "fuse_conv_bn_eval": "fusion", "fuse_conv_bn_weights": "fusion", "fuse_linear_bn_eval": "fusion",
    "fuse_linear_bn_weights": "fusion",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kiln.nn.utils' has no attribute {name!r}")
    home = importlib.import_module(f".{_LAZY[name] or name}", __name__)
    globals()[name] = value = getattr(home, name) if _LAZY[name] else home
    return value


__all__ = [
    "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm",
    "parameters_to_vector", "vector_to_parameters",
]  # fmt: skip
