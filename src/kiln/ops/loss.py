"""Losses: regression, margins, likelihood, ranking."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from ..errors import KilnError, KilnValueError, describe
from ..tensor import Tensor
from .linear import pairwise_distance
from .reduced import reduced, reduced_loss
from .registry import FUNCTIONS, Sample, composition, op
from .rules import constants
from .samples import draw, rng
from .selection import where_op

# ---------------------------------------------------------------- reductions


def resolve_reduction(name: str, size_average: Any, reduce: Any, reduction: str) -> str:
    """The reduction asked for, by PyTorch's old pair of flags where they are given."""
    if size_average is not None or reduce is not None:
        average, reduced = (True if x is None else x for x in (size_average, reduce))
        reduction = ("mean" if average else "sum") if reduced else "none"
        warnings.warn(
            f"size_average and reduce are deprecated, please use reduction='{reduction}' instead.",
            stacklevel=3,
        )
    if reduction not in ("none", "mean", "sum"):
        raise KilnValueError(name, f"{reduction} is not a valid value for reduction", repr(reduction),
                             "one of 'none', 'mean', 'sum'")  # fmt: skip
    return reduction


def _pair(name: str, input: Any, target: Any) -> tuple[Any, Any]:
    """Two tensors broadcast against each other, with a warning where their sizes differ."""
    if input.shape != target.shape:
        warnings.warn(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.", stacklevel=4,
        )  # fmt: skip
        return FUNCTIONS["broadcast_tensors"](input, target)
    return input, target


# ---------------------------------------------------------------- regression


def _regression_samples(*argses: dict, positive: bool = False) -> Any:
    def samples() -> Any:
        r = rng(41)
        for shape in ((3, 4), (), (5,), (2, 3, 2)):
            x, y = draw(r, shape, -3, 3), draw(r, shape, -3, 3)
            for reduction in ("mean", "sum", "none"):
                yield Sample((x, y), {"reduction": reduction})
        for kw in argses:
            yield Sample((draw(r, (3, 4), -3, 3), draw(r, (3, 4), -3, 3)), kw)
        yield Sample((draw(r, (0, 3)), draw(r, (0, 3))), {"reduction": "sum"})
        yield Sample((draw(r, (3,)), draw(r, (3,))), {"reduction": "most"}, error=ValueError)
        yield Sample((draw(r, (3,)), draw(r, (4,))), error=RuntimeError)

    return samples


def _weighted(loss: Tensor, weight: Any, reduction: str, name: str) -> Tensor:
    """The loss times a weight for each element; the mean is the weighted one."""
    if weight is None:
        return reduced(loss, reduction)
    if tuple(weight.shape) != tuple(loss.shape):
        raise KilnValueError(
            name, "Weights and input must have the same size.", describe(weight), ""
        )
    loss = loss * weight
    return loss.sum() / weight.sum() if reduction == "mean" else reduced(loss, reduction)


def _square_rule(g: Tensor, input: Tensor, target: Tensor, needs: tuple) -> tuple:
    r = g * ((input - target) * 2)
    return r if needs[0] else None, -r if needs[1] else None


@op(
    private=True, node="MseLossBackward0", family="elementwise", promote="same", check=False,
    body=lambda input, target: (input - target).square(), grad={("input", "target"): _square_rule},
    samples=lambda: iter([Sample((draw(rng(), s), draw(rng(1), s))) for s in ((3, 4), (), (0,))]),
)  # fmt: skip
def square_distance(input: Tensor, target: Tensor) -> Tensor:
    """(input - target) ** 2."""
    d = input - target
    return d * d


def _square_quick(g: np.ndarray, input: np.ndarray, target: np.ndarray) -> np.ndarray:
    d = input - target
    d *= g * 2
    return d


_mse = reduced_loss(square_distance, _square_quick)


