"""Losses under Keras's names, called as Keras's are, `loss(y_true, y_pred)`: classes in the last dimension, probabilities
unless `from_logits`.

Each is a function, too: `losses.mean_squared_error(y_true, y_pred)` gives the loss of each sample.

https://keras.io/api/losses/
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from typing import Any

from ..dtypes import bool_
from ..errors import KilnValueError, describe
from ..nn import functional as F
from ..nn.modules.module import Module
from ..ops.creation import as_tensor, eye, full
from ..ops.selection import where
from ..tensor import Tensor
from .configured import Configured

EPSILON = 1e-7
"""How far probabilities are kept from 0 and 1 before their logarithm is taken."""

REDUCTIONS = "sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None


class Loss(Configured):
    """A loss of Keras's: override `call(y_true, y_pred)`, which gives the loss of each sample.

    `reduction` "sum_over_batch_size" (or "mean") is the sum of loss * weight by the number of samples,
    "mean_with_sample_weight" by the sum of the weights; "sum" and "none" are what they say. `dtype` is taken for the name's
    sake: losses are computed in the outputs' dtype.
    """

    from_logits = False

    def __init__(
        self, name: str | None = None, reduction: str | None = "sum_over_batch_size", dtype: Any = None
    ) -> None:  # fmt: skip
        if reduction not in REDUCTIONS:
            raise KilnValueError(
                type(self).__name__, "no such reduction", describe(reduction), "one of " + ", ".join(map(repr, REDUCTIONS))
            )  # fmt: skip
        self.reduction = "none" if reduction is None else reduction
        self.name = name or snake(type(self).__name__)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each sample (and of each place in it): the last dimension is gone."""
        raise NotImplementedError

    def counted(self, y_true: Tensor, each: Tensor) -> Tensor | None:
        """Which losses count, where some don't: means are over these."""
        return None

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        y_true, y_pred = as_tensor(y_true), as_tensor(y_pred)
        each = self.call(y_true, y_pred)
        weight = None if sample_weight is None else as_tensor(sample_weight).to(each.dtype)
        counted = self.counted(y_true, each)
        mask = getattr(y_pred, "_keras_mask", None)
        if mask is not None and mask.ndim <= each.ndim:
            mask = mask.reshape(mask.shape + (1,) * (each.ndim - mask.ndim)).expand(each.shape)
            counted = mask if counted is None else counted & mask
        if counted is not None:
            counted = counted.to(each.dtype)
            if self.reduction in ("sum_over_batch_size", "mean"):
                n = counted.sum()
                counted = where(n == 0, 0.0, counted * (counted.numel() / n.clamp(min=1.0)))
            weight = counted if weight is None else _beside(weight, counted) * counted
        if weight is not None:
            each = each * _beside(weight, each)
        if self.reduction == "none":
            return each
        if self.reduction == "sum":
            return each.sum()
        if self.reduction == "mean_with_sample_weight" and weight is not None:
            total = weight.sum()
            return where(total == 0, 0.0, each.sum() / where(total == 0, 1.0, total))
        return each.mean()


def _beside(weight: Tensor, each: Tensor) -> Tensor:
    """Weights as they multiply losses: those of samples count for all places in them."""
    if weight.ndim == each.ndim + 1 and weight.shape[-1] == 1:
        return weight.squeeze(-1)
    return weight.reshape(weight.shape + (1,) * (each.ndim - weight.ndim))


def snake(name: str) -> str:
    """`MeanSquaredError` as `mean_squared_error`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def same_rank(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Both of one rank: a last dimension of 1 may be left out of either."""
    if y_true.ndim + 1 == y_pred.ndim and y_pred.shape[-1] == 1:
        y_true = y_true.unsqueeze(-1)
    elif y_pred.ndim + 1 == y_true.ndim and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    return y_true, y_pred


