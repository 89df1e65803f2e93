"""Parametrizations of weights: orthogonal ones, weight normalization and spectral normalization.

https://docs.pytorch.org/docs/stable/nn.html#parametrizations
"""

from __future__ import annotations

from typing import Any

from ...autograd.modes import no_grad
from ...errors import KilnIndexError, KilnNotImplementedError, KilnValueError, describe
from ...linalg import householder_product, matrix_exp, qr, solve
from ...ops.creation import eye
from ...ops.drawing import randn
from ...ops.joining import cat
from ...ops.linear import normalize
from ...ops.orthogonal import geqrf
from ...tensor import Tensor
from ..modules.module import Module
from .parametrize import register_parametrization
from .spectral_norm import natural_dim
from .weight_norm import norm_except_dim

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]


class _WeightNorm(Module):
    """weight_g * weight_v / |weight_v|."""

    def __init__(self, dim: int | None = 0):
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_v * (weight_g / norm_except_dim(weight_v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except_dim(weight, self.dim), weight


def weight_norm(module: Any, name: str = "weight", dim: int | None = 0) -> Any:
    """Part a weight into its norm (along all dimensions but `dim`, or all for None) and its direction; gives the module.

    Salimans and Kingma, 2016, "Weight normalization". State dicts of the older form (`weight_g`,
    `weight_v`) can be loaded.
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def rename(state_dict: dict, prefix: str, *_: Any) -> None:
        old = [f"{prefix}{name}_{letter}" for letter in "gv"]
        if all(k in state_dict for k in old):
            for i, k in enumerate(old):
                state_dict[f"{prefix}parametrizations.{name}.original{i}"] = state_dict.pop(k)

    module._register_load_state_dict_pre_hook(rename)
    return module


class _SpectralNorm(Module):
    """weight over its largest singular value, which power iteration finds."""

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12):  # fmt: skip
        super().__init__()
        n = weight.dim()
        if not -n <= dim < n:
            raise KilnIndexError(
                "spectral_norm", f"Dimension out of range (expected to be in range of [-{n}, {n - 1}] but got {dim})",
                describe(weight), "",
            )  # fmt: skip
        if n_power_iterations <= 0:
            raise KilnValueError(
                "spectral_norm", "Expected n_power_iterations to be positive, but got "
                f"n_power_iterations={n_power_iterations}", n_power_iterations, "",
            )  # fmt: skip
        self.dim, self.eps = dim % n, eps
        if n > 1:
            self.n_power_iterations = n_power_iterations
            matrix = self._matrix(weight.detach())
            for buffer, size in zip(("_u", "_v"), matrix.shape, strict=True):
                start = matrix.new_empty(size).normal_()
                self.register_buffer(buffer, normalize(start, dim=0, eps=eps))
            self._iterate(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).flatten(1)

    def _iterate(self, matrix: Tensor, times: int) -> None:
        with no_grad():
            for _ in range(times):
                self._u.copy_(normalize(matrix.mv(self._v), dim=0, eps=self.eps))
                self._v.copy_(normalize(matrix.mH.mv(self._u), dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix.detach(), self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()  # the next iteration writes to them before backward
        return weight / u.vdot(matrix.mv(v))

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: Any, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Any:  # fmt: skip
    """Divide a weight by its largest singular value as a matrix of `dim` by the rest; gives the module.

    Miyato et al., 2018, "Spectral normalization for generative adversarial networks". Each training
    forward improves the singular value by `n_power_iterations`.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise KilnValueError(
            "spectral_norm", f"Module '{module}' has no parameter or buffer with name '{name}'", describe(weight), ""
        )  # fmt: skip
    rows = natural_dim(module) if dim is None else dim
    parametrization = _SpectralNorm(weight, n_power_iterations, rows, eps)
    return register_parametrization(module, name, parametrization)


_MAPS = ("matrix_exp", "cayley", "householder")


class _Orthogonal(Module):
    """Matrices with orthonormal columns, or rows where those are fewer, from any numbers below the diagonal."""

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool = True):
        super().__init__()
        if weight.is_complex() and orthogonal_map == "householder":
            raise KilnValueError(
                "orthogonal", "The householder parametrization does not support complex tensors.", describe(weight),
                "use orthogonal_map='matrix_exp'",
            )  # fmt: skip
        self.shape, self.orthogonal_map = weight.shape, orthogonal_map
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, X: Tensor) -> Tensor:
        wide = X.shape[-2] < X.shape[-1]
        X = X.mT if wide else X
        n, k = X.shape[-2:]
        if self.orthogonal_map == "householder":
            below = X.tril(-1)
            tau = 2.0 / (1.0 + (below * below).sum(-2))
            q = householder_product(below, tau) * X.diagonal(0, -2, -1).int().unsqueeze(-2)
        else:
            X = X.tril()
            X = cat([X, X.new_zeros((*X.shape[:-1], n - k))], -1) if n != k else X
            skew = X - X.mH
            if self.orthogonal_map == "matrix_exp":
                q = matrix_exp(skew)
            else:
                one = eye(n, dtype=skew.dtype)
                q = solve(one - skew * 0.5, one + skew * 0.5)
            q = q[..., :k]
        if hasattr(self, "base"):
            q = self.base @ q
        return q.mT if wide else q

    def right_inverse(self, Q: Tensor) -> Tensor:
        """The numbers that give Q, made orthogonal first."""
        if Q.shape != self.shape:
            raise KilnValueError(
                "orthogonal", f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of shape "
                f"{Q.shape}.", describe(Q), "",
            )  # fmt: skip
        with no_grad():
            wide = Q.shape[-2] < Q.shape[-1]
            tall = Q.mT if wide else Q
            n, k = tall.shape[-2:]
            if hasattr(self, "base"):
                more = randn(*tall.shape[:-1], n - k, dtype=Q.dtype)
                factor, r = qr(cat([tall, more], -1) if n != k else tall)
                self.base = factor * r.diagonal(0, -2, -1).sgn().unsqueeze(-2)
                return -eye(*Q.shape[-2:], dtype=Q.dtype).expand(Q.shape).contiguous()
            if self.orthogonal_map != "householder":
                raise KilnNotImplementedError(
                    "orthogonal", "It is not possible to assign to the matrix exponential or the Cayley parametrizations "
                    "when use_trivialization=False.", self.orthogonal_map, "use_trivialization=True",
                )  # fmt: skip
            a, tau = geqrf(tall)
            diagonal = a.diagonal(0, -2, -1)
            signs = diagonal.sign() * (1 - 2 * (tau == 0).to(Q.dtype))
            a = a.diagonal_scatter(signs, 0, -2, -1)
            return a.mT if wide else a


def orthogonal(
    module: Any, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> Any:  # fmt: skip
    """Keep a weight orthogonal (orthonormal columns, or rows) while it is trained; gives the module.

    `orthogonal_map` is "matrix_exp" or "cayley" of a skew matrix, or a product of "householder"
    reflections; `use_trivialization` moves from the present weight, which it can then be set to
    (Lezcano-Casado, 2019, "Trivializations for gradient-based optimization on manifolds").
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise KilnValueError(
            "orthogonal", f"Module '{module}' has no parameter or buffer with name '{name}'", describe(weight), ""
        )  # fmt: skip
    if weight.dim() < 2:
        raise KilnValueError(
            "orthogonal", f"Expected a matrix or batch of matrices. Got a tensor of {weight.dim()} dimensions.",
            describe(weight), "",
        )  # fmt: skip
    if orthogonal_map is None:
        square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if square or weight.is_complex() else "householder"
    if orthogonal_map not in _MAPS:
        raise KilnValueError(
            "orthogonal", 'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". '
            f"Got: {orthogonal_map}", orthogonal_map, "",
        )  # fmt: skip
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return register_parametrization(module, name, made, unsafe=True)
