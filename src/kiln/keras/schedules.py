"""Learning rates as functions of the step, under Keras's names: `Adam(learning_rate=CosineDecay(1e-3, 10_000))`.

https://keras.io/api/optimizers/learning_rate_schedules/
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import KilnValueError, describe
from .configured import Configured


class LearningRateSchedule(Configured):
    """Override `__call__(step)`: the learning rate of a step of the optimizer, counted from 0."""

    def __call__(self, step: int) -> float:
        raise NotImplementedError


class _Decay(LearningRateSchedule):
    """From `initial_learning_rate`, by how many times `decay_steps` steps have gone: in whole ones if `staircase`."""

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False,
        name: str | None = None,
    ) -> None:  # fmt: skip
        if decay_steps <= 0:
            raise KilnValueError(type(self).__name__, "decay_steps is a number of steps", describe(decay_steps), "at least 1")  # fmt: skip
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.decay_rate, self.staircase, self.name = decay_rate, staircase, name

    def _times(self, step: int) -> float:
        times = step / self.decay_steps
        return math.floor(times) if self.staircase else times


class ExponentialDecay(_Decay):
    """initial_learning_rate * decay_rate^(step / decay_steps)."""

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate * self.decay_rate ** self._times(step)


class InverseTimeDecay(_Decay):
    """initial_learning_rate / (1 + decay_rate * step / decay_steps)."""

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate / (1 + self.decay_rate * self._times(step))


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[0] up to and with the step boundaries[0], then values[1], and so on; one value more than boundaries."""

    def __init__(
        self, boundaries: Sequence[float], values: Sequence[float], name: str | None = None
    ) -> None:
        if len(boundaries) + 1 != len(values):
            raise KilnValueError(
                "PiecewiseConstantDecay", "there is one value more than boundaries",
                f"{len(boundaries)} boundaries, {len(values)} values", "PiecewiseConstantDecay([100], [0.1, 0.01])",
            )  # fmt: skip
        self.boundaries, self.values, self.name = list(boundaries), list(values), name

    def __call__(self, step: int) -> float:
        return self.values[sum(step > b for b in self.boundaries)]


class PolynomialDecay(LearningRateSchedule):
    """From `initial_learning_rate` to `end_learning_rate` in `decay_steps`; with `cycle` down again in twice, three times as many."""

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, end_learning_rate: float = 1e-4, power: float = 1.0,
        cycle: bool = False, name: str | None = None,
    ) -> None:  # fmt: skip
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.end_learning_rate, self.power, self.cycle, self.name = end_learning_rate, power, cycle, name  # fmt: skip

    def __call__(self, step: int) -> float:
        n = self.decay_steps * (max(1, math.ceil(step / self.decay_steps)) if self.cycle else 1)
        left = 1 - min(step, n) / n
        return (self.initial_learning_rate - self.end_learning_rate) * left**self.power + self.end_learning_rate  # fmt: skip


class CosineDecay(LearningRateSchedule):
    """Half a cosine from `initial_learning_rate` to `alpha` times it, in `decay_steps`.

    With `warmup_target` it first rises to that in `warmup_steps`, and falls from there.
    """

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0, name: str | None = None,
        warmup_target: float | None = None, warmup_steps: int = 0,
    ) -> None:  # fmt: skip
        self.initial_learning_rate, self.decay_steps, self.alpha = initial_learning_rate, decay_steps, alpha  # fmt: skip
        self.name, self.warmup_target, self.warmup_steps = name, warmup_target, warmup_steps

    def __call__(self, step: int) -> float:
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top, step = self.warmup_target, step - self.warmup_steps
        share = min(step, self.decay_steps) / self.decay_steps
        return top * ((1 - self.alpha) * 0.5 * (1 + math.cos(math.pi * share)) + self.alpha)


class CosineDecayRestarts(LearningRateSchedule):
    """Half cosines one after another: each lasts `t_mul` times as long as the one before and begins at `m_mul` times its rate."""

    def __init__(
        self, initial_learning_rate: float, first_decay_steps: int, t_mul: float = 2.0, m_mul: float = 1.0,
        alpha: float = 0.0, name: str | None = None,
    ) -> None:  # fmt: skip
        self.initial_learning_rate, self.first_decay_steps = (
            initial_learning_rate,
            first_decay_steps,
        )
        self.t_mul, self.m_mul, self.alpha, self.name = t_mul, m_mul, alpha, name

    def __call__(self, step: int) -> float:
        length, top, at = float(self.first_decay_steps), 1.0, float(step)
        while at >= length:
            at, length, top = at - length, length * self.t_mul, top * self.m_mul
        falling = 0.5 * top * (1 + math.cos(math.pi * at / length))
        return self.initial_learning_rate * ((1 - self.alpha) * falling + self.alpha)


__all__ = [
    "CosineDecay", "CosineDecayRestarts", "ExponentialDecay", "InverseTimeDecay", "LearningRateSchedule",
    "PiecewiseConstantDecay", "PolynomialDecay",
]  # fmt: skip
