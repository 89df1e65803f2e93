"""How good predictions are, as 0-d tensors: the mean over a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ..errors import KilnTypeError, KilnValueError, describe
from ..tensor import Tensor

Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(output: Tensor, target: Tensor, threshold: float = 0.5) -> Tensor:
    """The share of right answers.

    With classes in dimension 1 of `output` (N, C, *), `target` holds class numbers (N, *) or class
    probabilities (N, C, *). Otherwise both have one shape, and the answer is whether `output`
    is above `threshold`.
    """
    classes = output.ndim >= 2 and output.shape[1] > 1
    if classes and target.shape == (output.shape[0], *output.shape[2:]):
        right = output.argmax(1) == target
    elif classes and target.shape == output.shape:
        right = output.argmax(1) == target.argmax(1)
    elif output.numel() == target.numel():
        right = (output.reshape(target.shape) > threshold) == (target > 0.5)
    else:
        raise KilnValueError(
            "accuracy", "output and target don't go together", f"output={describe(output)}, "
            f"target={describe(target)}", "output (N, C, …) with target (N, …), or equal shapes",
        )  # fmt: skip
    return right.float().mean()


def top_k(output: Tensor, target: Tensor, k: int = 5) -> Tensor:
    """The share of samples whose class is among the `k` with the highest scores."""
    if output.ndim != 2 or target.ndim != 1:
        raise KilnValueError(
            "top_k", "output and target don't go together", f"output={describe(output)}, "
            f"target={describe(target)}", "output (N, C) with target (N,)",
        )  # fmt: skip
    own = output.gather(1, target.unsqueeze(1))
    return ((output > own).sum(1) < k).float().mean()


def mae(output: Tensor, target: Tensor) -> Tensor:
    """The mean absolute error."""
    return (output - target.reshape(output.shape)).abs().mean()


def mse(output: Tensor, target: Tensor) -> Tensor:
    """The mean squared error."""
    return (output - target.reshape(output.shape)).square().mean()


def get(metric: Any) -> tuple[str, Metric]:
    """(name, function) of a metric given by name ("accuracy", "top_3", …) or as a function."""
    if callable(metric):
        return str(getattr(metric, "__name__", type(metric).__name__)), cast(Metric, metric)
    if isinstance(metric, str):
        if metric in _BY_NAME:
            return metric, _BY_NAME[metric]
        if metric.startswith("top_") and metric[4:].isdigit():
            k = int(metric[4:])
            return metric, lambda output, target: top_k(output, target, k)
        raise KilnValueError(
            "metrics",
            "no metric has this name",
            repr(metric),
            "one of " + ", ".join([*_BY_NAME, "top_<k>"]),
        )
    raise KilnTypeError(
        "metrics", "a metric is a name or a function", describe(metric), "e.g. 'accuracy'"
    )


_BY_NAME: dict[str, Metric] = {"accuracy": accuracy, "top_k": top_k, "mae": mae, "mse": mse}

__all__ = ["accuracy", "get", "mae", "mse", "top_k"]
