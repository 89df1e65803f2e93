"""Trainer: fit, evaluate and predict in three lines.

trainer = Trainer(model, loss="cross_entropy", optimizer="adam", metrics=["accuracy"])
history = trainer.fit((x, y), val=(x_val, y_val), epochs=5, batch_size=64)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Unpack

import numpy as np

from .. import optim
from ..errors import KilnTypeError, KilnValueError, describe
from ..nn.modules.module import Module
from ..ops.joining import cat
from ..tensor import Tensor
from . import optimizers as optimizers_
from . import state as state_
from .batches import Feed, Weighted, call_with, rows, shapes, signature, split
from .callbacks import Callback, Callbacks
from .history import BatchLogs, History, Tally
from .limits import Limits, batches, checked, epochs_for, has_data, loader
from .module import ModuleHooks, TrainingModule
from .objective import Objective
from .progress import shown
from .seeds import seed_everything
from .steps import Steps, autocast_dtype, explain, has_lazy


class Trainer:
    """Trains a model.

    `loss` is a name ("cross_entropy", "mse", …), a module or a function of (output, target); a dict of them for a model
    that gives a dict of outputs (or a list, whose `output_names` they go by), with `loss_weights`. `optimizer` is an optimizer of the model's parameters, a name, or
    a function of the parameters that gives one. `metrics` are names, functions of (output, target) (their mean over the
    samples is told), or objects of `kiln.metrics`; `weighted_metrics` are those that samples' weights count for. With `compile` each step is captured and runs as one native program; a dict is options of `kiln.compile`.
    `precision="bfloat16"` computes forward and loss in autocast, `accumulate` adds up the gradients of so many batches for one
    step of the optimizer, `seed` seeds Kiln, Python and NumPy when training begins, `callbacks` are those of every fit.

    Data is a DataLoader or a Pipeline of batches (or any iterable of them), a Dataset, or arrays or tensors `(x, y)` (NumPy's float64, its default, is
    taken in the dtype of the model's parameters). In a batch the last
    entry is the target and those before it are the model's arguments; a dict of its arguments' names is one, too.

    A model with `training_step(batch)` is trained by that, with `configure_optimizers()` where no optimizer is given
    (see `kiln.train.TrainingModule`). `limits` are Lightning's (see `kiln.train.Limits`), and data may be a data module, with
    `train_dataloader()` and its like.

    While it trains, `epoch`, `batch` and `step` say where it is, `last` is what the last batch gave, and setting `stop` ends it.
    """

    def __init__(
        self, model: Module, loss: Any = "cross_entropy", optimizer: Any = None, metrics: Any = (),
        compile: bool | Mapping[str, Any] = True, *, loss_weights: Any = None, precision: str = "float32", accumulate: int = 1,
        seed: int | None = None, callbacks: Sequence[Any] = (), weighted_metrics: Any = (),
        output_names: Sequence[str] = (), **limits: Unpack[Limits],
    ) -> None:  # fmt: skip
        if not isinstance(model, Module):
            raise KilnTypeError("Trainer", "the model must be an nn.Module", describe(model))
        if not isinstance(accumulate, int) or accumulate < 1:
            raise KilnValueError("Trainer", "accumulate is a number of batches", describe(accumulate), "at least 1")  # fmt: skip
        if optimizer is not None:
            optimizers_.check(optimizer)
        self.model, self.compile, self.accumulate = model, compile, accumulate
        self.limits = checked(limits)
        hooks = [ModuleHooks()] if isinstance(model, TrainingModule) else []
        self.seed, self.callbacks = seed, [*hooks, *callbacks]
        self._given, self._output_names = (loss, metrics, loss_weights, weighted_metrics), output_names  # fmt: skip
        self._class_weight: Any = None
        self.objective = Objective(*self._given, names=output_names)
        self._cast = autocast_dtype(precision)
        self._optimizer = optimizer
        self._optimizers: list[optim.Optimizer] = []
        self._schedules: list[Any] = []
        self._steps: Steps | None = None
        self._ready = False
        self._names = _arguments(model)
        if isinstance(model, TrainingModule):
            model._attach(self)
        self.history = History()
        self.verbose: bool | int | str = False
        self.test_length: int | None = None
        self.stop = self.testing = False
        self.data: Any = None
        self.epoch = self.batch = self.step = self.updates = 0
        self.first_epoch = self.last_epoch = 0
        self.updated = self.pending = False
        self.last: Mapping[str, Tensor] = {}
        self._begin_run(Callbacks(self.callbacks, self))

    def _begin_run(self, callbacks: Callbacks) -> None:
        self.running = callbacks
        self.feed: Feed | None = None
        self.val_feed: Feed | None = None
        self.tally = Tally()
        self.in_epoch = self.in_fit = self._counting = self.pending = False
        self._usual: Any = None
        self._interval: int | None = None
        self._within: dict[str, Any] = {}
        self.last_args: tuple | None = None
        self._inside = callbacks.inside()

    # ---- optimizer and steps

    @property
    def optimizers(self) -> list[optim.Optimizer]:
        """The optimizers, made at first use."""
        if not self._optimizers:
            self._optimizers, self._schedules = optimizers_.make(self._optimizer, self.model)
        return self._optimizers

    @property
    def optimizer(self) -> optim.Optimizer:
        """The optimizer; one given by name is made at first use."""
        return self.optimizers[0]

    @property
    def _dtype(self) -> Any:
        """What NumPy's float64 arrays become: the dtype of the model's parameters."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), None)

    @property
    def steps(self) -> Steps:
        """What is computed for a batch, as captured so far."""
        s = self._steps
        if (
            s is None
            or s.objective is not self.objective
            or s.compiled is not self.compile
            or s.accumulate != self.accumulate
            or s.inside != self._inside
        ):
            s = self._steps = Steps(
                self.model, self.objective, lambda: self.optimizers, self._inside, self.compile,
                self.accumulate, self._cast,
            )  # fmt: skip
        return s

    @property
    def params(self) -> dict[str, Any]:
        """What `fit` or `evaluate` was told: "verbose", "epochs" and "steps", None where nobody knows how many batches."""
        steps = self.feed.length if self.in_fit and self.feed is not None else self.test_length
        return {"verbose": self.verbose, "epochs": self.last_epoch, "steps": steps}

    @property
    def total_updates(self) -> int | None:
        """How many steps the optimizer makes in the present fit; None where nobody knows."""
        length = self.feed.length if self.feed is not None else None
        epochs = self.last_epoch - self.first_epoch
        n = None if length is None else -(-length // self.accumulate) * epochs
        most = self.limits.get("max_steps")
        return n if most is None else most if n is None else min(n, most)

    def _weigh_classes(self, class_weight: Any) -> None:
        if class_weight is not self._class_weight:
            self._class_weight = class_weight
            self.objective = Objective(*self._given, class_weight, self._output_names)

    def _get_ready(self, batch: Any, weighted: bool) -> None:
        """Give lazy layers their sizes before anything is captured or optimized, by a call in evaluation mode."""
        self._ready = True
        if has_lazy(self.model):
            was = self.model.training
            self.model.eval()
            if self.steps.own:
                self.steps.own_validate(batch, 0)
            else:
                self.steps.predict(*split(batch, weighted, self._names)[:2])
            self.model.train(was)

    # ---- one batch

    def _train_batch(
        self, steps: Steps, batch: Any, weighted: bool, first: bool, last: bool
    ) -> None:
        """Train on a batch; `self.last` are its values, and the epoch's tally takes them in."""
        if steps.own:
            self.last = steps.run("own_train", batch, steps.number(self.batch), first, last)
        else:
            args, kwargs, target, weight = split(batch, weighted, self._names)
            self.last, output = steps.run("train", args, kwargs, target, weight, first, last)
            self.last_args = args
            if steps.objective.outside:
                self.objective.measure_outside(output, target, weight)
        self.tally.add(self.last, rows(batch), steps.reduced["train"])

    def _test_batch(self, batch: Any, weighted: bool, i: int) -> Mapping[str, Tensor]:
        steps = self.steps
        if steps.own:
            name = (
                "own_test" if self.testing and hasattr(self.model, "test_step") else "own_validate"
            )
            return steps.run(name, batch, steps.number(i))
        args, kwargs, target, weight = split(batch, weighted, self._names)
        values, output = steps.run("validate", args, kwargs, target, weight)
        if steps.objective.outside:
            self.objective.measure_outside(output, target, weight, by_class=False)
        return values

    def _logs(self) -> dict[str, Any]:
        return self.objective.logs(self.tally)

    # ---- what users call

    def fit(
        self, train: Any, val: Any = None, epochs: int | None = None, batch_size: int | None = None, shuffle: bool = True,
        callbacks: Sequence[Callback | Callable] = (), verbose: bool | int | str = True, *,
        sample_weight: Any = None, class_weight: Any = None, steps_per_epoch: int | None = None,
        validation_steps: int | None = None, validation_freq: int | Collection[int] = 1, validation_batch_size: int | None = None,
        initial_epoch: int | None = None, resume: Any = None,
    ) -> History:  # fmt: skip
        """Train for `epochs` passes over the data (one, or as many as hold the `max_steps` of the Trainer); gives the history of loss and metrics.

        `callbacks` are Callbacks, or functions (trainer, epoch, logs) called after each epoch. `verbose` is 0 for silence,
        1 for a bar, 2 for a line for each epoch; True takes what fits the terminal, notebook or file.
        `class_weight` maps class numbers to what they count in training, `sample_weight` is one more array beside the data. With
        `steps_per_epoch` an epoch is so many batches and the next goes on in the data where it ended. `resume` is a
        checkpoint of `ModelCheckpoint` or `save_checkpoint`, or a folder of which the newest good one is taken (none: training
        begins anew); with the same arguments otherwise, training goes on to the bits that it would have come to.
        Ctrl-C ends training and keeps the history. Where a step fails, the error says at which batch and of which shapes.
        """
        if epochs is not None and (not isinstance(epochs, int) or epochs < 0):
            raise KilnValueError("fit", "epochs is a number of passes over the data", describe(epochs), "e.g. epochs=5")  # fmt: skip
        limits = self.limits
        found = None if resume is None else state_.find(resume)
        if self.seed is not None and found is None and not self.history.epoch:
            seed_everything(self.seed)
        self._weigh_classes(class_weight)
        self.first_epoch = len(self.history.epoch) if initial_epoch is None else initial_epoch
        callbacks = [callbacks] if isinstance(callbacks, Callback) else callbacks or ()
        optimizers_.suit(self.optimizers, self.model)
        all_callbacks = [*self._schedules, *self.callbacks, *callbacks]
        if limits.get("fast_dev_run"):
            all_callbacks = [c for c in all_callbacks if not getattr(c, "saves", False)]
        self._begin_run(Callbacks([*all_callbacks, *shown(verbose)], self))
        if has_data(train):
            val = loader(train, "validate") if val is None and hasattr(train, "val_dataloader") else val  # fmt: skip
            train = loader(train, "fit")
        overfit = bool(limits.get("overfit_batches"))
        self.feed = Feed(
            train, batch_size, shuffle and not overfit, steps_per_epoch, sample_weight, dtype=self._dtype,
            limit=limits.get("limit_train_batches"),
        )  # fmt: skip
        most, length = limits.get("max_steps"), self.feed.length
        if epochs is None:
            epochs = 1 if most is None else epochs_for(max(most - self.updates, 0), length, self.accumulate)  # fmt: skip
        epochs = min(epochs, 1) if limits.get("fast_dev_run") else epochs
        self.last_epoch = self.first_epoch + epochs if initial_epoch is None else epochs
        if val is not None and not overfit:
            size = validation_batch_size or batch_size
            *columns, weight = val if isinstance(val, Weighted) else (val, None)
            data = val if weight is None else tuple(columns)
            self.val_feed = Feed(
                data, size, False, validation_steps, weight, True, self._dtype, limits.get("limit_val_batches")
            )  # fmt: skip
        elif val is not None:
            self.val_feed = Feed(train, batch_size, False, None, sample_weight, True, self._dtype, self.feed.limit)  # fmt: skip
        self._interval = batches("val_check_interval", limits.get("val_check_interval"), length)
        self.verbose = verbose
        self.stop, self.history.interrupted, self.in_fit = False, False, True
        self.epoch, self.batch = self.first_epoch, 0
        calls = self.running
        self.history.params = self.params
        try:
            calls.call("on_train_begin", {})
            if found is not None:
                state_.load(self, found)
            elif self.val_feed is not None and (n := limits.get("num_sanity_val_steps")):
                self._evaluate(Feed(self.val_feed.loader, None, False, None, None, True, self._dtype, n), calls)  # fmt: skip
            while self.epoch < self.last_epoch and not self.stop:
                self._epoch(validation_freq)
        except KeyboardInterrupt:
            self.history.interrupted = True
        except BaseException as e:
            calls.call("on_exception", e)
            raise
        finally:
            self.in_fit = False
        calls.call("on_train_end", self.history.latest())
        return self.history

    def _epoch(self, validation_freq: int | Collection[int]) -> None:
        """One epoch, or the rest of one that was resumed."""
        feed, calls, epoch = self.feed, self.running, self.epoch
        assert feed is not None
        done = self.batch if self.in_epoch else 0
        if not self.in_epoch:
            self.tally, self.batch = Tally(), 0
            self.objective.reset()
            calls.call("on_epoch_begin", epoch, {})
            self.in_epoch = True
        self._counting = True
        feed.begin(epoch)
        self.model.train()
        before, after = calls.hooks["on_train_batch_begin"], calls.hooks["on_train_batch_end"]
        accumulate, steps, length = self.accumulate, self.steps, feed.length
        most = self.limits.get("max_steps")
        for batch in self._loaded(feed.epoch(done)):
            i = self.batch
            if not self._ready:
                self._get_ready(batch, feed.weighted)
            self.data = batch
            for hook in before:
                hook(i, {})
            first, last = not self.pending, (i + 1) % accumulate == 0 or i + 1 == length
            try:
                self._train_batch(steps, batch, feed.weighted, first, last)
            except Exception as e:
                told = self._explained(e, batch)
                if told is e:
                    raise
                raise told from e
            if self._usual is None:
                self._usual = signature(batch), shapes(batch)
            self.pending = not last
            self.updated = last
            self.updates += last
            self.step += 1
            self.batch = i + 1
            if most is not None and self.updates >= most:
                self.stop = True
            within: dict[str, Any] = {}
            if self._interval and self.val_feed is not None and (i + 1) % self._interval == 0 and i + 1 != length:  # fmt: skip
                within = self._within = self._validated(calls)
            if after:
                logs = BatchLogs(lambda within=within: {**self._logs(), **within})
                for hook in after:
                    hook(i, logs)
            if self.stop:
                break
        if self.pending and not steps.manual:  # the epoch ended before anybody knew
            steps.run("update")
            self.updates += 1
        self.pending = False
        if self.batch == 0:
            raise KilnValueError("fit", "the training data has no batches", describe(feed.given))
        logs = self._logs()
        self._counting = False
        due = (epoch + 1) % validation_freq == 0 if isinstance(validation_freq, int) else epoch + 1 in validation_freq  # fmt: skip
        if self.val_feed is not None and due:
            ends = not self._interval or self.batch % self._interval == 0
            logs.update(self._validated(calls) if ends else self._within)
        self.in_epoch, self.epoch, self.batch = False, epoch + 1, 0
        self.history.add(epoch, logs)
        for hook in calls.hooks["on_epoch_end"]:
            hook(epoch, logs)
            self.history.amend(logs)

    def _validated(self, calls: Callbacks) -> dict[str, Any]:
        assert self.val_feed is not None
        return {f"val_{k}": v for k, v in self._evaluate(self.val_feed, calls).items()}

    def _at(self) -> str:
        return f"epoch {self.epoch + 1}, batch {self.batch + 1} (step {self.step + 1} of all)"

    def _loaded(self, batches: Iterator[Any], testing: bool = False) -> Iterator[Any]:
        """The batches; where the data fails to give one, the error says which."""
        i = 0
        try:
            for batch in batches:
                yield batch
                i += 1
        except Exception as e:
            usual = "none" if self._usual is None else self._usual[1]
            told = explain(
                e, "evaluate" if testing else "fit", f"the data gave no batch at {f'batch {i + 1}' if testing else self._at()}",
                f"batches of training before were {usual}", "look at this batch's samples in the data",
            )  # fmt: skip
            if told is e:
                raise
            raise told from e

    def _explained(self, e: Exception, batch: Any) -> Exception:
        """An error in a training step, with where it happened and what was there."""
        where = f"the training step failed at {self._at()}"
        received, help = f"batch={shapes(batch)}", "a smaller run with compile=False gives the line in eager mode"  # fmt: skip
        if self._usual is not None and self._usual[0] != signature(batch):
            received += f"; batches before were {self._usual[1]}"
            help = "look at this batch's samples in the data: its shapes or dtypes differ from the others'"
        return explain(e, "fit", where, received, help)

    def train_on_batch(
        self, *batch: Any, sample_weight: Any = None, class_weight: Any = None
    ) -> dict[str, float]:
        """One step on a batch `(x, …, y)` of arrays or tensors; gives its loss and metrics."""
        from ..data import default_convert

        self._weigh_classes(class_weight)
        weighted = sample_weight is not None
        given = default_convert((*batch, sample_weight) if weighted else batch)
        if not self._ready:
            self._get_ready(given, weighted)
        self.model.train()
        self.tally = Tally()
        self.objective.reset()
        self._train_batch(self.steps, given, weighted, True, True)
        self.step, self.updates = self.step + 1, self.updates + 1
        return self._logs()

    def evaluate(
        self, data: Any, batch_size: int | None = None, *, sample_weight: Any = None, steps: int | None = None,
        callbacks: Sequence[Any] = (), verbose: bool | int | str = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Loss and metrics on data, in evaluation mode."""
        calls = Callbacks([*self.callbacks, *callbacks, *shown(verbose)], self)
        data = loader(data, "test" if self.testing else "validate")
        limit = self.limits.get("limit_test_batches" if self.testing else "limit_val_batches")
        return self._evaluate(
            Feed(data, batch_size, False, steps, sample_weight, True, self._dtype, limit), calls
        )

    validate = evaluate

    def test(self, data: Any, batch_size: int | None = None, **options: Any) -> dict[str, Any]:
        """`evaluate` by the model's `test_step`, with its hooks of testing, where it has them."""
        self.testing = True
        try:
            return self.evaluate(data, batch_size, **options)
        finally:
            self.testing = False

    def _evaluate(self, feed: Feed, calls: Callbacks) -> dict[str, Any]:
        tally, train_tally = Tally(), self.tally
        seen = deepcopy(self.objective.state_dict()) if self._counting else None
        before, after = calls.hooks["on_test_batch_begin"], calls.hooks["on_test_batch_end"]
        was = self.model.training
        self.tally = tally
        self.test_length = feed.length
        self.objective.reset()
        calls.call("on_test_begin", {})
        self.model.eval()
        try:
            for i, batch in enumerate(self._loaded(feed.epoch(), True)):
                if not self._ready:
                    self._get_ready(batch, feed.weighted)
                self.data = batch
                for hook in before:
                    hook(i, {})
                try:
                    values = self._test_batch(batch, feed.weighted, i)
                except Exception as e:
                    where = f"the validation step failed at batch {i + 1}"
                    help = (
                        "look at this batch's samples; compile=False gives the line in eager mode"
                    )
                    told = explain(e, "evaluate", where, f"batch={shapes(batch)}", help)
                    if told is e:
                        raise
                    raise told from e
                tally.add(values, rows(batch), self.steps.reduced["val"])
                for hook in after:
                    hook(i, BatchLogs(self._logs))
            logs = self._logs()
        finally:
            self.model.train(was)
            self.tally = train_tally
            if seen is not None:  # a hook evaluates in the middle of an epoch
                self.objective.load_state_dict(seen)
        calls.call("on_test_end", logs)
        return logs

    def predict(
        self, data: Any, batch_size: int | None = None, *, steps: int | None = None, callbacks: Sequence[Any] = (),
        verbose: bool | int | str = False,
    ) -> Any:  # fmt: skip
        """The model's outputs for inputs: an array or tensor, a Dataset, or a DataLoader.

        Of a batch the model gets as many entries as its `forward` takes; the rest are targets. Outputs that are
        tuples or dicts are joined part by part.
        """
        data = loader(data, "predict")
        if isinstance(data, Tensor | np.ndarray) or (isinstance(data, Mapping) and data):
            data = (data,)
        calls = Callbacks([*self.callbacks, *callbacks, *shown(verbose)], self)
        outputs: list[Any] = []
        taken = _positions(self.model.forward)
        limit = self.limits.get("limit_predict_batches")
        feed = Feed(data, batch_size, False, steps, None, True, self._dtype, limit)
        self.test_length = feed.length
        own = callable(getattr(self.model, "predict_step", None))
        was = self.model.training
        self.model.eval()
        calls.call("on_predict_begin", {})
        try:
            for i, batch in enumerate(feed.epoch()):
                self.data = batch
                calls.call("on_predict_batch_begin", i, {})
                if own:
                    out = self.steps.run("own_predict", batch, self.steps.number(i))
                else:
                    inputs = tuple(batch)[:taken] if isinstance(batch, list | tuple) else (batch,)
                    args, kwargs = call_with(inputs, self._names)
                    out = self.steps.run("predict", args, kwargs)
                outputs.append(out)
                calls.call("on_predict_batch_end", i, {"outputs": out})
        finally:
            self.model.train(was)
        calls.call("on_predict_end", {})
        if not outputs:
            raise KilnValueError("predict", "the data has no batches", describe(data))
        return joined(outputs)

    def save_checkpoint(self, path: Any) -> None:
        """Write all of the training's state to one file, from which `fit(resume=path)` goes on."""
        state_.save(self, path)

    def load_checkpoint(self, path: Any) -> None:
        """Take over model, optimizer and history of a checkpoint, to evaluate or predict, or to train anew."""
        state_.load(self, state_.read(path), whole=False)

    def lr_find(self, train: Any, **options: Any) -> Any:
        """Try learning rates, small to large, on a copy of the training's state: see `kiln.train.LRFinder`."""
        from .finder import find

        return find(self, train, **options)


def joined(parts: list[Any]) -> Any:
    """Outputs of all batches as one, part by part."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {k: joined([p[k] for p in parts]) for k in first}
    if isinstance(first, tuple | list):
        return tuple(joined(list(p)) for p in zip(*parts, strict=True))
    return cat(parts) if first.ndim else parts


def _positions(fn: Callable) -> int | None:
    """How many positional arguments a function takes; None for any number."""
    kinds = [p.kind for p in inspect.signature(fn).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(k in named for k in kinds)


def _arguments(model: Module) -> frozenset[str]:
    """The names of the arguments of a model."""
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # fmt: skip
    return frozenset(p.name for p in parameters if p.kind not in positional)


__all__ = ["Trainer", "joined"]
