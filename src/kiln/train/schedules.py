"""Learning rates that change on the way, by epoch, by step, or by what is reached."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import KilnTypeError, KilnValueError, describe
from ..optim import Optimizer
from ..optim.lr_scheduler import LRScheduler, OneCycleLR
from ..optim.lr_scheduler import ReduceLROnPlateau as _Plateau
from ..optim.lr_scheduler.base import set_option
from ..tensor import Tensor
from .callbacks import Callback, Logs, Monitor


class Schedule(Callback):
    """Any scheduler of `kiln.optim.lr_scheduler`, stepped after each epoch, or after each optimizer's step.

    `scheduler` is one, or a function of the optimizer that makes one. `interval` is "epoch" or "step"; it is stepped
    every `frequency` of them. One that looks at a metric (ReduceLROnPlateau) is given the value `monitor`.
    """

    def __init__(
        self, scheduler: LRScheduler | Callable[[Optimizer], LRScheduler], interval: str = "epoch",
        monitor: str | None = None, frequency: int = 1,
    ) -> None:  # fmt: skip
        if interval not in ("epoch", "step"):
            raise KilnValueError(
                "Schedule", "no such interval", repr(interval), "'epoch' or 'step'"
            )
        self.given, self.interval, self.frequency = scheduler, interval, frequency
        self.monitor = Monitor("Schedule", monitor or "val_loss")
        self.scheduler: Any = scheduler if isinstance(scheduler, LRScheduler) else None
        if self.scheduler is None and not callable(scheduler):
            raise KilnTypeError(
                "Schedule", "not a scheduler", describe(scheduler), "e.g. Schedule(lambda o: StepLR(o, 10))"
            )  # fmt: skip

    def on_train_begin(self, logs: Logs) -> None:
        """Make the scheduler."""
        if self.scheduler is None:
            self.scheduler = self.make(self.trainer.optimizer)

    def make(self, optimizer: Optimizer) -> Any:
        """The scheduler of an optimizer."""
        return self.given(optimizer)  # type: ignore[operator]

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """After a step of the optimizer."""
        if (
            self.interval == "step"
            and self.trainer.updated
            and self.trainer.updates % self.frequency == 0
        ):
            self._step(logs)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After an epoch."""
        if self.interval == "epoch" and (epoch + 1) % self.frequency == 0:
            self._step(logs)

    def _step(self, logs: Logs) -> None:
        if isinstance(self.scheduler, _Plateau):
            value = self.monitor.get(logs)
            if value is not None:
                self.scheduler.step(value)
        else:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state: what of it is data."""
        return {} if self.scheduler is None else {"scheduler": _data(self.scheduler.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.scheduler.load_state_dict(state["scheduler"])


_PLAIN = (bool, int, float, str, type(None), list, tuple, dict, Tensor)


def _data(state: dict[str, Any]) -> dict[str, Any]:
    """Without functions and tables, which a scheduler that is made again has anew."""
    out = {}
    for key, value in state.items():
        if key == "_schedulers":
            out[key] = [_data(s) for s in value]
        elif type(value) in _PLAIN and not (isinstance(value, list | tuple) and any(map(callable, value))):  # fmt: skip
            out[key] = value
    return out


class OneCycle(Schedule):
    """Smith's one cycle over the whole training: up to `max_lr`, then down; momentum the other way.

    `options` are those of `kiln.optim.lr_scheduler.OneCycleLR`; `total_steps` is needed where the data has no length.
    """

    def __init__(self, max_lr: Any, total_steps: int | None = None, **options: Any) -> None:
        super().__init__(self._cycle, "step")
        self.max_lr, self.total_steps, self.options = max_lr, total_steps, options

    def on_train_begin(self, logs: Logs) -> None:
        """Begin a cycle as long as this training."""
        self.scheduler = self._cycle(self.trainer.optimizer)

    def _cycle(self, optimizer: Optimizer) -> LRScheduler:
        total = self.total_steps or self.trainer.total_updates
        if total is None:
            raise KilnValueError(
                "OneCycle", "nobody knows how many steps there will be", "data without a length",
                "OneCycle(max_lr, total_steps=…), or fit(steps_per_epoch=…)",
            )  # fmt: skip
        for group in optimizer.param_groups:
            group.pop("initial_lr", None)
        return OneCycleLR(optimizer, self.max_lr, total_steps=max(total, 2), **self.options)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Go on, up to the end of the cycle."""
        if self.scheduler.last_epoch + 1 < self.scheduler.total_steps:
            super().on_train_batch_end(batch, logs)


