"""Losses under Keras's names: classes in the last dimension, probabilities unless `from_logits`.

https://keras.io/api/losses/
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..errors import KilnValueError, describe
from ..nn import functional as F
from ..tensor import Tensor

EPSILON = 1e-7
"""How far probabilities are kept from 0 and 1 before their logarithm is taken."""


class Loss:
    """A loss of Keras's: called with (output, target), unlike Keras's (target, output), as all losses of Kiln's.

    `reduction` "sum_over_batch_size" is the mean, "sum" and "none" what they say.
    """

    from_logits = False

    def __init__(
        self, reduction: str | None = "sum_over_batch_size", name: str | None = None
    ) -> None:
        if reduction not in ("sum_over_batch_size", "mean", "sum", "none", None):
            raise KilnValueError(
                type(self).__name__, "no such reduction", describe(reduction), "'sum_over_batch_size', 'sum' or 'none'"
            )  # fmt: skip
        self.reduction = "none" if reduction is None else reduction
        self.name = name or snake(type(self).__name__)

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of each sample (and of each place in it): the last dimension is gone."""
        raise NotImplementedError

    def __call__(self, output: Tensor, target: Tensor, reduction: str | None = None) -> Tensor:
        reduction = self.reduction if reduction is None else reduction
        each = self.each(output, target)
        return each if reduction == "none" else each.sum() if reduction == "sum" else each.mean()


def snake(name: str) -> str:
    """`MeanSquaredError` as `mean_squared_error`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _like(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Output and target of one shape, both floating: a last dimension of 1 may be left out of either."""
    target = target.to(output.dtype)
    if target.ndim + 1 == output.ndim and output.shape[-1] == 1:
        target = target.unsqueeze(-1)
    elif output.ndim + 1 == target.ndim and target.shape[-1] == 1:
        target = target.squeeze(-1)
    return output, target


def _last(x: Tensor) -> Tensor:
    return x.mean(-1) if x.ndim > 1 else x


def _log(p: Tensor) -> Tensor:
    return p.clamp(EPSILON, 1 - EPSILON).log()


def _log_shares(output: Tensor, from_logits: bool) -> Tensor:
    """Logarithms of class probabilities in the last dimension."""
    return output.log_softmax(-1) if from_logits else _log(output / output.sum(-1, keepdim=True))


class MeanSquaredError(Loss):
    """The mean of (output - target)²."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _like(output, target)
        return _last((output - target).square())


class MeanAbsoluteError(Loss):
    """The mean of |output - target|."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _like(output, target)
        return _last((output - target).abs())


class MeanAbsolutePercentageError(Loss):
    """100 times the mean of |output - target| / |target|."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _like(output, target)
        return 100 * _last((output - target).abs() / target.abs().clamp(min=EPSILON))


class MeanSquaredLogarithmicError(Loss):
    """The mean of (log(1 + output) - log(1 + target))²."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _like(output, target)
        return _last(
            (output.clamp(min=EPSILON).log1p() - target.clamp(min=EPSILON).log1p()).square()
        )


class LogCosh(Loss):
    """The mean of log(cosh(output - target))."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _like(output, target)
        d = output - target
        return _last(d + F.softplus(-2.0 * d) - 0.6931471805599453)


class Huber(Loss):
    """Quadratic up to `delta`, linear beyond."""

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name)
        self.delta = delta

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _like(output, target)
        return _last(F.huber_loss(output, target, reduction="none", delta=self.delta))


class Poisson(Loss):
    """The mean of output - target * log(output)."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _like(output, target)
        return _last(output - target * (output + EPSILON).log())


class KLDivergence(Loss):
    """The sum of target * log(target / output)."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = (x.clamp(EPSILON, 1.0) for x in _like(output, target))
        return (target * (target / output).log()).sum(-1)


class Hinge(Loss):
    """The mean of max(1 - target * output, 0), targets -1 and 1 (0 counts as -1)."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _like(output, target)
        target = (target == 0).to(target.dtype) * -1.0 + target
        return _last((1 - target * output).clamp(min=0.0))


class _Smoothed(Loss):
    """What cross entropies of targets that are probabilities are made with."""

    def __init__(
        self, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1,
        reduction: str | None = "sum_over_batch_size", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(reduction, name)
        _last_axis(self, axis)
        self.from_logits, self.label_smoothing = from_logits, label_smoothing


class BinaryCrossentropy(_Smoothed):
    """Of scores of one class, or of several that don't exclude each other."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        output, target = _like(output, target)
        if self.label_smoothing:
            target = target * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.from_logits:
            return _last(F.binary_cross_entropy_with_logits(output, target, reduction="none"))
        return _last(-(target * _log(output) + (1 - target) * _log(1 - output)))


class CategoricalCrossentropy(_Smoothed):
    """Of class probabilities, targets one-hot or probabilities."""

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        target = target.to(output.dtype)
        if self.label_smoothing:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / output.shape[-1]
        return -(target * _log_shares(output, self.from_logits)).sum(-1)


class SparseCategoricalCrossentropy(Loss):
    """Of class probabilities, targets class numbers; those that are `ignore_class` count 0."""

    def __init__(
        self, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1,
        reduction: str | None = "sum_over_batch_size", name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(reduction, name)
        _last_axis(self, axis)
        self.from_logits, self.ignore_class = from_logits, ignore_class

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        if target.ndim == output.ndim and target.shape[-1] == 1:
            target = target.squeeze(-1)
        target = target.long()
        counted = None if self.ignore_class is None else target != self.ignore_class
        if counted is not None:
            target = target * counted
        found = -_log_shares(output, self.from_logits).gather(-1, target.unsqueeze(-1)).squeeze(-1)
        return found if counted is None else found * counted


def _last_axis(loss: Loss, axis: int) -> None:
    if axis != -1:
        raise KilnValueError(type(loss).__name__, "classes are in the last dimension", f"axis={axis}", "permute the output")  # fmt: skip


_KINDS = (
    MeanSquaredError, MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredLogarithmicError, LogCosh, Huber,
    Poisson, KLDivergence, Hinge, BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy,
)  # fmt: skip
BY_NAME: dict[str, type[Loss]] = {
    **{snake(c.__name__): c for c in _KINDS}, **{c.__name__: c for c in _KINDS},
    "mse": MeanSquaredError, "mae": MeanAbsoluteError, "mape": MeanAbsolutePercentageError,
    "msle": MeanSquaredLogarithmicError, "kl_divergence": KLDivergence, "log_cosh": LogCosh,
}  # fmt: skip


def get(loss: Any) -> Callable:
    """The loss of a name, or what is one already: a Loss, a module or a function of (output, target)."""
    if isinstance(loss, type) and issubclass(loss, Loss):
        return loss()
    if callable(loss):
        return loss
    if isinstance(loss, str) and loss in BY_NAME:
        return BY_NAME[loss]()
    raise KilnValueError(
        "compile", "no loss has this name", describe(loss),
        "one of " + ", ".join(n for n in BY_NAME if n.islower()) + ", or a function of (output, target)",
    )  # fmt: skip


__all__ = [*(c.__name__ for c in _KINDS), "Loss", "get"]  # pyright: ignore[reportUnsupportedDunderAll]
