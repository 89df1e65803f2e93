"""A module that says itself how it is trained, as in Lightning."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from ..device import device
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

    def lr_schedulers(self) -> Any:
        """The learning-rate scheduler, the list of them where there are several, None where there are none."""
        found = [s.scheduler for s in self.trainer._schedules]
        return found[0] if len(found) == 1 else found or None

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """`loss.backward()`, where the training step does all itself."""
        loss.backward(*args, **kwargs)

    @property
    def device(self) -> Any:
        """Where the parameters are."""
        return next((p.device for p in self.parameters()), device("cpu"))

    def save_hyperparameters(self, *names: str, ignore: Any = ()) -> None:
        """Keep the arguments that `__init__` was called with, or those of these names, as `hparams`."""
        frame = inspect.currentframe()
        caller = None if frame is None else frame.f_back
        found = {} if caller is None else {**caller.f_locals}
        given = inspect.signature(type(self).__init__).parameters
        more = next((found.get(n, {}) for n, p in given.items() if p.kind is p.VAR_KEYWORD), {})
        plain = {n: found[n] for n, p in given.items() if n in found and n != "self" and p.kind is not p.VAR_KEYWORD}  # fmt: skip
        ignored = [ignore] if isinstance(ignore, str) else ignore
        kept = {k: v for k, v in {**plain, **more}.items() if k not in ignored and (not names or k in names)}  # fmt: skip
        self.__dict__["hparams"] = Hyperparameters({**self.__dict__.get("hparams", {}), **kept})

    def log(
        self, name: str, value: Tensor | float, reduce_fx: Any = "mean", *, on_step: bool | None = None,
        on_epoch: bool | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Tell a value of this batch: its mean over the epoch becomes one of the epoch's values.

        `reduce_fx` "max", "min" or "sum" makes it that of the batches' values. With `on_step=True` and without `on_epoch` it is the
        last batch's; with both there are `<name>_step` and `<name>_epoch`, as in Lightning. In the hooks at an epoch's end it is the
        epoch's value. Lightning's other options (`prog_bar`, `logger`, …) are accepted and change nothing.
        """
        logged = self.__dict__.get("_logged")
        if logged is None:
            return
        how = reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", None)
        if how not in ("mean", *REDUCTIONS):
            raise KilnValueError(
                "log", "no such reduce_fx", describe(reduce_fx), "'mean', 'max', 'min' or 'sum'"
            )
        value = value.detach() if isinstance(value, Tensor) else value
        told = {name: how}
        if on_step:
            told = {f"{name}_step": "last", f"{name}_epoch": how} if on_epoch else {name: "last"}
        for key, way in told.items():
            logged[0][key] = value
            if way != "mean":
                logged[1][key] = way

    def log_dict(self, values: dict[str, Any], reduce_fx: Any = "mean", **options: Any) -> None:
        """`log` for each of a dict."""
        for name, value in values.items():
            self.log(name, value, reduce_fx, **options)

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


class Hyperparameters(dict):
    """Values by name, as attributes, too."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


_VALIDATION = {"begin": ("on_validation_start", "on_validation_epoch_start"), "end": ("on_validation_epoch_end", "on_validation_end")}  # fmt: skip
_TEST = {k: tuple(n.replace("validation", "test") for n in names) for k, names in _VALIDATION.items()}  # fmt: skip


class ModuleHooks(Callback):
    """Calls the hooks that a TrainingModule defines under Lightning's names, in Lightning's order; `log` in them tells a value."""

    OF: ClassVar[dict[str, tuple[str, ...]]] = {
        "on_train_begin": ("on_fit_start", "on_train_start"), "on_train_end": ("on_train_end", "on_fit_end"),
        "on_epoch_begin": ("on_train_epoch_start",), "on_epoch_end": ("on_train_epoch_end",),
        "on_test_begin": _VALIDATION["begin"] + _TEST["begin"], "on_test_end": _VALIDATION["end"] + _TEST["end"],
        "on_predict_begin": ("on_predict_start", "on_predict_epoch_start"),
        "on_predict_end": ("on_predict_epoch_end", "on_predict_end"),
        "on_train_batch_begin": ("on_train_batch_start",), "on_train_batch_end": ("on_train_batch_end",),
        "on_test_batch_begin": ("on_validation_batch_start", "on_test_batch_start"),
        "on_test_batch_end": ("on_validation_batch_end", "on_test_batch_end"),
        "on_predict_batch_begin": ("on_predict_batch_start",), "on_predict_batch_end": ("on_predict_batch_end",),
        "on_before_optimizer_step": ("on_before_optimizer_step",),
    }  # fmt: skip
    """The model's hooks behind each of ours."""

    def overrides(self, hook: str) -> bool:
        """Whether the model has one."""
        return any(hasattr(self.model, n) for n in self.OF.get(hook, ()))

    def _call(self, *names: str, logs: Any = None, prefix: str = "", args: tuple = ()) -> None:
        for name in names:
            hook = getattr(self.model, name, None)
            if hook is not None:
                with told_to(self.model) as (values, _):
                    hook(*args)
                if logs is not None:
                    logs.update({k.removeprefix(prefix): float(v) for k, v in values.items()})

    def _now(self, when: str) -> tuple[str, ...]:
        return (_TEST if self.trainer.testing else _VALIDATION)[when]

    def on_train_begin(self, logs: Any = None) -> None:
        self._call("on_fit_start", "on_train_start")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._call("on_train_epoch_start")

    def on_test_begin(self, logs: Any = None) -> None:
        self._call(*self._now("begin"))

    def on_test_end(self, logs: Any = None) -> None:
        self._call(*self._now("end"), logs=logs, prefix="" if self.trainer.testing else "val_")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._call("on_train_epoch_end", logs=logs)

    def on_train_end(self, logs: Any = None) -> None:
        self._call("on_train_end", "on_fit_end")

    def on_predict_begin(self, logs: Any = None) -> None:
        self._call("on_predict_start", "on_predict_epoch_start")

    def on_predict_end(self, logs: Any = None) -> None:
        self._call("on_predict_epoch_end", "on_predict_end")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._call("on_train_batch_start", args=(self.trainer.data, batch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._call("on_train_batch_end", args=(self.trainer.last, self.trainer.data, batch))

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._call(f"on_{self._stage()}_batch_start", args=(self.trainer.data, batch))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._call(f"on_{self._stage()}_batch_end", args=(dict(logs or {}), self.trainer.data, batch))  # fmt: skip

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._call("on_predict_batch_start", args=(self.trainer.data, batch))

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self._call("on_predict_batch_end", args=((logs or {}).get("outputs"), self.trainer.data, batch))  # fmt: skip

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self._call("on_before_optimizer_step", args=(optimizer,))

    def _stage(self) -> str:
        return "test" if self.trainer.testing else "validation"


__all__ = ["ModuleHooks", "TrainingModule", "told_to"]
