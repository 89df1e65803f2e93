"""What the programs share: the usual loop's body, and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def training(
    model: Any, optimizer: Any, batches: Iterator, loss_of: Callable, clip: float = 0.0
) -> Callable[[], float]:
    """A step: a batch, its loss, the gradients, clipped if asked for, the update."""

    def step() -> float:
        x, y = next(batches)
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss.item()

    return step


def again(x: Any, y: Any = None) -> Iterator:
    """The same batch for ever."""
    while True:
        yield x, y


def epochs(loader: Any) -> Iterator:
    """A loader's batches, epoch after epoch."""
    while True:
        yield from loader
