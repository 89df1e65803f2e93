"""Normalization.

https://keras.io/api/layers/normalization_layers/
"""

from __future__ import annotations

from typing import Any

from ...autograd.modes import no_grad
from ...nn import functional as F
from ...ops.statistics import var_mean
from ...tensor import Tensor
from ..layer import Layer
from .core import Wrapper


class _Scaled(Layer):
    """What has a gain `gamma` and an offset `beta`."""

    supports_masking = True

    def __init__(
        self, center: bool = True, scale: bool = True, beta_initializer: Any = "zeros", gamma_initializer: Any = "ones",
        beta_regularizer: Any = None, gamma_regularizer: Any = None, beta_constraint: Any = None, gamma_constraint: Any = None,
        **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(**common)
        self.center, self.scale = center, scale
        self._beta = beta_initializer, beta_regularizer, beta_constraint
        self._gamma = gamma_initializer, gamma_regularizer, gamma_constraint

    def own(self, shape: tuple) -> None:
        """Make them."""
        self.gamma = self.add_weight(shape, self._gamma[0], None, True, *self._gamma[1:], name="gamma") if self.scale else None  # fmt: skip
        self.beta = self.add_weight(shape, self._beta[0], None, True, *self._beta[1:], name="beta") if self.center else None  # fmt: skip


class BatchNormalization(_Scaled):
    """(x - mean) / √(variance + epsilon) * gamma + beta, by the batch's statistics in training and by running ones else.

    Where it is not `trainable` it always takes the running ones, as in Keras.
    """

    def __init__(
        self, axis: int = -1, momentum: float = 0.99, epsilon: float = 1e-3, center: bool = True, scale: bool = True,
        beta_initializer: Any = "zeros", gamma_initializer: Any = "ones", moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones", beta_regularizer: Any = None, gamma_regularizer: Any = None,
        beta_constraint: Any = None, gamma_constraint: Any = None, synchronized: bool = False, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            center, scale, beta_initializer, gamma_initializer, beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint, **common
        )  # fmt: skip
        self.axis, self.momentum, self.epsilon = axis, momentum, epsilon
        self._moving = moving_mean_initializer, moving_variance_initializer

    def build(self, input_shape: Any) -> None:
        shape = (input_shape[self.axis],)
        self.own(shape)
        self.moving_mean = self.add_weight(shape, self._moving[0], None, False, name="moving_mean")
        self.moving_variance = self.add_weight(shape, self._moving[1], None, False, name="moving_variance")  # fmt: skip

    def call(self, inputs: Tensor, training: bool = False, mask: Any = None) -> Tensor:
        x = inputs.movedim(self.axis, 1)
        if not (training and self.trainable):
            y = F.batch_norm(x, self.moving_mean, self.moving_variance, self.gamma, self.beta, False, 0.0, self.epsilon)  # fmt: skip
            return y.movedim(1, self.axis)
        dims = [i for i in range(x.ndim) if i != 1]
        if mask is None:
            with no_grad():
                variance, mean = var_mean(x, dims, correction=0)
            y = F.batch_norm(x, None, None, self.gamma, self.beta, True, 0.0, self.epsilon)
        else:
            w = mask.to(x.dtype).reshape(mask.shape[0], 1, *mask.shape[1:])
            w = w.reshape(*w.shape, *(1,) * (x.ndim - w.ndim))
            w = w.expand(x.shape[0], 1, *x.shape[2:])
            wide = (1, -1, *(1,) * (x.ndim - 2))
            n = w.sum() + 1e-7
            mean = (x * w).sum(dims) / n
            variance = ((x - mean.reshape(wide)).square() * w).sum(dims) / n
            y = F.batch_norm(x, mean, variance, self.gamma, self.beta, False, 0.0, self.epsilon)
        with no_grad():
            for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.mul_(self.momentum).add_(now.detach() * (1 - self.momentum))
        return y.movedim(1, self.axis)


class LayerNormalization(_Scaled):
    """Each sample by its own mean and variance along `axis`."""

    def __init__(
        self, axis: Any = -1, epsilon: float = 1e-3, center: bool = True, scale: bool = True, beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones", beta_regularizer: Any = None, gamma_regularizer: Any = None, beta_constraint: Any = None,
        gamma_constraint: Any = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            center, scale, beta_initializer, gamma_initializer, beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint, **common
        )  # fmt: skip
        self.axis, self.epsilon = axis, epsilon

    def build(self, input_shape: Any) -> None:
        axes = [self.axis] if isinstance(self.axis, int) else list(self.axis)
        self.axes = sorted(a % len(input_shape) for a in axes)
        self.own(tuple(input_shape[a] for a in self.axes))

    def call(self, inputs: Tensor) -> Tensor:
        n, sizes = inputs.ndim, [inputs.shape[a] for a in self.axes]
        if self.axes == list(range(n - len(sizes), n)):
            return F.layer_norm(inputs, sizes, self.gamma, self.beta, self.epsilon)
        variance, mean = var_mean(inputs, self.axes, correction=0, keepdim=True)
        y = (inputs - mean) / (variance + self.epsilon).sqrt()
        wide = [inputs.shape[i] if i in self.axes else 1 for i in range(n)]
        y = y if self.gamma is None else y * self.gamma.reshape(wide)
        return y if self.beta is None else y + self.beta.reshape(wide)


class GroupNormalization(_Scaled):
    """Each sample by the mean and variance of groups of channels."""

    def __init__(
        self, groups: int = 32, axis: int = -1, epsilon: float = 1e-3, center: bool = True, scale: bool = True,
        beta_initializer: Any = "zeros", gamma_initializer: Any = "ones", beta_regularizer: Any = None, gamma_regularizer: Any = None,
        beta_constraint: Any = None, gamma_constraint: Any = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            center, scale, beta_initializer, gamma_initializer, beta_regularizer, gamma_regularizer, beta_constraint, gamma_constraint, **common
        )  # fmt: skip
        self.groups, self.axis, self.epsilon = groups, axis, epsilon

    def build(self, input_shape: Any) -> None:
        n = input_shape[self.axis]
        self.groups = n if self.groups == -1 else self.groups
        self.own((n,))

    def call(self, inputs: Tensor) -> Tensor:
        x = inputs.movedim(self.axis, 1)
        return F.group_norm(x, self.groups, self.gamma, self.beta, self.epsilon).movedim(1, self.axis)  # fmt: skip


class RMSNormalization(Layer):
    """x by the root of the mean of its squares, times `scale`."""

    supports_masking = True

    def __init__(self, axis: Any = -1, epsilon: float = 1e-6, **common: Any) -> None:
        super().__init__(**common)
        self.axis, self.epsilon = axis if isinstance(axis, int) else axis[0], epsilon

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight((input_shape[self.axis],), "ones", name="scale")

    def call(self, inputs: Tensor) -> Tensor:
        x = inputs.movedim(self.axis, -1)
        return F.rms_norm(x, [x.shape[-1]], self.scale, self.epsilon).movedim(-1, self.axis)


class UnitNormalization(Layer):
    """Vectors along `axis` of length 1."""

    supports_masking = True

    def __init__(self, axis: Any = -1, **common: Any) -> None:
        super().__init__(**common)
        self.axis = axis

    def call(self, inputs: Tensor) -> Tensor:
        return inputs / inputs.square().sum(self.axis, keepdim=True).clamp(min=1e-12).sqrt()


class SpectralNormalization(Wrapper):
    """A layer whose kernel is divided by its largest singular value, found by `power_iterations` a step."""

    def __init__(self, layer: Any, power_iterations: int = 1, **common: Any) -> None:
        super().__init__(layer, **common)
        self.power_iterations = power_iterations

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.__dict__["built"] = True
        self._of = "embeddings" if hasattr(self.layer, "embeddings") else "kernel"
        n = getattr(self.layer, self._of).shape[-1]
        self.vector_u = self.add_weight((1, n), "truncated_normal", trainable=False, name="vector_u")  # fmt: skip

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if training:
            kernel = getattr(self.layer, self._of)
            with no_grad():
                w, u = kernel.detach().reshape(-1, kernel.shape[-1]), self.vector_u.detach()
                v = u
                for _ in range(self.power_iterations):
                    v = F.normalize(u @ w.T, dim=-1, eps=1e-6)
                    u = F.normalize(v @ w, dim=-1, eps=1e-6)
                sigma = (v @ w @ u.T).reshape(())
                self.vector_u.copy_(u)
                kernel.copy_(kernel / sigma)
        return self.layer(inputs)


__all__ = [
    "BatchNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization", "SpectralNormalization", "UnitNormalization",
]  # fmt: skip
