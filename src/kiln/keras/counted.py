"""Metrics of Keras's that count: answers right and wrong by thresholds, areas in common by class, F scores, correlations.

https://keras.io/api/metrics/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..dtypes import float64
from ..errors import KilnValueError, describe
from ..ops.creation import arange, as_tensor
from ..ops.selection import where
from ..tensor import Tensor
from .measured import MeanMetricWrapper, Metric


class _Counted(Metric):
    """The number of (targets, answers) of one kind, for each threshold."""

    keys = ("count",)
    right, answer = True, True

    def __init__(self, thresholds: Any = None, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(name=name)
        self.thresholds = [0.5] if thresholds is None else [thresholds] if isinstance(thresholds, int | float) else list(thresholds)  # fmt: skip

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        scores, true, w = _flat(output, target, weight)
        found = (scores > as_tensor(self.thresholds, float64).unsqueeze(-1)) == self.answer
        held = found & ((true > 0) == (self.answer == self.right))
        self._slot("count", output, len(self.thresholds)).add_((held.double() * w).sum(-1))

    def _compute(self) -> Tensor:
        n = self._seen("count", len(self.thresholds))
        return n[0] if len(self.thresholds) == 1 else n


def _flat(output: Tensor, target: Tensor, weight: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, targets and weights of all elements, in float64."""
    scores = output.double()
    true = target.double().reshape(scores.shape) if target.numel() == scores.numel() else target.double().expand_as(scores)  # fmt: skip
    w = scores.new_ones(scores.shape) if weight is None else weight.double().reshape(*weight.shape, *(1,) * (scores.ndim - weight.ndim)).expand_as(scores)  # fmt: skip
    return scores.flatten(), true.flatten(), w.flatten()


class TruePositives(_Counted):
    """How many targets of 1 have scores above a threshold."""


class FalsePositives(_Counted):
    """How many targets of 0 have scores above a threshold."""

    right = False


class TrueNegatives(_Counted):
    """How many targets of 0 have scores below a threshold."""

    answer = False


class FalseNegatives(_Counted):
    """How many targets of 1 have scores below a threshold."""

    right, answer = False, False


