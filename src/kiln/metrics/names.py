"""Metrics by the names that Keras, torchmetrics and scikit-learn know them by."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from ..errors import KilnTypeError, KilnValueError, describe
from ..tensor import Tensor
from . import classification as c
from . import curves, functions, regression
from .base import Mean, Metric, Ratio, Sum, snake

BatchMetric = Callable[[Tensor, Tensor], Tensor]

_FUNCTIONS: dict[str, BatchMetric] = {
    "accuracy": functions.accuracy, "top_k": functions.top_k, "mae": functions.mae, "mse": functions.mse,
}  # fmt: skip
_STREAMS: dict[str, Callable[..., Metric]] = {
    **dict.fromkeys(("accuracy", "acc", "categorical_accuracy", "sparse_categorical_accuracy"), c.Accuracy),
    **dict.fromkeys(("top_k", "top_k_accuracy", "top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy"), c.TopKAccuracy),
    **dict.fromkeys(("f1", "f1_score"), c.F1Score), **dict.fromkeys(("iou", "mean_iou", "jaccard", "jaccard_index"), c.IoU),
    **dict.fromkeys(("auc", "auroc", "roc_auc"), curves.AUROC),
    **dict.fromkeys(("average_precision", "pr_auc"), curves.AveragePrecision),
    **dict.fromkeys(("mse", "mean_squared_error"), regression.MeanSquaredError),
    **dict.fromkeys(("rmse", "root_mean_squared_error"), regression.RootMeanSquaredError),
    **dict.fromkeys(("mae", "mean_absolute_error"), regression.MeanAbsoluteError),
    **dict.fromkeys(("mape", "mean_absolute_percentage_error"), regression.MeanAbsolutePercentageError),
    **dict.fromkeys(("r2", "r2_score"), regression.R2Score), **dict.fromkeys(("pearson", "pearson_corrcoef"), regression.PearsonCorrCoef),
    "precision": c.Precision, "recall": c.Recall, "dice": c.Dice, "perplexity": c.Perplexity, "confusion_matrix": c.ConfusionMatrix,
    "roc": curves.ROC, "pr_curve": curves.PrecisionRecallCurve, "mean": Mean, "sum": Sum,
}  # fmt: skip
_ONE_TASK = {"binary_accuracy": "binary"}


class BatchMean(Ratio):
    """The mean of a function of a batch's output and target, batches counting by their samples: exact for means over samples."""

    def __init__(self, fn: BatchMetric, name: str | None = None) -> None:
        super().__init__(name or _name_of(fn))
        self.fn = fn

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        if weight is not None:
            raise KilnTypeError(
                self.name, "a function of a batch can't weigh its samples", describe(weight),
                "leave weights out, or write a metrics.Metric",
            )  # fmt: skip
        value = self.fn(output, target).double()
        n = target.shape[0] if target.ndim else 1
        if n:  # of no samples most functions make NaN
            self._slot("sum", value).add_(value * n)
            self._slot("total", value).add_(n)


def _name_of(metric: Any) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))


def get(metric: Any) -> tuple[str, BatchMetric]:
    """(name, function of one batch) of a metric given by name ("accuracy", "top_3", …) or as a function."""
    if callable(metric):
        return _name_of(metric), cast(BatchMetric, metric)
    if isinstance(metric, str):
        if metric in _FUNCTIONS:
            return metric, _FUNCTIONS[metric]
        if metric.startswith("top_") and metric[4:].isdigit():
            k = int(metric[4:])
            return metric, lambda output, target: functions.top_k(output, target, k)
        raise KilnValueError(
            "metrics", "no metric of one batch has this name", repr(metric), "one of " + ", ".join([*_FUNCTIONS, "top_<k>"])
        )  # fmt: skip
    raise KilnTypeError(
        "metrics", "a metric is a name or a function", describe(metric), "e.g. 'accuracy'"
    )


def stream(metric: Any, from_logits: bool = False) -> Metric:
    """The streaming metric of a name ("f1", "auroc", "top_5", …), a function of (output, target), or a Metric as it is.

    Names may be written as classes are, "AUC" or "MeanSquaredError"; the metric keeps the name as given.
    `from_logits` is handed to those that compare scores with a threshold: outputs are logits, as losses "with logits" take them.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        key = metric.lower() if metric.isupper() else snake(metric)
        found = re.fullmatch(r"top_?(\d+)(?:_accuracy)?", key)
        if found:
            return c.TopKAccuracy(int(found[1]), name=metric)
        kind = c.Accuracy if key in _ONE_TASK else _STREAMS.get(key)
        if kind is None:
            raise KilnValueError(
                "metrics", "no metric has this name", repr(metric), "one of " + ", ".join([*_STREAMS, *_ONE_TASK, "top_<k>"])
            )  # fmt: skip
        options: dict[str, Any] = {"task": _ONE_TASK[key]} if key in _ONE_TASK else {}
        if isinstance(kind, type) and issubclass(kind, c.Labelled):
            options["from_logits"] = from_logits
        return kind(name=metric, **options)
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    if callable(metric):
        logits = from_logits and metric is functions.accuracy
        return (
            c.Accuracy(from_logits=True, name="accuracy")
            if logits
            else BatchMean(cast(BatchMetric, metric))
        )
    raise KilnTypeError(
        "metrics", "a metric is a name, a function or a Metric", describe(metric), "e.g. 'accuracy'"
    )
