"""Losses: classification, regression, ranking and likelihood."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnIndexError, KilnValueError, describe
from ..shape import Size
from ..tensor import Tensor
from .activation import floating, log_softmax, pairwise_distance, softmax, widen
from .elementwise import where_op
from .registry import FUNCTIONS, Sample, composition, op
from .rules import by_body
from .samples import draw, rng

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


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The loss itself, its mean or its sum."""
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


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


# ---------------------------------------------------------------- classification


def _class_dim(x: Any) -> int:
    return 1 if len(x.shape) > 1 else 0


def _index_infer(name: str) -> Any:
    """The shape rule of a loss on class indices: input (C), (N, C) or (N, C, …), target without C."""

    def infer(input: Any, target: Any, weight: Any, ignore_index: int, reduction: str) -> tuple:
        given = f"input={describe(input)}, target={describe(target)}"
        floating(name, input)
        xs, ts = tuple(input.shape), tuple(target.shape)
        if not len(xs) >= 1:
            raise KilnError(name, "input needs a dimension of classes", given, "unsqueeze it")
        c = _class_dim(input)
        if len(ts) != len(xs) - 1:
            raise KilnError(name, f"target must have {len(xs) - 1} dimensions", given, "one class index for each prediction")
        if len(xs) > 1 and xs[0] != ts[0]:
            raise KilnValueError(
                name, f"Expected input batch_size ({xs[0]}) to match target batch_size ({ts[0]}).", given, ""
            )
        if xs[:c] + xs[c + 1 :] != ts:
            raise KilnError(name, f"expected target of size {list(xs[:c] + xs[c + 1 :])}", given, "")
        if target.dtype not in (dt.int64, dt.uint8):
            raise KilnError(name, f"expected class indices of int64, got {target.dtype.name}", given, "target.long()")
        if weight is not None:
            if tuple(weight.shape) != (xs[c],):
                raise KilnError(
                    name, f"weight must be defined for all {xs[c]} classes or no classes",
                    f"{given}, weight={describe(weight)}", "one weight for each class",
                )  # fmt: skip
            if weight.dtype is not input.dtype:
                raise KilnError(name, f"expected weight of {input.dtype.name}", describe(weight), "convert it")
        return Size(ts if reduction == "none" else ()), input.dtype

    return infer


def _check_classes(name: str, target: np.ndarray, classes: int, ignore_index: int) -> np.ndarray | None:
    """Which targets count (None for all of them); an error for one that is no class."""
    if target.size == 0:
        return None
    flat = target.view(np.uint64) if target.dtype == np.int64 else target
    if flat.max() < classes and not 0 <= ignore_index < classes:  # negative ones are huge unsigned
        return None
    valid = target != ignore_index
    wrong = valid & ((target < 0) | (target >= classes))
    if wrong.any():
        first = int(target[wrong].flat[0])
        raise KilnIndexError(
            name, f"Target {first} is out of bounds.", f"{classes} classes", f"class indices go from 0 to {classes - 1}"
        )
    return valid


def _nll_run(name: str, logp: np.ndarray, target: np.ndarray, weight: Any, ignore_index: int, reduction: str) -> Any:
    c = 1 if logp.ndim > 1 else 0
    valid = _check_classes(name, target, logp.shape[c], ignore_index)
    safe = target if valid is None else np.where(valid, target, 0)
    if logp.ndim == 2:
        picked = logp[np.arange(len(safe)), safe]
    else:
        picked = np.take_along_axis(logp, np.expand_dims(safe, c).astype(np.int64, copy=False), c).reshape(safe.shape)
    w = None if weight is None else weight[safe]
    if valid is not None:
        w = valid.astype(logp.dtype) if w is None else np.where(valid, w, 0)
    loss = -picked if w is None else np.where(w != 0, -picked * w, logp.dtype.type(0))
    if reduction == "none":
        return loss
    total = np.add.reduce(loss, axis=None)
    if reduction == "mean":
        total = total / (logp.dtype.type(loss.size) if w is None else np.add.reduce(w, axis=None))
    return total


