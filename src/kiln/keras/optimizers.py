"""Optimizers under Keras's names, with Keras's defaults and formulas; each becomes one of `kiln.optim`.

Weight decay is decoupled from the gradient in all of them, as in Keras.

https://keras.io/api/optimizers/
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from .. import optim
from ..autograd.modes import no_grad
from ..errors import KilnAttributeError, KilnTypeError, KilnValueError, describe
from ..nn.utils import clip_grad_norm_
from ..optim.lr_scheduler.base import set_option
from ..tensor import Tensor
from ..train import EMA, Callback, GradientClipping
from . import rules, schedules
from .configured import Configured
from .schedules import LearningRateSchedule

if TYPE_CHECKING:
    from ..train import Trainer

Rate = float | LearningRateSchedule


class Beside(TypedDict, total=False):
    """What all optimizers take, as in Keras; `loss_scale_factor` changes nothing in 32 bits."""

    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None


class Shared(Beside, total=False):
    """What all but AdamW take by name."""

    weight_decay: float | None


class Optimizer(Configured):
    """An optimizer that does not know its parameters yet: called with them it makes that of `kiln.optim`, whose attributes
    it has from then on.
    """

    kind: Any

    def __init__(self, learning_rate: Rate, shared: Shared, **options: Any) -> None:
        names = {*Beside.__annotations__, *Shared.__annotations__}
        unknown = set(shared) - names
        if unknown:
            raise KilnTypeError(
                type(self).__name__, "there is no such option", describe(min(unknown)), "one of " + ", ".join(sorted(names))
            )  # fmt: skip
        if sum(shared.get(n) is not None for n in ("clipnorm", "clipvalue", "global_clipnorm")) > 1:
            raise KilnValueError(type(self).__name__, "gradients are clipped in one way", describe(dict(shared)), "give one of clipnorm, clipvalue and global_clipnorm")  # fmt: skip
        self._rate, self.options, self.shared = learning_rate, options, shared
        self.made: optim.Optimizer | None = None
        self._applied = 0
        self.trainer: Trainer | None = None
        self.name = shared.get("name") or type(self).__name__.lower()

    def __call__(self, params: Iterable[Tensor]) -> optim.Optimizer:
        decay = self.shared.get("weight_decay") or 0.0
        made = self.kind(params, lr=self.learning_rate, weight_decay=decay, **self.options)
        for options in (made.defaults, *made.param_groups):
            options["decoupled_weight_decay"] = True
        self.made = made
        return made

    def __getattr__(self, name: str) -> Any:
        made = self.__dict__.get("made")
        if made is None:
            raise KilnAttributeError(
                type(self).__name__, f"there is no attribute {name!r} before training", repr(name), "its parameters come with model.fit"
            )  # fmt: skip
        return getattr(made, name)

    def apply(self, grads: Iterable[Tensor | None], trainable_variables: Iterable[Tensor] | None = None) -> None:  # fmt: skip
        """A step with given gradients, in the order of the variables: those it was made for, or at its first step is made for now."""
        variables = None if trainable_variables is None else list(trainable_variables)
        if self.made is None:
            self(variables or ())
        for p, g in zip(variables or (p for group in self.made.param_groups for p in group["params"]), grads, strict=True):  # type: ignore[union-attr] # fmt: skip
            p.grad = g
        if self.trainer is not None:
            self.trainer.steps.update()
        else:
            self._applied += 1
            self.made.step()  # type: ignore[union-attr]

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Tensor | None, Tensor]]) -> None:
        """The same for pairs (gradient, variable)."""
        grads, variables = zip(*grads_and_vars, strict=True)
        self.apply(grads, variables)

    def build(self, variables: Iterable[Tensor]) -> None:
        """Be made for variables."""
        self(list(variables))

    def get_config(self) -> dict[str, Any]:
        """What it was made with, with the present learning rate."""
        rate = self._rate if isinstance(self._rate, LearningRateSchedule) else self.learning_rate
        return {"name": self.name, **super().get_config(), "learning_rate": rate}

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """One like that which gave the config."""
        return cls(**{k: v for k, v in config.items() if v is not None})

    @property
    def iterations(self) -> int:
        """How many steps it has made."""
        return self._applied if self.trainer is None else self.trainer.updates

    @property
    def learning_rate(self) -> float:
        """The learning rate; where it is a schedule, that of the next step."""
        if isinstance(self._rate, LearningRateSchedule):
            return float(self._rate(self.iterations))
        return self._rate if self.made is None else float(self.made.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: Rate) -> None:
        if isinstance(self._rate, LearningRateSchedule) and not isinstance(value, LearningRateSchedule):  # fmt: skip
            raise KilnTypeError(
                type(self).__name__, "the learning rate is a schedule's, and can't be set", describe(value), "make it with a number as its learning_rate"
            )  # fmt: skip
        self._rate = value
        self.hand_over()

    def hand_over(self) -> None:
        """Give what it made the present learning rate."""
        if self.made is not None:
            rate = self._rate if not isinstance(self._rate, LearningRateSchedule) else self.learning_rate  # fmt: skip
            for group in self.made.param_groups:
                set_option(group, "lr", float(rate))

    @property
    def accumulate(self) -> int:
        """Over how many batches gradients are added up for a step."""
        return self.shared.get("gradient_accumulation_steps") or 1

    def callbacks(self) -> list[Callback]:
        """What of it is done around steps."""
        s = self.shared
        found: list[Callback] = []
        if isinstance(self._rate, LearningRateSchedule):
            found.append(Scheduled(self))
        if (norm := s.get("global_clipnorm")) is not None:
            found.append(GradientClipping(max_norm=norm))
        if (value := s.get("clipvalue")) is not None:
            found.append(GradientClipping(max_value=value))
        if (norm := s.get("clipnorm")) is not None:
            found.append(_ClipEach(norm))
        if s.get("use_ema"):
            found.append(Averaged(s.get("ema_momentum", 0.99), s.get("ema_overwrite_frequency")))
        return found


class Scheduled(Callback):
    """Gives each step the learning rate of a schedule."""

    def __init__(self, owner: Optimizer) -> None:
        self.owner = owner

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.owner.hand_over()


class _ClipEach(Callback):
    """Scales each parameter's gradient to a norm of at most so much."""

    def __init__(self, norm: float) -> None:
        self.norm = norm

    def on_before_optimizer_step(self, optimizer: optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    clip_grad_norm_([p], self.norm)


class Averaged(EMA):
    """Keras's average: it begins with the first step's parameters, and becomes them every so many steps and at the end."""

    def __init__(self, momentum: float, frequency: int | None) -> None:
        super().__init__(momentum, validate=False)
        self.frequency = frequency

    exchange = EMA._swap

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.trainer.updated:
            return
        n = self.trainer.updates
        with no_grad():
            for average, p in self._pairs():
                if n == 1:
                    average.copy_(p)
                elif self.frequency and n % self.frequency == 0:
                    p.copy_(average)


class SGD(Optimizer):
    """Stochastic gradient descent."""

    kind = rules.SGD

    def __init__(
        self, learning_rate: Rate = 0.01, momentum: float = 0.0, nesterov: bool = False, **shared: Unpack[Shared]
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, shared, momentum=momentum, nesterov=nesterov)


class RMSprop(Optimizer):
    """Gradients over the root of their running mean square."""

    kind = rules.RMSprop

    def __init__(
        self, learning_rate: Rate = 0.001, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7,
        centered: bool = False, **shared: Unpack[Shared],
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, shared, alpha=rho, momentum=momentum, eps=epsilon, centered=centered)  # fmt: skip


class Adam(Optimizer):
    """Adam."""

    kind = optim.Adam

    def __init__(
        self, learning_rate: Rate = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        amsgrad: bool = False, **shared: Unpack[Shared],
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, shared, betas=(beta_1, beta_2), eps=epsilon, amsgrad=amsgrad)  # fmt: skip


class AdamW(Adam):
    """Adam with weight decay."""

    kind = optim.AdamW

    def __init__(
        self, learning_rate: Rate = 0.001, weight_decay: float | None = 0.004, beta_1: float = 0.9, beta_2: float = 0.999,
        epsilon: float = 1e-7, amsgrad: bool = False, **shared: Unpack[Beside],
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **shared)  # fmt: skip


class Adamax(Optimizer):
    """Adam by the largest gradient."""

    kind = optim.Adamax

    def __init__(
        self, learning_rate: Rate = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        **shared: Unpack[Shared],
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, shared, betas=(beta_1, beta_2), eps=epsilon)


class Nadam(Optimizer):
    """Adam with Nesterov's momentum, which grows from half of `beta_1` by 0.96 a step."""

    kind = optim.NAdam

    def __init__(
        self, learning_rate: Rate = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        **shared: Unpack[Shared],
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, shared, betas=(beta_1, beta_2), eps=epsilon, momentum_decay=1.0)  # fmt: skip


class Adagrad(Optimizer):
    """Gradients over the root of the sum of their squares."""

    kind = optim.Adagrad

    def __init__(
        self, learning_rate: Rate = 0.001, initial_accumulator_value: float = 0.1, epsilon: float = 1e-7,
        **shared: Unpack[Shared],
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, shared, initial_accumulator_value=initial_accumulator_value, eps=epsilon)  # fmt: skip


class Adadelta(Optimizer):
    """Adagrad without a rate to choose."""

    kind = optim.Adadelta

    def __init__(
        self, learning_rate: Rate = 0.001, rho: float = 0.95, epsilon: float = 1e-7, **shared: Unpack[Shared]
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, shared, rho=rho, eps=epsilon)


class Lion(Optimizer):
    """Steps of one size, by the sign of a running mean of gradients."""

    kind = rules.Lion

    def __init__(
        self, learning_rate: Rate = 0.001, beta_1: float = 0.9, beta_2: float = 0.99, **shared: Unpack[Shared]
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, shared, beta_1=beta_1, beta_2=beta_2)


class Ftrl(Optimizer):
    """Follow the regularized leader."""

    kind = rules.Ftrl

    def __init__(
        self, learning_rate: Rate = 0.001, learning_rate_power: float = -0.5, initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0, l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0, beta: float = 0.0, **shared: Unpack[Shared],
    ) -> None:  # fmt: skip
        super().__init__(
            learning_rate, shared, learning_rate_power=learning_rate_power, initial_accumulator_value=initial_accumulator_value,
            l1=l1_regularization_strength, l2=l2_regularization_strength, l2_shrinkage=l2_shrinkage_regularization_strength, beta=beta,
        )  # fmt: skip


class Lamb(Optimizer):
    """Adam's step as long as each parameter's norm."""

    kind = rules.Lamb

    def __init__(
        self, learning_rate: Rate = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7,
        **shared: Unpack[Shared],
    ) -> None:  # fmt: skip
        super().__init__(learning_rate, shared, beta_1=beta_1, beta_2=beta_2, eps=epsilon)


_KINDS = (SGD, RMSprop, Adam, AdamW, Adamax, Nadam, Adagrad, Adadelta, Lion, Ftrl, Lamb)
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


__all__ = [*(c.__name__ for c in _KINDS), "Optimizer", "get", "schedules"]  # pyright: ignore[reportUnsupportedDunderAll]