def _like(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Both of one rank, and floating."""
    return same_rank(y_true.to(y_pred.dtype), y_pred)


def _last(x: Tensor) -> Tensor:
    return x.mean(-1) if x.ndim > 1 else x


def _log(p: Tensor) -> Tensor:
    return p.clamp(EPSILON, 1 - EPSILON).log()


def _shares(p: Tensor) -> Tensor:
    return p / p.sum(-1, keepdim=True)


def _log_shares(output: Tensor, from_logits: bool) -> Tensor:
    """Logarithms of class probabilities in the last dimension."""
    return output.log_softmax(-1) if from_logits else _log(_shares(output))


class _Plain(Loss):
    """A loss without options of its own."""

    def __init__(
        self, reduction: str | None = "sum_over_batch_size", name: str | None = None, dtype: Any = None
    ) -> None:  # fmt: skip
        super().__init__(name, reduction, dtype)


class MeanSquaredError(_Plain):
    """The mean of (y_true - y_pred)²."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        return _last((y_pred - y_true).square())


class MeanAbsoluteError(_Plain):
    """The mean of |y_true - y_pred|."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        return _last((y_pred - y_true).abs())


class MeanAbsolutePercentageError(_Plain):
    """100 times the mean of |y_true - y_pred| / |y_true|."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        return 100 * _last((y_pred - y_true).abs() / y_true.abs().clamp(min=EPSILON))


class MeanSquaredLogarithmicError(_Plain):
    """The mean of (log(1 + y_true) - log(1 + y_pred))²."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        first, second = (x.clamp(min=EPSILON).log1p() for x in _like(y_true, y_pred))
        return _last((first - second).square())


class LogCosh(_Plain):
    """The mean of log(cosh(y_pred - y_true))."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        d = y_pred - y_true
        return _last(d + F.softplus(-2.0 * d) - 0.6931471805599453)


class Huber(Loss):
    """Quadratic up to `delta`, linear beyond."""

    def __init__(
        self, delta: float = 1.0, reduction: str | None = "sum_over_batch_size", name: str | None = "huber_loss",
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(name, reduction, dtype)
        self.delta = delta

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        return _last(F.huber_loss(y_pred, y_true, reduction="none", delta=self.delta))


class CosineSimilarity(Loss):
    """Minus the cosine of the angle between y_true and y_pred along `axis`."""

    def __init__(
        self, axis: int = -1, reduction: str | None = "sum_over_batch_size", name: str | None = None, dtype: Any = None
    ) -> None:  # fmt: skip
        super().__init__(name, reduction, dtype)
        self.axis = axis

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        unit = (F.normalize(x, dim=self.axis, eps=EPSILON) for x in (y_true, y_pred))
        return -(next(unit) * next(unit)).sum(self.axis)


class Poisson(_Plain):
    """The mean of y_pred - y_true * log(y_pred)."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        return _last(y_pred - y_true * (y_pred + EPSILON).log())


class KLDivergence(_Plain):
    """The sum of y_true * log(y_true / y_pred)."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = (x.clamp(EPSILON, 1.0) for x in _like(y_true, y_pred))
        return (y_true * (y_true / y_pred).log()).sum(-1)


class Hinge(_Plain):
    """The mean of max(1 - y_true * y_pred, 0), targets -1 and 1, or 0 and 1."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        # as in Keras it is the whole batch that says whether 0 stands for -1
        binary = ((y_true == 0) | (y_true == 1)).all()
        y_true = where(binary, 2.0 * y_true - 1.0, y_true)
        return _last(self._of((1 - y_true * y_pred).clamp(min=0.0)))

    @staticmethod
    def _of(short: Tensor) -> Tensor:
        return short


class SquaredHinge(Hinge):
    """The mean of max(1 - y_true * y_pred, 0)², targets as those of Hinge."""

    @staticmethod
    def _of(short: Tensor) -> Tensor:
        return short.square()


class CategoricalHinge(_Plain):
    """max(1 + the largest score of another class - the score of the right one, 0), targets one-hot."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true = y_true.to(y_pred.dtype)
        right = (y_true * y_pred).sum(-1)
        return (((1 - y_true) * y_pred).amax(-1) - right + 1).clamp(min=0.0)


class _Smoothed(Loss):
    """What cross entropies of targets that are probabilities are made with."""

    def __init__(
        self, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1,
        reduction: str | None = "sum_over_batch_size", name: str | None = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(name, reduction, dtype)
        self.from_logits, self.label_smoothing, self.axis = from_logits, label_smoothing, axis

    def _pair(self, y_true: Tensor, y_pred: Tensor, even: float | None) -> tuple[Tensor, Tensor]:
        """Targets smoothed towards `even` (None: one by the number of classes), classes in the last dimension of both."""
        y_true, y_pred = (x if self.axis == -1 else x.movedim(self.axis, -1) for x in _like(y_true, y_pred))  # fmt: skip
        s = self.label_smoothing
        if s:
            y_true = y_true * (1 - s) + s * (1 / y_pred.shape[-1] if even is None else even)
        return y_true, y_pred


class BinaryCrossentropy(_Smoothed):
    """Of scores of one class, or of several that don't exclude each other."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = self._pair(y_true, y_pred, 0.5)
        if self.from_logits:
            return _last(F.binary_cross_entropy_with_logits(y_pred, y_true, reduction="none"))
        return _last(self._of(y_true, y_pred))

    @staticmethod
    def _of(y_true: Tensor, p: Tensor) -> Tensor:
        p = p.clamp(EPSILON, 1 - EPSILON)
        return -(y_true * p.log() + (1 - y_true) * (1 - p).log())


class BinaryFocalCrossentropy(BinaryCrossentropy):
    """Binary cross entropy times (1 - the target's probability)^`gamma`; with `apply_class_balancing` also times `alpha` for ones and
    1 - `alpha` for zeros.
    """

    def __init__(
        self, apply_class_balancing: bool = False, alpha: float = 0.25, gamma: float = 2.0, from_logits: bool = False,
        label_smoothing: float = 0.0, axis: int = -1, reduction: str | None = "sum_over_batch_size",
        name: str | None = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)
        self.apply_class_balancing, self.alpha, self.gamma = apply_class_balancing, alpha, gamma

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y, p = self._pair(y_true, y_pred, 0.5)
        p = p.sigmoid() if self.from_logits else p
        each = (1 - (y * p + (1 - y) * (1 - p))) ** self.gamma * self._of(y, p)
        if self.apply_class_balancing:
            each = (y * self.alpha + (1 - y) * (1 - self.alpha)) * each
        return _last(each)


class CategoricalCrossentropy(_Smoothed):
    """Of class probabilities, targets one-hot or probabilities."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = self._pair(y_true, y_pred, None)
        return -(y_true * _log_shares(y_pred, self.from_logits)).sum(-1)


class CategoricalFocalCrossentropy(_Smoothed):
    """Categorical cross entropy, each class times `alpha` * (1 - its probability)^`gamma`."""

    def __init__(
        self, alpha: float = 0.25, gamma: float = 2.0, from_logits: bool = False, label_smoothing: float = 0.0,
        axis: int = -1, reduction: str | None = "sum_over_batch_size", name: str | None = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)
        self.alpha, self.gamma = alpha, gamma

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = self._pair(y_true, y_pred, None)
        p = _shares(y_pred.softmax(-1) if self.from_logits else y_pred).clamp(EPSILON, 1 - EPSILON)
        return -(self.alpha * (1 - p) ** self.gamma * y_true * p.log()).sum(-1)


class SparseCategoricalCrossentropy(Loss):
    """Of class probabilities, targets class numbers; those that are `ignore_class` don't count."""

    def __init__(
        self, from_logits: bool = False, ignore_class: int | None = None, reduction: str | None = "sum_over_batch_size",
        axis: int = -1, name: str | None = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(name, reduction, dtype)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_pred = y_pred if self.axis == -1 else y_pred.movedim(self.axis, -1)
        y_true = y_true.reshape(y_pred.shape[:-1]).long()
        kept = None if self.ignore_class is None else y_true != self.ignore_class
        y_true = y_true if kept is None else where(kept, y_true, 0)
        each = -_log_shares(y_pred, self.from_logits).gather(-1, y_true.unsqueeze(-1)).squeeze(-1)
        return each if kept is None else where(kept, each, 0.0)

    def counted(self, y_true: Tensor, each: Tensor) -> Tensor | None:
        return None if self.ignore_class is None else (y_true != self.ignore_class).reshape(each.shape)  # fmt: skip


class _Crossentropy(_Plain):
    """The cross entropy that goes with the shapes: of one score, of class numbers, or of one-hot targets."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if y_pred.shape[-1] == 1:
            kind = BinaryCrossentropy
        elif y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1:
            kind = SparseCategoricalCrossentropy
        else:
            kind = CategoricalCrossentropy
        return kind().call(y_true, y_pred)


class CategoricalGeneralizedCrossEntropy(Loss):
    """(1 - p^`q`) / `q` for the probability p of the right class, targets class numbers."""

    def __init__(
        self, q: float = 0.5, reduction: str | None = "sum_over_batch_size", name: str | None = None, dtype: Any = None
    ) -> None:  # fmt: skip
        if not 0 < q < 1:
            raise KilnValueError("CategoricalGeneralizedCrossEntropy", "q lies in (0, 1)", describe(q), "e.g. 0.5")  # fmt: skip
        super().__init__(name, reduction, dtype)
        self.q = q

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true = y_true.reshape(y_pred.shape[:-1]).long()
        return (1 - y_pred.gather(-1, y_true.unsqueeze(-1)).squeeze(-1) ** self.q) / self.q


class CTC(_Plain):
    """Connectionist temporal classification: y_pred (N, time, classes) are logits, y_true (N, length) class numbers filled up
    with 0, which is the blank.
    """

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        n, time = y_pred.shape[:2]
        return F.ctc_loss(
            y_pred.log_softmax(-1).transpose(0, 1), y_true.long(), full((n,), time), (y_true != 0).sum(-1), reduction="none"
        )  # fmt: skip


class Circle(Loss):
    """How far embeddings of one class are from each other, beside those of others (Sun et al. 2020).

    y_pred (N, D) are embeddings of length 1, y_true (N,) class numbers. Samples without a partner in the batch don't count.
    """

    def __init__(
        self, gamma: float = 80.0, margin: float = 0.4, remove_diagonal: bool = True,
        reduction: str | None = "sum_over_batch_size", name: str | None = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(name, reduction, dtype)
        self.gamma, self.margin, self.remove_diagonal = gamma, margin, remove_diagonal

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true = y_true.reshape(-1)
        far = (1 - y_pred @ y_pred.T).clamp(min=0.0)
        like = y_true.unsqueeze(1) == y_true
        unlike = ~like
        if self.remove_diagonal:
            like = like & ~eye(len(y_true), dtype=bool_)
        pull = self.gamma * (self.margin + far).clamp(min=0.0) * (far - self.margin)
        push = self.gamma * (1 + self.margin - far).clamp(min=0.0) * (1 - self.margin - far)
        near, apart = (where(m, x, -inf).logsumexp(1) for m, x in ((like, pull), (unlike, push)))
        return F.softplus(near + apart)

    def counted(self, y_true: Tensor, each: Tensor) -> Tensor | None:
        return each > 0


class Tversky(Loss):
    """1 - the Tversky index along `axis` (None: of the batch): `alpha` counts what y_pred lacks, `beta` what it has too much."""

    def __init__(
        self, alpha: float = 0.5, beta: float = 0.5, reduction: str | None = "sum_over_batch_size", name: str | None = None,
        axis: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(name, reduction, dtype)
        self.alpha, self.beta, self.axis = alpha, beta, axis

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        both, lacking, extra = (
            x.sum(self.axis) for x in (y_true * y_pred, (1 - y_pred) * y_true, y_pred * (1 - y_true))
        )  # fmt: skip
        return 1 - both / (both + lacking * self.alpha + extra * self.beta + EPSILON)


class Dice(Loss):
    """1 - the Dice coefficient along `axis` (None: of the batch)."""

    def __init__(
        self, reduction: str | None = "sum_over_batch_size", name: str | None = None, axis: Any = None, dtype: Any = None
    ) -> None:  # fmt: skip
        super().__init__(name, reduction, dtype)
        self.axis = axis

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = _like(y_true, y_pred)
        both = (y_true * y_pred).sum(self.axis)
        return 1 - 2 * both / (y_true.sum(self.axis) + y_pred.sum(self.axis) + EPSILON)


class Function(Loss):
    """The loss that a function of (y_true, y_pred) computes: of each sample, or a mean."""

    def __init__(self, fn: Callable, reduction: str | None = "sum_over_batch_size", name: str | None = None) -> None:  # fmt: skip
        super().__init__(name or getattr(fn, "__name__", None), reduction)
        self.fn = fn

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.fn(*same_rank(y_true, y_pred))


_KINDS = (
    MeanSquaredError, MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredLogarithmicError, LogCosh, Huber,
    CosineSimilarity, Poisson, KLDivergence, Hinge, SquaredHinge, CategoricalHinge, BinaryCrossentropy,
    BinaryFocalCrossentropy, CategoricalCrossentropy, CategoricalFocalCrossentropy, SparseCategoricalCrossentropy,
    CategoricalGeneralizedCrossEntropy, CTC, Circle, Tversky, Dice,
)  # fmt: skip
_SHORT = {
    "mse": MeanSquaredError, "mae": MeanAbsoluteError, "mape": MeanAbsolutePercentageError,
    "msle": MeanSquaredLogarithmicError, "bce": BinaryCrossentropy, "kld": KLDivergence,
}  # fmt: skip
_FUNCTIONS = {{"KLDivergence": "kl_divergence"}.get(c.__name__, snake(c.__name__)): c for c in _KINDS}  # fmt: skip
BY_NAME: dict[str, type[Loss]] = {
    **_FUNCTIONS, **{c.__name__: c for c in _KINDS}, **_SHORT, **{k.upper(): c for k, c in _SHORT.items()},
    "crossentropy": _Crossentropy, "ce": _Crossentropy,
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """`mean_squared_error` and its like: the class's formula as a function, options by name."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    kind = _FUNCTIONS[name]

    def each(y_true: Any, y_pred: Any, **options: Any) -> Tensor:
        return kind(**options, reduction="none")(y_true, y_pred)

    each.__name__ = each.__qualname__ = name
    each.__doc__ = kind.__doc__
    globals()[name] = each
    return each


def get(loss: Any) -> Callable:
    """The loss of a name, or what is one already; a function of (y_true, y_pred) becomes a Loss.

    Modules and functions of Kiln's own, like `nn.MSELoss()` and `F.mse_loss`, stay as they are: their order is PyTorch's.
    """
    if isinstance(loss, type) and issubclass(loss, Loss):
        return loss()
    if isinstance(loss, Loss) or of_kiln(loss):
        return loss
    if callable(loss):
        return Function(loss)
    if isinstance(loss, str) and loss in BY_NAME:
        return BY_NAME[loss]()
    raise KilnValueError(
        "compile", "no loss has this name", describe(loss),
        "one of " + ", ".join(n for n in BY_NAME if n.islower()) + ", or a function of (y_true, y_pred)",
    )  # fmt: skip


def of_kiln(fn: Any) -> bool:
    """Whether something is called as PyTorch calls its like, (output, target)."""
    home = str(getattr(fn, "__module__", None))
    return isinstance(fn, Module) or (
        callable(fn) and home.startswith("kiln.") and home != __name__
    )


class ForTrainer:
    """A loss of Keras's as a Trainer calls one: (output, target), its own weights included."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.from_logits = loss, loss.from_logits

    def __call__(self, output: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:  # fmt: skip
        found = self.loss(target, output, sample_weight)
        return found.mean() if found.ndim else found


def for_trainer(loss: Any) -> Any:
    """What `get` finds, for a Trainer."""
    found = get(loss)
    return ForTrainer(found) if isinstance(found, Loss) else found


__all__ = [*(c.__name__ for c in _KINDS), "Loss", "get"]  # pyright: ignore[reportUnsupportedDunderAll]
