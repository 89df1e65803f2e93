"""How models are trained: Keras's `compile`, `fit`, `evaluate` and `predict`.

https://keras.io/api/models/model_training_apis/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..autograd.modes import no_grad
from ..compile.pytree import flatten
from ..data import Dataset, default_collate, default_convert
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..tensor import Tensor
from ..train import Callback, History, Trainer
from ..train.batches import Weighted, shapes
from ..train.objective import Objective
from . import losses, optimizers, utils
from . import metrics as metrics_
from .layer import Layer
from .utils import Batches


class Training(Layer):
    """`compile`, `fit`, `evaluate`, `predict` and their like, over a `kiln.Trainer`."""

    # ---- compile

    def compile(  # type: ignore[override]
        self, optimizer: Any = "rmsprop", loss: Any = None, loss_weights: Any = None, metrics: Any = None,
        weighted_metrics: Any = None, run_eagerly: bool = False, steps_per_execution: int = 1,
        jit_compile: bool | str = "auto", auto_scale_loss: bool = True,
    ) -> None:  # fmt: skip
        """Say how the model is trained, as in Keras: losses, optimizers and metrics by Keras's names, or Kiln's own.

        Training steps are native programs unless `run_eagerly`; `steps_per_execution`, `jit_compile` and `auto_scale_loss`
        change nothing. (For PyTorch's `module.compile()` use `kiln.compile(model)`.)
        """
        given = optimizers.get(optimizer)
        keras = given if isinstance(given, optimizers.Optimizer) else None
        found: Any = _each(loss, losses.get)
        judged = (
            _each(found, losses.for_trainer), _each(metrics, metrics_.get) or (), loss_weights,
            _each(weighted_metrics, metrics_.get) or (),
        )  # fmt: skip
        graph = self.__dict__.get("_graph")
        names = [t.node.operation.name for t in graph.outputs] if graph is not None and isinstance(graph.outputs, list | tuple) else []  # fmt: skip
        if names:
            found, judged = _named(found, names), tuple(_named(part, names) for part in judged)
        by_hand = "training_step" not in self.__dict__ and callable(getattr(self, "training_step", None))  # fmt: skip
        own = not by_hand and (loss is None or any(getattr(type(self), n) is not getattr(Training, n) for n in _STEPS))  # fmt: skip
        for name, step in (("training_step", self._own_train), ("validation_step", self._own_test)):
            self.__dict__.pop(name, None)
            if own:
                self.__dict__[name] = step
        if not by_hand:
            self.__dict__["automatic_optimization"] = not own
        self.__dict__["_keras"] = trainer = Trainer(
            self, judged[0] if not own else _nothing, given, judged[1] if not own else (), not run_eagerly,
            loss_weights=loss_weights if not own else None, weighted_metrics=judged[3] if not own else (),
            callbacks=[*(keras.callbacks() if keras else ()), _Between()], accumulate=keras.accumulate if keras else 1,
            output_names=names,
        )  # fmt: skip
        self.__dict__["_compiled"] = {
            "optimizer": optimizer, "loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics,
            "run_eagerly": run_eagerly,
        }  # fmt: skip
        self.__dict__["_objective"] = Objective(*judged, names=names) if own else None
        self.__dict__["_loss_tracker"] = metrics_.Mean("loss") if own else None
        if keras is not None:
            keras.trainer = trainer
        self.__dict__["_optimizer"] = keras
        self.__dict__["_sparse"] = _each(found, lambda x: isinstance(x, losses.SparseCategoricalCrossentropy))  # fmt: skip

    @property
    def trainer(self) -> Trainer:
        """The Trainer behind it; KilnError before `compile`."""
        found = self.__dict__.get("_keras")
        if found is None:
            raise KilnError(
                "fit", "the model is not compiled", type(self).__name__, "model.compile(optimizer='adam', loss='mse')"
            )  # fmt: skip
        return found

    @property
    def optimizer(self) -> Any:
        """The optimizer that `compile` was given, or the one it made of a name: `learning_rate` can be set."""
        made = self.trainer.optimizer
        return self.__dict__["_optimizer"] or made

    @property
    def history(self) -> History:
        """That of the latest `fit`."""
        return self.trainer.history

    @property
    def stop_training(self) -> bool:
        """Whether training is to end after this epoch; callbacks set it."""
        return self.trainer.stop

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        self.trainer.stop = value

    @property
    def metrics_names(self) -> list[str]:
        """What `evaluate` gives, in order."""
        t = self.trainer
        parts = [f"{p.key}_loss" for p in t.objective.parts if p.key is not None]
        return ["loss", *parts, *(name for name, _, _ in t.objective.metrics)]

    # ---- train, evaluate, predict

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, epochs: int = 1, verbose: Any = "auto",
        callbacks: Sequence[Any] | None = None, validation_split: float = 0.0, validation_data: Any = None,
        shuffle: bool = True, class_weight: Any = None, sample_weight: Any = None, initial_epoch: int = 0,
        steps_per_epoch: int | None = None, validation_steps: int | None = None,
        validation_batch_size: int | None = None, validation_freq: Any = 1, resume: Any = None,
    ) -> History:  # fmt: skip
        """Train on arrays `x` and `y`, or on a loader, data set or iterable of batches `x`; gives this call's History.

        The last `validation_split` of the arrays, before shuffling, is kept for validation. `resume` is beyond Keras: a checkpoint,
        or a folder of ModelCheckpoint, from which training goes on.
        """
        trainer = self.trainer
        weight = None if sample_weight is None else _array(sample_weight)
        data = self._data(x, y, shuffle)
        if validation_split and validation_data is None:
            if not isinstance(data, tuple):
                raise KilnValueError(
                    "fit", "validation_split is for arrays", f"x={shapes(x)}", "pass validation_data=(x, y), or a loader"
                )  # fmt: skip
            data, weight, validation_data = _cut(data, weight, validation_split)
        elif isinstance(validation_data, tuple | list):
            parts = self._data(validation_data[0], validation_data[1])
            validation_data = Weighted((*parts, _array(validation_data[2]))) if len(validation_data) > 2 else parts  # fmt: skip
        elif validation_data is not None:
            validation_data = self._data(validation_data)
        trainer.history = History()
        self._have_built(data)
        try:
            return trainer.fit(
                data, validation_data, epochs, batch_size, shuffle, callbacks or (), verbose, sample_weight=weight,
                class_weight=class_weight, steps_per_epoch=steps_per_epoch, validation_steps=validation_steps,
                validation_freq=validation_freq, validation_batch_size=validation_batch_size,
                initial_epoch=initial_epoch, resume=resume,
            )  # fmt: skip
        finally:
            self.eval()

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, verbose: Any = "auto",
        sample_weight: Any = None, steps: int | None = None, callbacks: Sequence[Any] | None = None,
        return_dict: bool = False,
    ) -> Any:  # fmt: skip
        """The loss, or the list [loss, *metrics] in the order of `metrics_names`, or a dict of them."""
        data = self._data(x, y)
        self._have_built(data)
        logs = self.trainer.evaluate(
            data, batch_size, sample_weight=None if sample_weight is None else _array(sample_weight),
            steps=steps, callbacks=callbacks or (), verbose=verbose,
        )  # fmt: skip
        return self._told(logs, return_dict)

    def predict(
        self, x: Any, batch_size: int | None = None, verbose: Any = "auto", steps: int | None = None,
        callbacks: Sequence[Any] | None = None,
    ) -> Any:  # fmt: skip
        """The outputs as NumPy arrays, in evaluation mode; needs no `compile`."""
        trainer = self.__dict__.get("_keras") or self.__dict__.setdefault(
            "_untrained", Trainer(self)
        )
        data = self._inputs(x) if self._whole(x) else Batches(x, self._batch_inputs)
        self._have_built(data if isinstance(data, Batches | Dataset) else (data, None))
        out = trainer.predict(
            data,
            batch_size,
            steps=steps,
            callbacks=callbacks or (),
            verbose=verbose,
        )
        return _numpy(out)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:  # fmt: skip
        """One step on one batch; gives that batch's loss, or [loss, *metrics], or a dict."""
        weight = None if sample_weight is None else _array(sample_weight)
        for c in self.trainer.callbacks:
            if isinstance(c, optimizers.Scheduled):
                c.on_train_batch_begin(0)
        data = self._data(x, y)
        self._have_built(data)
        for metric in self.metrics:
            getattr(metric, "reset_state", metric.reset)()
        logs = self.trainer.train_on_batch(*data, sample_weight=weight, class_weight=class_weight)
        self.eval()
        return self._told(logs, return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:  # fmt: skip
        """What `evaluate` gives for one batch."""
        data = self._data(x, y)
        n = len(next(iter(data[0].values())) if isinstance(data[0], Mapping) else data[0])
        return self.evaluate(x, y, n, 0, sample_weight, return_dict=return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """What `predict` gives for one batch."""
        data = self._inputs(x)
        return self.predict(x, len(data[0] if isinstance(data, tuple) else data), 0)

    def _told(self, logs: Mapping[str, Any], return_dict: bool) -> Any:
        if return_dict:
            return dict(logs)
        values = list(logs.values())
        return values[0] if len(values) == 1 else values

    # ---- steps of one's own

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step on a batch x, (x, y) or (x, y, sample_weight); gives the metrics so far. Override it to train otherwise."""
        x, y, weight = utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=True)
        loss = self.compute_loss(x, y, y_pred, weight)
        self.zero_grad()
        loss.backward()
        variables = self.trainable_weights
        self.optimizer.apply([v.grad for v in variables], variables)
        self._told_loss(loss, x)
        return self.compute_metrics(x, y, y_pred, weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        """What `evaluate` does for a batch."""
        x, y, weight = utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        self._told_loss(self.compute_loss(x, y, y_pred, weight, training=False), x)
        return self.compute_metrics(x, y, y_pred, weight)

    def _told_loss(self, loss: Tensor, x: Any) -> None:
        leaves: list[Any] = []
        flatten(x, leaves)
        self.__dict__["_loss_tracker"].update_state(loss, leaves[0].shape[0])

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:  # fmt: skip
        """The compiled loss and what layers add; ValueError where there is neither."""
        objective = self.__dict__.get("_objective") or self.trainer.objective
        added = self.losses
        if not objective.parts and not added:
            raise KilnValueError("fit", "there is no loss to make small", "loss=None", "model.compile(loss='mse'), or add_loss in a layer")  # fmt: skip
        total: Any = sum(added) if added else 0.0
        if objective.parts:
            total = objective.loss(y_pred, y, sample_weight)[0] + total
        return total

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:  # fmt: skip
        """Give the compiled metrics a batch; their values so far."""
        objective = self.__dict__.get("_objective") or self.trainer.objective
        objective.measure(y_pred, y, sample_weight)
        objective.measure_outside(y_pred, y, sample_weight)
        return self.get_metrics_result()

    def get_metrics_result(self) -> dict[str, Any]:
        """What the metrics say so far, by name."""
        found: dict[str, Any] = {}
        for metric in self.metrics:
            value = metric.result() if hasattr(metric, "result") else metric.compute()
            found.update(value if isinstance(value, Mapping) else {metric.name: value})
        return found

    @property
    def metrics(self) -> list[Any]:
        """The mean of the loss and the compiled metrics, where steps are the model's own, and metrics in its attributes."""
        own = self.__dict__
        tracker, objective = own.get("_loss_tracker"), own.get("_objective")
        found = [] if tracker is None else [tracker]
        found += [m for _, _, m in objective.metrics] if objective is not None else []
        for name, value in own.items():
            if not name.startswith("_"):
                found += [m for m in (value if isinstance(value, list) else [value]) if isinstance(m, metrics_.Metric)]  # fmt: skip
        return list(dict.fromkeys(found))

    def _own_train(self, batch: Any) -> None:
        self._own(self.train_step, batch, self.trainer._class_weight is not None)

    def _own_test(self, batch: Any) -> None:
        self._own(self.test_step, batch, False)

    def _own(self, step: Any, batch: Any, by_class: bool) -> None:
        data = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
        if by_class and len(data) > 1:
            objective = self.trainer.objective
            data = (*data[:2], objective._weight(None, data[1], data[2] if len(data) > 2 else None, True))  # fmt: skip
        logs = step(data[0] if len(data) == 1 and not isinstance(data[0], tuple) else data)
        told: Any = self.__dict__.get("_logged")
        for name, value in logs.items():
            value = value.detach() if isinstance(value, Tensor) else value
            told[0][name] = value
            told[1][name] = "last"

    def _added_losses(self) -> list[Any]:
        """What the Trainer adds to the loss; a step that is captured leaves nothing behind."""
        found = self.losses
        for m in self.modules():
            if isinstance(m, Layer):
                m._added.clear()
        return found

    def _have_built(self, data: Any) -> None:
        """Have layers make their weights, before anything is captured: by a call on the first batch of the data."""
        waiting = [m for m in self.modules() if getattr(m, "built", True) is False]
        if not waiting or (waiting == [self] and not callable_model(self)):
            return
        if isinstance(data, Batches):
            batch = data.peek()
        elif isinstance(data, tuple):
            batch = default_convert(_sliced(tuple(d for d in data if d is not None), slice(1)))
            batch = batch if len(data) == 1 or data[-1] is not None else (*batch, None)
        else:
            batch = default_collate([data[0]])
        batch = batch if isinstance(batch, list | tuple) else (batch,)
        inputs = batch[:-1] if len(batch) > 1 else batch
        inputs = inputs[:-1] if isinstance(batch, Weighted) and len(inputs) > 1 else inputs
        if self.__dict__.get("_objective") is not None:
            inputs = inputs[:1]
        if len(inputs) == 1 and isinstance(inputs[0], tuple):
            inputs = inputs[0]
        with no_grad():
            self(*inputs, training=False)

    # ---- what Keras says as the Trainer takes it

    def _data(self, x: Any, y: Any = None, shuffle: bool = False) -> Any:
        """Arrays as (inputs…, targets), data sets of samples as they are, the batches of anything else as `_batch` gives them."""
        if y is None:
            if self._whole(x) and not isinstance(x, Dataset):
                if self.__dict__.get("_objective") is None:
                    raise KilnTypeError("fit", "there are no targets", f"x={describe(x)}", "model.fit(x, y)")  # fmt: skip
                found = self._inputs(x)
                return (found,)
            return x if isinstance(x, Dataset) else Batches(x, self._batch, shuffle)
        inputs = self._inputs(x)
        if self.__dict__.get("_objective") is not None:  # as `train_step` is given it
            return inputs, self._targets(y)
        return (*(inputs if isinstance(inputs, tuple) else (inputs,)), self._targets(y))

    def _batch(self, batch: Any) -> Any:
        """A batch (x, y) or (x, y, sample_weight) of arrays or tensors; others as they are."""
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            return batch
        found = self._data(batch[0], batch[1])
        return default_convert(found) if len(batch) == 2 else Weighted(default_convert((*found, _array(batch[2]))))  # fmt: skip

    def _batch_inputs(self, batch: Any) -> Any:
        """The inputs of a batch x, (x,), (x, y) or (x, y, sample_weight)."""
        x = self._inputs(batch[0] if isinstance(batch, tuple | list) else batch)
        return default_convert(x if isinstance(x, tuple) else (x,))

    @staticmethod
    def _whole(x: Any) -> bool:
        """Whether these are inputs themselves, or a data set of samples, and not an iterable of batches."""
        return _is_array(x) or isinstance(x, Dataset | Mapping) or (isinstance(x, list) and all(map(_is_array, x)))  # fmt: skip

    def _inputs(self, x: Any) -> Any:
        """A list of arrays is several inputs, a dict inputs by name."""
        if isinstance(x, list | tuple) and x and all(map(_is_array, x)):
            return tuple(map(_array, x))
        if isinstance(x, Mapping):
            return {k: _array(v) for k, v in x.items()}
        return _array(x) if _is_array(x) or isinstance(x, list) else x

    def _targets(self, y: Any) -> Any:
        sparse = self.__dict__.get("_sparse")
        if isinstance(y, Mapping):
            return {k: _labels(_array(v), isinstance(sparse, Mapping) and sparse.get(k)) for k, v in y.items()}  # fmt: skip
        if isinstance(y, list | tuple) and y and all(map(_is_array, y)):
            kinds = sparse if isinstance(sparse, list) else list(sparse.values()) if isinstance(sparse, Mapping) else [False] * len(y)  # fmt: skip
            kinds = kinds if len(kinds) == len(y) else [False] * len(y)
            return tuple(_labels(_array(v), k) for v, k in zip(y, kinds, strict=True))
        return _labels(_array(y), sparse is True)


def _named(given: Any, names: Sequence[str]) -> Any:
    """What is given for outputs in order, by their names."""
    return dict(zip(names, given, strict=True)) if isinstance(given, list | tuple) and len(given) == len(names) and len(set(names)) == len(names) else given  # fmt: skip


COMPILED = {
    "_keras", "_sparse", "_optimizer", "_untrained", "_objective", "_loss_tracker", "_compiled", "training_step", "validation_step",
}  # fmt: skip
"""What `compile` leaves in a model, and no copy has."""

_STEPS = "train_step", "test_step", "compute_loss", "compute_metrics"


def callable_model(model: Any) -> bool:
    """Whether a model computes something when it is called."""
    from .model import Model

    return type(model).call is not Model.call or type(model).forward is not Model.forward or model._known is not None or "module" in model._modules  # fmt: skip


def _nothing(output: Any, target: Any) -> Any:
    """In place of a loss where steps are the model's own."""
    raise KilnValueError("fit", "there is no loss", "loss=None", "e.g. loss='mse'")


class _Between(Callback):
    """What is done around epochs and steps for a model: metrics of its own begin anew, and constraints hold."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._reset()

    def on_test_begin(self, logs: Any = None) -> None:
        self._reset()

    def _reset(self) -> None:
        for metric in self.model.metrics:  # type: ignore[union-attr]
            getattr(metric, "reset_state", metric.reset)()

    def on_after_optimizer_step(self, optimizer: Any) -> None:
        with no_grad():
            for m in self.model.modules():
                for w, constraint in m.__dict__.get("_constrained", {}).values():
                    w.copy_(constraint(w))


def _each(given: Any, fn: Any) -> Any:
    """A function of what is given for one output, or of each of several."""
    if isinstance(given, Mapping):
        return {k: _each(v, fn) for k, v in given.items()}
    if isinstance(given, list | tuple):
        return [_each(v, fn) for v in given]
    return None if given is None else fn(given)


def _is_array(x: Any) -> bool:
    return isinstance(x, Tensor | np.ndarray) or hasattr(x, "__array__")


def _array(x: Any) -> Any:
    """An array as Keras takes it: float64 and bytes become float32."""
    if isinstance(x, Tensor):
        return x
    a = np.asarray(x)
    return a.astype(np.float32) if a.dtype in (np.float64, np.uint8) else a


def _labels(y: Any, sparse: Any) -> Any:
    """Class numbers of shape (N, 1) as (N,)."""
    if sparse and y.ndim > 1 and y.shape[-1] == 1:
        y = y.reshape(y.shape[:-1])
    return y


def _cut(data: tuple, weight: Any, share: float) -> tuple[tuple, Any, Any]:
    """The first part of the arrays to train on, and the last to validate on."""
    if not 0 < share < 1:
        raise KilnValueError("fit", "validation_split lies in (0, 1)", share, "e.g. 0.2")
    n = len(_first(data))
    at = int(n * (1 - share))
    if at == 0 or at == n:
        raise KilnValueError("fit", f"there are too few samples to keep {share:g} of them for validation", n, "pass validation_data")  # fmt: skip
    train, val = (_sliced(data, s) for s in (slice(at), slice(at, None)))
    if weight is None:
        return train, None, val
    return train, weight[:at], Weighted((*val, weight[at:]))


def _first(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return _first(next(iter(tree.values())))
    return _first(tree[0]) if isinstance(tree, tuple) else tree


def _sliced(tree: Any, part: slice) -> Any:
    if isinstance(tree, Mapping):
        return {k: _sliced(v, part) for k, v in tree.items()}
    return tuple(_sliced(v, part) for v in tree) if isinstance(tree, tuple) else tree[part]


def _numpy(out: Any) -> Any:
    if isinstance(out, Mapping):
        return {k: _numpy(v) for k, v in out.items()}
    if isinstance(out, tuple | list):
        return [_numpy(v) for v in out]
    return out.detach().float().numpy() if out.dtype.itemsize == 2 and out.is_floating_point() else out.detach().numpy()  # fmt: skip


__all__ = ["COMPILED", "Training"]
