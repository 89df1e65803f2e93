"""Metrics of answers: which class, yes or no, which labels. What is counted has one number for each class."""

from __future__ import annotations

import math
from typing import Any

from ..dtypes import bool_, float64
from ..errors import KilnValueError, describe
from ..nn.functional import log_softmax
from ..ops.creation import ones_like
from ..ops.selection import where
from ..tensor import Tensor
from .base import Metric, Ratio, spread

TASKS = ("binary", "multiclass", "multilabel")
AVERAGES = ("micro", "macro", "weighted", None)


def check(what: str, name: str, value: Any, choices: tuple) -> Any:
    """One of the choices, or a KilnValueError."""
    if value not in choices:
        raise KilnValueError(
            what, f"no such {name}", describe(value), "one of " + ", ".join(map(repr, choices))
        )
    return value


class Labelled(Metric):
    """What turns outputs and targets into answers.

    `task` is "binary", "multiclass", "multilabel" or None: classes where `output` (N, C, *) goes with class numbers (N, *), or
    with class probabilities (N, C, *); binary where both have the same elements. Outputs of integers are class numbers already
    (which needs `task` or `num_classes`). Labels are in dimension 1 of both, (N, L, *). An answer is yes where `output` is above
    `threshold`, a probability, of which `output` is the logit with `from_logits`. Targets of `ignore_index` don't count.
    """

    def __init__(
        self, task: str | None = None, num_classes: int | None = None, threshold: float = 0.5, from_logits: bool = False,
        ignore_index: int | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name)
        self.task = check(self.name, "task", task, (*TASKS, None))
        self.num_classes, self.from_logits, self.ignore_index = (
            num_classes,
            from_logits,
            ignore_index,
        )
        self.threshold = threshold
        if from_logits:
            self.threshold = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)  # fmt: skip

    def _task(self, output: Tensor, target: Tensor) -> tuple[str, int]:
        """(task, how many classes or labels) of a batch."""
        floating = output.is_floating_point()
        numbers = output.shape == target.shape and not floating and output.dtype is not bool_
        classes = output.ndim >= 2 and output.shape[1] > 1
        task = self.task
        if task is None:
            apart = classes and target.shape == (output.shape[0], *output.shape[2:])
            alike = target.shape == output.shape and (
                classes if floating else numbers and (self.num_classes or 0) > 2
            )
            task = "multiclass" if apart or alike else "binary"
        fits = {
            "binary": output.numel() == target.numel(),
            "multiclass": numbers or (output.ndim >= 2 and target.shape in (
                (output.shape[0], *output.shape[2:]), output.shape)),
            "multilabel": output.ndim >= 2 and output.shape == target.shape,
        }[task]  # fmt: skip
        if not fits:
            raise KilnValueError(
                self.name, f"output and target don't go together ({task})", f"output={describe(output)}, target={describe(target)}",
                "output (N, C, …) with target (N, …), or equal shapes for yes and no or for labels",
            )  # fmt: skip
        if task == "binary":
            return task, 1
        if task == "multiclass" and numbers:
            if self.num_classes is None:
                raise KilnValueError(
                    self.name, "of class numbers alone the number of classes is not known", f"output={describe(output)}", "pass num_classes",
                )  # fmt: skip
            return task, self.num_classes
        if self.num_classes is not None and self.num_classes != output.shape[1]:
            raise KilnValueError(
                self.name, f"expected {self.num_classes} classes in dimension 1", describe(output), "pass scores for each class"
            )  # fmt: skip
        return task, output.shape[1]

    def _weights(self, weight: Any, target: Tensor) -> Tensor:
        """The weight of each element of a target, 0 where it is ignored."""
        w = spread(self.name, weight, target.shape)
        if self.ignore_index is not None:
            kept = (target != self.ignore_index).double()
            return kept if w is None else w * kept
        return ones_like(target, dtype=float64) if w is None else w

    def _classes(
        self, output: Tensor, target: Tensor, weight: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(answers, targets, weights) of classes, each (M,); targets that are ignored have weight 0 and class 0."""
        scores = output.is_floating_point()
        pred = output.argmax(1) if scores else output
        true = target.argmax(1) if scores and target.shape == output.shape else target
        w = self._weights(weight, true)
        if self.ignore_index is not None:
            true = where(true == self.ignore_index, 0, true)
        return pred.reshape(-1).long(), true.reshape(-1).long(), w.reshape(-1)

    def _answers(
        self, output: Tensor, target: Tensor, weight: Any, labels: int, multi: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(answers, targets, weights) of yes and no, each (M, labels)."""
        if not multi:
            output = output.reshape(target.shape)
        pred = output > self.threshold if output.is_floating_point() else output != 0
        w, true = self._weights(weight, target), target > 0.5
        if multi:
            pred, true, w = (x.movedim(1, -1) for x in (pred, true, w))
        return pred.reshape(-1, labels), true.reshape(-1, labels), w.reshape(-1, labels)


def averaged(value: Tensor, average: str | None, support: Tensor, present: Tensor) -> Tensor:
    """A mean over classes: of all that are present alike, or by their support; each of them for None."""
    if average is None:
        return value
    weight = support if average == "weighted" else present.double()
    return (where(weight > 0, value, 0.0) * weight).sum() / weight.sum()


class Accuracy(Labelled):
    """The share of right answers: of elements ("micro"), or the mean over classes or labels of their shares.

    "macro" over classes is balanced accuracy; classes that no target has don't count. `average=None` gives each class.
    """

    keys = ("right", "total")

    def __init__(
        self, task: str | None = None, num_classes: int | None = None, average: str | None = "micro", threshold: float = 0.5,
        from_logits: bool = False, ignore_index: int | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(task, num_classes, threshold, from_logits, ignore_index, name)
        self.average = check(self.name, "average", average, AVERAGES)

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        task, k = self._task(output, target)
        if task == "multiclass":
            pred, true, w = self._classes(output, target, weight)
        else:
            pred, true, w = self._answers(output, target, weight, k, task == "multilabel")
        hit = (pred == true).double() * w
        if self.average == "micro":
            self._slot("right", output, 1).add_(hit.sum())
            self._slot("total", output, 1).add_(w.sum())
        elif task == "multiclass":
            self._slot("right", output, k).index_add_(0, true, hit)
            self._slot("total", output, k).index_add_(0, true, w)
        else:
            self._slot("right", output, k).add_(hit.sum(0))
            self._slot("total", output, k).add_(w.sum(0))

    def _compute(self) -> Tensor:
        right, total = self._seen("right", 1), self._seen("total", 1)
        if self.average == "micro":
            return (right / total).sum()
        return averaged(right / total, self.average, total, total > 0)


class TopKAccuracy(Ratio):
    """The share of samples whose class is among the `k` with the highest scores: `output` (N, C, *), `target` (N, *)."""

    def __init__(
        self, k: int = 5, ignore_index: int | None = None, name: str | None = None
    ) -> None:
        super().__init__(name or f"top_{k}")
        self.k, self.ignore_index = k, ignore_index

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        if output.ndim < 2 or target.shape != (output.shape[0], *output.shape[2:]):
            raise KilnValueError(
                self.name, "output and target don't go together", f"output={describe(output)}, target={describe(target)}",
                "output (N, C, …) with target (N, …)",
            )  # fmt: skip
        w = spread(self.name, weight, target.shape)
        if self.ignore_index is not None:
            kept = target != self.ignore_index
            target = where(kept, target, 0)
            w = kept.double() if w is None else w * kept
        own = output.gather(1, target.unsqueeze(1).long())
        self._add(((output > own).sum(1) < self.k).double(), w)


class _Counts(Labelled):
    """Of each class: right answers, answers and targets; a ratio of these, averaged.

    `average` is "micro" (one class of all), "macro" (each class alike), "weighted" (by its targets) or None (each); in means
    a class that neither answers nor targets have does not count, as in scikit-learn. 0/0 is `zero_division`.
    """

    keys = ("hits", "answers", "targets")

    def __init__(
        self, task: str | None = None, num_classes: int | None = None, average: str | None = "macro", threshold: float = 0.5,
        from_logits: bool = False, ignore_index: int | None = None, zero_division: float = 0.0, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(task, num_classes, threshold, from_logits, ignore_index, name)
        self.average = check(self.name, "average", average, AVERAGES)
        self.zero_division = zero_division

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        task, k = self._task(output, target)
        hits, answers, targets = (self._slot(n, output, k) for n in self.keys)
        if task == "multiclass":
            pred, true, w = self._classes(output, target, weight)
            hits.index_add_(0, true, (pred == true).double() * w)
            answers.index_add_(0, pred, w)
            targets.index_add_(0, true, w)
        else:
            pred, true, w = self._answers(output, target, weight, k, task == "multilabel")
            hits.add_(((pred & true).double() * w).sum(0))
            answers.add_((pred.double() * w).sum(0))
            targets.add_((true.double() * w).sum(0))

    def _compute(self) -> Tensor:
        hits, answers, targets = (self._seen(n, 1) for n in self.keys)
        if self.average == "micro":
            hits, answers, targets = (x.sum(0, keepdim=True) for x in (hits, answers, targets))
        top, bottom = self._ratio(hits, answers, targets)
        value = where(bottom > 0, top / bottom, float(self.zero_division))
        if self.average in (None, "micro"):
            return value.sum() if self.average == "micro" else value
        mean = averaged(value, self.average, targets, answers + targets > 0)
        return where(mean.isnan(), float(self.zero_division), mean)  # no class at all is 0/0, too

    def _ratio(self, hits: Tensor, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Precision(_Counts):
    """Of the answers, the share that is right."""

    def _ratio(self, hits: Tensor, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return hits, answers


class Recall(_Counts):
    """Of the targets, the share that is found."""

    def _ratio(self, hits: Tensor, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return hits, targets


class FBetaScore(_Counts):
    """The harmonic mean of precision and recall, which counts `beta`² times as much."""

    def __init__(self, beta: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.beta = beta

    def _ratio(self, hits: Tensor, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        b = self.beta**2
        return (1 + b) * hits, answers + b * targets


class F1Score(_Counts):
    """The harmonic mean of precision and recall."""

    def _ratio(self, hits: Tensor, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * hits, answers + targets


class Dice(F1Score):
    """Twice the overlap of answers and targets over the sum of their sizes; segmentation's name of F1."""


class IoU(_Counts):
    """Intersection over union (Jaccard's index) of answers and targets, the mean over classes: mean IoU of segmentation."""

    def _ratio(self, hits: Tensor, answers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return hits, answers + targets - hits


class ConfusionMatrix(Labelled):
    """How often each class (rows) was answered by each class (columns): (C, C), (2, 2), or (L, 2, 2) of labels.

    `normalize` divides by the sums of rows ("true"), of columns ("pred") or of all ("all"); sums of 0 give 0.
    """

    keys = ("matrix",)

    def __init__(
        self, task: str | None = None, num_classes: int | None = None, normalize: str | None = None, threshold: float = 0.5,
        from_logits: bool = False, ignore_index: int | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(task, num_classes, threshold, from_logits, ignore_index, name)
        self.normalize = check(self.name, "normalize", normalize, ("true", "pred", "all", None))

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        task, k = self._task(output, target)
        if task == "multiclass":
            pred, true, w = self._classes(output, target, weight)
            self._slot("matrix", output, k, k).index_put_((true, pred), w, accumulate=True)
            return
        pred, true, w = self._answers(output, target, weight, k, task == "multilabel")
        both = [((t * p).double() * w).sum(0) for t in (~true, true) for p in (~pred, pred)]
        shape = (k, 2, 2) if task == "multilabel" else (2, 2)
        matrix = self._slot("matrix", output, *shape).view(k, 4)
        for i, n in enumerate(both):
            matrix[:, i].add_(n)

    def _compute(self) -> Tensor:
        c = self.num_classes or 2
        m = self._seen("matrix", *((c, 2, 2) if self.task == "multilabel" else (c, c)))
        if self.normalize is None:
            return m.clone()
        dim = {"true": -1, "pred": -2, "all": (-2, -1)}[self.normalize]
        total = m.sum(dim, keepdim=True)
        return where(total > 0, m / total, 0.0)


class Perplexity(Ratio):
    """e to the mean negative log-likelihood of the targets: how many classes the model wavers between.

    `output` holds logits, classes in the last dimension where the target has the shape of the others, (N, T, C) with (N, T),
    or else in dimension 1, (N, C, T), as `cross_entropy` takes them. Targets of `ignore_index` don't count.
    """

    def __init__(self, ignore_index: int | None = -100, name: str | None = None) -> None:
        super().__init__(name)
        self.ignore_index = ignore_index

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        last = output.ndim >= 1 and target.shape == output.shape[:-1]
        if not last and target.shape != (output.shape[0], *output.shape[2:]):
            raise KilnValueError(
                self.name, "output and target don't go together", f"output={describe(output)}, target={describe(target)}",
                "output (N, T, C) with target (N, T)",
            )  # fmt: skip
        dim = -1 if last else 1
        w = spread(self.name, weight, target.shape)
        if self.ignore_index is not None:
            kept = target != self.ignore_index
            target = where(kept, target, 0)
            w = kept.double() if w is None else w * kept
        logs = log_softmax(output if output.dtype.itemsize >= 4 else output.float(), dim)
        own = logs.gather(dim, target.unsqueeze(dim).long()).squeeze(dim)
        self._add(-own.double(), w)

    def _compute(self) -> Tensor:
        return super()._compute().exp()