def _sample_weights(target: Tensor, weight: Any, ignore_index: int) -> tuple[Tensor, Any]:
    """Which samples count, and the weight of each one's class (None for ones)."""
    valid = target != ignore_index
    if weight is None:
        return valid, None
    safe = where_op(valid, target, 0).long()
    w = weight.index_select(0, safe.reshape(safe.numel())).reshape(target.shape)
    return valid, where_op(valid, w, 0)


def _sample_scale(g: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str) -> Tensor:
    """d(reduced loss)/d(loss of each sample), with the sample's weight in it."""
    valid, w = _sample_weights(target, weight, ignore_index)
    if w is None:
        return where_op(valid, g / valid.sum() if reduction == "mean" else g, 0)
    return w * (g / w.sum() if reduction == "mean" else g)


def _is_class(target: Tensor, like: Tensor) -> Tensor:
    """One-hot of target along the class dimension of `like`, as bool."""
    c = _class_dim(like)
    classes = FUNCTIONS["arange"](like.shape[c])
    if like.ndim > 2:
        classes = classes.reshape(like.shape[c], *(1,) * (like.ndim - 2))
    return target.unsqueeze(c) == classes


def _nll_grad(g: Tensor, input: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str) -> Tensor:
    scale = _sample_scale(g, target, weight, ignore_index, reduction).neg().unsqueeze(_class_dim(input))
    return where_op(_is_class(target, input), scale, 0).to(input.dtype)


