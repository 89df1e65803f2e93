"""Spectral normalization in its older form, a hook; `parametrizations.spectral_norm` is the form to use.

https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.spectral_norm.html
"""

from __future__ import annotations

from typing import Any

from ...autograd.modes import no_grad
from ...errors import KilnValueError
from ...ops.linear import normalize
from ...tensor import Tensor
from ..modules.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from ._before import Before, remove


def natural_dim(module: Any) -> int:
    """The dimension of a layer's weight that belongs to its outputs."""
    return int(isinstance(module, ConvTranspose1d | ConvTranspose2d | ConvTranspose3d))


class SpectralNorm(Before):
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


def remove_spectral_norm(module: Any, name: str = "weight") -> Any:
    """Make the weight of `spectral_norm` a plain parameter again; gives the module."""
    return remove(SpectralNorm, module, name, "spectral_norm")


__all__ = ["SpectralNorm", "remove_spectral_norm", "spectral_norm"]