@composition(namespace="F", samples=_regression_samples())
def mse_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
             reduction: str = "mean", weight: Tensor | None = None) -> Tensor:  # fmt: skip
    """(input - target) ** 2, reduced."""
    reduction = resolve_reduction("mse_loss", size_average, reduce, reduction)
    input, target = _pair("mse_loss", input, target)
    if weight is None:
        return _mse(input, target, reduction)
    return _weighted((input - target).square(), weight, reduction, "mse_loss")


@composition(namespace="F", samples=_regression_samples())
def l1_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
            reduction: str = "mean", weight: Tensor | None = None) -> Tensor:  # fmt: skip
    """|input - target|, reduced."""
    reduction = resolve_reduction("l1_loss", size_average, reduce, reduction)
    input, target = _pair("l1_loss", input, target)
    return _weighted((input - target).abs(), weight, reduction, "l1_loss")


def _smooth_rule(
    g: Tensor, input: Tensor, target: Tensor, beta: float, scale: float, needs: tuple
) -> tuple:
    d = input - target
    r = g * where_op(d.abs() >= beta, d.sign() * scale, d * (scale / beta))
    return r if needs[0] else None, -r if needs[1] else None


def _smooth_quick(g: np.ndarray, input: np.ndarray, target: np.ndarray, beta: float, scale: float) -> tuple:  # fmt: skip
    d = input - target
    r = np.where(np.abs(d) >= beta, np.sign(d) * scale, d * (scale / beta))
    r *= g
    return r, -r


def _smooth_body(input: Tensor, target: Tensor, beta: float, scale: float, loss: str) -> Tensor:
    d = (input - target).abs()
    return where_op(d < beta, d * d * (0.5 * scale / beta), (d - 0.5 * beta) * scale)


@op(
    private=True, node=("SmoothL1LossBackward0", lambda node: node.args[4] + "Backward0"), family="elementwise", promote="same", check=False, body=_smooth_body,
    grad={("input", "target"): _smooth_rule}, quick={("input", "target"): _smooth_quick},
    samples=lambda: iter([
        Sample((draw(rng(), s), draw(rng(1), s), beta, scale, "HuberLoss"))
        for s in ((3, 4), (), (0,)) for beta, scale in ((1.0, 1.0), (0.5, 2.0))
    ]),
)  # fmt: skip
def smooth_distance(input: Tensor, target: Tensor, beta: float, scale: float, loss: str) -> Tensor:
    """scale times d ** 2 / (2 beta) where d = |input - target| is below beta, d - beta / 2 elsewhere: part of a loss of this name."""
    d = np.abs(input - target)
    return np.where(d < beta, d * d * (0.5 * scale / beta), (d - 0.5 * beta) * scale)


_smooth = reduced_loss(smooth_distance, lambda g, *given: _smooth_quick(g, *given[:4])[0])


@composition(namespace="F", samples=_regression_samples({"beta": 0.5}, {"beta": 0.0}))
def smooth_l1_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
                   reduction: str = "mean", beta: float = 1.0) -> Tensor:  # fmt: skip
    """d ** 2 / (2 beta) where d = |input - target| is below beta, d - beta / 2 elsewhere, reduced."""
    if beta < 0:
        raise KilnError(
            "smooth_l1_loss", "smooth_l1_loss does not support negative values for beta.", beta, ""
        )
    reduction = resolve_reduction("smooth_l1_loss", size_average, reduce, reduction)
    input, target = _pair("smooth_l1_loss", input, target)
    if not beta:
        return reduced((input - target).abs(), reduction)
    return _smooth(input, target, beta, 1.0, "SmoothL1Loss", reduction)


@composition(namespace="F", samples=_regression_samples({"delta": 0.5}))
def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0,
               weight: Tensor | None = None) -> Tensor:  # fmt: skip
    """d ** 2 / 2 where d = |input - target| is below delta, delta * (d - delta / 2) elsewhere, reduced."""
    if delta <= 0:
        raise KilnError(
            "huber_loss", "huber_loss does not support non-positive values for delta.", delta, ""
        )
    reduction = resolve_reduction("huber_loss", None, None, reduction)
    input, target = _pair("huber_loss", input, target)
    if weight is None:
        return _smooth(input, target, delta, delta, "HuberLoss", reduction)
    d = smooth_distance(input, target, delta, delta, "HuberLoss")
    return _weighted(d, weight, reduction, "huber_loss")


