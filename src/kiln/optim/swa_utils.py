"""Averages of weights: stochastic weight averaging and exponential moving averages.

https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

from .. import dtypes as dt
from ..autograd.modes import no_grad
from ..errors import KilnValueError
from ..nn import Module
from ..nn.modules.batchnorm import _BatchNorm
from ..ops.creation import tensor
from ..tensor import Tensor
from .lr_scheduler.base import LRScheduler, need_optimizer, per_group
from .optimizer import Optimizer

__all__ = [
    "SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn",
    "get_swa_multi_avg_fn", "update_bn",
]  # fmt: skip

Average = Callable[[Tensor, Tensor, Any], Tensor]
Averages = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """mean * decay + value * (1 - decay), as a function of mean, value and count."""
    _check_decay(decay)

    def ema_update(ema_param: Tensor, current_param: Tensor, num_averaged: Any) -> Tensor:
        with no_grad():
            return decay * ema_param + (1 - decay) * current_param

    return ema_update


def get_swa_avg_fn() -> Average:
    """The mean of equal parts, as a function of mean, value and count."""

    def swa_update(averaged_param: Tensor, current_param: Tensor, num_averaged: Any) -> Tensor:
        with no_grad():
            return averaged_param + (current_param - averaged_param) / (num_averaged + 1)

    return swa_update


def get_ema_multi_avg_fn(decay: float = 0.999) -> Averages:
    """`get_ema_avg_fn` for lists of tensors, in place."""
    return _in_place(get_ema_avg_fn(decay), lambda n: 1 - decay)


def get_swa_multi_avg_fn() -> Averages:
    """`get_swa_avg_fn` for lists of tensors, in place."""
    return _in_place(get_swa_avg_fn(), lambda n: 1 / (n + 1))


def _in_place(average: Average, weight: Callable[[Any], Any]) -> Averages:
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
        with no_grad():
            for mean, value in zip(averaged, current, strict=True):
                if mean.is_floating_point() or mean.is_complex():
                    mean.add_((value - mean) * weight(count))
                else:
                    mean.copy_(average(mean, value, count))

    return update


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise KilnValueError(
            "get_ema_avg_fn", f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.",
            decay, "0.999",
        )  # fmt: skip


class AveragedModel(Module):
    """A copy of a model whose parameters are the average of those seen by `update_parameters`.

    `avg_fn(mean, value, n)` gives the new mean of a parameter, `multi_avg_fn(means, values, n)` changes
    all in place; without either it is the mean of equal parts. `use_buffers` averages buffers too;
    else they are copied.
    """

    n_averaged: Tensor

    def __init__(
        self, model: Module, device: Any = None, avg_fn: Average | None = None,
        multi_avg_fn: Averages | None = None, use_buffers: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", tensor(0, dtype=dt.int64, device=device))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged model computes."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the parameters of `model` into the average; the first time they are it."""
        averaged, current = list(self.module.parameters()), list(model.parameters())
        if self.use_buffers:
            averaged, current = [*averaged, *self.module.buffers()], [*current, *model.buffers()]
        with no_grad():
            means = [p.detach() for p in averaged]
            values = [p.detach().to(m.device) for p, m in zip(current, means, strict=False)]
            if self.n_averaged == 0:
                for mean, value in zip(means, values, strict=False):
                    mean.copy_(value)
            elif self.avg_fn is not None:
                for mean, value in zip(means, values, strict=False):
                    mean.copy_(self.avg_fn(mean, value, self.n_averaged))
            else:
                update = self.multi_avg_fn or get_swa_multi_avg_fn()
                update(means, values, self.n_averaged)
            if not self.use_buffers:
                for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
                    mine.copy_(theirs.detach().to(mine.device))
            self.n_averaged += 1


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of all batch norms anew, by one pass over the data.

    A batch is a tensor, or a list or tuple that begins with the model's input.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return
    momenta, training = [m.momentum for m in norms], model.training
    with no_grad():
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # the mean of all batches
        model.train()
        try:
            for batch in loader:
                x = batch[0] if isinstance(batch, list | tuple) else batch
                model(x if device is None else x.to(device))
        finally:
            for m, momentum in zip(norms, momenta, strict=True):
                m.momentum = momentum
            model.train(training)


class SWALR(LRScheduler):
    """From the rate that is there to `swa_lr` in `anneal_epochs` epochs, then constant."""

    def __init__(
        self, optimizer: Optimizer, swa_lr: Any, anneal_epochs: int = 10, anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        need_optimizer(self, optimizer)
        for rate, group in zip(
            per_group("swa_lr", optimizer, swa_lr), optimizer.param_groups, strict=True
        ):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise KilnValueError(
                "SWALR", f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}",
                repr(anneal_strategy),
            )  # fmt: skip
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise KilnValueError(
                "SWALR", f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}",
                anneal_epochs,
            )  # fmt: skip
        self._anneal_strategy, self.anneal_epochs = anneal_strategy, anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """How much of the way is gone after `step` epochs."""
        t = max(0, min(1, step / max(1, self.anneal_epochs)))
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def get_lr(self) -> list[Any]:
        self._warn_outside_step()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        out = []
        for group in self.optimizer.param_groups:
            lr, end = group["lr"], group["swa_lr"]
            start = end if before == 1 else (lr - before * end) / (1 - before)
            out.append(end * now + start * (1 - now))
        return out
