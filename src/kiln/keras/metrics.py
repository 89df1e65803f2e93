"""Metrics under Keras's names, with Keras's defaults and forms: `update_state(y_true, y_pred, sample_weight)`, `result()`,
`reset_state()`. Each is a metric of `kiln.metrics`, exact over batches of any sizes.

`AUC` takes every score in, where Keras counts between 200 thresholds.

https://keras.io/api/metrics/
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import metrics as m
from ..tensor import Tensor
from . import counted, losses
from .counted import *  # noqa: F403
from .measured import Mean, MeanMetricWrapper, Metric, Sum


def _of_loss(kind: type[losses.Loss], *options: str) -> Any:
    """The metric that is the mean of a loss; `options` are those of the loss that it has."""

    class Found(MeanMetricWrapper):
        def __init__(self, name: str | None = None, dtype: Any = None, **given: Any) -> None:
            unknown = set(given) - set(options)
            if unknown:
                raise TypeError(
                    f"{kind.__name__} got an unexpected keyword argument {min(unknown)!r}"
                )
            super().__init__(kind(**given).call, name or losses.snake(type(self).__name__))

    Found.__name__ = Found.__qualname__ = kind.__name__
    Found.__doc__ = kind.__doc__
    return Found


MeanSquaredError = _of_loss(losses.MeanSquaredError)
MeanAbsoluteError = _of_loss(losses.MeanAbsoluteError)
MeanAbsolutePercentageError = _of_loss(losses.MeanAbsolutePercentageError)
MeanSquaredLogarithmicError = _of_loss(losses.MeanSquaredLogarithmicError)
LogCoshError = _of_loss(losses.LogCosh)
Poisson = _of_loss(losses.Poisson)
KLDivergence = _of_loss(losses.KLDivergence)
Hinge = _of_loss(losses.Hinge)
SquaredHinge = _of_loss(losses.SquaredHinge)
CategoricalHinge = _of_loss(losses.CategoricalHinge)
BinaryCrossentropy = _of_loss(losses.BinaryCrossentropy, "from_logits", "label_smoothing")
CategoricalCrossentropy = _of_loss(losses.CategoricalCrossentropy, "from_logits", "label_smoothing", "axis")  # fmt: skip
SparseCategoricalCrossentropy = _of_loss(losses.SparseCategoricalCrossentropy, "from_logits", "axis")  # fmt: skip


class CosineSimilarity(MeanMetricWrapper):
    """The cosine of the angle between y_true and y_pred: the loss of this name is its negative."""

    def __init__(self, name: str | None = "cosine_similarity", dtype: Any = None, axis: int = -1) -> None:  # fmt: skip
        loss = losses.CosineSimilarity(axis)
        super().__init__(lambda y_true, y_pred: -loss.call(y_true, y_pred), name)


class RootMeanSquaredError(Metric, m.RootMeanSquaredError):
    """The root of the mean of (y_true - y_pred)² over all batches."""

    def __init__(self, name: str | None = "root_mean_squared_error", dtype: Any = None) -> None:
        super().__init__(name=name)


class Accuracy(MeanMetricWrapper):
    """How often predictions equal targets."""

    def __init__(self, name: str | None = "accuracy", dtype: Any = None) -> None:
        super().__init__(lambda y_true, y_pred: y_true == y_pred, name)


class _ByShape(MeanMetricWrapper):
    """ "accuracy": of one score, of class numbers or of one-hot targets, as the shapes say; scores are logits where the loss takes them."""

    from_logits: bool | None = None

    def __init__(self, name: str) -> None:
        super().__init__(self._each, name)

    def _each(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if y_pred.shape[-1] == 1 or y_pred.ndim < 2:
            return (y_true > 0.5) == (y_pred > (0.0 if self.from_logits else 0.5))
        if y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1:
            return _numbers(y_true, y_pred) == y_pred.argmax(-1)
        return y_true.argmax(-1) == y_pred.argmax(-1)


class BinaryAccuracy(MeanMetricWrapper):
    """How often scores above `threshold` go with targets of 1."""

    def __init__(self, name: str | None = "binary_accuracy", dtype: Any = None, threshold: float = 0.5) -> None:  # fmt: skip
        super().__init__(
            lambda y_true, y_pred: y_true == (y_pred > threshold).to(y_true.dtype), name
        )


class CategoricalAccuracy(MeanMetricWrapper):
    """How often the class with the highest score is that of the one-hot target."""

    def __init__(self, name: str | None = "categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(lambda y_true, y_pred: y_true.argmax(-1) == y_pred.argmax(-1), name)


class SparseCategoricalAccuracy(MeanMetricWrapper):
    """How often the class with the highest score is the target's number."""

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: Any = None) -> None:
        super().__init__(lambda y_true, y_pred: _numbers(y_true, y_pred) == y_pred.argmax(-1), name)


