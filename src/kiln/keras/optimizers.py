"""Optimizers under Keras's names and with Keras's defaults; each becomes one of `kiln.optim`.

https://keras.io/api/optimizers/
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import optim
from ..errors import KilnValueError, describe
from ..nn.utils import clip_grad_norm_
from ..tensor import Tensor
from ..train import Callback, GradientClipping


class Optimizer:
    """An optimizer that does not know its parameters yet: called with them it makes that of `kiln.optim`."""

    kind: Any

    def __init__(
        self, learning_rate: float, weight_decay: float | None, clipnorm: float | None, clipvalue: float | None,
        global_clipnorm: float | None, **options: Any,
    ) -> None:  # fmt: skip
        self.learning_rate, self.options = learning_rate, options
        if weight_decay is not None:
            options["weight_decay"] = weight_decay
        self.clipnorm, self.clipvalue, self.global_clipnorm = clipnorm, clipvalue, global_clipnorm

    def __call__(self, params: Iterable[Tensor]) -> optim.Optimizer:
        return self.kind(params, lr=self.learning_rate, **self.options)

    def callbacks(self) -> list[Callback]:
        """What of it is done to gradients before."""
        if self.global_clipnorm is not None:
            return [GradientClipping(max_norm=self.global_clipnorm)]
        if self.clipvalue is not None:
            return [GradientClipping(max_value=self.clipvalue)]
        return [] if self.clipnorm is None else [_ClipEach(self.clipnorm)]


class _ClipEach(Callback):
    """Scales each parameter's gradient to a norm of at most so much."""

    def __init__(self, norm: float) -> None:
        self.norm = norm

    def on_before_optimizer_step(self, optimizer: optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    clip_grad_norm_([p], self.norm)


class SGD(Optimizer):
    """Stochastic gradient descent."""

    kind = optim.SGD

    def __init__(
        self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False,
        weight_decay: float | None = None, clipnorm: float | None = None, clipvalue: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, momentum=momentum, nesterov=nesterov
        )  # fmt: skip


class RMSprop(Optimizer):
    """Gradients over the root of their running mean square."""

    kind = optim.RMSprop

    def __init__(
        self, learning_rate: float = 0.001, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7,
        centered: bool = False, weight_decay: float | None = None, clipnorm: float | None = None,
        clipvalue: float | None = None, global_clipnorm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, alpha=rho, momentum=momentum,
            eps=epsilon, centered=centered,
        )  # fmt: skip


class Adam(Optimizer):
    """Adam; with `weight_decay` decoupled from the gradient, as Keras has it."""

    kind = optim.Adam

    def __init__(
        self, learning_rate: float = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        amsgrad: bool = False, weight_decay: float | None = None, clipnorm: float | None = None,
        clipvalue: float | None = None, global_clipnorm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, betas=(beta_1, beta_2), eps=epsilon,
            amsgrad=amsgrad,
        )  # fmt: skip
        if weight_decay:
            self.kind = optim.AdamW


class AdamW(Adam):
    """Adam with decoupled weight decay."""

    kind = optim.AdamW

    def __init__(
        self, learning_rate: float = 0.001, weight_decay: float = 0.004, beta_1: float = 0.9, beta_2: float = 0.999,
        epsilon: float = 1e-7, amsgrad: bool = False, clipnorm: float | None = None,
        clipvalue: float | None = None, global_clipnorm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, clipnorm, clipvalue, global_clipnorm
        )  # fmt: skip


class Adamax(Optimizer):
    """Adam by the largest gradient."""

    kind = optim.Adamax

    def __init__(
        self, learning_rate: float = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        weight_decay: float | None = None, clipnorm: float | None = None, clipvalue: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, betas=(beta_1, beta_2), eps=epsilon
        )  # fmt: skip


class Nadam(Adamax):
    """Adam with Nesterov's momentum."""

    kind = optim.NAdam


class Adagrad(Optimizer):
    """Gradients over the root of the sum of their squares."""

    kind = optim.Adagrad

    def __init__(
        self, learning_rate: float = 0.001, initial_accumulator_value: float = 0.1, epsilon: float = 1e-7,
        weight_decay: float | None = None, clipnorm: float | None = None, clipvalue: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm,
            initial_accumulator_value=initial_accumulator_value, eps=epsilon,
        )  # fmt: skip


class Adadelta(Optimizer):
    """Adagrad without a rate to choose."""

    kind = optim.Adadelta

    def __init__(
        self, learning_rate: float = 0.001, rho: float = 0.95, epsilon: float = 1e-7,
        weight_decay: float | None = None, clipnorm: float | None = None, clipvalue: float | None = None,
        global_clipnorm: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, rho=rho, eps=epsilon
        )  # fmt: skip


_KINDS = (SGD, RMSprop, Adam, AdamW, Adamax, Nadam, Adagrad, Adadelta)
BY_NAME: dict[str, type[Optimizer]] = {c.__name__.lower(): c for c in _KINDS}


def get(optimizer: Any) -> Any:
    """What a Trainer takes for an optimizer: one of these by name or as it is, or one of `kiln.optim`."""
    if isinstance(optimizer, str) and optimizer.lower() in BY_NAME:
        return BY_NAME[optimizer.lower()]()  # type: ignore[call-arg]
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return optimizer()  # type: ignore[call-arg]
    if isinstance(optimizer, Optimizer | optim.Optimizer):
        return optimizer
    raise KilnValueError(
        "compile", "no optimizer has this name", describe(optimizer),
        "one of " + ", ".join(BY_NAME) + ", or an optimizer",
    )  # fmt: skip


__all__ = [*(c.__name__ for c in _KINDS), "Optimizer", "get"]  # pyright: ignore[reportUnsupportedDunderAll]
