"""Transfer learning: parts of a model that stay as they are, and parts that learn at their own rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import KilnValueError, describe
from ..nn.modules.module import Module
from ..tensor import Tensor
from .callbacks import Callback, Logs


def _under(name: str, prefix: str) -> bool:
    return prefix == "" or name == prefix or name.startswith(prefix + ".")


def _named(model: Module, prefixes: Iterable[str], owner: str) -> list[tuple[str, Tensor]]:
    """The parameters of the modules with these names; each name must be of some."""
    named = list(model.named_parameters())
    wanted = list(prefixes) or [""]
    for prefix in wanted:
        if not any(_under(n, prefix) for n, _ in named):
            raise KilnValueError(
                owner, f"no parameters are under the name {prefix!r}", prefix,
                "there are " + ", ".join(dict.fromkeys(n.partition(".")[0] for n, _ in named)),
            )  # fmt: skip
    return [(n, p) for n, p in named if any(_under(n, x) for x in wanted)]


def freeze(model: Module, *names: str) -> list[str]:
    """Have the parameters under these modules' names ("backbone", "layers.0") need no gradient; all, without names.

    Gives the parameters' names. Optimizers made by name after that leave them out. Batch norm's running statistics are
    no parameters and go on changing in training mode, as in PyTorch.
    """
    found = _named(model, names, "freeze")
    for _, p in found:
        p.requires_grad_(False)
    return [n for n, _ in found]


def unfreeze(model: Module, *names: str) -> list[str]:
    """The reverse of `freeze`; the optimizer must know the parameters (see `Unfreeze`)."""
    found = _named(model, names, "unfreeze")
    for _, p in found:
        p.requires_grad_(True)
    return [n for n, _ in found]


def param_groups(
    model: Module, lr: Mapping[str, float], default: float | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Groups for an optimizer with a learning rate for each part of a model, by modules' names.

    The longest name that fits a parameter decides; `default` is the rate of all others, which without one stay out.
    Frozen parameters stay out. `options` go to each group.

    >>> kiln.optim.AdamW(param_groups(model, {"backbone": 1e-5, "head": 1e-3}))
    """
    for prefix in lr:
        _named(model, [prefix], "param_groups")
    groups: dict[str | None, dict[str, Any]] = {
        k: {"params": [], "lr": rate, "name": k, **options} for k, rate in lr.items()
    }
    if default is not None:
        groups[None] = {"params": [], "lr": default, "name": "default", **options}
    for name, p in model.named_parameters():
        key = max((k for k in lr if _under(name, k)), key=len, default=None)
        if p.requires_grad and key in groups:
            groups[key]["params"].append(p)
    out = [g for g in groups.values() if g["params"]]
    if not out:
        raise KilnValueError("param_groups", "no parameters that learn are under these names", describe(dict(lr)), "unfreeze them first")  # fmt: skip
    return out


class Unfreeze(Callback):
    """Unfreezes parts of the model at the beginning of an epoch (counted from 0), for gradual fine-tuning.

    Parameters that the optimizer doesn't know yet become a group with rate `lr`, by default a tenth of the first
    group's.
    """

    def __init__(self, epoch: int, *names: str, lr: float | None = None) -> None:
        self.epoch, self.names, self.lr = epoch, names, lr
        self.done = False

    def on_train_begin(self, logs: Logs) -> None:
        """Begin anew."""
        self.done = False

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Unfreeze when it is time."""
        if not self.done and epoch >= self.epoch:
            self._unfreeze()

    def _unfreeze(self) -> None:
        self.done = True
        unfreeze(self.model, *self.names)
        optimizer = self.trainer.optimizer
        known = {id(p) for g in optimizer.param_groups for p in g["params"]}
        new = [p for _, p in _named(self.model, self.names, "Unfreeze") if id(p) not in known]
        if new:
            rate = self.lr if self.lr is not None else float(optimizer.param_groups[0]["lr"]) / 10
            optimizer.add_param_group({"params": new, "lr": rate})

    def before_load(self, state: dict[str, Any]) -> None:
        """Have the optimizer know what it knew."""
        if state["done"] and not self.done:
            self._unfreeze()

    def state_dict(self) -> dict[str, Any]:
        """Whether it has happened."""
        return {"done": self.done}


__all__ = ["Unfreeze", "freeze", "param_groups", "unfreeze"]
