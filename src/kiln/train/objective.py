"""What training makes small, and what it is judged by: losses and metrics by name, of one output or of several."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from typing import Any

from ..autograd.modes import no_grad
from ..errors import KilnTypeError, KilnValueError, describe
from ..metrics import stream
from ..nn import BCEWithLogitsLoss
from ..nn import functional as F
from ..nn.modules.module import Module
from ..ops.creation import as_tensor, ones
from ..ops.joining import cat
from ..tensor import Tensor
from .history import Tally

LOSSES = {
    "mse": "mse_loss", "l1": "l1_loss", "mae": "l1_loss", "huber": "huber_loss", "nll": "nll_loss",
    "smooth_l1": "smooth_l1_loss", "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits", "cross_entropy": "cross_entropy",
    "kl_div": "kl_div", "poisson_nll": "poisson_nll_loss",
}  # fmt: skip
"""Short names of losses; the full names of `kiln.nn.functional` are known too."""


def loss_function(loss: Any) -> Callable:
    """The function (output, target) that a loss stands for: a name, a module or a function."""
    if callable(loss):
        return loss
    if isinstance(loss, str) and hasattr(F, LOSSES.get(loss, loss)):
        return getattr(F, LOSSES.get(loss, loss))
    raise KilnValueError(
        "Trainer", "no loss has this name", describe(loss),
        "pass a function of (output, target), or one of " + ", ".join(LOSSES),
    )  # fmt: skip


def for_each_sample(loss: Callable) -> Callable:
    """The loss of each sample, where `loss` gives their mean; it needs to have a `reduction`."""
    if isinstance(loss, Module) and hasattr(loss, "reduction"):
        apart = copy(loss)
        apart.reduction = "none"
        return apart
    if "reduction" in _parameters(loss):
        return lambda output, target: loss(output, target, reduction="none")
    raise KilnTypeError(
        "Trainer", "this loss can't be weighted: it has no reduction='none'", describe(loss),
        "give it a parameter reduction, or weigh the samples in a training_step of your own",
    )  # fmt: skip


def _parameters(loss: Callable) -> Mapping[str, Any]:
    try:
        return inspect.signature(loss).parameters
    except ValueError:  # written in C
        return {}


class _Part:
    """One output's loss: how it is found, weighed and called."""

    def __init__(self, key: Any, loss: Any, factor: float) -> None:
        self.key, self.loss, self.factor = key, loss_function(loss), factor
        self._apart: Callable | None = None
        self.weighs = "sample_weight" in _parameters(self.loss)

    def __call__(self, output: Any, target: Any, weight: Any) -> Tensor:
        if weight is None:
            return self.loss(output, target)
        if self.weighs:
            return self.loss(output, target, sample_weight=weight)
        if self._apart is None:
            self._apart = for_each_sample(self.loss)
        each = self._apart(output, target)
        weight = weight.to(each.dtype)
        if each.ndim > weight.ndim:
            each = each.flatten(weight.ndim).mean(-1)
        return (each * weight.reshape(each.shape)).mean()


def pick(tree: Any, key: Any, what: str, names: Sequence[str] = ()) -> Any:
    """An output, or a target, of several; `key` is None where there is one. `names` are those of what comes in a list."""
    if key is None:
        return tree
    if key in names and isinstance(tree, list | tuple):
        key = names.index(key)
    try:
        return tree[key]
    except (KeyError, IndexError, TypeError):
        raise KilnValueError(
            "Trainer", f"the {what} has no part {key!r}", describe(tree),
            f"losses and metrics by name, or in a list, go with {what}s that are dicts or tuples alike",
        ) from None  # fmt: skip


def _parts(given: Any, what: str) -> list[tuple[Any, Any]]:
    """(key of the output, entry) of what is given for one output, for several by name, or in their order."""
    if isinstance(given, Mapping):
        if not given:
            raise KilnValueError("Trainer", f"there is no {what}", "{}", "give one for each output")
        return list(given.items())
    if isinstance(given, list | tuple):
        return list(enumerate(given))
    return [(None, given)]


