"""How a Trainer comes to its optimizers and schedules: by name, as given, or from `configure_optimizers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import optim
from ..errors import KilnTypeError, KilnValueError, describe
from ..nn.modules.module import Module
from ..optim.lr_scheduler import LRScheduler
from .schedules import Schedule

OPTIMIZERS = {
    "sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad, "adadelta": optim.Adadelta, "adamax": optim.Adamax, "nadam": optim.NAdam,
    "radam": optim.RAdam,
}  # fmt: skip


def check(given: Any) -> None:
    """Refuse what stands for no optimizer, before any work."""
    if isinstance(given, optim.Optimizer) or (callable(given) and not isinstance(given, str)):
        return
    if not isinstance(given, str) or given not in OPTIMIZERS:
        raise KilnValueError(
            "Trainer", "no optimizer has this name", describe(given),
            "pass an optimizer, a function of the parameters that gives one, or one of " + ", ".join(OPTIMIZERS),
        )  # fmt: skip


def make(given: Any, model: Module) -> tuple[list[optim.Optimizer], list[Schedule]]:
    """The optimizers and their schedules; None is what the model's `configure_optimizers` gives, or Adam."""
    if given is None and hasattr(model, "configure_optimizers"):
        return _configured(model.configure_optimizers())
    given = "adam" if given is None else given
    if isinstance(given, optim.Optimizer):
        return [given], []
    if isinstance(given, str):
        given = OPTIMIZERS[given]
    made = given(p for p in model.parameters() if p.requires_grad)
    if not isinstance(made, optim.Optimizer):
        raise KilnTypeError("Trainer", "the function gave no optimizer", describe(made), "e.g. lambda params: kiln.optim.SGD(params, lr=0.1)")  # fmt: skip
    return [made], []


def suit(optimizers: list[optim.Optimizer], model: Module) -> None:
    """Refuse optimizers with which training would do nothing, or can't be done."""
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for o in optimizers for g in o.param_groups for p in g["params"]):
        raise KilnValueError(
            "fit", "the optimizer has no parameter of the model, which would stay as it is",
            ", ".join(type(o).__name__ for o in optimizers), "make it of model.parameters(), of this very model",
        )  # fmt: skip
    if getattr(model, "automatic_optimization", True) and any(isinstance(o, optim.LBFGS) for o in optimizers):  # fmt: skip
        raise KilnTypeError(
            "fit", "LBFGS computes the loss several times a step, which a Trainer does not", "LBFGS",
            "a TrainingModule with automatic_optimization = False, whose training_step calls optimizer.step(closure)",
        )  # fmt: skip


def _configured(given: Any) -> tuple[list[optim.Optimizer], list[Schedule]]:
    """Lightning's forms: one, a list, (optimizers, schedulers), or dicts with "optimizer" and "lr_scheduler"."""
    optimizers: list[Any]
    schedulers: list[Any]
    if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], list | tuple):
        optimizers, schedulers = list(given[0]), list(given[1])
    else:
        optimizers, schedulers = [], []
        for entry in given if isinstance(given, list | tuple) else [given]:
            if isinstance(entry, Mapping):
                if "lr_scheduler" in entry:
                    schedulers.append(entry["lr_scheduler"])
                entry = entry.get("optimizer")
            optimizers.append(entry)
    if not optimizers or not all(isinstance(o, optim.Optimizer) for o in optimizers):
        raise KilnTypeError(
            "configure_optimizers", "gave no optimizer", describe(given),
            "return an optimizer, a list of them, or {'optimizer': …, 'lr_scheduler': …}",
        )  # fmt: skip
    return optimizers, [_schedule(s) for s in schedulers]


def _schedule(given: Any) -> Schedule:
    if isinstance(given, LRScheduler):
        return Schedule(given)
    if isinstance(given, Mapping) and isinstance(given.get("scheduler"), LRScheduler):
        known = {"scheduler", "interval", "frequency", "monitor", "name", "strict"}
        if set(given) <= known:
            return Schedule(
                given["scheduler"], given.get("interval", "epoch"), given.get("monitor"), given.get("frequency", 1)
            )  # fmt: skip
    raise KilnTypeError(
        "configure_optimizers", "not a schedule", describe(given),
        "a kiln.optim.lr_scheduler, or {'scheduler': …, 'interval': 'step'}",
    )  # fmt: skip


__all__ = ["OPTIMIZERS", "check", "make", "suit"]
