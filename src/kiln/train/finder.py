"""Which learning rate to take: losses while the rate grows from step to step (Smith, arXiv:1506.01186)."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ..data._utils import randomness
from ..errors import KilnValueError, describe
from ..extras import need
from ..optim.lr_scheduler.base import set_option
from .batches import Feed
from .callbacks import Callbacks
from .history import panels
from .state import load, state_of
from .steps import has_lazy

if TYPE_CHECKING:
    from .trainer import Trainer


class LRFinder:
    """What `trainer.lr_find(data)` found: `lrs` and smoothed `losses`, a `suggestion()`, and a picture by `plot()`."""

    def __init__(self, lrs: list[float], losses: list[float]) -> None:
        self.lrs, self.losses = lrs, losses

    def suggestion(self) -> float | None:
        """The rate where the loss falls most steeply; None where it never falls.

        Slopes are those of the loss over the rate's logarithm, the first and last few steps left out.
        """
        skip = min(10, len(self.lrs) // 10)
        x, y = [math.log(v) for v in self.lrs], self.losses
        inner = range(max(1, skip), len(y) - max(1, skip // 2))
        slopes = {i: (y[i + 1] - y[i - 1]) / (x[i + 1] - x[i - 1]) for i in inner}
        steepest = min(slopes, key=lambda i: slopes[i], default=None)
        return None if steepest is None or slopes[steepest] >= 0 else self.lrs[steepest]

    def plot(self, path: Any = None) -> Any:
        """Draw loss over rate, with the suggestion; gives a matplotlib Figure. KilnImportError without matplotlib."""
        need("matplotlib", "demo", "LRFinder.plot")
        figure, (ax,) = panels(1)
        ax.plot(self.lrs, self.losses, lw=1.4)
        best = self.suggestion()
        if best is not None:
            ax.axvline(best, color="0.6", lw=0.8, ls="--", label=f"suggestion {best:.2g}")
            ax.legend(frameon=False)
        ax.set(xscale="log", xlabel="learning rate", ylabel="loss")
        if path is not None:
            figure.savefig(path, dpi=110)
        return figure

    def __repr__(self) -> str:
        best = self.suggestion()
        return f"LRFinder({len(self.lrs)} steps, suggestion={'none' if best is None else f'{best:.3g}'})"


def find(
    trainer: Trainer, train: Any, min_lr: float = 1e-7, max_lr: float = 10.0, steps: int = 100,
    batch_size: int | None = None, smooth: float = 0.95, diverge: float = 4.0,
) -> LRFinder:  # fmt: skip
    """Train `steps` batches with rates from `min_lr` to `max_lr`, and take everything back.

    It ends early where the smoothed loss is `diverge` times the best. Groups of parameters keep their rates' proportions.
    Model, optimizer, random numbers and history are afterwards as they were.
    """
    if not 0 < min_lr < max_lr or steps < 3:
        raise KilnValueError("lr_find", "rates rise from min_lr to max_lr in some steps", describe((min_lr, max_lr, steps)), "e.g. min_lr=1e-7, max_lr=10, steps=100")  # fmt: skip
    feed = Feed(train, batch_size, True, steps, dtype=trainer._dtype)
    trainer._begin_run(Callbacks(trainer.callbacks, trainer))
    streams = randomness.states()
    if has_lazy(trainer.model):
        for batch in Feed(train, batch_size, False, 1, dtype=trainer._dtype).epoch():
            trainer._get_ready(batch, False)
    kept = deepcopy(state_of(trainer))
    groups = [g for o in trainer.optimizers for g in o.param_groups]
    base = [float(g["lr"]) for g in groups]
    shares = [b / base[0] if base[0] else 1.0 for b in base]
    lrs: list[float] = []
    losses: list[float] = []
    mean, lowest = 0.0, math.inf
    trainer.model.train()
    try:
        for i, batch in enumerate(feed.epoch()):
            lr = min_lr * (max_lr / min_lr) ** (i / (steps - 1))
            for group, share in zip(groups, shares, strict=True):
                set_option(group, "lr", lr * share)
            trainer._train_batch(trainer.steps, batch, feed.weighted, True, True)
            mean = smooth * mean + (1 - smooth) * float(trainer.last["loss"])
            loss = mean / (1 - smooth ** (i + 1))
            if not math.isfinite(loss):
                break
            lrs.append(lr)
            losses.append(loss)
            lowest = min(lowest, loss)
            if i > 5 and loss > diverge * lowest:
                break
    finally:
        load(trainer, kept)
        randomness.restore(streams)
    return LRFinder(lrs, losses)


__all__ = ["LRFinder", "find"]
