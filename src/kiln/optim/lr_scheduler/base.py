"""What all schedules share."""

from __future__ import annotations

import warnings
from typing import Any

from ...compile.hooks import refuse
from ...errors import KilnKeyError, KilnTypeError, KilnValueError, describe
from ...tensor import Tensor
from ..optimizer import Optimizer


def copy_of(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def values_of(optimizer: Optimizer, key: str) -> list[Any]:
    return [copy_of(g[key]) for g in optimizer.param_groups]


def set_option(group: dict[str, Any], key: str, value: Any) -> None:
    """Change an option; a tensor keeps its identity."""
    if isinstance(group[key], Tensor):
        group[key].fill_(value.item() if isinstance(value, Tensor) else value)
    else:
        group[key] = value


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    n = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * n
    if len(value) != n:
        raise KilnValueError(
            "lr_scheduler", f"{name} must have the same length as optimizer.param_groups",
            f"{len(value)} values for {n} groups", "give one value, or one for each group",
        )  # fmt: skip
    return list(value)


class LRScheduler:
    """Sets the "lr" of each group by `get_lr`, once now and then at each `step()`."""

    _is_initial = False
    _get_lr_called_within_step = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        need_optimizer(self, optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", copy_of(group["lr"]))
            elif "initial_lr" not in group:
                raise KilnKeyError(
                    type(self).__name__, f"param 'initial_lr' is not specified in param_groups[{i}] when "
                    "resuming scheduler with last_epoch >= 0", f"last_epoch={last_epoch}",
                    "load the optimizer's state dict first",
                )  # fmt: skip
        self.base_lrs = values_of(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def get_lr(self) -> list[Any]:
        """The rate of each group at `last_epoch`, from the rates there now."""
        raise NotImplementedError

    def get_last_lr(self) -> list[Any]:
        """The rates that the last step has set."""
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch and set the rates."""
        refuse(
            "scheduler.step()",
            "call it outside the compiled function; captured steps re-read the rate",
        )
        if self._step_count == 1 and not self.optimizer._opt_called:
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`. Call `optimizer.step()` "
                "first, or the first value of the schedule is skipped.", UserWarning, stacklevel=2,
            )  # fmt: skip
        self._step_count += 1
        if epoch is not None:
            warnings.warn(
                "The epoch parameter in `scheduler.step()` is deprecated; call `step()` without it where "
                "the schedule goes on by one.", UserWarning, stacklevel=2,
            )  # fmt: skip
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        self._get_lr_called_within_step = True
        try:
            if epoch is None:
                self.last_epoch += 1
                values = self.get_lr()
            else:
                self.last_epoch = epoch
                values = getattr(self, "_get_closed_form_lr", self.get_lr)()
        finally:
            self._get_lr_called_within_step = False
        for group, lr in zip(self.optimizer.param_groups, values, strict=True):
            set_option(group, "lr", lr)
        self._last_lr = values_of(self.optimizer, "lr")

    def _warn_outside_step(self) -> None:
        """Say that `get_lr` computes the next rate from the rate there now: it isn't that rate."""
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.",
                UserWarning, stacklevel=3,
            )  # fmt: skip

    def _lrs(self) -> list[Any]:
        return values_of(self.optimizer, "lr")

    def state_dict(self) -> dict[str, Any]:
        """All of the schedule's state except the optimizer."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of another schedule."""
        self.__dict__.update(state_dict)


class _LRScheduler(LRScheduler):
    """LRScheduler under its former name, which older programs subclass."""


def need_optimizer(scheduler: Any, optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise KilnTypeError(
            type(scheduler).__name__,
            f"{type(optimizer).__name__} is not an Optimizer",
            describe(optimizer),
        )
