"""Weight normalization in its older form, a hook; `parametrizations.weight_norm` is the form to use."""

from __future__ import annotations

import warnings
from typing import Any

from ...tensor import Tensor
from ..parameter import Parameter
from ._before import Before, remove


def norm_except_dim(v: Tensor, dim: int) -> Tensor:
    """The norm over all dimensions but one, which are kept with size 1; over all where dim is -1."""
    if dim == -1:
        return v.norm()
    others = tuple(d for d in range(v.dim()) if d != dim % v.dim())
    return (v * v).sum(others, True).sqrt()


class WeightNorm(Before):
    """weight_g * weight_v / |weight_v|."""

    suffixes = ("_g", "_v")

    def weight(self, module: Any, training: bool) -> Tensor:
        g, v = self.parts(module)
        return v * (g / norm_except_dim(v, self.dim))


def weight_norm(module: Any, name: str = "weight", dim: int | None = 0) -> Any:
    """Weight normalization by a hook: `weight` from `weight_g` and `weight_v`; gives the module.

    `parametrizations.weight_norm` is the form to use.
    """
    warnings.warn(
        "`weight_norm` is deprecated in favor of `parametrizations.weight_norm`.", FutureWarning, stacklevel=2
    )  # fmt: skip
    hook = WeightNorm(name, -1 if dim is None else dim)
    weight = hook.attach(module)
    g = norm_except_dim(weight.detach(), hook.dim)
    module.register_parameter(name + "_g", Parameter(g))
    module.register_parameter(name + "_v", Parameter(weight.detach()))
    setattr(module, name, hook.weight(module, False))
    return module


def remove_weight_norm(module: Any, name: str = "weight") -> Any:
    """Make the weight of `weight_norm` a plain parameter again; gives the module."""
    return remove(WeightNorm, module, name, "weight_norm")


__all__ = ["WeightNorm", "remove_weight_norm", "weight_norm"]