class LearningRateScheduler(Callback):
    """Keras's: `schedule(epoch)` or `schedule(epoch, lr)` gives the rate at the beginning of each epoch.

    Optimizers with several groups keep the groups' proportions.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if isinstance(schedule, LRScheduler) or not callable(schedule):
            raise KilnTypeError(
                "LearningRateScheduler", "expected a function of (epoch, lr)", describe(schedule),
                "for schedulers of kiln.optim: Schedule(scheduler)",
            )  # fmt: skip
        self.schedule, self.verbose = schedule, verbose
        self._two = len(inspect.signature(schedule).parameters) > 1

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Set the rate."""
        groups = self.trainer.optimizer.param_groups
        old = float(groups[0]["lr"])
        new = float(self.schedule(epoch, old) if self._two else self.schedule(epoch))
        for group in groups:
            set_option(group, "lr", new if old == 0 else float(group["lr"]) * new / old if group is not groups[0] else new)  # fmt: skip
        if self.verbose:
            print(f"epoch {epoch + 1}: learning rate {new:g}")

    def on_epoch_end(self, epoch: int, logs: Any) -> None:
        """Tell the rate among the epoch's values."""
        logs["learning_rate"] = float(self.trainer.optimizer.param_groups[0]["lr"])


class ReduceLROnPlateau(Callback):
    """The rate times `factor` when a value has not become better for `patience` epochs; Keras's options."""

    def __init__(
        self, monitor: str = "val_loss", factor: float = 0.1, patience: int = 10, verbose: int = 0,
        mode: str = "auto", min_delta: float = 1e-4, cooldown: int = 0, min_lr: float = 0.0,
    ) -> None:  # fmt: skip
        if factor >= 1.0:
            raise KilnValueError("ReduceLROnPlateau", "the factor must be below 1", factor, "0.1")
        self.monitor = Monitor("ReduceLROnPlateau", monitor, mode, min_delta)
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self.on_train_begin({})

    def on_train_begin(self, logs: Logs) -> None:
        """Begin anew."""
        self.best, self.wait, self.cooling = self.monitor.worst, 0, 0

    def on_epoch_end(self, epoch: int, logs: Any) -> None:
        """Look at the value."""
        groups = self.trainer.optimizer.param_groups
        logs["learning_rate"] = float(groups[0]["lr"])
        value = self.monitor.get(logs)
        if value is None:
            return
        if self.cooling > 0:
            self.cooling -= 1
            self.wait = 0
        if self.monitor.improves(value, self.best):
            self.best, self.wait = value, 0
        elif self.cooling <= 0:
            self.wait += 1
            if self.wait >= self.patience and any(float(g["lr"]) > self.min_lr for g in groups):
                for group in groups:
                    set_option(group, "lr", max(float(group["lr"]) * self.factor, self.min_lr))
                if self.verbose:
                    print(f"epoch {epoch + 1}: learning rate {float(groups[0]['lr']):g}")
                self.cooling, self.wait = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and how long ago it was."""
        return {"best": self.best, "wait": self.wait, "cooling": self.cooling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.__dict__.update(state)


__all__ = ["LearningRateScheduler", "OneCycle", "ReduceLROnPlateau", "Schedule"]
