"""What metrics under Keras's names are made with: the base class of them and of one's own, and means.

https://keras.io/api/metrics/base_metric/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import metrics as m
from ..autograd.modes import no_grad
from ..metrics.base import Ratio, spread
from ..ops.selection import where
from ..tensor import Tensor
from . import initializers, losses
from .configured import Configured
from .dtypes import array
from .layer import Variable


class Metric(m.Metric, Configured):
    """A metric of Kiln's with Keras's words beside its own.

    One's own defines `update_state(y_true, y_pred, sample_weight=None)` and `result()`, with variables of `add_weight` that are
    0 again, or what their initializer says, at each `reset_state()`.
    """

    def __init__(self, dtype: Any = None, name: str | None = None) -> None:
        super().__init__(name)

    def add_weight(self, shape: Any = (), initializer: Any = None, dtype: Any = None, name: str | None = None) -> Variable:  # fmt: skip
        """A state of the metric, zeros without an initializer."""
        found = initializers.get(initializer or "zeros")
        made = Variable(found(tuple(shape), dtype), trainable=False, name=name)
        self._held().append((made, found))
        return made

    add_variable = add_weight

    def _held(self) -> list[tuple[Variable, Any]]:
        return self.__dict__.setdefault("_variables", [])

    @property
    def variables(self) -> list[Variable]:
        """The states of `add_weight`."""
        return [v for v, _ in self._held()]

    def update_state(self, y_true: Any, y_pred: Any = None, sample_weight: Any = None) -> None:
        """Add a batch."""
        weight = None if sample_weight is None else array(sample_weight)
        m.Metric.update(self, array(y_pred), array(y_true), weight)

    def result(self) -> Any:
        """The value so far."""
        return m.Metric.compute(self)

    def reset_state(self) -> None:
        """Begin again."""
        m.Metric.reset(self)
        with no_grad():
            for variable, first in self._held():
                variable.copy_(first(variable.shape, variable.dtype))

    def update(self, output: Any, target: Any = None, weight: Any = None) -> None:
        """`update_state` in Kiln's order."""
        with no_grad():
            self.update_state(target, output, *([] if weight is None else [weight]))

    def compute(self) -> Any:
        """`result`."""
        with no_grad():
            return self.result()

    def reset(self) -> None:
        """`reset_state`."""
        self.reset_state()

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen, as tensors by name; copies."""
        return {**super().state_dict(), **{f"variable_{i}": v.clone() for i, v in enumerate(self.variables)}}  # fmt: skip

    def load_state_dict(self, state: Any) -> None:
        """Go on from what `state_dict` gave."""
        own = {f"variable_{i}": v for i, v in enumerate(self.variables)}
        super().load_state_dict({k: t for k, t in state.items() if k not in own})
        with no_grad():
            for k, v in own.items():
                if k in state:
                    v.copy_(state[k])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch; the value so far."""
        self.update_state(*args, **kwargs)
        return self.result()


class _Reduced(Metric):
    """Of values, which there are no targets of: `update_state(values, sample_weight)`."""

    def update_state(self, values: Any, sample_weight: Any = None, *more: Any) -> None:  # type: ignore[override]
        """Add values."""
        with no_grad():
            self._take(array(values).detach(), None if sample_weight is None else array(sample_weight))  # fmt: skip

    def _take(self, values: Tensor, weight: Any) -> None:
        raise NotImplementedError


class Mean(_Reduced, Ratio):
    """The mean of values; 0 where nothing was seen."""

    def __init__(self, name: str | None = "mean", dtype: Any = None) -> None:
        super().__init__(name=name)

    def _take(self, values: Tensor, weight: Any) -> None:
        if weight is not None and not weight.ndim and values.ndim:
            weight = weight.expand(values.shape)
        self._add(values.double(), spread(self.name, weight, values.shape))

    def _compute(self) -> Tensor:
        total = self._seen("total")
        return where(total == 0, 0.0, self._seen("sum") / where(total == 0, 1.0, total))


class Sum(_Reduced):
    """The sum of values."""

    keys = ("sum",)

    def __init__(self, name: str | None = "sum", dtype: Any = None) -> None:
        super().__init__(name=name)

    def _take(self, values: Tensor, weight: Any) -> None:
        weights = spread(self.name, weight, values.shape)
        values = values.double()
        self._slot("sum", values).add_((values if weights is None else values * weights).sum())

    def _compute(self) -> Tensor:
        return self._seen("sum")


class MeanMetricWrapper(Metric, Ratio):
    """The mean over samples of a function of (y_true, y_pred)."""

    def __init__(self, fn: Callable, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(name=name or getattr(fn, "__name__", None))
        self.fn = fn

    def update_state(self, y_true: Any, y_pred: Any = None, sample_weight: Any = None) -> None:
        """Add a batch; where the scores carry a mask, what it leaves out does not count."""
        mask = getattr(y_pred, "_keras_mask", None)
        if mask is not None:
            w = None if sample_weight is None else array(sample_weight)
            m = mask.double()
            sample_weight = m if w is None else m * w.reshape(*w.shape, *(1,) * (m.ndim - w.ndim))
        super().update_state(y_true, y_pred, sample_weight)

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        each = self.fn(*losses.same_rank(target, output)).double()
        if each.ndim == 0 and target.ndim:  # a mean over the batch counts by its samples
            each = each.expand(target.shape[:1])
        self._add(each, _fitting(self.name, weight, each))


def _fitting(what: str, weight: Any, each: Tensor) -> Tensor | None:
    """Weights of samples, or of places in them, as those of all that a metric found."""
    if weight is not None and weight.ndim == each.ndim + 1 and weight.shape[-1] == 1:
        weight = weight.squeeze(-1)
    return spread(what, weight, each.shape)


__all__ = ["Mean", "MeanMetricWrapper", "Metric", "Sum"]