# ---------------------------------------------------------------- margins


@op(
    private=True, node="SoftMarginLossBackward0", family="elementwise", promote="same", check=False,
    body=lambda input, target: (lambda z: z.abs().neg().exp().log1p() + z.clamp(min=0))(-target * input),
    grad={("input", "target"): lambda g, input, target, needs: (
        -g * target * (-target * input).sigmoid(), -g * input * (-target * input).sigmoid() if needs[1] else None)},
    samples=lambda: iter([Sample((draw(rng(), (3, 4), -4, 4), draw(rng(1), (3, 4))))]),
)  # fmt: skip
def soft_margin(input: Tensor, target: Tensor) -> Tensor:
    """log(1 + exp(-target * input))."""
    return np.logaddexp(0, -target * input).astype(input.dtype, copy=False)


_soft_margin = reduced_loss(soft_margin)


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),), {"target": np.sign(draw(rng(1), (3, 4))), "reduction": how}, fixed=("target",))
    for how in ("mean", "sum", "none")
]))  # fmt: skip
def soft_margin_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
                     reduction: str = "mean") -> Tensor:  # fmt: skip
    """log(1 + exp(-target * input)) for targets of -1 and 1, reduced."""
    reduction = resolve_reduction("soft_margin_loss", size_average, reduce, reduction)
    constants("soft_margin_loss", target=target)
    if input.shape != target.shape:
        input, target = FUNCTIONS["broadcast_tensors"](input, target)
    return _soft_margin(input, target, reduction)


# ---------------------------------------------------------------- likelihood and divergence


def _kl_samples() -> Any:
    r = rng(43)
    x, y = draw(r, (3, 4), -3, 0), draw(r, (3, 4), 0.1, 1)
    for reduction in ("mean", "sum", "none", "batchmean"):
        yield Sample((x, y), {"reduction": reduction})
        yield Sample((x, np.log(y)), {"reduction": reduction, "log_target": True})
    yield Sample((x, y), {"reduction": "most"}, error=ValueError)


@composition(namespace="F", samples=_kl_samples)
def kl_div(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
           reduction: str = "mean", log_target: bool = False) -> Tensor:  # fmt: skip
    """target * (log(target) - input) for log-probabilities `input`; "batchmean" divides by the batch only."""
    if reduction == "mean":
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL math definition.",
            stacklevel=2,
        )
    batch = reduction == "batchmean"
    reduction = resolve_reduction("kl_div", size_average, reduce, "sum" if batch else reduction)
    if log_target:
        loss = target.exp() * (target - input)
    else:
        loss = where_op(target == 0, 0, target * target.log()) - target * input
    out = reduced(loss, reduction)
    return out / input.shape[0] if batch and input.ndim else out


def _poisson_samples() -> Any:
    r = rng(44)
    x, y = draw(r, (3, 4), 0.1, 2), draw(r, (3, 4), 0, 4)
    for kw in (
        {},
        {"log_input": False},
        {"full": True},
        {"reduction": "none"},
        {"reduction": "sum", "log_input": False, "eps": 0.1},
    ):
        yield Sample((x, y), kw)


@composition(namespace="F", samples=_poisson_samples)
def poisson_nll_loss(input: Tensor, target: Tensor, log_input: bool = True, full: bool = False,
                     size_average: bool | None = None, eps: float = 1e-8, reduce: bool | None = None,
                     reduction: str = "mean") -> Tensor:  # fmt: skip
    """exp(input) - target * input, or input - target * log(input + eps); `full` adds Stirling's term."""
    reduction = resolve_reduction("poisson_nll_loss", size_average, reduce, reduction)
    loss = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        stirling = target * target.log() - target + 0.5 * (2 * math.pi * target).log()
        loss = loss + where_op(target > 1, stirling, 0)
    return reduced(loss, reduction)