class SparseTopKCategoricalAccuracy(MeanMetricWrapper):
    """How often the target's number is among the `k` classes with the highest scores."""

    def __init__(self, k: int = 5, name: str | None = "sparse_top_k_categorical_accuracy", dtype: Any = None) -> None:  # fmt: skip
        super().__init__(lambda y_true, y_pred: _among(_numbers(y_true, y_pred), y_pred, k), name)


class TopKCategoricalAccuracy(MeanMetricWrapper):
    """How often the class of the one-hot target is among the `k` with the highest scores."""

    def __init__(self, k: int = 5, name: str | None = "top_k_categorical_accuracy", dtype: Any = None) -> None:  # fmt: skip
        super().__init__(lambda y_true, y_pred: _among(y_true.argmax(-1), y_pred, k), name)


def _numbers(y_true: Tensor, y_pred: Tensor) -> Tensor:
    return y_true.reshape(y_pred.shape[:-1]).long()


def _among(number: Tensor, y_pred: Tensor, k: int) -> Tensor:
    own = y_pred.gather(-1, number.unsqueeze(-1))
    return (y_pred > own).sum(-1) < k


class Precision(Metric, m.Precision):
    """Of the scores above a threshold, the share whose target is 1; scores of several classes are as many answers."""

    def __init__(self, thresholds: float | None = None, name: str | None = "precision", dtype: Any = None) -> None:  # fmt: skip
        m.Precision.__init__(
            self, "binary", threshold=0.5 if thresholds is None else thresholds, name=name
        )


class Recall(Metric, m.Recall):
    """Of the targets of 1, the share whose score is above a threshold; scores of several classes are as many answers."""

    def __init__(self, thresholds: float | None = None, name: str | None = "recall", dtype: Any = None) -> None:  # fmt: skip
        m.Recall.__init__(
            self, "binary", threshold=0.5 if thresholds is None else thresholds, name=name
        )


class _AUROC(Metric, m.AUROC):
    pass


class _AveragePrecision(Metric, m.AveragePrecision):
    pass


def AUC(
    num_thresholds: int | None = None, curve: str = "ROC", name: str | None = "auc", dtype: Any = None,
    thresholds: Any = None, multi_label: bool = False, from_logits: bool = False,
) -> m.Metric:  # fmt: skip
    """The area under the ROC curve, or with `curve="PR"` under that of precision and recall (average precision).

    Exact unless `thresholds` or `num_thresholds` are given, between which scores are counted.
    """
    kind, plain = {"ROC": (_AUROC, m.AUROC), "PR": (_AveragePrecision, m.AveragePrecision)}[curve]
    cuts = thresholds
    if (
        cuts is None and num_thresholds is not None
    ):  # as Keras lays them, none at 0 and 1 themselves
        between = [(i + 1) / (num_thresholds - 1) for i in range(num_thresholds - 2)]
        cuts = [-1e-7, *between, 1 + 1e-7]
    if cuts is not None:  # a score counts above one, not at it
        cuts = np.nextafter(np.asarray(cuts, np.float32), np.float32(2)).tolist()
    made = kind.__new__(kind)
    plain.__init__(made, "multilabel" if multi_label else "binary", thresholds=cuts, from_logits=from_logits, name=name)  # fmt: skip
    return made


_FOUND = {
    **{losses.snake(c.__name__): c for c in counted.KINDS},
    "log_cosh_error": LogCoshError, "log_cosh": LogCoshError, "cosine_similarity": CosineSimilarity,
    "top_k_categorical_accuracy": TopKCategoricalAccuracy, "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": SparseTopKCategoricalAccuracy,
}  # fmt: skip


def get(metric: Any) -> Any:
    """What a Trainer takes for a metric: names of Keras's, whose key is the name as given; functions of (y_true, y_pred)."""
    if isinstance(metric, m.Metric):
        return metric
    if isinstance(metric, str):
        key = metric.lower() if metric.isupper() else losses.snake(metric)
        if key in ("accuracy", "acc"):
            return _ByShape(metric)
        if key in _FOUND:
            return _FOUND[key](name=metric)
        if key in ("mean", "sum"):
            return {"mean": Mean, "sum": Sum}[key](name=metric)
        if key in losses.BY_NAME:
            return MeanMetricWrapper(losses.BY_NAME[key]().call, metric)
        return metric
    if callable(metric) and not isinstance(metric, type) and not losses.of_kiln(metric):
        return MeanMetricWrapper(metric)
    return metric


binary_crossentropy, categorical_crossentropy = losses.binary_crossentropy, losses.categorical_crossentropy  # fmt: skip
sparse_categorical_crossentropy, kl_divergence = losses.sparse_categorical_crossentropy, losses.kl_divergence  # fmt: skip
mean_squared_error, mean_absolute_error = losses.mean_squared_error, losses.mean_absolute_error
