"""How much of a training is done: shares of the data, numbers of steps, and when validation comes; Lightning's options of its Trainer."""

from __future__ import annotations

import math
from typing import Any, TypedDict

from ..errors import KilnTypeError, KilnValueError, describe


class Limits(TypedDict, total=False):
    """Numbers of batches are whole, shares of the data floats of at most 1.

    `max_steps` steps of the optimizer end training; `limit_train_batches` and its like cut each pass short;
    `val_check_interval` has validation within epochs, too, after so many batches or so great a share of an epoch;
    `num_sanity_val_steps` batches are validated before training; `overfit_batches` trains on the first batches, in their order, and
    validates on them; `fast_dev_run` (True, or a number) runs so many batches of one epoch and saves nothing.
    """

    max_steps: int | None
    limit_train_batches: int | float | None
    limit_val_batches: int | float | None
    limit_test_batches: int | float | None
    limit_predict_batches: int | float | None
    val_check_interval: int | float | None
    num_sanity_val_steps: int
    overfit_batches: int | float
    fast_dev_run: bool | int


def checked(limits: Limits) -> Limits:
    """Refuse what is no limit; what follows from `fast_dev_run` and `overfit_batches` is filled in."""
    unknown = set(limits) - set(Limits.__annotations__)
    if unknown:
        raise KilnTypeError("Trainer", "there is no such option", describe(min(unknown)), "one of " + ", ".join(Limits.__annotations__))  # fmt: skip
    for name, value in limits.items():
        good = (isinstance(value, int) and value >= 0) or (
            isinstance(value, float) and 0 < value <= 1
        )
        if value is not None and not good:
            raise KilnValueError("Trainer", f"{name} is a number of batches, or a share", describe(value), "e.g. 10, or 0.1")  # fmt: skip
    out = Limits(**limits)
    if n := out.get("overfit_batches"):
        out["limit_train_batches"] = n
    if n := int(out.get("fast_dev_run") or 0):
        out.update(limit_train_batches=n, limit_val_batches=n, limit_test_batches=n, limit_predict_batches=n, num_sanity_val_steps=0)  # fmt: skip
    return out


def batches(what: str, limit: float | None, length: int | None) -> int | None:
    """A limit as a number of batches of the `length` that there are; None is no limit."""
    if limit is None or isinstance(limit, int):
        return limit
    if length is None:
        raise KilnValueError("fit", f"{what} is a share, and nobody knows of how many batches", describe(limit), "a number of batches")  # fmt: skip
    if int(limit * length) == 0:
        raise KilnValueError("fit", f"{what} leaves no batch of {length}", describe(limit), f"at least {1 / length:.3g}")  # fmt: skip
    return int(limit * length)


def epochs_for(max_steps: int, length: int | None, accumulate: int) -> int:
    """How many epochs hold so many steps."""
    return math.ceil(max_steps / math.ceil(length / accumulate)) if length else max_steps


def has_data(given: Any) -> bool:
    """Whether it is a data module: what gives loaders itself."""
    return hasattr(given, "train_dataloader") or hasattr(given, "val_dataloader") or hasattr(given, "test_dataloader") or hasattr(given, "predict_dataloader")  # fmt: skip


def loader(given: Any, stage: str) -> Any:
    """The loader of a data module for "fit", "validate", "test" or "predict", after its `prepare_data` and `setup(stage)`; other data as it is."""
    if not has_data(given):
        return given
    for call, args in (("prepare_data", ()), ("setup", (stage,))):
        if hasattr(given, call):
            getattr(given, call)(*args)
    name = {"fit": "train", "validate": "val"}.get(stage, stage) + "_dataloader"
    if not hasattr(given, name):
        raise KilnTypeError("Trainer", f"the data module has no {name}", type(given).__name__, f"define {name}(self)")  # fmt: skip
    return getattr(given, name)()


__all__ = ["Limits", "batches", "checked", "epochs_for", "loader"]
