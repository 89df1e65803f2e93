"""Callbacks that are part of the training step, captured with it: what happens around the optimizer's step."""

from __future__ import annotations

from typing import Any

from ..autograd.modes import no_grad
from ..errors import KilnValueError, describe
from ..nn.utils import clip_grad_norm_, clip_grad_value_
from ..optim import Optimizer
from ..tensor import Tensor
from .callbacks import Callback, Logs


class GradientClipping(Callback):
    """Scales gradients so that their joint norm is at most `max_norm`, or clamps each to [-max_value, max_value]."""

    def __init__(
        self, max_norm: float | None = None, max_value: float | None = None, norm_type: float = 2.0
    ) -> None:
        if (max_norm is None) == (max_value is None):
            raise KilnValueError(
                "GradientClipping", "give max_norm or max_value", f"max_norm={max_norm}, max_value={max_value}",
                "e.g. GradientClipping(max_norm=1.0)",
            )  # fmt: skip
        self.max_norm, self.max_value, self.norm_type = max_norm, max_value, norm_type

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip."""
        params = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if self.max_norm is not None:
            clip_grad_norm_(params, self.max_norm, self.norm_type)
        else:
            assert self.max_value is not None
            clip_grad_value_(params, self.max_value)


class EMA(Callback):
    """Keeps an exponential moving average of the parameters: average * decay + parameter * (1 - decay) at each step.

    Validation sees the averages, and so does the model after training, as in Lightning. Buffers, such as batch
    norm's statistics, are the model's own. `average` holds the averages by parameter's name.
    """

    def __init__(self, decay: float = 0.999, validate: bool = True) -> None:
        if not 0.0 <= decay <= 1.0:
            raise KilnValueError("EMA", "the decay lies in [0, 1]", describe(decay), "e.g. 0.999")
        self.decay, self.validate = decay, validate
        self.average: dict[str, Tensor] = {}
        self._swapped = False

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        params = dict(self.model.named_parameters())
        return [(a, params[n]) for n, a in self.average.items()]

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Begin with the parameters as they are."""
        if not self.average:
            params = self.model.named_parameters()
            self.average = {n: p.detach().clone() for n, p in params if p.is_floating_point()}

    def on_after_optimizer_step(self, optimizer: Optimizer) -> None:
        """Take the new values in."""
        own = {id(p) for g in optimizer.param_groups for p in g["params"]}
        with no_grad():
            for average, p in self._pairs():
                if id(p) in own:
                    average.lerp_(p.detach(), 1 - self.decay)

    def _swap(self) -> None:
        with no_grad():
            for average, p in self._pairs():
                kept = p.detach().clone()
                p.copy_(average)
                average.copy_(kept)
        self._swapped = not self._swapped

    def on_test_begin(self, logs: Logs) -> None:
        """Let validation see the averages."""
        if self.validate and self.trainer.in_fit and self.average:
            self._swap()

    def on_test_end(self, logs: Logs) -> None:
        """Give the model its own values back."""
        if self._swapped:
            self._swap()

    def on_exception(self, error: BaseException) -> None:
        """The same."""
        if self._swapped:
            self._swap()

    def on_train_end(self, logs: Logs) -> None:
        """Leave the averages in the model."""
        if self._swapped:  # Ctrl-C in the middle of validation
            self._swap()
        with no_grad():
            for average, p in self._pairs():
                p.copy_(average)

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        return {"average": dict(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.average = dict(state["average"])


__all__ = ["EMA", "GradientClipping"]
