"""What all streaming metrics are: sums in float64 that batches are added to.

Note [Captured updates]
The state of most metrics is tensors of fixed size, made at the first update and from then on changed in place only.
So `update` may stand in a function that `kiln.compile` captures, where the tensors are state like parameters, and
`reset` and `load_state_dict` are seen by programs captured before. Metrics that need every score gather on
the host (`on_host`), where a captured function can't go: they are updated outside, with what it returns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from ..autograd.modes import no_grad
from ..compile.hooks import eager, made
from ..dtypes import float64
from ..errors import KilnKeyError, KilnTypeError, KilnValueError, describe
from ..ops.creation import zeros
from ..ops.selection import where
from ..tensor import Tensor


class Metric:
    """A number about a stream of batches, exact over batches of any sizes.

    `update(output, target, weight=None)` adds a batch, `compute()` gives the value so far, `reset()` begins again;
    `merge(other)` adds what another one of its kind has seen, `state_dict` and `load_state_dict` keep what was seen. `weight` counts
    samples (N,) or elements (the target's shape) more or less often. `on_host` says that updates gather scores on the
    host and belong outside of compiled functions; all others may be part of a captured step.
    Results are float64, NaN where nothing was seen.
    """

    on_host = False
    keys: tuple[str, ...] = ()
    """The names of the state's tensors."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or snake(type(self).__name__)
        self._state: dict[str, Tensor] = {}

    def update(self, output: Any, target: Any = None, weight: Any = None) -> None:
        """Add a batch."""
        with no_grad():
            self._update(
                output.detach(),
                None if target is None else target.detach(),
                None if weight is None else weight.detach(),
            )

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        raise NotImplementedError

    def compute(self) -> Any:
        """The value for all that was added so far."""
        with no_grad():
            return self._compute()

    def _compute(self) -> Any:
        raise NotImplementedError

    def _slot(self, key: str, like: Tensor, *shape: int) -> Tensor:
        """A state tensor, made at first use on the device of `like`; zeros are what nothing adds up to."""
        if key not in self._state:
            made(self._state, key)
            with eager():
                self._state[key] = zeros(*shape, dtype=float64, device=like.device)
        found = self._state[key]
        if found.shape != shape:
            raise KilnValueError(
                self.name, "the number of classes or outputs differs from that of earlier batches",
                f"{list(shape)} after {list(found.shape)}", "a stream has one number of them; reset() keeps it, a new metric has none yet",
            )  # fmt: skip
        return found

    def _seen(self, key: str, *shape: int) -> Tensor:
        """A state tensor, or zeros where there was no batch yet."""
        return self._state[key] if key in self._state else zeros(*shape, dtype=float64)

    def reset(self) -> None:
        """Forget all batches."""
        with no_grad():
            for t in self._state.values():
                t.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen, as tensors by name; copies."""
        return {k: t.clone() for k, t in self._state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if state and set(state) != set(self.keys):
            raise KilnKeyError(
                self.name, "the state is not that of such a metric", sorted(state), f"it has {sorted(self.keys)}"
            )  # fmt: skip
        with no_grad():
            self.reset()
            for k, t in state.items():
                self._slot(k, t, *t.shape).copy_(t)

    def merge(self, other: Metric) -> Self:
        """Add what another metric has seen, on another machine, say; gives this one."""
        if type(other) is not type(self):
            raise KilnTypeError(
                self.name, "metrics of different kinds can't be merged", type(other).__name__,
                f"merge {type(self).__name__} with its like",
            )  # fmt: skip
        with no_grad():
            self._merge(other)
        return self

    def _merge(self, other: Metric) -> None:
        for k, t in other._state.items():
            self._slot(k, t, *t.shape).add_(t)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def snake(name: str) -> str:
    """`MeanSquaredError` as `mean_squared_error`, `AUROC` as `auroc`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def spread(what: str, weight: Any, shape: Any) -> Tensor | None:
    """Weights of samples or elements as those of all elements of a shape, in float64."""
    if weight is None:
        return None
    if tuple(weight.shape) != tuple(shape[: weight.ndim]):
        raise KilnValueError(
            what, "the weights don't go with the target", f"weight={describe(weight)}, target={list(shape)}",
            "one weight for each sample (N,), or for each element of the target",
        )  # fmt: skip
    rest = (1,) * (len(shape) - weight.ndim)
    return weight.double().reshape((*weight.shape, *rest)).expand(shape)


def matched(what: str, output: Tensor, target: Any) -> Tensor:
    """The output in the target's shape; both have as many elements."""
    if target is None or output.numel() != target.numel():
        raise KilnValueError(
            what, "output and target don't go together", f"output={describe(output)}, target={describe(target)}",
            "both have the same elements",
        )  # fmt: skip
    return output if output.shape == target.shape else output.reshape(target.shape)


def weighed(value: Tensor, weight: Tensor) -> Tensor:
    """Values times their weights; one of weight 0 is nothing, whatever it is."""
    return where(weight == 0, 0.0, value) * weight


class Ratio(Metric):
    """A weighted sum over a sum of weights: the mean of something."""

    keys = ("sum", "total")

    def _add(self, value: Tensor, weight: Tensor | None) -> None:
        """Add values of elements, in float64."""
        if weight is None:
            self._slot("sum", value).add_(value.sum())
            self._slot("total", value).add_(value.numel())
        else:
            self._slot("sum", value).add_(weighed(value, weight).sum())
            self._slot("total", value).add_(weight.sum())

    def _compute(self) -> Tensor:
        return self._seen("sum") / self._seen("total")


class Mean(Ratio):
    """The mean of `output`'s elements; there is no target: `update(loss, weight=n)`."""

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        self._add(output.double(), spread(self.name, weight, output.shape))


class Sum(Metric):
    """The sum of `output`'s elements; there is no target. 0 where nothing was seen."""

    keys = ("sum",)

    def _update(self, output: Tensor, target: Any, weight: Any) -> None:
        w = spread(self.name, weight, output.shape)
        value = output.double() if w is None else weighed(output.double(), w)
        self._slot("sum", value).add_(value.sum())

    def _compute(self) -> Tensor:
        return self._seen("sum").clone()
