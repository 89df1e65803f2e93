"""Losses on class indices: cross entropy, negative log-likelihood and margins between classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnIndexError, KilnNotImplementedError, KilnValueError, describe
from ..shape import Size, numel
from ..tensor import CAPTURING, Tensor
from .activation import floating, widen
from .dispatch import expect_tensor
from .loss import each_reduction, reduced, resolve_reduction
from .registry import FUNCTIONS, Sample, composition, op
from .rules import by_body, constants
from .samples import draw, rng
from .selection import where_op
from .softmax import log_softmax, softmax


def _class_dim(x: Any) -> int:
    return 1 if len(x.shape) > 1 else 0


def _index_infer(name: str) -> Any:
    """The shape rule of a loss on class indices: input (C), (N, C) or (N, C, …), target without C."""

    def infer(input: Any, target: Any, weight: Any, ignore_index: int, reduction: str) -> tuple:
        def given() -> str:
            return f"input={describe(input)}, target={describe(target)}"

        floating(name, input)
        xs, ts = tuple(input.shape), tuple(target.shape)
        if not len(xs) >= 1:
            raise KilnError(name, "input needs a dimension of classes", given(), "unsqueeze it")
        c = _class_dim(input)
        if len(ts) != len(xs) - 1:
            raise KilnError(
                name,
                f"target must have {len(xs) - 1} dimensions",
                given(),
                "one class index for each prediction",
            )
        if len(xs) > 1 and xs[0] != ts[0]:
            raise KilnValueError(
                name,
                f"Expected input batch_size ({xs[0]}) to match target batch_size ({ts[0]}).",
                given(),
                "",
            )
        if xs[:c] + xs[c + 1 :] != ts:
            raise KilnError(
                name, f"expected target of size {list(xs[:c] + xs[c + 1 :])}", given(), ""
            )
        if target.dtype not in (dt.int64, dt.uint8):
            raise KilnError(
                name,
                f"expected class indices of int64, got {target.dtype.name}",
                given(),
                "target.long()",
            )
        if weight is not None:
            if tuple(weight.shape) != (xs[c],):
                raise KilnError(
                    name, f"weight must be defined for all {xs[c]} classes or no classes",
                    f"{given()}, weight={describe(weight)}", "one weight for each class",
                )  # fmt: skip
            if weight.dtype is not input.dtype:
                raise KilnError(
                    name, f"expected weight of {input.dtype.name}", describe(weight), "convert it"
                )
        return Size(ts if reduction == "none" else ()), input.dtype

    return infer


_FEW = 16  # targets that Python looks through sooner than NumPy


def check_classes(
    name: str, target: np.ndarray, classes: int, ignore_index: int
) -> np.ndarray | None:
    """Which targets count (None for all of them); an error for one that is no class."""
    n = target.size
    if n == 0:
        return None
    if n == 1 and 0 <= target.item() < classes and not 0 <= ignore_index < classes:
        return None
    if n <= _FEW:
        places = target.reshape(-1).tolist()
        if min(places) >= 0 and max(places) < classes and not 0 <= ignore_index < classes:
            return None
    flat = target.view(np.uint64) if target.dtype == np.int64 else target  # negative ones are huge
    if np.maximum.reduce(flat, None) < classes and not 0 <= ignore_index < classes:
        return None
    valid = target != ignore_index
    wrong = valid & ((target < 0) | (target >= classes))
    if wrong.any():
        first = int(target[wrong].flat[0])
        raise KilnIndexError(
            name,
            f"Target {first} is out of bounds.",
            f"{classes} classes",
            f"class indices go from 0 to {classes - 1}",
        )
    return valid


def _nll_run(
    name: str, logp: np.ndarray, target: np.ndarray, weight: Any, ignore_index: int, reduction: str
) -> Any:
    c = 1 if logp.ndim > 1 else 0
    valid = check_classes(name, target, logp.shape[c], ignore_index)
    safe = target if valid is None else np.where(valid, target, 0)
    if logp.ndim == 2 and len(safe) == 1:
        picked = logp[:, safe.item()]
    elif logp.ndim == 2:
        picked = logp[np.arange(len(safe)), safe]
    else:
        picked = np.take_along_axis(
            logp, np.expand_dims(safe, c).astype(np.int64, copy=False), c
        ).reshape(safe.shape)
    return weighed(-picked, valid, safe, weight, reduction)


def weighed(loss: np.ndarray, valid: Any, safe: np.ndarray, weight: Any, reduction: str) -> Any:
    """Losses of samples, `valid` ones of which count (None: all), by the weights of their classes."""
    if valid is None and weight is None and loss.size == 1 and reduction != "none":
        return loss.reshape(())
    w, d = None if weight is None else weight[safe], loss.dtype
    if valid is not None:
        w = valid.astype(d) if w is None else np.where(valid, w, 0)
    if w is not None:
        loss = np.where(w != 0, loss * w, d.type(0))
    if reduction == "none":
        return loss
    total = np.add.reduce(loss, axis=None)
    if reduction == "mean":
        total = total / (d.type(loss.size) if w is None else np.add.reduce(w, axis=None))
    return total


def _sample_weights(target: Tensor, weight: Any, ignore_index: int) -> tuple[Tensor, Any]:
    """Which samples count, and the weight of each one's class (None for ones)."""
    valid = target != ignore_index
    if weight is None:
        return valid, None
    safe = where_op(valid, target, 0).long()
    w = weight.index_select(0, safe.reshape(safe.numel())).reshape(target.shape)
    return valid, where_op(valid, w, 0)


