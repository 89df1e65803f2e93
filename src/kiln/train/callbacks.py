"""What a Trainer calls on its way: the hooks, and callbacks that look at values and decide."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import KilnError, KilnTypeError, KilnValueError, KilnWarning, describe
from ..optim import Optimizer

if TYPE_CHECKING:
    from ..nn.modules.module import Module
    from .trainer import Trainer

Logs = Mapping[str, Any]


class Callback:
    """Override what you need; `self.trainer` and `self.model` are there from `on_train_begin` on.

    Hooks and their arguments are Keras's. Epochs count from 0, batches from 0 within their epoch; `logs` are the values
    by name, of a batch hook the epoch's so far. `self.trainer.stop = True` ends training after this epoch's end.
    `on_before_optimizer_step` and `on_after_optimizer_step` are part of the training step, and so are captured with it:
    they compute with tensors and read no values out. What a callback must remember to go on after a restart is
    its `state_dict`, plain data; it is part of every checkpoint.
    """

    trainer: Trainer
    model: Module

    def set_trainer(self, trainer: Trainer) -> None:
        """Called before anything else."""
        self.trainer = trainer
        self.set_model(trainer.model)

    def set_model(self, model: Module) -> None:
        """Keras's name of that."""
        self.model = model

    @property
    def params(self) -> dict[str, Any]:
        """What `fit` was told, as in Keras: "verbose", "epochs" and "steps"."""
        return self.trainer.params

    def overrides(self, hook: str) -> bool:
        """Whether a hook does anything."""
        names = [hook, *([OTHER_NAMES[hook]] if hook in OTHER_NAMES else [])]
        return any(getattr(type(self), n) is not getattr(Callback, n) or n in vars(self) for n in names)  # fmt: skip

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before training."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After training, also when it was interrupted by Ctrl-C."""

    def on_exception(self, error: BaseException) -> None:
        """Where training ends by an error, in place of `on_train_end`."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch, validation included; validation's values are `val_…`."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a training batch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a training batch."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """The same as `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """The same as `on_train_batch_end`."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before `evaluate`, and before an epoch's validation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After `evaluate`, and after an epoch's validation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of `evaluate` or of validation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of `evaluate` or of validation."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before `predict`."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After `predict`."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of `predict`."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of `predict`; `logs["outputs"]` are the model's outputs for it."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Inside the training step, when all gradients are there."""

    def on_after_optimizer_step(self, optimizer: Optimizer) -> None:
        """Inside the training step, when the parameters have changed."""

    def before_load(self, state: dict[str, Any]) -> None:
        """Before model and optimizer take over their states: make them what they were when it was saved."""

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; called after `on_train_begin`."""


OTHER_NAMES = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}
HOOKS = tuple(n for n in vars(Callback) if n.startswith("on_") and n not in OTHER_NAMES.values())
INSIDE = "on_before_optimizer_step", "on_after_optimizer_step"


class Callbacks:
    """The callbacks of a run; `hooks[name]` are the methods to call, in order."""

    def __init__(self, callbacks: Iterable[Any], trainer: Trainer) -> None:
        self.all: list[Callback] = [_callback(c) for c in callbacks]
        # A checkpoint holds what the others have decided, so those that save come last.
        self.all.sort(key=lambda c: bool(getattr(c, "saves", False)))
        for c in self.all:
            c.set_trainer(trainer)
        self.hooks: dict[str, list[Callable]] = {n: [] for n in HOOKS}
        for c in self.all:
            for name in HOOKS:
                if c.overrides(name):
                    self.hooks[name].append(getattr(c, name))

    def call(self, name: str, *args: Any) -> None:
        """Call a hook of all."""
        for hook in self.hooks[name]:
            hook(*args)

    def inside(self) -> list[Callback]:
        """Those that are part of the training step."""
        return [c for c in self.all if any(map(c.overrides, INSIDE))]

    def _names(self) -> list[tuple[str, Callback]]:
        """A name for each: its class, with a number where there are several."""
        count: dict[str, int] = {}
        out = []
        for c in self.all:
            kind = type(c).__name__
            n = count[kind] = count.get(kind, 0) + 1
            out.append((kind if n == 1 else f"{kind}#{n}", c))
        return out

    def state_dict(self) -> dict[str, Any]:
        """What each has to remember."""
        states = {name: c.state_dict() for name, c in self._names()}
        return {name: s for name, s in states.items() if s}

    def before_load(self, state: Mapping[str, Any]) -> None:
        """Tell each what it remembered, before anything is loaded."""
        for name, c in self._names():
            if name in state:
                c.before_load(state[name])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give each what it remembered; callbacks that were not there before begin anew."""
        for name, c in self._names():
            if name in state:
                c.load_state_dict(state[name])


def _callback(given: Any) -> Callback:
    if isinstance(given, Callback):
        return given
    if callable(given) and not isinstance(given, type):
        return _AfterEpoch(given)
    raise KilnTypeError(
        "fit", "a callback is a Callback, or a function of (trainer, epoch, logs)", describe(given),
        "pass an instance: callbacks=[EarlyStopping(patience=3)]",
    )  # fmt: skip


class _AfterEpoch(Callback):
    """A function that is called after each epoch."""

    def __init__(self, fn: Callable) -> None:
        self.fn = fn

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.fn(self.trainer, epoch, logs)


class LambdaCallback(Callback):
    """Functions as hooks: `LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs))`."""

    def __init__(self, **hooks: Callable) -> None:
        for name, fn in hooks.items():
            if name not in (*HOOKS, *OTHER_NAMES.values()):
                raise KilnTypeError(
                    "LambdaCallback", "there is no such hook", name, "one of " + ", ".join(HOOKS)
                )
            setattr(self, name, fn)


# ---- values that are watched

_RISING = ("acc", "auc", "auroc", "f1", "fmeasure", "precision", "recall", "iou", "dice", "top_", "r2", "score", "ap", "cosine")  # fmt: skip


class Monitor:
    """A value by name, and when one is better than another.

    `mode` is "min", "max", or "auto": values whose name says so ("accuracy", "auroc", "f1", …) shall rise, others fall.
    """

    def __init__(self, owner: str, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise KilnValueError(owner, "no such mode", repr(mode), "'auto', 'min' or 'max'")
        if mode == "auto":
            plain = name.removeprefix("val_").lower()
            rising = any(part.startswith(_RISING) for part in _words(plain))
            mode = "max" if rising and not plain.endswith("loss") else "min"
        self.owner, self.name, self.mode = owner, name, mode
        self.better = operator.lt if mode == "min" else operator.gt
        self.delta = abs(min_delta) * (1 if mode == "min" else -1)
        self.worst = math.inf if mode == "min" else -math.inf
        self._told = False

    def get(self, logs: Logs) -> float | None:
        """The value, None with a warning where there is none of this name."""
        value = logs.get(self.name)
        if value is None and not self._told:
            import warnings

            self._told = True
            warnings.warn(
                f"{self.owner} watches {self.name!r}, which is not among the values: "
                f"{', '.join(logs) or 'none'}",
                KilnWarning, stacklevel=4,
            )  # fmt: skip
        return None if value is None else float(value)

    def improves(self, value: float, best: float) -> bool:
        """Whether a value is better than the best by at least the difference that counts."""
        return self.better(value + self.delta, best)


def _words(name: str) -> list[str]:
    parts = name.split("_")
    return ["_".join(parts[i:]) for i in range(len(parts))]


class EarlyStopping(Callback):
    """Ends training when a value has not become better for `patience` epochs; Keras's options.

    `baseline` is a value that must be beaten; `restore_best_weights` gives the model the weights of its best epoch back
    at the end of training; the first `start_from_epoch` epochs are not looked at.
    """

    def __init__(
        self, monitor: str = "val_loss", min_delta: float = 0.0, patience: int = 0, verbose: int = 0,
        mode: str = "auto", baseline: float | None = None, restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:  # fmt: skip
        self.monitor = Monitor("EarlyStopping", monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self._reset()

    def _reset(self) -> None:
        self.best = self.monitor.worst
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best_weights: dict[str, Any] | None = None

    def on_train_begin(self, logs: Logs) -> None:
        """Begin anew."""
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Look at the value."""
        value = self.monitor.get(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        self.wait += 1
        if self.monitor.improves(value, self.best):
            self.best = value
            self._keep(epoch)
            if self.baseline is None or self.monitor.improves(value, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.trainer.stop = True

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def on_train_end(self, logs: Logs) -> None:
        """Restore the best weights, and say when it stopped."""
        if self.stopped_epoch and self.verbose:
            print(
                f"epoch {self.stopped_epoch + 1}: stopped early, as {self.monitor.name} did not improve"
            )
        if self.best_weights is not None:
            if self.verbose:
                print(f"weights of the best epoch, {self.best_epoch + 1}, are restored")
            self.model.load_state_dict(self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, and how long ago it was."""
        return {
            "best": self.best, "wait": self.wait, "stopped_epoch": self.stopped_epoch,
            "best_epoch": self.best_epoch, "best_weights": self.best_weights,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.__dict__.update(state)


class TerminateOnNaN(Callback):
    """Ends training at the first batch whose loss is NaN or infinite, or raises a RuntimeError there (`raise_error`)."""

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Look at the loss."""
        loss = float(self.trainer.last["loss"])
        if not math.isfinite(loss):
            if self.raise_error:
                raise KilnError(
                    "TerminateOnNaN", f"the loss is {loss}", f"epoch {self.trainer.epoch + 1}, batch {batch}",
                    "a smaller learning rate, or GradientClipping",
                )  # fmt: skip
            print(
                f"epoch {self.trainer.epoch + 1}, batch {batch}: the loss is {loss}, training ends"
            )
            self.trainer.stop = True


class Timer(Callback):
    """Ends training after so many seconds (`max_seconds`), and notes how long epochs took: `seconds`.

    Time of a run that was resumed counts on.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.max_seconds = max_seconds
        self.seconds: list[float] = []
        self._before = 0.0

    def on_train_begin(self, logs: Logs) -> None:
        """Begin to count."""
        self._start, self._before, self.seconds = time.perf_counter(), 0.0, []

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self._before + time.perf_counter() - self._start

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Note when."""
        self._epoch = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Note how long."""
        self.seconds.append(time.perf_counter() - self._epoch)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Stop where time is up."""
        if self.max_seconds is not None and self.elapsed > self.max_seconds:
            self.trainer.stop = True

    def state_dict(self) -> dict[str, Any]:
        """The time so far."""
        return {"elapsed": self.elapsed, "seconds": list(self.seconds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Count on."""
        self._before, self.seconds = state["elapsed"], list(state["seconds"])


__all__ = [
    "HOOKS", "Callback", "Callbacks", "EarlyStopping", "LambdaCallback", "Logs", "Monitor", "TerminateOnNaN", "Timer",
]  # fmt: skip
