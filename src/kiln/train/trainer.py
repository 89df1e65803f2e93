"""Trainer: fit, evaluate and predict in three lines.

trainer = Trainer(model, loss="cross_entropy", optimizer="adam", metrics=["accuracy"])
history = trainer.fit((x, y), val=(x_val, y_val), epochs=5, batch_size=64)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from .. import metrics as metric_functions
from .. import optim
from ..autograd.modes import no_grad
from ..data import DataLoader, Dataset, IterableDataset, TensorDataset
from ..errors import KilnTypeError, KilnValueError, describe
from ..nn import functional as F
from ..nn.modules.module import Module
from ..nn.parameter import is_lazy
from ..ops.creation import as_tensor
from ..ops.joining import cat
from ..tensor import Tensor
from .callbacks import Callback
from .progress import display

LOSSES = {
    "mse": "mse_loss", "l1": "l1_loss", "mae": "l1_loss", "huber": "huber_loss", "nll": "nll_loss",
    "smooth_l1": "smooth_l1_loss", "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits", "cross_entropy": "cross_entropy",
    "kl_div": "kl_div", "poisson_nll": "poisson_nll_loss",
}  # fmt: skip
OPTIMIZERS = {
    "sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad, "adadelta": optim.Adadelta, "adamax": optim.Adamax, "nadam": optim.NAdam,
}  # fmt: skip


class History:
    """What training has seen: `history["loss"]` is a list with one number for each epoch."""

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}
        self.interrupted = False

    def add(self, epoch: int, logs: dict[str, float]) -> None:
        """Note an epoch."""
        self.epoch.append(epoch)
        for k, v in logs.items():
            self.history.setdefault(k, []).append(v)

    def __getitem__(self, key: str) -> list[float]:
        return self.history[key]

    def __contains__(self, key: str) -> bool:
        return key in self.history

    def keys(self) -> Iterable[str]:
        """The names of what was noted."""
        return self.history.keys()

    def __repr__(self) -> str:
        last = ", ".join(f"{k}={v[-1]:.4g}" for k, v in self.history.items())
        return f"History({len(self.epoch)} epochs{': ' + last if last else ''})"


class _Means:
    """Means of values over samples, added up as tensors."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.count = names, 0
        self.sums: list[Any] = [0.0] * len(names)

    def add(self, values: Sequence[Tensor], n: int) -> None:
        self.count += n
        self.sums = [s + v.detach().double() * n for s, v in zip(self.sums, values, strict=True)]

    def logs(self) -> dict[str, float]:
        return {
            k: float(s) / max(self.count, 1) for k, s in zip(self.names, self.sums, strict=True)
        }


