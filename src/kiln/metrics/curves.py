"""Metrics of scores at every threshold: ROC and precision-recall curves, and the areas below them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..dtypes import float32
from ..errors import CaptureError, KilnKeyError, KilnValueError, describe
from ..nn.functional import one_hot, sigmoid, softmax
from ..ops.creation import tensor
from ..ops.selection import where
from ..ops.sorting import bucketize
from ..tensor import Tensor, captured
from .base import Metric
from .classification import AVERAGES, Labelled, check

Points = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Thresholds from the highest on, with the weights of positives and of negatives with such a score or a higher one."""


class _Curve(Labelled):
    """Scores and what they were for: all of them, exact (`on_host`), or counted between `thresholds` in state of fixed size.

    `thresholds`: None for exact curves; a number of them, evenly from 0 to 1; or a list. Between thresholds a score counts
    as the next lower one. Classes go one against the rest. `from_logits`: scores are made probabilities first, which exact
    curves of one class don't need, as only the order of scores matters there.
    """

    def __init__(
        self, task: str | None = None, num_classes: int | None = None, thresholds: int | Sequence[float] | Tensor | None = None,
        from_logits: bool = False, ignore_index: int | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(task, num_classes, ignore_index=ignore_index, name=name)
        self.from_logits, self.on_host = from_logits, thresholds is None
        self._gathered: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        if thresholds is None:
            self.keys = ("scores", "positive", "weight")
            return
        self.keys = ("positive", "negative")
        if isinstance(thresholds, int):
            thresholds = np.linspace(0, 1, thresholds).tolist()
        steps = np.unique(np.asarray([float(t) for t in thresholds]))  # type: ignore[union-attr]
        if len(steps) < 2:
            raise KilnValueError(
                self.name, "a curve needs two thresholds or more", describe(thresholds), "100, say"
            )
        self.thresholds = tensor(steps)

    # ---- batches

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        if self.on_host and (ctx := captured()):
            raise CaptureError(
                self.name, "the metric gathers every score on the host and can't be updated in a captured function",
                ctx.where(), "return outputs and update it outside, or pass thresholds= for counts of fixed size",
            )  # fmt: skip
        task, k = self._task(output, target)
        if output.dtype.itemsize < 4 or not output.is_floating_point():
            output = output.to(float32)
        scores, true, w = self._parts(output, target, weight, task, k)
        if self.on_host:
            self._gathered.append(
                (scores.numpy(force=True).copy(), true.numpy(force=True).copy(), w.numpy(force=True).copy())
            )  # fmt: skip
            return
        bins = len(self.thresholds) + 1
        steps = self.thresholds.to(scores.device, scores.dtype)
        at = bucketize(scores.contiguous(), steps, right=True)
        at = (at + where(true, 0, 1) * bins).t() + tensor(np.arange(k)[:, None] * 2 * bins).to(at.device)  # fmt: skip
        counts = at.new_zeros(k * 2 * bins, dtype=w.dtype).index_add(
            0, at.reshape(-1), w.expand(scores.shape).t().reshape(-1)
        )
        counts = counts.view(k, 2, bins)
        self._slot("positive", output, k, bins).add_(counts[:, 0])
        self._slot("negative", output, k, bins).add_(counts[:, 1])

    def _parts(
        self, output: Tensor, target: Tensor, weight: Any, task: str, k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(scores (M, k), whether each is a positive one, weights (M, k) or (M, 1))."""
        if task == "multiclass":
            _, true, w = self._classes(output, target, weight)
            scores = softmax(output, 1) if self.from_logits else output
            scores = scores.movedim(1, -1).reshape(-1, k)
            return scores, one_hot(true, k) > 0, w.unsqueeze(1)
        _, true, w = self._answers(output, target, weight, k, task == "multilabel")
        scores = sigmoid(output) if self.from_logits else output
        scores = scores.movedim(1, -1) if task == "multilabel" else scores
        return scores.reshape(-1, k), true, w

    # ---- what was seen

    def reset(self) -> None:
        """Forget all batches."""
        self._gathered.clear()
        super().reset()

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen, as tensors by name; copies."""
        if not self.on_host:
            return super().state_dict()
        return dict(zip(self.keys, map(tensor, self._joined()), strict=True)) if self._gathered else {}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if not self.on_host:
            super().load_state_dict(state)
            return
        if state and set(state) != set(self.keys):
            raise KilnKeyError(
                self.name, "the state is not that of such a metric", sorted(state), f"it has {sorted(self.keys)}"
            )  # fmt: skip
        self._gathered.clear()
        if state:
            scores, positive, weight = (state[k].numpy(force=True).copy() for k in self.keys)
            self._gathered.append((scores, positive, weight))

    def _merge(self, other: Metric) -> None:
        assert isinstance(other, _Curve)
        if self.on_host != other.on_host or (
            not self.on_host and self.thresholds.tolist() != other.thresholds.tolist()
        ):
            raise KilnValueError(
                self.name, "curves with different thresholds can't be merged", other.name, "give both the same"
            )  # fmt: skip
        self._gathered += other._gathered
        super()._merge(other)

    def _joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, positives and weights of all batches; one piece from now on."""
        if len({s.shape[1] for s, _, _ in self._gathered}) > 1:
            raise KilnValueError(
                self.name, "the number of classes differs between batches",
                sorted({s.shape[1] for s, _, _ in self._gathered}), "a stream has one number of them",
            )  # fmt: skip
        if len(self._gathered) > 1:
            scores, true, w = zip(*self._gathered, strict=True)
            self._gathered[:] = [(np.concatenate(scores), np.concatenate(true), np.concatenate(w))]
        return self._gathered[0]

    def _points(self) -> list[Points]:
        """The points of each class's curve."""
        if self.on_host:
            if not self._gathered:
                return [_exact(np.zeros(0), np.zeros(0, bool), np.zeros(0))]
            scores, true, w = self._joined()
            w = np.broadcast_to(w, scores.shape)
            return [_exact(scores[:, c], true[:, c], w[:, c]) for c in range(scores.shape[1])]
        bins = len(self.thresholds) + 1
        positive, negative = (self._seen(k, 1, bins).numpy(force=True) for k in self.keys)
        steps = np.concatenate(([-math.inf], self.thresholds.numpy()))[::-1]
        return [
            (steps, np.cumsum(p[::-1]), np.cumsum(n[::-1]))
            for p, n in zip(positive, negative, strict=True)
        ]


def _exact(scores: np.ndarray, true: np.ndarray, w: np.ndarray) -> Points:
    seen = w != 0
    if not seen.all():
        scores, true, w = scores[seen], true[seen], w[seen]
    if np.isnan(scores).any():
        nothing = np.full(1, math.nan)
        return nothing, nothing, nothing
    order = np.argsort(-scores, kind="stable")
    scores, true, w = scores[order], true[order], w[order].astype(np.float64)
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.zeros(0, int)  # fmt: skip
    return (
        scores[last].astype(np.float64), np.cumsum(np.where(true, w, 0.0))[last], np.cumsum(np.where(true, 0.0, w))[last],
    )  # fmt: skip


def _roc(points: Points) -> Points:
    """(false positive rates, true positive rates, thresholds), from a threshold that nothing reaches."""
    steps, tp, fp = points
    with np.errstate(all="ignore"):
        tpr, fpr = (np.concatenate(([0.0], x)) / (x[-1] if len(x) else math.nan) for x in (tp, fp))
    return fpr, tpr, np.concatenate(([math.inf], steps))


def _precision_recall(points: Points) -> Points:
    """(precision, recall, thresholds) from the lowest threshold on, and (1, 0) at the end."""
    steps, tp, fp = points
    with np.errstate(all="ignore"):
        precision = np.where(tp + fp > 0, tp / np.where(tp + fp > 0, tp + fp, 1.0), 1.0)
        recall = tp / (tp[-1] if len(tp) else math.nan)
    return (
        np.concatenate((precision[::-1], [1.0])),
        np.concatenate((recall[::-1], [0.0])),
        steps[::-1],
    )


class ROC(_Curve):
    """The receiver operating characteristic: {"fpr", "tpr", "thresholds"}, 1-d tensors, or a list of these, one a class.

    From (0, 0) on, thresholds downwards. NaN where a class has no negatives or no positives.
    """

    def _compute(self) -> dict[str, Any]:
        return _as_dict(("fpr", "tpr", "thresholds"), [_roc(p) for p in self._points()])


class PrecisionRecallCurve(_Curve):
    """{"precision", "recall", "thresholds"}, 1-d tensors, or a list of these, one a class; thresholds upwards.

    Precision and recall end with (1, 0), which no threshold gives, so they are one longer.
    """

    def _compute(self) -> dict[str, Any]:
        curves = [_precision_recall(p) for p in self._points()]
        return _as_dict(("precision", "recall", "thresholds"), curves)


def _as_dict(names: tuple[str, ...], curves: list[Points]) -> dict[str, Any]:
    columns = [[tensor(np.ascontiguousarray(c[i])) for c in curves] for i in range(3)]
    return {n: c[0] if len(c) == 1 else c for n, c in zip(names, columns, strict=True)}


class _Area(_Curve):
    """An area below a curve: of one class, or the mean over classes where it is defined.

    `average`: "macro" (alike), "weighted" (by positives), "micro" (all labels as one) or None (each).
    """

    def __init__(
        self, task: str | None = None, num_classes: int | None = None, average: str | None = "macro",
        thresholds: int | Sequence[float] | Tensor | None = None, from_logits: bool = False, ignore_index: int | None = None,
        name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(task, num_classes, thresholds, from_logits, ignore_index, name)
        self.average = check(self.name, "average", average, AVERAGES)

    def _compute(self) -> Tensor:
        points = self._points()
        if self.average == "micro" and len(points) > 1:
            points = [self._together(points)]
        areas = np.array([self._area(p) for p in points])
        if self.average is None:
            return tensor(areas)
        weights = np.array([tp[-1] if self.average == "weighted" and len(tp) else 1.0 for _, tp, _ in points])  # fmt: skip
        known = ~np.isnan(areas)
        if not known.any() or not weights[known].sum():
            return tensor(np.float64(math.nan))
        return tensor(np.float64(np.average(areas[known], weights=weights[known])))

    def _together(self, points: list[Points]) -> Points:
        if not self.on_host:
            return points[0][0], sum(tp for _, tp, _ in points), sum(fp for _, _, fp in points)  # type: ignore[return-value]
        scores, true, w = self._joined()
        return _exact(scores.ravel(), true.ravel(), np.broadcast_to(w, scores.shape).ravel())

    @staticmethod
    def _area(points: Points) -> float:
        raise NotImplementedError


class AUROC(_Area):
    """The area under the ROC curve: how likely a positive scores higher than a negative, ties counting half.

    NaN without positives or without negatives. Of several classes, of which each goes against the rest, probabilities are
    expected, as scores of different samples are compared (`from_logits`). Source: sklearn.metrics.roc_auc_score.
    """

    @staticmethod
    def _area(points: Points) -> float:
        fpr, tpr, _ = _roc(points)
        return float(np.trapezoid(tpr, fpr))


class AveragePrecision(_Area):
    """The mean of precision over the steps of recall, without interpolation; NaN without positives.

    Source: sklearn.metrics.average_precision_score.
    """

    @staticmethod
    def _area(points: Points) -> float:
        precision, recall, _ = _precision_recall(points)
        return float(-np.sum(np.diff(recall) * precision[:-1]))


__all__ = ["AUROC", "ROC", "AveragePrecision", "PrecisionRecallCurve"]