def _nll_body(input: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str) -> Tensor:
    c = _class_dim(input)
    valid, w = _sample_weights(target, weight, ignore_index)
    safe = where_op(valid, target, 0).long()
    loss = -input.gather(c, safe.unsqueeze(c)).squeeze(c)
    loss = where_op(valid, loss if w is None else loss * w, 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / (valid if w is None else w).sum()


def _index_samples() -> Any:
    r = rng(3)
    for shape in ((5, 4), (4,), (2, 4, 3), (2, 4, 3, 2)):
        ts = shape[:1] + shape[2:] if len(shape) > 1 else ()
        t = r.integers(0, 4, ts)
        w = draw(r, (4,), 0.5, 2)
        for reduction in ("mean", "sum", "none"):
            yield Sample((draw(r, shape), t), {"reduction": reduction})
            yield Sample((draw(r, shape), t), {"reduction": reduction, "weight": w})
        t = np.array(t)
        t.flat[0] = 1
        if t.size > 1:
            yield Sample((draw(r, shape), t), {"ignore_index": 1, "weight": w})
            t.flat[0] = -100
            yield Sample((draw(r, shape), t), {"weight": w})
            yield Sample((draw(r, shape), t))
    yield Sample((draw(r, (3, 4)), np.array([0, 7, 1])), error=IndexError)
    yield Sample((draw(r, (3, 4)), np.array([0, -1, 1])), error=IndexError)
    yield Sample((draw(r, (3, 4)), np.array([0, 1])), error=ValueError)
    yield Sample((draw(r, (3, 4)), np.array([0, 1, 1], np.int32)), error=RuntimeError)
    yield Sample((draw(r, (3, 4)), draw(r, (3,))), error=RuntimeError)
    yield Sample((draw(r, (3, 4)), np.array([0, 1, 1])), {"reduction": "most"}, error=ValueError)
    yield Sample((draw(r, (3, 4)), np.array([0, 1, 1])), {"weight": draw(r, (3,))}, error=RuntimeError)
    yield Sample((draw(r, (0, 4)), np.zeros((0,), np.int64)), {"reduction": "sum"}, grad=False)


def _op_samples() -> Any:
    r = rng(4)
    for reduction in ("mean", "sum", "none"):
        yield Sample((draw(r, (5, 4)), np.array([0, 1, 3, 2, -100]), None, -100, reduction))
        yield Sample((draw(r, (2, 4, 3)), r.integers(0, 4, (2, 3)), draw(r, (4,), 0.5, 2), 1, reduction))


@op(
    name="nll_loss", private=True, infer=_index_infer("nll_loss"), body=_nll_body, samples=_op_samples,
    grad={"input": _nll_grad},
)  # fmt: skip
def nll_op(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str) -> Tensor:
    """-weight[target] * input[target], reduced."""
    return _nll_run("nll_loss", input, target, weight, ignore_index, reduction)


def _excess_body(scale: Tensor, input: Tensor, target: Tensor) -> Tensor:
    c = _class_dim(input)
    p = softmax(widen(input), c)
    hot = _is_class(target, input)
    return ((p - hot.to(p.dtype)) * scale.unsqueeze(c)).to(input.dtype)


@op(
    private=True, infer=lambda scale, input, target: (Size(input.shape), input.dtype), check=False,
    grad=by_body(_excess_body, "scale", "input"), body=_excess_body,
    samples=lambda: iter([
        Sample((draw(rng(), (5,)), draw(rng(1), (5, 4)), np.array([0, 1, 3, 2, 2]))),
        Sample((draw(rng(), (2, 3)), draw(rng(1), (2, 4, 3)), np.array([[0, 1, 3], [2, 2, -100]]))),
        Sample((draw(rng(), ()), draw(rng(1), (4,)), np.array(2))),
    ]),
)  # fmt: skip
def softmax_excess(scale: Tensor, input: Tensor, target: Tensor) -> Tensor:
    """(softmax(input) - one_hot(target)) * scale: the gradient of cross entropy."""
    c = 1 if input.ndim > 1 else 0
    p = input - np.maximum.reduce(input, axis=c, keepdims=True, initial=-np.inf)
    np.exp(p, out=p)
    s = np.add.reduce(p, axis=c, keepdims=True)
    if input.ndim == 2:
        p /= s
        rows = np.arange(len(p))
        known = target.view(np.uint64) < p.shape[1] if target.dtype == np.int64 else target < p.shape[1]
        if known.all():
            p[rows, target] -= 1
        else:
            p[rows[known], target[known]] -= 1
    else:
        classes = np.arange(input.shape[c]).reshape((-1,) + (1,) * max(input.ndim - 2, 0))
        p = p / s - (np.expand_dims(target, c) == classes)
    p *= np.expand_dims(scale, c)
    return p.astype(input.dtype, copy=False)


def _ce_body(input: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str) -> Tensor:
    logp = log_softmax(widen(input), _class_dim(input))
    w = None if weight is None else widen(weight)
    return _nll_body(logp, target, w, ignore_index, reduction).to(input.dtype)


@op(
    name="cross_entropy", private=True, infer=_index_infer("cross_entropy"), body=_ce_body, samples=_op_samples,
    grad={"input": lambda g, input, target, weight, ignore_index, reduction: softmax_excess(
        _sample_scale(g, target, weight, ignore_index, reduction), input, target
    )},
)  # fmt: skip
def cross_entropy_op(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str) -> Tensor:
    """nll_loss(log_softmax(input), target) in one step."""
    c = 1 if input.ndim > 1 else 0
    x = input - np.maximum.reduce(input, axis=c, keepdims=True, initial=-np.inf)
    x -= np.log(np.add.reduce(np.exp(x), axis=c, keepdims=True))
    return _nll_run("cross_entropy", x, target, weight, ignore_index, reduction)


@composition(namespace="F", samples=_index_samples)
def nll_loss(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
             ignore_index: int = -100, reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """-weight[target] * input at the target class: input (C), (N, C) or (N, C, …) of log-probabilities.

    Targets equal to `ignore_index` count for nothing. The mean is weighted.
    """
    reduction = resolve_reduction("nll_loss", size_average, reduce, reduction)
    return nll_op(input, target, weight, ignore_index, reduction)


def _probability_loss(input: Tensor, target: Tensor, weight: Any, reduction: str, smoothing: float) -> Tensor:
    c = _class_dim(input)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / input.shape[c]
    term = log_softmax(input, c) * target
    if weight is not None:
        term = term * weight.reshape(weight.shape[0], *(1,) * max(input.ndim - 2, 0))
    if reduction == "none":
        return -term.sum(c)
    total = -term.sum()
    return total if reduction == "sum" else total / (input.numel() // input.shape[c])


def _smooth_loss(input: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str, eps: float) -> Tensor:
    c = _class_dim(input)
    logp = log_softmax(input, c)
    hard = nll_op(logp, target, weight, ignore_index, reduction)
    if weight is not None:
        logp = logp * weight.reshape(weight.shape[0], *(1,) * max(input.ndim - 2, 0))
    valid, w = _sample_weights(target, weight, ignore_index)
    soft = where_op(valid, -logp.sum(c), 0)
    if reduction == "mean":
        soft = soft.sum() / (valid if w is None else w).sum()
    elif reduction == "sum":
        soft = soft.sum()
    return hard * (1 - eps) + soft * (eps / input.shape[c])


def _ce_samples() -> Any:
    yield from _index_samples()
    r = rng(5)
    for shape in ((5, 4), (4,), (2, 4, 3)):
        p = draw(r, shape, 0.0, 1.0)
        t = r.integers(0, 4, shape[:1] + shape[2:] if len(shape) > 1 else ())
        for reduction in ("mean", "sum", "none"):
            for kw in ({}, {"weight": draw(r, (4,), 0.5, 2)}, {"label_smoothing": 0.1},
                       {"weight": draw(r, (4,), 0.5, 2), "label_smoothing": 0.3}):  # fmt: skip
                yield Sample((draw(r, shape), p), {"reduction": reduction, **kw})
                yield Sample((draw(r, shape), t), {"reduction": reduction, **kw})
    yield Sample((draw(r, (3, 4)), np.array([0, -100, 1])), {"label_smoothing": 0.3})
    yield Sample((draw(r, (3, 4)), np.array([0, 0, 1])), {"label_smoothing": 1.5}, error=RuntimeError)
    yield Sample((draw(r, (3, 4)), draw(r, (3, 4))), {"ignore_index": 1}, error=RuntimeError)
    yield Sample((draw(r, (3, 4)), r.integers(0, 2, (3, 4))), error=RuntimeError)


@composition(namespace="F", samples=_ce_samples)
def cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
                  ignore_index: int = -100, reduce: bool | None = None, reduction: str = "mean",
                  label_smoothing: float = 0.0) -> Tensor:  # fmt: skip
    """The cross entropy of logits and targets: input (C), (N, C) or (N, C, …).

    Targets are int64 class indices without the dimension of classes, or probabilities of input's
    shape and of a floating dtype. `weight` is one factor for each class.
    """
    if size_average is not None or reduce is not None or reduction not in ("mean", "sum", "none"):
        reduction = resolve_reduction("cross_entropy", size_average, reduce, reduction)
    if target._a.shape == input._a.shape:
        if target.dtype.category != dt.FLOAT:
            raise KilnError(
                "cross_entropy", "expected floating point type for target with class probabilities",
                describe(target), "class indices have no dimension of classes",
            )  # fmt: skip
        if ignore_index >= 0:
            raise KilnError(
                "cross_entropy", "ignore_index is not supported for floating point target", ignore_index, ""
            )
    if not 0.0 <= label_smoothing <= 1.0:
        raise KilnError("cross_entropy", "label_smoothing must be between 0.0 and 1.0", label_smoothing, "")
    if target._a.shape == input._a.shape:
        return _probability_loss(input, target, weight, reduction, label_smoothing)
    if label_smoothing:
        return _smooth_loss(input, target, weight, ignore_index, reduction, label_smoothing)
    return cross_entropy_op(input, target, weight, ignore_index, reduction)


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
        raise KilnValueError(name, "Weights and input must have the same size.", describe(weight), "")
    loss = loss * weight
    return loss.sum() / weight.sum() if reduction == "mean" else reduced(loss, reduction)


@composition(namespace="F", samples=_regression_samples())
def mse_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
             reduction: str = "mean", weight: Tensor | None = None) -> Tensor:  # fmt: skip
    """(input - target) ** 2, reduced."""
    reduction = resolve_reduction("mse_loss", size_average, reduce, reduction)
    input, target = _pair("mse_loss", input, target)
    return _weighted((input - target).square(), weight, reduction, "mse_loss")


@composition(namespace="F", samples=_regression_samples())
def l1_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
            reduction: str = "mean", weight: Tensor | None = None) -> Tensor:  # fmt: skip
    """|input - target|, reduced."""
    reduction = resolve_reduction("l1_loss", size_average, reduce, reduction)
    input, target = _pair("l1_loss", input, target)
    return _weighted((input - target).abs(), weight, reduction, "l1_loss")