class Trainer:
    """Trains a model.

    `loss` is a name ("cross_entropy", "mse", …) or a function of (output, target); `optimizer` an
    optimizer of the model's parameters or a name; `metrics` names or functions of (output, target).
    With `compile` each training step is captured and runs as one native program.

    Data is a DataLoader (or any iterable of batches), a Dataset, or arrays or tensors `(x, y)`.
    In a batch the last entry is the target and those before it are the model's arguments.
    """

    def __init__(
        self, model: Module, loss: str | Callable = "cross_entropy", optimizer: Any = "adam",
        metrics: Sequence[Any] = (), compile: bool = True,
    ) -> None:  # fmt: skip
        if not isinstance(model, Module):
            raise KilnTypeError("Trainer", "the model must be an nn.Module", describe(model))
        self.model, self.loss = model, _loss(loss)
        self.metrics = [
            self._metric(m) for m in ([metrics] if isinstance(metrics, str) else metrics)
        ]
        self._optimizer = optimizer
        if not isinstance(optimizer, optim.Optimizer) and optimizer not in OPTIMIZERS:
            raise KilnValueError(
                "Trainer", "no optimizer has this name", describe(optimizer),
                "pass an optimizer, or one of " + ", ".join(OPTIMIZERS),
            )  # fmt: skip
        self.compile, self.stop = compile, False
        self.history = History()
        self._ready = False
        self._steps: dict[str, Callable] = {}

    def _metric(self, metric: Any) -> tuple[str, Callable]:
        name, fn = metric_functions.get(metric)
        if fn is metric_functions.accuracy and self.loss is F.binary_cross_entropy_with_logits:
            return name, lambda output, target: metric_functions.accuracy(
                output, target, threshold=0.0
            )
        return name, fn

    @property
    def optimizer(self) -> optim.Optimizer:
        """The optimizer; one given by name is made at first use."""
        if not isinstance(self._optimizer, optim.Optimizer):
            self._optimizer = OPTIMIZERS[self._optimizer](self.model.parameters())
        return self._optimizer

    # ---- the three things that are computed

    def _train_step(self, inputs: tuple, target: Any) -> list[Tensor]:
        self.optimizer.zero_grad()
        output = self.model(*inputs)
        loss = self.loss(output, target)
        loss.backward()
        self.optimizer.step()
        return self._values(output, target, loss)

    def _eval_step(self, inputs: tuple, target: Any) -> list[Tensor]:
        with no_grad():
            output = self.model(*inputs)
            return self._values(output, target, self.loss(output, target))

    def _predict_step(self, inputs: tuple) -> Any:
        with no_grad():
            return self.model(*inputs)

    def _values(self, output: Any, target: Any, loss: Tensor) -> list[Tensor]:
        with no_grad():
            return [loss.detach(), *(fn(output, target) for _, fn in self.metrics)]

    def _step(self, name: str) -> Callable:
        step = self._steps.get(name)
        if step is None:
            step = getattr(self, f"_{name}_step")
            if self.compile:
                from .. import compile

                step = compile(step)
            self._steps[name] = step
        return step

    def _prepare(self, batch: tuple) -> None:
        """Give lazy layers their sizes before anything is captured or optimized."""
        if self._ready:
            return
        self._ready = True
        if any(
            is_lazy(x)
            for m in self.model.modules()
            for x in (*m._parameters.values(), *m._buffers.values())
        ):
            was = self.model.training
            self.model.eval()
            self._predict_step(batch)
            self.model.train(was)

    # ---- what users call

    def fit(
        self, train: Any, val: Any = None, epochs: int = 1, batch_size: int = 32, shuffle: bool = True,
        callbacks: Sequence[Callback | Callable] = (), verbose: bool = True,
    ) -> History:  # fmt: skip
        """Train for `epochs` passes over the data; gives the history of loss and metrics.

        `callbacks` are Callbacks, or functions (trainer, epoch, logs) called after each epoch.
        Ctrl-C ends training and keeps the history.
        """
        loader = _loader(train, batch_size, shuffle)
        val_loader = None if val is None else _loader(val, batch_size, False)
        names = ["loss", *(name for name, _ in self.metrics)]
        self.stop, self.history.interrupted = False, False
        start = len(self.history.epoch)
        show = display(start + epochs, verbose)
        try:
            for epoch in range(start, start + epochs):
                means = _Means(names)
                show.start(epoch, _length(loader))
                self.model.train()
                for i, (inputs, target) in enumerate(_split(loader)):
                    self._prepare(inputs)
                    means.add(self._step("train")(inputs, target), _rows(target))
                    logs = means.logs()
                    show.batch(logs)
                    for c in callbacks:
                        if isinstance(c, Callback):
                            c.on_batch_end(self, i, logs)
                if means.count == 0:
                    raise KilnValueError("fit", "the training data has no batches", describe(train))
                logs = means.logs()
                if val_loader is not None:
                    logs.update({f"val_{k}": v for k, v in self._evaluate(val_loader).items()})
                self.history.add(epoch, logs)
                show.end(logs)
                for c in callbacks:
                    c.on_epoch_end(self, epoch, logs) if isinstance(c, Callback) else c(
                        self, epoch, logs
                    )
                if self.stop:
                    break
        except KeyboardInterrupt:
            self.history.interrupted = True
        finally:
            show.close()
        return self.history

    def evaluate(self, data: Any, batch_size: int = 32) -> dict[str, float]:
        """Loss and metrics on data, in evaluation mode."""
        return self._evaluate(_loader(data, batch_size, False))

    def _evaluate(self, loader: Iterable) -> dict[str, float]:
        means = _Means(["loss", *(name for name, _ in self.metrics)])
        was = self.model.training
        self.model.eval()
        try:
            for inputs, target in _split(loader):
                self._prepare(inputs)
                means.add(self._step("eval")(inputs, target), _rows(target))
        finally:
            self.model.train(was)
        return means.logs()

    def predict(self, data: Any, batch_size: int = 32) -> Any:
        """The model's outputs for inputs: an array or tensor, a Dataset, or a DataLoader.

        Of a batch the model gets as many entries as its `forward` takes; the rest are targets.
        """
        if isinstance(data, Tensor | np.ndarray):
            data = (data,)
        outputs = []
        taken = _positions(self.model.forward)
        was = self.model.training
        self.model.eval()
        try:
            for batch in _loader(data, batch_size, False):
                inputs = tuple(batch)[:taken] if isinstance(batch, list | tuple) else (batch,)
                outputs.append(self._step("predict")(inputs))
        finally:
            self.model.train(was)
        if not outputs:
            raise KilnValueError("predict", "the data has no batches", describe(data))
        if isinstance(outputs[0], tuple):
            return tuple(cat(list(parts)) for parts in zip(*outputs, strict=True))
        return cat(outputs)


def _positions(fn: Callable) -> int | None:
    """How many positional arguments a function takes; None for any number."""
    kinds = [p.kind for p in inspect.signature(fn).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(k in named for k in kinds)


def _loss(loss: Any) -> Callable:
    if callable(loss):
        return loss
    if isinstance(loss, str) and hasattr(F, LOSSES.get(loss, loss)):
        return getattr(F, LOSSES.get(loss, loss))
    raise KilnValueError(
        "Trainer", "no loss has this name", describe(loss),
        "pass a function of (output, target), or one of " + ", ".join(LOSSES),
    )  # fmt: skip


def _loader(data: Any, batch_size: int, shuffle: bool) -> Iterable:
    if isinstance(data, DataLoader):
        return data
    if (
        isinstance(data, tuple | list)
        and data
        and all(isinstance(x, Tensor | np.ndarray) for x in data)
    ):
        data = TensorDataset(*map(as_tensor, data))
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        if (
            isinstance(data, list)
            and data
            and isinstance(data[0], tuple | list)
            and len(data[0]) > 1
        ):
            return data  # batches
        order = None if isinstance(data, IterableDataset) else shuffle
        return DataLoader(cast(Dataset, data), batch_size=batch_size, shuffle=order)
    if isinstance(data, Iterable) and not isinstance(data, Tensor):
        return data
    raise KilnTypeError(
        "Trainer", "data must be a DataLoader, a Dataset, or arrays (x, y)", describe(data),
        "e.g. trainer.fit((x, y), batch_size=64)",
    )  # fmt: skip


def _split(loader: Iterable) -> Iterator[tuple[tuple, Any]]:
    """(inputs, target) of each batch."""
    for batch in loader:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise KilnTypeError(
                "Trainer", "a batch must be (input, …, target)", describe(batch),
                "write the training step yourself for other batches; see the examples",
            )  # fmt: skip
        yield tuple(batch[:-1]), batch[-1]


def _rows(target: Any) -> int:
    return len(target) if isinstance(target, Tensor) and target.ndim else 1


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


__all__ = ["History", "Trainer"]
