"""How good predictions are: functions of one batch, and metrics of streams that are exact over batches of any sizes.

    f1 = kiln.metrics.F1Score()
    for x, y in loader:
        f1.update(model(x), y)
    f1.compute()

`Metric` says what all of them can do; `stream("f1")` makes them by name.
"""

from __future__ import annotations

from .base import Mean, Metric, Sum
from .classification import (
    Accuracy,
    ConfusionMatrix,
    Dice,
    F1Score,
    FBetaScore,
    IoU,
    Perplexity,
    Precision,
    Recall,
    TopKAccuracy,
)
from .curves import AUROC, ROC, AveragePrecision, PrecisionRecallCurve
from .functions import accuracy, mae, mse, top_k
from .names import BatchMean, get, stream
from .regression import (
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    PearsonCorrCoef,
    R2Score,
    RootMeanSquaredError,
)

__all__ = [
    "AUROC", "ROC", "Accuracy", "AveragePrecision", "BatchMean", "ConfusionMatrix", "Dice", "F1Score", "FBetaScore", "IoU", "Mean",
    "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError", "Metric", "PearsonCorrCoef", "Perplexity", "Precision",
    "PrecisionRecallCurve", "R2Score", "Recall", "RootMeanSquaredError", "Sum", "TopKAccuracy", "accuracy", "get", "mae", "mse", "stream",
    "top_k",
]  # fmt: skip