@composition(namespace="F", samples=_regression_samples({"beta": 0.5}, {"beta": 0.0}))
def smooth_l1_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
                   reduction: str = "mean", beta: float = 1.0) -> Tensor:  # fmt: skip
    """d ** 2 / (2 beta) where d = |input - target| is below beta, d - beta / 2 elsewhere, reduced."""
    if beta < 0:
        raise KilnError("smooth_l1_loss", "smooth_l1_loss does not support negative values for beta.", beta, "")
    reduction = resolve_reduction("smooth_l1_loss", size_average, reduce, reduction)
    input, target = _pair("smooth_l1_loss", input, target)
    d = (input - target).abs()
    if beta != 0:
        d = where_op(d < beta, d * d * (0.5 / beta), d - 0.5 * beta)
    return reduced(d, reduction)


@composition(namespace="F", samples=_regression_samples({"delta": 0.5}))
def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0,
               weight: Tensor | None = None) -> Tensor:  # fmt: skip
    """d ** 2 / 2 where d = |input - target| is below delta, delta * (d - delta / 2) elsewhere, reduced."""
    if delta <= 0:
        raise KilnError("huber_loss", "huber_loss does not support non-positive values for delta.", delta, "")
    reduction = resolve_reduction("huber_loss", None, None, reduction)
    input, target = _pair("huber_loss", input, target)
    d = (input - target).abs()
    d = where_op(d <= delta, d * d * 0.5, (d - 0.5 * delta) * delta)
    return _weighted(d, weight, reduction, "huber_loss")


