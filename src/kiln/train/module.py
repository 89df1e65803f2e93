"""A module that says itself how it is trained, as in Lightning."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import KilnError, KilnValueError, describe
from ..nn.modules.module import Module
from ..optim import Optimizer
from ..tensor import Tensor
from .callbacks import Callback
from .history import REDUCTIONS

if TYPE_CHECKING:
    from .trainer import Trainer


class TrainingModule(Module):
    """An nn.Module with `training_step`, and what a Trainer gives it: `log`, `optimizers()`, `trainer`.

    Define `training_step(self, batch)` (or `(self, batch, batch_idx)`, a 0-d tensor in compiled steps), which returns the loss or
    a dict with a "loss"; and, as needed, `validation_step`, `predict_step` and `configure_optimizers`. A plain nn.Module
    with these methods does as well. With `automatic_optimization = False` the training step calls `backward` and the
    optimizers itself, which GANs need.

    >>> class Net(TrainingModule):
    ...     def training_step(self, batch):
    ...         x, y = batch
    ...         return F.cross_entropy(self(x), y)
    """

    automatic_optimization = True

    @property
    def trainer(self) -> Trainer:
        """The Trainer that trains this module."""
        held = self.__dict__.get("_trainer")
        found = None if held is None else held()
        if found is None:
            raise KilnError("TrainingModule", "no trainer has this module", type(self).__name__, "Trainer(module)")  # fmt: skip
        return found

    def _attach(self, trainer: Trainer) -> None:
        self.__dict__["_trainer"] = weakref.ref(trainer)

    @property
    def current_epoch(self) -> int:
        """The epoch's number, from 0; compiled steps see the one in which they were captured."""
        return self.trainer.epoch

    @property
    def global_step(self) -> int:
        """How many steps the optimizer has made; compiled steps see the number at which they were captured."""
        return self.trainer.updates

    def optimizers(self) -> Optimizer | list[Optimizer]:
        """The optimizer, or the list of them where there are several."""
        found = self.trainer.optimizers
        return found[0] if len(found) == 1 else found

    def log(
        self, name: str, value: Tensor | float, reduce_fx: Any = "mean", **options: Any
    ) -> None:
        """Tell a value of this batch: its mean over the epoch becomes one of the epoch's values.

        `reduce_fx` "max", "min" or "sum" makes it that of the batches' values. In the hooks at an epoch's end it is the
        epoch's value. Lightning's other options (`prog_bar`, `on_epoch`, …) are accepted and change nothing.
        """
        logged = self.__dict__.get("_logged")
        if logged is not None:
            logged[0][name] = value.detach() if isinstance(value, Tensor) else value
            how = reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", None)
            if how not in ("mean", *REDUCTIONS):
                raise KilnValueError(
                    "log", "no such reduce_fx", describe(reduce_fx), "'mean', 'max', 'min' or 'sum'"
                )
            if how != "mean":
                logged[1][name] = how

    def log_dict(self, values: dict[str, Any], reduce_fx: Any = "mean", **options: Any) -> None:
        """`log` for each of a dict."""
        for name, value in values.items():
            self.log(name, value, reduce_fx)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k not in ("_trainer", "_logged")}


@contextmanager
def told_to(model: Module) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """(values, how they are reduced) that a model logs meanwhile."""
    found: tuple[dict[str, Any], dict[str, str]] = ({}, {})
    before = model.__dict__.get("_logged")
    model.__dict__["_logged"] = found
    try:
        yield found
    finally:
        model.__dict__["_logged"] = before


class ModuleHooks(Callback):
    """Calls the hooks that a TrainingModule defines under Lightning's names, in Lightning's order; `log` in them tells a value."""

    def _call(self, *names: str, logs: Any = None, prefix: str = "") -> None:
        for name in names:
            hook = getattr(self.model, name, None)
            if hook is not None:
                with told_to(self.model) as (values, _):
                    hook()
                if logs is not None:
                    logs.update({k.removeprefix(prefix): float(v) for k, v in values.items()})

    def on_train_begin(self, logs: Any = None) -> None:
        self._call("on_fit_start", "on_train_start")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._call("on_train_epoch_start")

    def on_test_begin(self, logs: Any = None) -> None:
        self._call("on_validation_start", "on_validation_epoch_start")

    def on_test_end(self, logs: Any = None) -> None:
        self._call("on_validation_epoch_end", "on_validation_end", logs=logs, prefix="val_")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._call("on_train_epoch_end", logs=logs)

    def on_train_end(self, logs: Any = None) -> None:
        self._call("on_train_end", "on_fit_end")

    def on_predict_begin(self, logs: Any = None) -> None:
        self._call("on_predict_start", "on_predict_epoch_start")

    def on_predict_end(self, logs: Any = None) -> None:
        self._call("on_predict_epoch_end", "on_predict_end")


__all__ = ["ModuleHooks", "TrainingModule", "told_to"]