def _gaussian_samples() -> Any:
    r = rng(45)
    x, y, v = draw(r, (3, 4)), draw(r, (3, 4)), draw(r, (3, 4), 0.5, 2)
    for kw in ({}, {"full": True}, {"reduction": "none"}, {"reduction": "sum"}):
        yield Sample((x, y, v), kw)
    yield Sample((x, y, v[:, :1]))
    yield Sample((x, y, v[:, 0]))
    yield Sample((x, y, v[:1]))
    yield Sample((x, y, -v), error=ValueError)
    yield Sample((x, y, v[:, :2]), error=ValueError)


@composition(namespace="F", samples=_gaussian_samples)
def gaussian_nll_loss(input: Tensor, target: Tensor, var: Any, full: bool = False, eps: float = 1e-6,
                      reduction: str = "mean") -> Tensor:  # fmt: skip
    """(log(var) + (input - target) ** 2 / var) / 2, with var at least eps; `full` adds log(2 pi) / 2."""
    name = "gaussian_nll_loss"
    if isinstance(var, float):
        if var < 0:
            raise KilnValueError(name, "var has negative entry/entries", var, "")
        var = var * FUNCTIONS["ones_like"](input)
    elif isinstance(var._a, np.ndarray) and var._a.size and var._a.min() < 0:
        raise KilnValueError(name, "var has negative entry/entries", describe(var), "")
    if var.shape != input.shape:
        if tuple(input.shape[:-1]) == tuple(var.shape):
            var = var.unsqueeze(-1)
        elif input.ndim != var.ndim or [
            v for n, v in zip(input.shape, var.shape, strict=True) if n != v
        ] != [1]:
            raise KilnValueError(
                name, "var is of incorrect size", f"{describe(var)} for {describe(input)}", ""
            )
    reduction = resolve_reduction(name, None, None, reduction)
    var = var + (var.detach().clamp(min=eps) - var.detach())
    loss = 0.5 * (var.log() + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduced(loss, reduction)


# ---------------------------------------------------------------- ranking and embedding


def _signs(r: np.random.Generator, shape: tuple) -> np.ndarray:
    return np.where(r.random(shape) > 0.5, 1.0, -1.0)


def each_reduction() -> Any:
    return ({"reduction": how} for how in ("mean", "sum", "none"))


@composition(namespace="F", samples=lambda: iter([
    *(Sample((draw(rng(), (5,)), draw(rng(1), (5,)), _signs(rng(2), (5,))), kw) for kw in each_reduction()),
    Sample((draw(rng(), (5,)), draw(rng(1), (5,)), _signs(rng(2), (5,)), 0.5)),
    Sample((draw(rng(), (5,)), draw(rng(1), (5, 1)), _signs(rng(2), (5,))), error=RuntimeError),
]))  # fmt: skip
def margin_ranking_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: bool | None = None,
                        reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """max(0, -target * (input1 - input2) + margin), reduced."""
    name = "margin_ranking_loss"
    reduction = resolve_reduction(name, size_average, reduce, reduction)
    if not input1.ndim == input2.ndim == target.ndim:
        raise KilnError(
            name, "all input tensors should have same dimension",
            ", ".join(map(describe, (input1, input2, target))), "",
        )  # fmt: skip
    return reduced((-target * (input1 - input2) + float(margin)).clamp(min=0), reduction)


@composition(namespace="F", samples=lambda: iter([
    *(Sample((draw(rng(), (3, 4)), _signs(rng(1), (3, 4))), kw) for kw in each_reduction()),
    Sample((draw(rng(), (3, 4)), _signs(rng(1), (3, 4)), 0.5)),
]))  # fmt: skip
def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, size_average: bool | None = None,
                         reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """input where target is 1, max(0, margin - input) where it is -1, reduced."""
    reduction = resolve_reduction("hinge_embedding_loss", size_average, reduce, reduction)
    apart = where_op(target != 1, (input.new_full((), margin) - input).clamp(min=0), 0)
    return reduced(apart + where_op(target != -1, input, 0), reduction)


@composition(namespace="F", samples=lambda: iter([
    *(Sample((draw(rng(), (5, 4)), draw(rng(1), (5, 4)), _signs(rng(2), (5,))), kw) for kw in each_reduction()),
    Sample((draw(rng(), (5, 4)), draw(rng(1), (5, 4)), _signs(rng(2), (5,)), 0.3)),
    Sample((draw(rng(), (4,)), draw(rng(1), (4,)), np.array(1.0))),
    Sample((draw(rng(), (5, 4)), draw(rng(1), (5, 4)), _signs(rng(2), (5, 4))), error=RuntimeError),
]))  # fmt: skip
def cosine_embedding_loss(input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: bool | None = None,
                          reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """1 - cos(input1, input2) where target is 1, max(0, cos - margin) where it is -1, reduced."""
    name = "cosine_embedding_loss"
    reduction = resolve_reduction(name, size_average, reduce, reduction)
    if not (target.ndim == input1.ndim - 1 == input2.ndim - 1 and target.ndim in (0, 1)):
        raise KilnError(
            name, "expects a 0D target with 1D inputs or a 1D target with 2D inputs",
            ", ".join(map(describe, (input1, input2, target))), "",
        )  # fmt: skip
    eps = 1e-12
    dot = (input1 * input2).sum(-1)
    norms = ((input1 * input1).sum(-1) + eps) * ((input2 * input2).sum(-1) + eps)
    cos = dot / norms.sqrt()
    loss = where_op(target == 1, 1 - cos, 0) + where_op(
        target == -1, (cos - margin).clamp(min=0), 0
    )
    return reduced(loss, reduction)


def _triplet_samples() -> Any:
    r = rng(46)
    a, p, n = draw(r, (5, 4)), draw(r, (5, 4)), draw(r, (5, 4))
    for kw in (*each_reduction(), {"margin": 2.0, "p": 1.0}, {"swap": True, "margin": 2.0}):
        yield Sample((a, p, n), kw)
    yield Sample((a, p, n), {"margin": -1.0}, error=ValueError)


@composition(namespace="F", samples=_triplet_samples)
def triplet_margin_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2,
                        eps: float = 1e-6, swap: bool = False, size_average: bool | None = None,
                        reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) for p-norm distances, reduced."""
    name = "triplet_margin_loss"
    reduction = resolve_reduction(name, size_average, reduce, reduction)
    if margin <= 0:
        raise KilnValueError(name, f"margin must be greater than 0, got {margin}", margin, "")
    return _triplet(
        lambda x, y: pairwise_distance(x, y, p, eps),
        anchor,
        positive,
        negative,
        margin,
        swap,
        reduction,
    )


def _triplet(
    distance: Any,
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float,
    swap: bool,
    reduction: str,
) -> Tensor:
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = FUNCTIONS["minimum"](far, distance(positive, negative))
    return reduced((near - far + margin).clamp(min=0), reduction)


@composition(namespace="F", samples=lambda: (s for s in _triplet_samples() if "p" not in s.kwargs))
def triplet_margin_with_distance_loss(anchor: Tensor, positive: Tensor, negative: Tensor, *, distance_function: Any = None,
                                      margin: float = 1.0, swap: bool = False, reduction: str = "mean") -> Tensor:  # fmt: skip
    """triplet_margin_loss with a distance of one's own."""
    name = "triplet_margin_with_distance_loss"
    if margin <= 0:
        raise KilnValueError(name, f"margin must be greater than 0, got {margin}", margin, "")
    reduction = resolve_reduction(name, None, None, reduction)
    return _triplet(
        distance_function or pairwise_distance, anchor, positive, negative, margin, swap, reduction
    )
