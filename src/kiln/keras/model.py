"""`Model` and `Sequential`: modules with Keras's `compile`, `fit`, `evaluate` and `predict`.

https://keras.io/api/models/model_training_apis/
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import nn
from ..data import Dataset, default_convert
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..io import load, save
from ..nn.modules.module import Module
from ..ops.creation import as_tensor
from ..tensor import Tensor
from ..train import History, Trainer
from ..train.batches import Weighted, shapes
from . import losses, optimizers
from . import metrics as metrics_
from .utils import Batches


class Model(Module):
    """An nn.Module that Keras's functions train.

    Subclass it and define `forward` (or, as in Keras, `call(self, inputs)`), or wrap any module: `Model(module)`.
    Arrays of float64 are taken as float32 and bytes as float32, as Keras takes them.
    """

    def __init__(self, module: Module | None = None, name: str | None = None, **other: Any) -> None:
        super().__init__()
        if other or not (module is None or isinstance(module, Module)):
            raise KilnTypeError(
                "Model", "the functional form of Keras (inputs=, outputs=) is not there",
                describe(next(iter(other), module)), "subclass Model and define forward, or wrap a module: Model(module)",
            )  # fmt: skip
        if module is not None:
            self.module = module
        self.name = name or losses.snake(type(self).__name__)

    def forward(self, *inputs: Any) -> Any:
        """What the wrapped module computes, or `call`."""
        if "module" in self._modules:
            return self.module(*inputs)
        if hasattr(self, "call"):
            return self.call(*inputs)  # type: ignore[operator]
        raise KilnError("Model", "there is nothing to compute", type(self).__name__, "define forward or call")  # fmt: skip

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
        own = callable(getattr(self, "training_step", None))
        if loss is None and not own:
            raise KilnValueError("compile", "there is no loss", "loss=None", "e.g. loss='mse'")
        self.__dict__["_keras"] = Trainer(
            self, _each(found, losses.for_trainer), given, _each(metrics, metrics_.get) or (), not run_eagerly, loss_weights=loss_weights,
            callbacks=keras.callbacks() if keras else (), weighted_metrics=_each(weighted_metrics, metrics_.get) or (),
            accumulate=keras.accumulate if keras else 1,
        )  # fmt: skip
        if keras is not None:
            keras.trainer = self.trainer
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
        return trainer.fit(
            data, validation_data, epochs, batch_size, shuffle, callbacks or (), verbose, sample_weight=weight,
            class_weight=class_weight, steps_per_epoch=steps_per_epoch, validation_steps=validation_steps,
            validation_freq=validation_freq, validation_batch_size=validation_batch_size,
            initial_epoch=initial_epoch, resume=resume,
        )  # fmt: skip

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, verbose: Any = "auto",
        sample_weight: Any = None, steps: int | None = None, callbacks: Sequence[Any] | None = None,
        return_dict: bool = False,
    ) -> Any:  # fmt: skip
        """The loss, or the list [loss, *metrics] in the order of `metrics_names`, or a dict of them."""
        logs = self.trainer.evaluate(
            self._data(x, y), batch_size, sample_weight=None if sample_weight is None else _array(sample_weight),
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
        out = trainer.predict(
            self._inputs(x) if self._whole(x) else Batches(x, self._batch_inputs),
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
        logs = self.trainer.train_on_batch(*self._data(x, y), sample_weight=weight, class_weight=class_weight)  # fmt: skip
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

    # ---- what Keras says as the Trainer takes it

    def _data(self, x: Any, y: Any = None, shuffle: bool = False) -> Any:
        """Arrays as (inputs…, targets), data sets of samples as they are, the batches of anything else as `_batch` gives them."""
        if y is None:
            if _is_array(x):
                raise KilnTypeError("fit", "there are no targets", f"x={describe(x)}", "model.fit(x, y)")  # fmt: skip
            return x if isinstance(x, Dataset) else Batches(x, self._batch, shuffle)
        inputs = self._inputs(x)
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
            kinds = sparse if isinstance(sparse, list) else [False] * len(y)
            return tuple(_labels(_array(v), k) for v, k in zip(y, kinds, strict=True))
        return _labels(_array(y), sparse is True)

    # ---- weights

    def count_params(self) -> int:
        """How many numbers the parameters and buffers hold."""
        return sum(t.numel() for t in self.state_dict().values())

    def get_weights(self) -> list[np.ndarray]:
        """The values of `state_dict()`, as arrays."""
        return [t.detach().numpy().copy() for t in self.state_dict().values()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Take such values; ValueError where number or shapes differ."""
        own = self.state_dict()
        if len(weights) != len(own) or any(tuple(np.shape(w)) != tuple(t.shape) for w, t in zip(weights, own.values(), strict=False)):  # fmt: skip
            raise KilnValueError(
                "set_weights", "the weights are not those of this model",
                f"shapes {[tuple(np.shape(w)) for w in weights]}", f"expected {[tuple(t.shape) for t in own.values()]}",
            )  # fmt: skip
        self.load_state_dict({k: as_tensor(w) for k, w in zip(own, weights, strict=True)})

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the `state_dict` by `kiln.save`: at once, checksummed, without pickle."""
        _not_hdf5("save_weights", filepath)
        if not overwrite and os.path.exists(filepath):
            raise KilnValueError("save_weights", "the file is there already", str(filepath), "overwrite=True")  # fmt: skip
        save(self.state_dict(), filepath)

    def load_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Read what `save_weights` wrote, or the model of a checkpoint."""
        _not_hdf5("load_weights", filepath)
        found = load(filepath)
        self.load_state_dict(
            found["model"] if isinstance(found, dict) and "trainer" in found else found
        )

    def summary(self, input_shape: Any = None, **options: Any) -> None:
        """Print the layers, shapes, parameters and costs: `kiln.summary`, whose options these are.

        `input_shape` is that of a batch, (32, 784); a model that was trained or has predicted knows it.
        """
        from .. import summary

        found = input_shape
        last = self.__dict__["_keras"].last_args if "_keras" in self.__dict__ else None
        if found is None and last is not None:
            found = tuple(last) if len(last) > 1 else last[0]
        if found is None:
            raise KilnValueError("summary", "the input's shape is not known yet", "input_shape=None", "model.summary((32, 784))")  # fmt: skip
        print(summary(self, found, **options))

    def __getstate__(self) -> dict[str, Any]:
        return {
            k: v
            for k, v in super().__getstate__().items()
            if k not in ("_keras", "_sparse", "_optimizer", "_untrained")
        }


class Sequential(nn.Sequential, Model):
    """Layers one after the other: `Sequential([nn.Linear(4, 8), nn.ReLU()])`, with `add` and `pop` as in Keras."""

    def __init__(self, layers: Iterable[Module] | Module | None = None, *more: Module, name: str | None = None) -> None:  # fmt: skip
        given = [layers, *more] if isinstance(layers, Module) else list(layers or ())
        nn.Sequential.__init__(self, *given)  # type: ignore[arg-type]
        self.name = name or "sequential"

    forward = nn.Sequential.forward

    @property
    def layers(self) -> list[Module]:
        """The layers."""
        return list(self)

    def add(self, layer: Module) -> None:
        """Put a layer at the end."""
        self.append(layer)


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


def _not_hdf5(what: str, path: Any) -> None:
    if str(path).endswith((".h5", ".hdf5", ".keras")):
        raise KilnValueError(
            what, "Kiln writes and reads weights in files of its own", str(path), "another ending, e.g. model.kiln or model.safetensors"
        )  # fmt: skip


__all__ = ["Model", "Sequential"]
