"""Binary cross entropy, of probabilities and of logits, and of several labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnValueError, describe
from ..tensor import PLAIN, Tensor
from .loss import each_reduction, resolve_reduction
from .reduced import reduced, reduced_loss
from .registry import FUNCTIONS, Sample, composition, op
from .rules import constants
from .samples import draw, rng
from .transcendental import sigmoid


def _same_size(name: str, input: Any, target: Any) -> None:
    if input.__class__ in PLAIN and target.__class__ in PLAIN and input._a.shape == target._a.shape:
        return
    if input.shape != target.shape:
        raise KilnValueError(
            name, f"Using a target size ({target.shape}) that is different to the input size ({input.shape})",
            f"input={describe(input)}, target={describe(target)}", "reshape one of them",
        )  # fmt: skip


def _binary_samples(low: float, high: float, *extra: str) -> Any:
    def samples() -> Any:
        r = rng(42)
        for shape in ((3, 4), (), (5,)):
            for reduction in ("mean", "sum", "none"):
                yield Sample(
                    (draw(r, shape, low, high), draw(r, shape, 0, 1)), {"reduction": reduction}
                )
        x, y = draw(r, (3, 4), low, high), draw(r, (3, 4), 0, 1)
        for what in extra:
            yield Sample((x, y), {what: draw(r, (4,), 0.5, 2)}, fixed=extra)
        yield Sample((x, y), {w: draw(r, (4,), 0.5, 2) for w in extra}, fixed=extra)
        yield Sample((x, y[:, :3]), error=ValueError)

    return samples


def _bce_body(input: Tensor, target: Tensor) -> Tensor:
    yes, no = input.log().clamp(min=-100), (-input).log1p().clamp(min=-100)
    return -(target * yes + (1 - target) * no)


def _bce_rule(g: Tensor, input: Tensor, target: Tensor, needs: tuple) -> tuple:
    gx = gt = None
    if needs[0]:  # finite where a certain answer is wrong
        gx = g * (input - target) / (input * (1 - input)).clamp(min=1e-12)
    if needs[1]:
        gt = g * ((-input).log1p() - input.log())
    return gx, gt


def _bce_quick(g: np.ndarray, input: np.ndarray, target: np.ndarray) -> np.ndarray:
    slope = g * (input - target)
    slope /= np.maximum(input * (1 - input), 1e-12)
    return slope


@op(
    private=True, node="BinaryCrossEntropyBackward0", family="elementwise", promote="same", check=False, dear=True, body=_bce_body,
    grad={("input", "target"): _bce_rule},
    samples=lambda: iter([Sample((draw(rng(), (3, 4), 0.05, 0.95), draw(rng(1), (3, 4), 0, 1)))]),
)  # fmt: skip
def bce(input: Tensor, target: Tensor) -> Tensor:
    """binary cross entropy, element by element; logs count as at least -100."""
    least = input.dtype.type(-100)
    yes, no = np.maximum(np.log(input), least), np.maximum(np.log1p(-input), least)
    loss = target * yes
    loss += (1 - target) * no
    return np.negative(loss)


_ONES = {d.np: np.ones((), d.np).view(f"u{d.itemsize}") for d in (dt.float32, dt.float64)}


def _probable(a: np.ndarray) -> bool:
    """Whether all elements are from 0 to 1."""
    one = _ONES.get(a.dtype)
    # as bits floats are in order, and negative ones beyond all others
    if one is not None and np.maximum.reduce(a.view(one.dtype), axis=None) <= one:
        return True
    return bool(a.min() >= 0 and a.max() <= 1)


_bce = reduced_loss(bce, _bce_quick)


@composition(namespace="F", samples=_binary_samples(0.05, 0.95, "weight"))
def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
                         reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """-(target * log(input) + (1 - target) * log(1 - input)) for probabilities; logs count as at least -100."""
    reduction = resolve_reduction("binary_cross_entropy", size_average, reduce, reduction)
    _same_size("binary_cross_entropy", input, target)
    if weight is not None:
        constants("binary_cross_entropy", weight=weight)
    a = input._a
    if isinstance(a, np.ndarray) and a.size and not _probable(a):
        raise KilnError(
            "binary_cross_entropy", "all elements of input should be between 0 and 1", describe(input),
            "apply sigmoid, or use binary_cross_entropy_with_logits",
        )  # fmt: skip
    if weight is None:
        return _bce(input, target, reduction)
    return reduced(bce(input, target) * weight, reduction)


def _logits_body(input: Tensor, target: Tensor, pos_weight: Any) -> Tensor:
    soft = input.abs().neg().exp().log1p() + input.neg().clamp(min=0)  # log(1 + exp(-input))
    if pos_weight is None:
        return (1 - target) * input + soft
    return (1 - target) * input + ((pos_weight - 1) * target + 1) * soft


def _logits_rule(g: Tensor, input: Tensor, target: Tensor, pos_weight: Any, needs: tuple) -> tuple:
    gx = gt = None
    if needs[0]:
        s = input.sigmoid()
        if pos_weight is None:
            gx = g * (s - target)
        else:
            t = pos_weight * target
            gx = g * ((t + 1 - target) * s - t)
    if needs[1]:
        gt = -g * input
        if pos_weight is not None:
            gt = gt - g * (pos_weight - 1) * FUNCTIONS["nn.functional.logsigmoid"](input)
    return gx, gt


def _logits_quick(g: np.ndarray, input: np.ndarray, target: np.ndarray, pos_weight: Any) -> np.ndarray:  # fmt: skip
    if pos_weight is not None:
        raise NotImplementedError
    slope = np.asarray(sigmoid.op.eager(input) - target)
    slope *= g
    return slope


@op(
    private=True, node="BinaryCrossEntropyWithLogitsBackward0", family="elementwise", promote="same", check=False, dear=True, body=_logits_body,
    grad={("input", "target"): _logits_rule},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4), -4, 4), draw(rng(1), (3, 4), 0, 1), None)),
        Sample((draw(rng(), (3, 4), -4, 4), draw(rng(1), (3, 4), 0, 1)),
               {"pos_weight": draw(rng(2), (4,), 0.5, 2)}, fixed=("pos_weight",)),
    ]),
)  # fmt: skip
def bce_logits(input: Tensor, target: Tensor, pos_weight: Tensor | None) -> Tensor:
    """binary cross entropy of sigmoid(input), element by element, without overflow."""
    soft = np.logaddexp(0, -input).astype(input.dtype, copy=False)
    if pos_weight is not None:
        soft = ((pos_weight - 1) * target + 1) * soft
    return (1 - target) * input + soft


_bce_logits = reduced_loss(bce_logits, _logits_quick)


@composition(namespace="F", samples=_binary_samples(-4, 4, "weight", "pos_weight"))
def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean", pos_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """binary_cross_entropy(sigmoid(input), target) without overflow; `pos_weight` weighs the positives."""
    name = "binary_cross_entropy_with_logits"
    reduction = resolve_reduction(name, size_average, reduce, reduction)
    _same_size(name, input, target)
    if weight is not None or pos_weight is not None:
        constants(name, weight=weight, pos_weight=pos_weight)
    if weight is None:
        return _bce_logits(input, target, pos_weight, reduction)
    return reduced(bce_logits(input, target, pos_weight) * weight, reduction)


@composition(namespace="F", samples=lambda: iter([
    *(Sample((draw(rng(), (3, 4)), (rng(1).random((3, 4)) > 0.5) * 1.0), kw) for kw in each_reduction()),
    Sample((draw(rng(), (3, 4)), (rng(1).random((3, 4)) > 0.5) * 1.0, draw(rng(2), (4,), 0.5, 2))),
]))  # fmt: skip
def multilabel_soft_margin_loss(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
                                reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """binary cross entropy of sigmoid(input), averaged over classes, reduced."""
    reduction = resolve_reduction("multilabel_soft_margin_loss", size_average, reduce, reduction)
    loss = bce_logits(input, target, None)
    if weight is not None:
        loss = loss * weight
    return reduced(loss.sum(-1) / input.shape[-1], reduction)