class _AtThresholds(Metric):
    """The best of one number where another is at least a value, over `num_thresholds` even thresholds."""

    keys = ("tp", "fp", "tn", "fn")

    def __init__(self, value: float, num_thresholds: int, class_id: int | None, name: str | None) -> None:  # fmt: skip
        super().__init__(name=name)
        if not 0 <= value <= 1:
            raise KilnValueError(self.name, "the value lies in [0, 1]", describe(value), "e.g. 0.5")
        self.value, self.num_thresholds, self.class_id = value, num_thresholds, class_id
        between = [(i + 1) / (num_thresholds - 1) for i in range(num_thresholds - 2)]
        self.thresholds = [-1e-7, *between, 1 + 1e-7] if num_thresholds > 1 else [0.5]

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        if self.class_id is not None:
            output, target = output[..., self.class_id], target[..., self.class_id]
        scores, true, w = _flat(output, target, weight)
        above = scores > as_tensor(self.thresholds, float64).unsqueeze(-1)
        for key, held in (
            ("tp", above & (true > 0)), ("fp", above & (true <= 0)), ("tn", ~above & (true <= 0)), ("fn", ~above & (true > 0)),
        ):  # fmt: skip
            self._slot(key, output, len(self.thresholds)).add_((held.double() * w).sum(-1))

    def _compute(self) -> Tensor:
        tp, fp, tn, fn = (self._seen(k, len(self.thresholds)) for k in self.keys)
        held, told = self._pair(tp, fp, tn, fn)
        return where(held >= self.value, told, 0.0).amax()

    def _pair(self, tp: Tensor, fp: Tensor, tn: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def _share(a: Tensor, b: Tensor) -> Tensor:
    return where(b == 0, 0.0, a / where(b == 0, 1.0, b))


class SensitivityAtSpecificity(_AtThresholds):
    """The best share of targets of 1 that are found where the share of 0 that are left alone is at least `specificity`."""

    def __init__(self, specificity: float, num_thresholds: int = 200, class_id: int | None = None, name: str | None = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__(specificity, num_thresholds, class_id, name)

    def _pair(self, tp: Tensor, fp: Tensor, tn: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        return _share(tn, tn + fp), _share(tp, tp + fn)


class SpecificityAtSensitivity(_AtThresholds):
    """The same the other way round."""

    def __init__(self, sensitivity: float, num_thresholds: int = 200, class_id: int | None = None, name: str | None = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__(sensitivity, num_thresholds, class_id, name)

    def _pair(self, tp: Tensor, fp: Tensor, tn: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        return _share(tp, tp + fn), _share(tn, tn + fp)


class PrecisionAtRecall(_AtThresholds):
    """The best precision where recall is at least `recall`."""

    def __init__(self, recall: float, num_thresholds: int = 200, class_id: int | None = None, name: str | None = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__(recall, num_thresholds, class_id, name)

    def _pair(self, tp: Tensor, fp: Tensor, tn: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        return _share(tp, tp + fn), _share(tp, tp + fp)


class RecallAtPrecision(_AtThresholds):
    """The best recall where precision is at least `precision`."""

    def __init__(self, precision: float, num_thresholds: int = 200, class_id: int | None = None, name: str | None = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__(precision, num_thresholds, class_id, name)

    def _pair(self, tp: Tensor, fp: Tensor, tn: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        return _share(tp, tp + fp), _share(tp, tp + fn)


class IoU(Metric):
    """The mean over `target_class_ids` of what targets and answers have in common by what either has."""

    keys = ("matrix",)

    def __init__(
        self, num_classes: int, target_class_ids: Sequence[int], name: str | None = None, dtype: Any = None, ignore_class: int | None = None,
        sparse_y_true: bool = True, sparse_y_pred: bool = True, axis: int = -1,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        if any(not 0 <= i < num_classes for i in target_class_ids):
            raise KilnValueError(self.name, "target_class_ids are class numbers", describe(list(target_class_ids)), f"below {num_classes}")  # fmt: skip
        self.num_classes, self.target_class_ids, self.ignore_class = num_classes, list(target_class_ids), ignore_class  # fmt: skip
        self.sparse = sparse_y_true, sparse_y_pred
        self.axis = axis

    def _numbers(self, x: Tensor, sparse: bool) -> Tensor:
        return (x if sparse else x.argmax(self.axis)).long().flatten()

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        true, found = self._numbers(target, self.sparse[0]), self._numbers(output, self.sparse[1])
        n = self.num_classes
        w = found.new_ones(found.shape).double() if weight is None else weight.double().flatten()
        if self.ignore_class is not None:
            w = w * (true != self.ignore_class).double()
            true = where(true == self.ignore_class, 0, true)
        rows, columns = (true.unsqueeze(-1) == arange(n)).double(), (found.unsqueeze(-1) == arange(n)).double()  # fmt: skip
        self._slot("matrix", output, n, n).add_((rows * w.unsqueeze(-1)).T @ columns)

    def _compute(self) -> Tensor:
        matrix = self._seen("matrix", self.num_classes, self.num_classes)
        at = as_tensor(self.target_class_ids).long()
        both, either = matrix.diagonal()[at], (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())[at]  # fmt: skip
        held = (either > 0).double()
        return _share((_share(both, either) * held).sum(), held.sum())


class MeanIoU(IoU):
    """IoU's mean over all classes."""

    def __init__(
        self, num_classes: int, name: str | None = None, dtype: Any = None, ignore_class: int | None = None, sparse_y_true: bool = True,
        sparse_y_pred: bool = True, axis: int = -1,
    ) -> None:  # fmt: skip
        super().__init__(num_classes, range(num_classes), name, dtype, ignore_class, sparse_y_true, sparse_y_pred, axis)  # fmt: skip


class OneHotIoU(IoU):
    """IoU of one-hot targets and scores (or of class numbers, with `sparse_y_pred`)."""

    def __init__(
        self, num_classes: int, target_class_ids: Sequence[int], name: str | None = None, dtype: Any = None, ignore_class: int | None = None,
        sparse_y_pred: bool = False, axis: int = -1,
    ) -> None:  # fmt: skip
        super().__init__(num_classes, target_class_ids, name, dtype, ignore_class, False, sparse_y_pred, axis)  # fmt: skip


class OneHotMeanIoU(OneHotIoU):
    """OneHotIoU's mean over all classes."""

    def __init__(
        self, num_classes: int, name: str | None = None, dtype: Any = None, ignore_class: int | None = None, sparse_y_pred: bool = False,
        axis: int = -1,
    ) -> None:  # fmt: skip
        super().__init__(num_classes, range(num_classes), name, dtype, ignore_class, sparse_y_pred, axis)  # fmt: skip


class BinaryIoU(IoU):
    """IoU of targets and scores above a threshold as 0 and 1."""

    def __init__(self, target_class_ids: Sequence[int] = (0, 1), threshold: float = 0.5, name: str | None = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__(2, target_class_ids, name)
        self.threshold = threshold

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        super()._update((output >= self.threshold).long(), target, weight)


class FBetaScore(Metric):
    """(1 + beta²) precision * recall / (beta² precision + recall) of each class; `average` None, "micro", "macro" or "weighted"."""

    keys = ("tp", "fp", "fn", "weights")

    def __init__(
        self, average: str | None = None, beta: float = 1.0, threshold: float | None = None, name: str | None = None, dtype: Any = None
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        if average not in (None, "micro", "macro", "weighted"):
            raise KilnValueError(self.name, "no such average", describe(average), "None, 'micro', 'macro' or 'weighted'")  # fmt: skip
        self.average, self.beta, self.threshold = average, beta, threshold

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        if self.threshold is None:
            found = (output == output.amax(-1, keepdim=True)) & (output.abs() > 1e-9)
        else:
            found = output > self.threshold
        a, b = found.double(), target.double()
        w = a.new_ones(1) if weight is None else weight.double().reshape(-1, 1)
        dims = () if self.average == "micro" else (0,)

        def total(x: Tensor) -> Tensor:
            x = x * w
            return x.sum(dims) if dims else x.sum().reshape(1)

        n = 1 if self.average == "micro" else output.shape[-1]
        for key, x in zip(self.keys, (a * b, a * (1 - b), (1 - a) * b, b), strict=True):
            self._slot(key, output, n).add_(total(x))

    def _compute(self) -> Tensor:
        tp, fp, fn, weights = (self._seen(k, 1) for k in self.keys)
        precision, recall = _share(tp, tp + fp), _share(tp, tp + fn)
        each = _share((1 + self.beta**2) * precision * recall, self.beta**2 * precision + recall)
        if self.average == "weighted":
            return (each * _share(weights, weights.sum())).sum()
        return each if self.average is None else each.mean()


class F1Score(FBetaScore):
    """FBetaScore with beta 1."""

    def __init__(self, average: str | None = None, threshold: float | None = None, name: str | None = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__(average, 1.0, threshold, name)


class R2Score(Metric):
    """The share of the targets' variance that is explained; `class_aggregation` "uniform_average", "variance_weighted_average" or None."""

    keys = ("squared", "sum", "residual", "count")

    def __init__(
        self, class_aggregation: str | None = "uniform_average", num_regressors: int = 0, name: str | None = None, dtype: Any = None
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        self.class_aggregation, self.num_regressors = class_aggregation, num_regressors

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        y = target.double().reshape(target.shape[0], -1)
        p = output.double().reshape(y.shape)
        w = y.new_ones(y.shape[0], 1) if weight is None else weight.double().reshape(-1, 1)
        n = y.shape[1]
        for key, x in zip(self.keys[:3], (y * y, y, (y - p).square()), strict=True):
            self._slot(key, output, n).add_((x * w).sum(0))
        self._slot("count", output).add_(w.sum())

    def _compute(self) -> Tensor:
        squared, total, residual = (self._seen(k, 1) for k in self.keys[:3])
        n = self._seen("count")
        spread = squared - total * total / n
        each = 1 - residual / spread
        if self.class_aggregation == "variance_weighted_average":
            score = (each * spread / spread.sum()).sum()
        else:
            score = each if self.class_aggregation is None else each.mean()
        if self.num_regressors:
            score = 1 - (1 - score) * (n - 1) / (n - self.num_regressors - 1)
        return score


def _centred(x: Tensor, axis: Any) -> Tensor:
    return x - x.mean(axis, keepdim=True)


class PearsonCorrelation(MeanMetricWrapper):
    """The mean of Pearson's correlation of each sample along `axis`."""

    def __init__(self, name: str | None = "pearson_correlation", dtype: Any = None, axis: Any = -1) -> None:  # fmt: skip
        def found(y_true: Tensor, y_pred: Tensor) -> Tensor:
            a, b = _centred(y_true.to(y_pred.dtype), axis), _centred(y_pred, axis)
            return (a * b).sum(axis) / (a.square().sum(axis) * b.square().sum(axis)).sqrt().clamp(min=1e-12)  # fmt: skip

        super().__init__(found, name)


class ConcordanceCorrelation(MeanMetricWrapper):
    """The mean of Lin's concordance correlation of each sample along `axis`."""

    def __init__(self, name: str | None = "concordance_correlation", dtype: Any = None, axis: Any = -1) -> None:  # fmt: skip
        def found(y_true: Tensor, y_pred: Tensor) -> Tensor:
            y_true = y_true.to(y_pred.dtype)
            a, b = _centred(y_true, axis), _centred(y_pred, axis)
            apart = y_true.mean(axis) - y_pred.mean(axis)
            return 2 * (a * b).mean(axis) / (a.square().mean(axis) + b.square().mean(axis) + apart.square())  # fmt: skip

        super().__init__(found, name)


KINDS = (
    BinaryIoU, ConcordanceCorrelation, F1Score, FBetaScore, FalseNegatives, FalsePositives, IoU, MeanIoU, OneHotIoU, OneHotMeanIoU,
    PearsonCorrelation, PrecisionAtRecall, R2Score, RecallAtPrecision, SensitivityAtSpecificity, SpecificityAtSensitivity, TrueNegatives,
    TruePositives,
)  # fmt: skip
__all__ = [c.__name__ for c in KINDS]  # pyright: ignore[reportUnsupportedDunderAll]