class Objective:
    """Loss and metrics of a batch.

    `loss` is a name or function, or a dict (or list) of them for a model whose output is a dict (or tuple); the
    total is their sum, weighed by `loss_weights`, and each is told as "<name>_loss". `class_weight` maps class
    numbers to what a sample of that class counts in training, and `names` are those of outputs that come in a list; a weighted loss is the sum of weight * loss over the batch,
    divided by the number of samples, as in Keras.
    """

    def __init__(
        self, loss: Any, metrics: Any = (), loss_weights: Any = None, weighted_metrics: Any = (),
        class_weight: Any = None, names: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.names = list(names)
        factors = dict(_parts(loss_weights, "weight")) if loss_weights is not None else {}
        parts = [(k, x) for k, x in _parts(loss, "loss") if x is not None]
        unknown = [k for k in factors if k not in dict(parts)]
        if unknown:
            raise KilnValueError(
                "Trainer", "loss_weights names an output that has no loss", describe(unknown),
                "use the keys of loss",
            )  # fmt: skip
        self.parts = [_Part(k, x, float(factors.get(k, 1.0))) for k, x in parts]
        self.class_weight = _table(class_weight)
        self.metrics = list(self._metrics(metrics))
        weighted = list(self._metrics(weighted_metrics))
        self.weighted = {id(m) for _, _, m in weighted}
        self.metrics += weighted
        self.inside = [e for e in self.metrics if not getattr(e[2], "on_host", False)]
        self.outside = [e for e in self.metrics if getattr(e[2], "on_host", False)]

    def _metrics(self, given: Any) -> Iterator[tuple[str, Any, Any]]:
        """(name, key of the output, metric) of each."""
        keys = [p.key for p in self.parts] or [None]
        if isinstance(given, Mapping):
            pairs = [(k, m) for k, ms in given.items() for m in _listed(ms)]
        elif any(isinstance(m, list | tuple) for m in _listed(given)):
            pairs = [(k, m) for k, ms in enumerate(_listed(given)) for m in _listed(ms)]
        else:
            pairs = [(k, m) for k in keys for m in _listed(given)]
        known: set[int] = set()
        for key, given_metric in pairs:
            metric = given_metric
            if not hasattr(metric, "update") or isinstance(metric, type):
                metric = stream(metric, from_logits=self._logits(key))
            elif id(metric) in known:  # one for several outputs: each has its own stream
                metric = deepcopy(metric)
            if getattr(metric, "from_logits", False) is None:  # it takes what the loss takes
                vars(metric)["from_logits"] = self._logits(key)
            known.add(id(given_metric))
            name = str(getattr(metric, "name", type(metric).__name__))
            yield name if key is None else f"{key}_{name}", key, metric

    def _logits(self, key: Any) -> bool:
        """Whether an output's scores are logits, by its loss."""
        loss = next((p.loss for p in self.parts if p.key == key), None)
        return (
            loss is F.binary_cross_entropy_with_logits
            or isinstance(loss, BCEWithLogitsLoss)
            or getattr(loss, "from_logits", False)
        )

    def loss(
        self, output: Any, target: Any, weight: Any = None, by_class: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and the parts of it by name, which are empty where there is one; classes weigh in training alone."""
        total, told = None, {}
        for part in self.parts:
            out, wanted = (
                pick(x, part.key, w, self.names)
                for x, w in ((output, "output"), (target, "target"))
            )
            value = part(out, wanted, self._weight(part.key, wanted, weight, by_class))
            if part.key is not None:
                told[f"{part.key}_loss"] = value.detach()
            value = value if part.factor == 1.0 else value * part.factor
            total = value if total is None else total + value
        if total is None:
            raise KilnValueError("Trainer", "no output has a loss", None, "give at least one")
        if total.ndim:
            raise KilnValueError(
                "Trainer", "the loss must be one number", describe(total), "take the mean over the batch"
            )  # fmt: skip
        return total, told

    def _weight(self, key: Any, target: Tensor, weight: Any, by_class: bool) -> Tensor | None:
        """What each sample counts: its own weight times its class's.

        The class is a number, the largest of a row of probabilities, or a score of 0 or 1.
        """
        own = pick(weight, key, "sample_weight", self.names) if isinstance(weight, Mapping | list | tuple) else weight  # fmt: skip
        table = self.class_weight if by_class else None
        if table is None:
            return own
        if target.is_floating_point() and target.ndim > 1 and target.shape[1] > 1:
            target = target.argmax(1)
        elif target.ndim > 1 and target.shape[1:].numel() == 1:
            target = target.reshape(-1)
        of_class = table[target.long().clamp(max=table.shape[0] - 1)]
        return of_class if own is None else own * of_class

    def measure(self, output: Any, target: Any, weight: Any = None, by_class: bool = True) -> None:
        """Give a batch to the metrics that may be captured."""
        self._measure(self.inside, output, target, weight, by_class)

    def measure_outside(
        self, output: Any, target: Any, weight: Any = None, by_class: bool = True
    ) -> None:
        """Give it to those that may not."""
        self._measure(self.outside, output, target, weight, by_class)

    def _measure(
        self, metrics: Sequence[Any], output: Any, target: Any, weight: Any, by_class: bool
    ) -> None:
        with no_grad():
            for _, k, m in metrics:
                out, wanted = (
                    pick(x, k, w, self.names) for x, w in ((output, "output"), (target, "target"))
                )
                counts = (
                    self._weight(k, wanted, weight, by_class) if id(m) in self.weighted else None
                )
                if counts is None:
                    m.update(out, wanted)
                else:
                    m.update(out, wanted, counts)

    def reset(self) -> None:
        """Begin an epoch."""
        for _, _, m in self.metrics:
            m.reset()

    def logs(self, tally: Tally) -> dict[str, Any]:
        """The values so far: means, then what the metrics with state say."""
        out = tally.logs()
        for name, _, m in self.metrics:
            value = m.compute()
            if isinstance(value, Mapping):
                out.update({f"{name}_{k}": _number(v) for k, v in value.items()})
            else:
                out[name] = _number(value)
        return out

    def state_dict(self) -> dict[str, Any]:
        """What the metrics have seen of an epoch."""
        return {name: m.state_dict() for name, _, m in self.metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of an epoch."""
        for name, _, m in self.metrics:
            if name in state:
                m.load_state_dict(state[name])


def _listed(metrics: Any) -> list[Any]:
    return (
        list(metrics) if isinstance(metrics, list | tuple) else [] if metrics is None else [metrics]
    )


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _table(weights: Any) -> Tensor | None:
    """What samples of each class count, by class number; classes that are not named count 1."""
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        if not weights or any(not isinstance(k, int) or k < 0 for k in weights):
            raise KilnValueError(
                "Trainer", "class_weight maps class numbers to weights", describe(weights), "e.g. {0: 1.0, 1: 5.0}"
            )  # fmt: skip
        weights = [float(weights.get(i, 1.0)) for i in range(max(weights) + 1)]
    elif not isinstance(weights, Tensor | Sequence) and not hasattr(weights, "__array__"):
        raise KilnTypeError(
            "Trainer", "class_weight is a dict, a list or a tensor", describe(weights), "e.g. {0: 1.0, 1: 5.0}"
        )  # fmt: skip
    return cat([as_tensor(weights).float(), ones(1)])  # the last is that of all other classes


__all__ = ["LOSSES", "Objective", "for_each_sample", "loss_function"]
