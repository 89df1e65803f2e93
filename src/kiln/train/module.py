"""A module that says itself how it is trained, as in Lightning."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ..errors import KilnError
from ..nn.modules.module import Module
from ..optim import Optimizer
from ..tensor import Tensor

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

    def log(self, name: str, value: Tensor | float, **options: Any) -> None:
        """Tell a value of this batch: its mean over the epoch becomes one of the epoch's values.

        Lightning's options (`prog_bar`, `on_epoch`, …) are accepted and change nothing.
        """
        logged = self.__dict__.get("_logged")
        if logged is not None:
            logged[name] = value.detach() if isinstance(value, Tensor) else value

    def log_dict(self, values: dict[str, Any], **options: Any) -> None:
        """`log` for each of a dict."""
        for name, value in values.items():
            self.log(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k not in ("_trainer", "_logged")}


__all__ = ["TrainingModule"]