# ---------------------------------------------------------------- binary


def _same_size(name: str, input: Any, target: Any) -> None:
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
                yield Sample((draw(r, shape, low, high), draw(r, shape, 0, 1)), {"reduction": reduction})
        x, y = draw(r, (3, 4), low, high), draw(r, (3, 4), 0, 1)
        for what in extra:
            yield Sample((x, y), {what: draw(r, (4,), 0.5, 2)})
        yield Sample((x, y), {w: draw(r, (4,), 0.5, 2) for w in extra})
        yield Sample((x, y[:, :3]), error=ValueError)

    return samples


def _log_at_least(x: Tensor, low: float) -> Tensor:
    return x.log().clamp(min=low)


@composition(namespace="F", samples=_binary_samples(0.05, 0.95, "weight"))
def binary_cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
                         reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """-(target * log(input) + (1 - target) * log(1 - input)) for probabilities; logs count as at least -100."""
    reduction = resolve_reduction("binary_cross_entropy", size_average, reduce, reduction)
    _same_size("binary_cross_entropy", input, target)
    a = input._a
    if isinstance(a, np.ndarray) and a.size and not (a.min() >= 0 and a.max() <= 1):
        raise KilnError(
            "binary_cross_entropy", "all elements of input should be between 0 and 1", describe(input),
            "apply sigmoid, or use binary_cross_entropy_with_logits",
        )  # fmt: skip
    loss = -(target * _log_at_least(input, -100) + (1 - target) * _log_at_least(1 - input, -100))
    return reduced(loss if weight is None else loss * weight, reduction)


def _logits_body(input: Tensor, target: Tensor, pos_weight: Any) -> Tensor:
    soft = input.abs().neg().exp().log1p() + input.neg().clamp(min=0)  # log(1 + exp(-input))
    if pos_weight is None:
        return (1 - target) * input + soft
    return (1 - target) * input + ((pos_weight - 1) * target + 1) * soft


def _logits_rule(g: Tensor, input: Tensor, target: Tensor, pos_weight: Any, needs: tuple) -> tuple:
    gx = gt = gw = None
    if needs[0]:
        s = input.sigmoid()
        if pos_weight is None:
            gx = g * (s - target)
        else:
            t = pos_weight * target
            gx = g * ((t + 1 - target) * s - t)
    if needs[1] or needs[2]:
        log_s = FUNCTIONS["nn.functional.logsigmoid"](input)
        if needs[1]:
            gt = g * (-input if pos_weight is None else -input - (pos_weight - 1) * log_s)
        if needs[2]:
            gw = -g * target * log_s
    return gx, gt, gw


