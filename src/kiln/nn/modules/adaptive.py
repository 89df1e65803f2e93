"""A softmax over many classes of unequal frequency, by clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...errors import KilnError, KilnValueError, describe
from ...ops.joining import cat
from ...tensor import Tensor, active_capture
from .. import functional as F
from .container import ModuleList, Sequential
from .linear import Linear
from .module import Module


class _ASMoutput(NamedTuple):
    """The target's log-probability for each sample, and their mean, negated."""

    output: Tensor
    loss: Tensor


class AdaptiveLogSoftmaxWithLoss(Module):
    """The log-softmax of classes sorted by falling frequency, those past each cutoff in clusters of their own.

    (N, in_features) or (in_features,) and targets (N,) or () give the targets' log-probabilities and the
    mean loss. A sample computes its target's cluster only; in a captured function, whose sizes can't depend
    on values, every sample computes all. https://arxiv.org/abs/1609.04309
    """

    def __init__(
        self, in_features: int, n_classes: int, cutoffs: Sequence[int], div_value: float = 4.0,
        head_bias: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        cutoffs = list(cutoffs)
        if not cutoffs:
            raise KilnValueError(
                "AdaptiveLogSoftmaxWithLoss", "cutoffs should be a sequence of length larger than 0", "[]"
            )  # fmt: skip
        ordered = cutoffs == sorted(set(cutoffs)) and all(int(c) == c for c in cutoffs)
        if not ordered or cutoffs[0] <= 0 or cutoffs[-1] > n_classes - 1:
            raise KilnValueError(
                "AdaptiveLogSoftmaxWithLoss", "cutoffs should be a sequence of unique, positive integers sorted in "
                "an increasing order, where each value is between 1 and n_classes-1", cutoffs,
            )  # fmt: skip
        self.in_features, self.n_classes = in_features, n_classes
        self.cutoffs = [*cutoffs, n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            width = int(in_features // div_value ** (i + 1))
            size = self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                Sequential(
                    Linear(in_features, width, False, device, dtype),
                    Linear(width, size, False, device, dtype),
                )
            )

    def reset_parameters(self) -> None:
        """As the linear layers do."""
        self.head.reset_parameters()
        for narrow, wide in self.tail:  # type: ignore[misc]
            narrow.reset_parameters()
            wide.reset_parameters()

    def forward(self, input_: Tensor, target_: Tensor) -> _ASMoutput:
        single = target_.ndim == 0
        if target_.ndim > 1:
            raise KilnError(
                "AdaptiveLogSoftmaxWithLoss", "0D or 1D target tensor expected, multi-target not supported",
                describe(target_),
            )  # fmt: skip
        if input_.ndim != target_.ndim + 1 or (not single and len(input_) != len(target_)):
            raise KilnError(
                "AdaptiveLogSoftmaxWithLoss", "Input and target should have the same size in the batch dimension.",
                f"input={describe(input_)}, target={describe(target_)}",
            )  # fmt: skip
        x, target = (input_.unsqueeze(0), target_.unsqueeze(0)) if single else (input_, target_)
        if active_capture() is None:
            self._check_range(target)
        head = F.log_softmax(self.head(x), 1)
        out = head.gather(1, target.clamp(max=self.shortlist_size - 1).unsqueeze(1)).squeeze(1)
        for i in range(self.n_clusters):
            low, high = self.cutoffs[i], self.cutoffs[i + 1]
            inside = (target >= low) & (target < high)
            if active_capture() is not None:
                out = inside.where(self._of_cluster(i, x, head, target.clamp(low, high - 1)), out)
                continue
            rows = inside.nonzero().squeeze(1)
            if rows.numel():
                own = self._of_cluster(i, x[rows], head[rows], target[rows])
                out = out.index_copy(0, rows, own)
        out = out.squeeze(0) if single else out
        return _ASMoutput(out, -out.mean())

    def _of_cluster(self, i: int, x: Tensor, head: Tensor, target: Tensor) -> Tensor:
        """The log-probabilities of targets that lie in cluster `i`."""
        inner = F.log_softmax(self.tail[i](x), 1)
        index = (target - self.cutoffs[i]).unsqueeze(1)
        return inner.gather(1, index).squeeze(1) + head[:, self.shortlist_size + i]

    def _check_range(self, target: Tensor) -> None:
        if target.numel() and not bool(((target >= 0) & (target < self.n_classes)).all()):
            raise KilnError(
                "AdaptiveLogSoftmaxWithLoss", f"Target values should be in [0, {self.n_classes - 1}], but values in "
                f"range [{int(target.min())}, {int(target.max())}] were found.", describe(target),
            )  # fmt: skip

    def log_prob(self, input: Tensor) -> Tensor:
        """The log-probabilities of all classes: (N, in_features) -> (N, n_classes)."""
        head = F.log_softmax(self.head(input), 1)
        n = self.shortlist_size
        out = [head[:, :n]]
        for i, tail in enumerate(self.tail):
            out.append(F.log_softmax(tail(input), 1) + head[:, n + i].unsqueeze(1))
        return cat(out, 1)

    def predict(self, input: Tensor) -> Tensor:
        """The likeliest class of each sample: (N, in_features) -> (N,)."""
        if active_capture() is not None:
            return self.log_prob(input).argmax(1)
        best = self.head(input).argmax(1)
        rows = (best >= self.shortlist_size).nonzero().squeeze(1)
        if rows.numel():
            best = best.index_copy(0, rows, self.log_prob(input[rows]).argmax(1))
        return best


__all__ = ["AdaptiveLogSoftmaxWithLoss"]
