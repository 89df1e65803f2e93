"""Weight and spectral normalization in their older form: a hook that sets the weight before each forward.

https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.spectral_norm.html
"""

from __future__ import annotations

import warnings
from typing import Any

from ...autograd.modes import no_grad
from ...errors import KilnError, KilnValueError, describe
from ...ops.linear import normalize
from ...tensor import Tensor
from ..module import Module
from ..parameter import Parameter, is_lazy
from .parametrizations import natural_dim, norm_except_dim


class _Before:
    """A forward hook that computes a weight from other parameters and buffers of its module."""

    suffixes: tuple[str, ...]

    def __init__(self, name: str, dim: int):
        self.name, self.dim = name, dim

    def __call__(self, module: Any, inputs: Any) -> None:
        setattr(module, self.name, self.weight(module, module.training))

    def weight(self, module: Any, training: bool) -> Tensor:
        raise NotImplementedError

    def parts(self, module: Any) -> list[Tensor]:
        """What the weight is computed from."""
        return [getattr(module, self.name + s) for s in self.suffixes]

    def attach(self, module: Any) -> Tensor:
        """Take the plain parameter away from the module and give it."""
        kind, name = type(self), self.name
        if any(
            type(h.fn) is kind and h.fn.name == name for h in module._forward_pre_hooks.values()
        ):
            raise KilnError(
                kind.__name__, f"Cannot register two {kind.__name__} hooks on the same parameter {name}", None, ""
            )  # fmt: skip
        weight = module._parameters[name]
        if weight is None or is_lazy(weight):
            what = "None" if weight is None else "uninitialized: run a forward first"
            raise KilnValueError(
                kind.__name__, f"cannot be applied as parameter `{name}` is {what}", None, ""
            )
        delattr(module, name)
        module.register_forward_pre_hook(self)
        return weight

    def detach(self, module: Any) -> None:
        """Give the module the weight as a plain parameter again."""
        with no_grad():
            weight = self.weight(module, False)
        for name in ("", *self.suffixes):
            delattr(module, self.name + name)
        module.register_parameter(self.name, Parameter(weight.detach()))


class WeightNorm(_Before):
    """weight_g * weight_v / |weight_v|."""

    suffixes = ("_g", "_v")

    def weight(self, module: Any, training: bool) -> Tensor:
        g, v = self.parts(module)
        return v * (g / norm_except_dim(v, self.dim))


class SpectralNorm(_Before):
    """weight_orig over its largest singular value."""

    suffixes = ("_orig", "_u", "_v")

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float):
        if n_power_iterations <= 0:
            raise KilnValueError(
                "spectral_norm", "Expected n_power_iterations to be positive, but got "
                f"n_power_iterations={n_power_iterations}", n_power_iterations, "",
            )  # fmt: skip
        super().__init__(name, dim)
        self.n_power_iterations, self.eps = n_power_iterations, eps

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight with `dim` as its rows."""
        return weight.movedim(self.dim, 0).flatten(1)

    def weight(self, module: Any, training: bool) -> Tensor:
        weight, u, v = self.parts(module)
        matrix = self.matrix(weight)
        if training:
            with no_grad():
                for _ in range(self.n_power_iterations):
                    v.copy_(normalize(matrix.mT.mv(u), dim=0, eps=self.eps))
                    u.copy_(normalize(matrix.mv(v), dim=0, eps=self.eps))
        u, v = u.clone(), v.clone()  # the next iteration writes to them before backward
        return weight / u.dot(matrix.mv(v))


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


def spectral_norm(
    module: Any, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Any:  # fmt: skip
    """Spectral normalization by a hook: `weight` from `weight_orig`, `weight_u` and `weight_v`; gives the module.

    `parametrizations.spectral_norm` is the form to use.
    """
    hook = SpectralNorm(name, n_power_iterations, natural_dim(module) if dim is None else dim, eps)
    weight = hook.attach(module)
    module.register_parameter(name + "_orig", weight)
    setattr(module, name, weight.detach())
    matrix = hook.matrix(weight.detach())
    for suffix, size in zip(("_u", "_v"), matrix.shape, strict=True):
        start = matrix.new_empty(size).normal_()
        module.register_buffer(name + suffix, normalize(start, dim=0, eps=eps))
    return module


def _remove(kind: type[_Before], module: Module, name: str, what: str) -> Any:
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook.fn, kind) and hook.fn.name == name:
            hook.fn.detach(module)
            del module._forward_pre_hooks[key]
            return module
    raise KilnValueError(f"remove_{what}", f"{what} of '{name}' not found in {module}", describe(name), "")  # fmt: skip


def remove_weight_norm(module: Any, name: str = "weight") -> Any:
    """Make the weight of `weight_norm` a plain parameter again; gives the module."""
    return _remove(WeightNorm, module, name, "weight_norm")


def remove_spectral_norm(module: Any, name: str = "weight") -> Any:
    """Make the weight of `spectral_norm` a plain parameter again; gives the module."""
    return _remove(SpectralNorm, module, name, "spectral_norm")
