"""Schedules made of schedules, and the one that looks at a metric."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from ...compile.hooks import refuse
from ...errors import KilnError, KilnTypeError, KilnValueError, describe
from ..optimizer import Optimizer
from .base import LRScheduler, need_optimizer, per_group, set_option


def _check_parts(owner: Any, schedulers: Sequence[Any], optimizer: Any) -> None:
    name = type(owner).__name__
    if len(schedulers) < 1:
        raise KilnValueError(
            name, f"{name} expects at least one scheduler, but got no scheduler.", "[]"
        )
    for i, s in enumerate(schedulers):
        if not hasattr(s, "optimizer"):
            raise KilnTypeError(
                name, f"{name} at index {i} should have `optimizer` as its attribute.", describe(s)
            )
        if isinstance(s, ReduceLROnPlateau):
            raise KilnValueError(
                name,
                f"{name} does not support `ReduceLROnPlateau`, whose step takes a metric",
                f"index {i}",
            )
        if s.optimizer is not optimizer:
            raise KilnValueError(
                name, f"{name} expects all schedulers to belong to the same optimizer", f"index {i}"
            )


class _Composed(LRScheduler):
    """Schedules made of schedules."""

    _schedulers: list[LRScheduler]

    def state_dict(self) -> dict[str, Any]:
        """The state, with that of the parts."""
        out = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "_schedulers")}
        return {**out, "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state, with that of the parts."""
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for s, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            s.load_state_dict(saved)


class SequentialLR(_Composed):
    """One schedule after another; `milestones` are the epochs at which the next takes over."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
    ) -> None:
        _check_parts(self, schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise KilnValueError(
                "SequentialLR", "expects number of schedulers provided to be one more than the number of "
                "milestone points", f"{len(schedulers)} schedulers, {len(milestones)} milestones",
            )  # fmt: skip
        self._schedulers, self._milestones = schedulers, milestones
        self.last_epoch, self.optimizer = last_epoch + 1, optimizer
        for group in optimizer.param_groups:
            set_option(group, "lr", group["initial_lr"])
        self.recursive_undo()
        first = schedulers[bisect_right(milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def recursive_undo(self, sched: Any = None) -> None:
        """Take back the first step that every part has made."""
        sched = self if sched is None else sched
        if hasattr(sched, "_schedulers"):
            for s in sched._schedulers:
                self.recursive_undo(s)
        elif hasattr(sched, "last_epoch"):
            sched.last_epoch -= 1

    def step(self) -> None:  # type: ignore[override]
        """Go to the next epoch."""
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(_Composed):
    """Several chainable schedules at once."""

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        if optimizer is None and schedulers and hasattr(schedulers[0], "optimizer"):
            optimizer = schedulers[0].optimizer
        _check_parts(self, schedulers, optimizer)
        assert optimizer is not None
        self._schedulers, self.optimizer = list(schedulers), optimizer
        self._last_lr = self._lrs()

    def step(self) -> None:  # type: ignore[override]
        """Go to the next epoch in every part."""
        for s in self._schedulers:
            s.step()
        self._last_lr = self._lrs()


class ReduceLROnPlateau(LRScheduler):
    """lr * factor when a metric has not become better for `patience` epochs."""

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
        threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: Any = 0,
        eps: float = 1e-8,
    ) -> None:  # fmt: skip
        if factor >= 1.0:
            raise KilnValueError("ReduceLROnPlateau", "Factor should be < 1.0.", factor)
        need_optimizer(self, optimizer)
        if mode not in ("min", "max"):
            raise KilnValueError(
                "ReduceLROnPlateau", f"mode {mode} is unknown!", mode, "'min' or 'max'"
            )
        if threshold_mode not in ("rel", "abs"):
            raise KilnValueError(
                "ReduceLROnPlateau", f"threshold mode {threshold_mode} is unknown!", threshold_mode
            )
        self.optimizer, self.factor = optimizer, factor
        self.default_min_lr = None if isinstance(min_lr, list | tuple) else min_lr
        self.min_lrs = per_group("min_lr", optimizer, min_lr)
        self.patience, self.cooldown, self.eps, self.last_epoch = patience, cooldown, eps, 0
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self._last_lr = self._lrs()
        self._reset()

    def _reset(self) -> None:
        self.mode_worse = math.inf if self.mode == "min" else -math.inf
        self.best = self.mode_worse
        self.cooldown_counter = self.num_bad_epochs = 0

    @property
    def in_cooldown(self) -> bool:
        """Whether a reduction is too recent for another."""
        return self.cooldown_counter > 0

    def _is_better(self, a: float, best: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        if self.threshold_mode == "rel":
            bar = best * (1.0 + sign * self.threshold)
        else:
            bar = best + sign * self.threshold
        return a < bar if self.mode == "min" else a > bar

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Tell the metric of an epoch."""
        refuse(
            "scheduler.step()",
            "call it outside the compiled function; captured steps re-read the rate",
        )
        current = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(current, self.best):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce_lr(self.last_epoch)
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self._lrs()

    def _reduce_lr(self, epoch: int) -> None:  # which libraries replace, by this name
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise KilnError(
                    "ReduceLROnPlateau", "the optimizer has another number of groups than min_lrs",
                    f"{len(groups)} groups, {len(self.min_lrs)} min_lrs", "set scheduler.min_lrs",
                )  # fmt: skip
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, low in zip(groups, self.min_lrs, strict=True):
            old = float(group["lr"])
            new = max(old * self.factor, low)
            if old - new > self.eps:
                set_option(group, "lr", new)