@op(
    private=True, family="elementwise", promote="same", check=False, body=_logits_body,
    grad={("input", "target", "pos_weight"): _logits_rule},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4), -4, 4), draw(rng(1), (3, 4), 0, 1), None)),
        Sample((draw(rng(), (3, 4), -4, 4), draw(rng(1), (3, 4), 0, 1), draw(rng(2), (4,), 0.5, 2))),
    ]),
)  # fmt: skip
def bce_logits(input: Tensor, target: Tensor, pos_weight: Tensor | None) -> Tensor:
    """binary cross entropy of sigmoid(input), element by element, without overflow."""
    soft = np.logaddexp(0, -input).astype(input.dtype, copy=False)
    if pos_weight is not None:
        soft = ((pos_weight - 1) * target + 1) * soft
    return (1 - target) * input + soft


@composition(namespace="F", samples=_binary_samples(-4, 4, "weight", "pos_weight"))
def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: bool | None = None,
    reduce: bool | None = None, reduction: str = "mean", pos_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """binary_cross_entropy(sigmoid(input), target) without overflow; `pos_weight` weighs the positives."""
    name = "binary_cross_entropy_with_logits"
    reduction = resolve_reduction(name, size_average, reduce, reduction)
    _same_size(name, input, target)
    loss = bce_logits(input, target, pos_weight)
    return reduced(loss if weight is None else loss * weight, reduction)


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), np.sign(draw(rng(1), (3, 4)))), {"reduction": how}) for how in ("mean", "sum", "none")
]))  # fmt: skip
def soft_margin_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
                     reduction: str = "mean") -> Tensor:  # fmt: skip
    """log(1 + exp(-target * input)) for targets of -1 and 1, reduced."""
    reduction = resolve_reduction("soft_margin_loss", size_average, reduce, reduction)
    return reduced((-target * input).exp().log1p(), reduction)


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
        safe = where_op(target > 0, target, 1)
        loss = where_op(target > 0, target * safe.log(), target * 0) - target * input
    out = reduced(loss, reduction)
    return out / input.shape[0] if batch and input.ndim else out