def _sample_scale(
    g: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str
) -> Tensor:
    """d(reduced loss)/d(loss of each sample), with the sample's weight in it."""
    a = target._a
    if weight is None and not CAPTURING and a.__class__ is np.ndarray and (a != ignore_index).all():
        return (g / a.size if reduction == "mean" and a.size else g).expand(a.shape)
    valid, w = _sample_weights(target, weight, ignore_index)
    scale = g if w is None else w * g
    if reduction == "mean":
        scale = scale / (valid if w is None else w).sum()
    return where_op(valid, scale, 0)  # whatever comes in, what is left out has no part in it


def _is_class(target: Tensor, like: Tensor) -> Tensor:
    """One-hot of target along the class dimension of `like`, as bool."""
    c = _class_dim(like)
    classes = FUNCTIONS["arange"](like.shape[c])
    if like.ndim > 2:
        classes = classes.reshape(like.shape[c], *(1,) * (like.ndim - 2))
    return target.unsqueeze(c) == classes


def _nll_grad(
    g: Tensor, input: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str
) -> Tensor:
    scale = (
        _sample_scale(g, target, weight, ignore_index, reduction).neg().unsqueeze(_class_dim(input))
    )
    return where_op(_is_class(target, input), scale, 0).to(input.dtype)


def _quick_scale(
    g: np.ndarray, target: np.ndarray, weight: Any, ignore_index: int, reduction: str, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """`_sample_scale` of plain arrays, and the targets with a class in place of those that don't count."""
    valid = check_classes("nll_loss", target, classes, ignore_index)
    if valid is None and weight is None:
        if reduction == "mean":
            g = g / g.dtype.type(target.size)
        if reduction != "none":
            scale = np.empty(target.shape, g.dtype)
            scale.fill(g)
            return scale, target
        return g, target
    safe = target if valid is None else np.where(valid, target, 0)
    w = np.ones(target.shape, g.dtype) if weight is None else weight[safe]
    w = w if valid is None else np.where(valid, w, g.dtype.type(0))
    scale = w * (g / np.add.reduce(w, axis=None) if reduction == "mean" else g)
    return scale if valid is None else np.where(valid, scale, g.dtype.type(0)), safe


def _nll_quick(
    g: np.ndarray, in_shape: tuple, target: np.ndarray, weight: Any, ignore_index: int, reduction: str
) -> np.ndarray:  # fmt: skip
    c = 1 if len(in_shape) > 1 else 0
    out = np.zeros(in_shape, g.dtype)
    alike = reduction != "none" and weight is None and len(in_shape) == 2 and target.size
    if alike and check_classes("nll_loss", target, in_shape[1], ignore_index) is None:
        value = g.item() / -target.size if reduction == "mean" else -g.item()
        if len(target) == 1:
            out[0, target.item()] = value
        else:
            out[np.arange(len(target)), target] = value
        return out
    scale, safe = _quick_scale(g, target, weight, ignore_index, reduction, in_shape[c])
    if len(in_shape) == 2:
        out[np.arange(len(safe)), safe] = -scale
    else:
        at = np.expand_dims(safe, c).astype(np.int64, copy=False)
        np.put_along_axis(out, at, np.expand_dims(-scale, c), c)
    return out


def _ce_quick(
    g: np.ndarray, input: np.ndarray, target: np.ndarray, weight: Any, ignore_index: int, reduction: str
) -> np.ndarray:  # fmt: skip
    classes = input.shape[1 if input.ndim > 1 else 0]
    scale, safe = _quick_scale(g, target, weight, ignore_index, reduction, classes)
    return softmax_excess.op.eager(scale, input, safe)


def _nll_body(
    input: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str
) -> Tensor:
    c = _class_dim(input)
    valid, w = _sample_weights(target, weight, ignore_index)
    safe = where_op(valid, target, 0).long()
    loss = -input.gather(c, safe.unsqueeze(c)).squeeze(c)
    loss = where_op(valid, loss if w is None else loss * w, 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / (valid if w is None else w).sum()


_FIXED = ("weight",)


def _index_samples() -> Any:
    r = rng(3)
    for shape in ((5, 4), (4,), (2, 4, 3), (2, 4, 3, 2)):
        ts = shape[:1] + shape[2:] if len(shape) > 1 else ()
        t = r.integers(0, 4, ts)
        w = draw(r, (4,), 0.5, 2)
        for reduction in ("mean", "sum", "none"):
            yield Sample((draw(r, shape), t), {"reduction": reduction})
            yield Sample((draw(r, shape), t), {"reduction": reduction, "weight": w}, fixed=_FIXED)
        t = np.array(t)
        t.flat[0] = 1
        if t.size > 1:
            yield Sample((draw(r, shape), t.copy()), {"ignore_index": 1, "weight": w}, fixed=_FIXED)
            t.flat[0] = -100
            yield Sample((draw(r, shape), t), {"weight": w}, fixed=_FIXED)
            yield Sample((draw(r, shape), t))
    yield Sample((draw(r, (3, 4)), np.array([0, 7, 1])), error=IndexError)
    yield Sample((draw(r, (3, 4)), np.array([0, -1, 1])), error=IndexError)
    yield Sample((draw(r, (3, 4)), np.array([0, 1])), error=ValueError)
    yield Sample((draw(r, (3, 4)), np.array([0, 1, 1], np.int32)), error=RuntimeError)
    yield Sample((draw(r, (3, 4)), draw(r, (3,))), error=RuntimeError)
    yield Sample((draw(r, (3, 4)), np.array([0, 1, 1])), {"reduction": "most"}, error=ValueError)
    yield Sample(
        (draw(r, (3, 4)), np.array([0, 1, 1])), {"weight": draw(r, (3,))}, error=RuntimeError
    )
    yield Sample((draw(r, (0, 4)), np.zeros((0,), np.int64)), {"reduction": "sum"}, grad=False)


def _op_samples() -> Any:
    r = rng(4)
    for reduction in ("mean", "sum", "none"):
        yield Sample((draw(r, (5, 4)), np.array([0, 1, 3, 2, -100]), None, -100, reduction))
        yield Sample(
            (draw(r, (2, 4, 3)), r.integers(0, 4, (2, 3)), draw(r, (4,), 0.5, 2), 1, reduction)
        )


@op(
    name="nll_loss", private=True, formal=("input",), infer=_index_infer("nll_loss"), body=_nll_body, samples=_op_samples,
    grad={"input": _nll_grad}, quick={"input": _nll_quick},
)  # fmt: skip
def nll_op(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
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
        known = (
            target.view(np.uint64) < p.shape[1] if target.dtype == np.int64 else target < p.shape[1]
        )
        if known.all():
            p[rows, target] -= 1
        else:
            p[rows[known], target[known]] -= 1
    else:
        classes = np.arange(input.shape[c]).reshape((-1,) + (1,) * max(input.ndim - 2, 0))
        p = p / s - (np.expand_dims(target, c) == classes)
    p *= np.expand_dims(scale, c)
    return p.astype(input.dtype, copy=False)


def _ce_body(
    input: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str
) -> Tensor:
    logp = log_softmax(widen(input), _class_dim(input))
    w = None if weight is None else widen(weight)
    return _nll_body(logp, target, w, ignore_index, reduction).to(input.dtype)


@op(
    name="cross_entropy", node="NllLossBackward0", private=True, infer=_index_infer("cross_entropy"), body=_ce_body, samples=_op_samples,
    grad={"input": lambda g, input, target, weight, ignore_index, reduction: softmax_excess(
        _sample_scale(g, target, weight, ignore_index, reduction), input, target
    )},
    quick={"input": _ce_quick},
)  # fmt: skip
def cross_entropy_op(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
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
    if weight is not None:
        constants("nll_loss", weight=weight)
    return nll_op(input, target, weight, ignore_index, reduction)


def _probability_loss(
    input: Tensor, target: Tensor, weight: Any, reduction: str, smoothing: float
) -> Tensor:
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


def _smooth_loss(
    input: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str, eps: float
) -> Tensor:
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
                yield Sample((draw(r, shape), t), {"reduction": reduction, **kw}, fixed=_FIXED)
    yield Sample((draw(r, (3, 4)), np.array([0, -100, 1])), {"label_smoothing": 0.3})
    yield Sample(
        (draw(r, (3, 4)), np.array([0, 0, 1])), {"label_smoothing": 1.5}, error=RuntimeError
    )
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
    try:
        alike = target._a.shape == input._a.shape
    except AttributeError:
        expect_tensor("cross_entropy", input)
        expect_tensor("cross_entropy", target)
        raise
    if alike:
        if target.dtype.category != dt.FLOAT:
            raise KilnError(
                "cross_entropy", "expected floating point type for target with class probabilities",
                describe(target), "class indices have no dimension of classes",
            )  # fmt: skip
        if ignore_index >= 0:
            raise KilnError(
                "cross_entropy",
                "ignore_index is not supported for floating point target",
                ignore_index,
                "",
            )
    if not 0.0 <= label_smoothing <= 1.0:
        raise KilnError(
            "cross_entropy", "label_smoothing must be between 0.0 and 1.0", label_smoothing, ""
        )
    if alike:
        return _probability_loss(input, target, weight, reduction, label_smoothing)
    if weight is not None:
        constants("cross_entropy", weight=weight)
    if label_smoothing:
        return _smooth_loss(input, target, weight, ignore_index, reduction, label_smoothing)
    return cross_entropy_op(input, target, weight, ignore_index, reduction)


# ---------------------------------------------------------------- margins


def _multi_margin_samples() -> Any:
    r = rng(47)
    x, t = draw(r, (5, 4)), r.integers(0, 4, (5,))
    for kw in (*each_reduction(), {"p": 2}, {"margin": 0.5}, {"weight": draw(r, (4,), 0.5, 2)}):
        yield Sample((x, t), kw, fixed=_FIXED)
    yield Sample((x[0], np.array(t[0])))
    yield Sample((x[0, 0], np.array(0)))
    yield Sample((x[0], t[:1]))
    yield Sample((x, t), {"p": 3}, error=ValueError)
    for d in (np.float16, np.int64):
        yield Sample((x.astype(d), t), error=NotImplementedError)


@composition(namespace="F", samples=_multi_margin_samples)
def multi_margin_loss(input: Tensor, target: Tensor, p: int = 1, margin: float = 1.0, weight: Tensor | None = None,
                      size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> Tensor:  # fmt: skip
    """sum over other classes i of max(0, margin - input[target] + input[i]) ** p, divided by the classes.

    Defined for float32 and float64.
    """
    name = "multi_margin_loss"
    if input.dtype not in (dt.float32, dt.float64):
        raise KilnNotImplementedError(name, f"not implemented for {input.dtype.name}", describe(input),
                                      "convert it to float32")  # fmt: skip
    reduction = resolve_reduction(name, size_average, reduce, reduction)
    if p not in (1, 2):
        raise KilnValueError(name, "only p == 1 and p == 2 supported", p, "")
    if weight is not None and weight.ndim != 1:
        raise KilnValueError(name, "weight must be one-dimensional", describe(weight), "")
    constants(name, weight=weight)
    if input.ndim < 2:
        input, target = input.reshape(input.numel()), target.reshape(())
    right = input.gather(-1, target.unsqueeze(-1))
    loss = margin - right + input
    counts = (loss > 0) & ~_is_class(target, input)
    # by a product, so that NaN among the incoming gradients is seen: as PyTorch's
    loss = where_op(counts | loss.isfinite(), loss, 0) * counts
    if p == 2:
        loss = loss * loss
    if weight is not None:
        loss = loss * weight.index_select(0, target.reshape(target.numel())).reshape(
            *target.shape, 1
        )
    return reduced(loss.sum(-1) / input.shape[-1], reduction)


def _multilabel_samples() -> Any:
    t = np.array([[3, 0, -1, 1], [1, -1, 0, 2], [0, 1, 2, 3]])
    for kw in each_reduction():
        yield Sample((draw(rng(), (3, 4)), t), kw)
    yield Sample((draw(rng(), (4,)), t[0]))
    yield Sample((draw(rng(), ()), np.array(0)))


@composition(fused="rounded", namespace="F", samples=_multilabel_samples)
def multilabel_margin_loss(input: Tensor, target: Tensor, size_average: bool | None = None, reduce: bool | None = None,
                           reduction: str = "mean") -> Tensor:  # fmt: skip
    """Hinge of every pair of a target class and another; a row's classes end at its first -1."""
    reduction = resolve_reduction("multilabel_margin_loss", size_average, reduce, reduction)
    if not numel(input.shape[-1:]):
        raise KilnError("multilabel_margin_loss", "Expected non-empty vector or matrix with optional 0-dim batch size",
                        describe(input), "")  # fmt: skip
    if not input.ndim:
        input, target = input.reshape(1), target.reshape(1)
    listed = (target < 0).long().cumsum(-1) == 0
    n = input.shape[-1]
    classes = FUNCTIONS["arange"](n)
    safe = where_op(listed, target, 0)
    is_target = ((safe.unsqueeze(-1) == classes) & listed.unsqueeze(-1)).any(-2)
    right = input.gather(-1, safe).unsqueeze(-1)
    pair = (1 - right + input.unsqueeze(-2)).relu()
    keep = listed.unsqueeze(-1) & is_target.logical_not().unsqueeze(-2)
    return reduced(where_op(keep, pair, 0).sum((-2, -1)) / n, reduction)
