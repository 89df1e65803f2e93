"""Metrics of numbers that are predicted; element by element where nothing else is said."""

from __future__ import annotations

import math
import sys
from typing import Any

from ..errors import KilnValueError, describe
from ..ops.creation import ones_like
from ..ops.selection import where
from ..tensor import Tensor
from .base import Metric, Ratio, matched, spread


class _MeanError(Ratio):
    """The mean of a function of prediction and target."""

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        value = self._error(matched(self.name, output, target).double(), target.double())
        self._add(value, spread(self.name, weight, target.shape))

    @staticmethod
    def _error(output: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class MeanSquaredError(_MeanError):
    """The mean of (output - target)²."""

    @staticmethod
    def _error(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square()


class RootMeanSquaredError(MeanSquaredError):
    """The root of the mean of (output - target)², taken over the whole stream."""

    def _compute(self) -> Tensor:
        return super()._compute().sqrt()


class MeanAbsoluteError(_MeanError):
    """The mean of |output - target|."""

    @staticmethod
    def _error(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs()


class MeanAbsolutePercentageError(_MeanError):
    """The mean of |output - target| / |target|, as a share of 1; targets of 0 count as float64's epsilon, as in scikit-learn."""

    @staticmethod
    def _error(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs() / target.abs().clamp(min=sys.float_info.epsilon)


class _Moments(Metric):
    """Means and products of deviations for each of `num_outputs` columns, joined as in Chan, Golub and LeVeque (1983).

    They keep their digits where the mean is far from 0, which sums of squares do not.
    """

    keys = ("n", "x", "y", "xx", "yy", "xy", "error")

    def __init__(self, num_outputs: int = 1, average: str | None = "mean", name: str | None = None):
        super().__init__(name)
        if average not in ("mean", None):
            raise KilnValueError(
                self.name, "no such average", describe(average), "'mean', or None for each output"
            )
        self.num_outputs, self.average = num_outputs, average

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        x = matched(self.name, output, target).double().reshape(-1, self.num_outputs)
        y = target.double().reshape(-1, self.num_outputs)
        w = spread(self.name, weight, target.shape)
        w = ones_like(y) if w is None else w.reshape(-1, self.num_outputs)
        n = w.sum(0)
        some = n.clamp(min=sys.float_info.min)
        mx, my = (x * w).sum(0) / some, (y * w).sum(0) / some
        dx, dy = x - mx, y - my
        self._join({
            "n": n, "x": mx, "y": my, "xx": (dx * dx * w).sum(0), "yy": (dy * dy * w).sum(0),
            "xy": (dx * dy * w).sum(0), "error": ((x - y).square() * w).sum(0),
        })  # fmt: skip

    def _join(self, new: dict[str, Tensor]) -> None:
        old = {k: self._slot(k, t, *t.shape) for k, t in new.items()}
        a, b = old["n"], new["n"]
        n = (a + b).clamp(min=sys.float_info.min)
        dx, dy, both = new["x"] - old["x"], new["y"] - old["y"], a * b / n
        old["xx"].add_(new["xx"] + dx * dx * both)
        old["yy"].add_(new["yy"] + dy * dy * both)
        old["xy"].add_(new["xy"] + dx * dy * both)
        old["x"].add_(dx * (b / n))
        old["y"].add_(dy * (b / n))
        old["error"].add_(new["error"])
        old["n"].add_(b)

    def _merge(self, other: Metric) -> None:
        if other._state:
            self._join(other._state)

    def _compute(self) -> Tensor:
        value = self._value({k: self._seen(k, self.num_outputs) for k in self.keys})
        return value.mean() if self.average == "mean" else value

    @staticmethod
    def _value(s: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


class R2Score(_Moments):
    """The coefficient of determination: the share of the target's variance that is explained; NaN for less than two samples.

    The mean over `num_outputs` columns of targets (N, num_outputs), or each with `average=None`. Constant targets
    give 1 where predictions are exact and 0 otherwise. Source: sklearn.metrics.r2_score.
    """

    @staticmethod
    def _value(s: dict[str, Tensor]) -> Tensor:
        constant = (s["error"] == 0).double()
        value = where(s["yy"] == 0, constant, 1 - s["error"] / s["yy"])
        return where(s["n"] < 2, math.nan, value)


class PearsonCorrCoef(_Moments):
    """Pearson's correlation of output and target; NaN where one of them is constant. Columns as in `R2Score`."""

    @staticmethod
    def _value(s: dict[str, Tensor]) -> Tensor:
        return (s["xy"] / (s["xx"].sqrt() * s["yy"].sqrt())).clamp(-1.0, 1.0)