def _poisson_samples() -> Any:
    r = rng(44)
    x, y = draw(r, (3, 4), 0.1, 2), draw(r, (3, 4), 0, 4)
    for kw in ({}, {"log_input": False}, {"full": True}, {"reduction": "none"}, {"reduction": "sum", "log_input": False, "eps": 0.1}):
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
        elif not (tuple(input.shape[:-1]) == tuple(var.shape[:-1]) and var.shape[-1] == 1):
            raise KilnValueError(name, "var is of incorrect size", f"{describe(var)} for {describe(input)}", "")
    reduction = resolve_reduction(name, None, None, reduction)
    var = var + (var.detach().clamp(min=eps) - var.detach())
    loss = 0.5 * (var.log() + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduced(loss, reduction)


# ---------------------------------------------------------------- ranking and embedding


def _signs(r: np.random.Generator, shape: tuple) -> np.ndarray:
    return np.where(r.random(shape) > 0.5, 1.0, -1.0)


def _hows() -> Any:
    return ({"reduction": how} for how in ("mean", "sum", "none"))


@composition(namespace="F", samples=lambda: iter([
    *(Sample((draw(rng(), (5,)), draw(rng(1), (5,)), _signs(rng(2), (5,))), kw) for kw in _hows()),
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
    return reduced((-target * (input1 - input2) + margin).clamp(min=0), reduction)


@composition(namespace="F", samples=lambda: iter([
    *(Sample((draw(rng(), (3, 4)), _signs(rng(1), (3, 4))), kw) for kw in _hows()),
    Sample((draw(rng(), (3, 4)), _signs(rng(1), (3, 4)), 0.5)),
]))  # fmt: skip
def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, size_average: bool | None = None,
                         reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """input where target is 1, max(0, margin - input) where it is -1, reduced."""
    reduction = resolve_reduction("hinge_embedding_loss", size_average, reduce, reduction)
    apart = where_op(target != 1, (margin - input).clamp(min=0), 0)
    return reduced(apart + where_op(target != -1, input, 0), reduction)


@composition(namespace="F", samples=lambda: iter([
    *(Sample((draw(rng(), (5, 4)), draw(rng(1), (5, 4)), _signs(rng(2), (5,))), kw) for kw in _hows()),
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
    loss = where_op(target == 1, 1 - cos, 0) + where_op(target == -1, (cos - margin).clamp(min=0), 0)
    return reduced(loss, reduction)


def _triplet_samples() -> Any:
    r = rng(46)
    a, p, n = draw(r, (5, 4)), draw(r, (5, 4)), draw(r, (5, 4))
    for kw in (*_hows(), {"margin": 2.0, "p": 1.0}, {"swap": True, "margin": 2.0}):
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
    return _triplet(lambda x, y: pairwise_distance(x, y, p, eps), anchor, positive, negative, margin, swap, reduction)


def _triplet(distance: Any, anchor: Any, positive: Any, negative: Any, margin: float, swap: bool, reduction: str) -> Tensor:
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
    return _triplet(distance_function or pairwise_distance, anchor, positive, negative, margin, swap, reduction)


def _multi_margin_samples() -> Any:
    r = rng(47)
    x, t = draw(r, (5, 4)), r.integers(0, 4, (5,))
    for kw in (*_hows(), {"p": 2}, {"margin": 0.5}, {"weight": draw(r, (4,), 0.5, 2)}):
        yield Sample((x, t), kw)
    yield Sample((x[0], np.array(t[0])))
    yield Sample((x, t), {"p": 3}, error=ValueError)


@composition(namespace="F", samples=_multi_margin_samples)
def multi_margin_loss(input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
                      size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """sum over other classes i of max(0, margin - input[target] + input[i]) ** p, divided by the classes."""
    name = "multi_margin_loss"
    reduction = resolve_reduction(name, size_average, reduce, reduction)
    if p not in (1, 2):
        raise KilnValueError(name, "only p == 1 and p == 2 supported", p, "")
    if weight is not None and weight.ndim != 1:
        raise KilnValueError(name, "weight must be one-dimensional", describe(weight), "")
    right = input.gather(-1, target.unsqueeze(-1))
    loss = (margin - right + input).clamp(min=0)
    if p == 2:
        loss = loss * loss
    if weight is not None:
        loss = loss * weight.index_select(0, target.reshape(target.numel())).reshape(*target.shape, 1)
    loss = where_op(_is_class(target, input), 0, loss).sum(-1) / input.shape[-1]
    return reduced(loss, reduction)


@composition(namespace="F", samples=lambda: iter([
    *(Sample((draw(rng(), (3, 4)), (rng(1).random((3, 4)) > 0.5) * 1.0), kw) for kw in _hows()),
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


def _multilabel_samples() -> Any:
    t = np.array([[3, 0, -1, 1], [1, -1, 0, 2], [0, 1, 2, 3]])
    for kw in _hows():
        yield Sample((draw(rng(), (3, 4)), t), kw)
    yield Sample((draw(rng(), (4,)), t[0]))


@composition(namespace="F", samples=_multilabel_samples)
def multilabel_margin_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
                           reduction: str = "mean") -> Tensor:  # fmt: skip
    """Hinge of every pair of a target class and another; a row's classes end at its first -1."""
    reduction = resolve_reduction("multilabel_margin_loss", size_average, reduce, reduction)
    listed = (target < 0).long().cumsum(-1) == 0
    n = input.shape[-1]
    classes = FUNCTIONS["arange"](n)
    safe = where_op(listed, target, 0)
    is_target = ((safe.unsqueeze(-1) == classes) & listed.unsqueeze(-1)).any(-2)
    right = input.gather(-1, safe).unsqueeze(-1)
    pair = (1 - right + input.unsqueeze(-2)).clamp(min=0)
    keep = listed.unsqueeze(-1) & is_target.logical_not().unsqueeze(-2)
    return reduced(where_op(keep, pair, 0).sum((-2, -1)) / n, reduction)
