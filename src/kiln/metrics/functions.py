"""How good the predictions of one batch are, as 0-d tensors: the mean over the batch."""

from __future__ import annotations

from ..errors import KilnValueError, describe
from ..tensor import Tensor


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
