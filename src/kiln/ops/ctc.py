"""Connectionist temporal classification: the likelihood of a labelling over all its alignments.

Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size
from ..tensor import Tensor
from .activation import floating
from .creation import tensor
from .loss import reduced, resolve_reduction
from .registry import Sample, composition, op
from .samples import rng

# Note [Alignments]
# A target of S labels is read with blanks around every label: L = 2 S + 1 states. alpha[t, n, s] is the
# log-probability of all paths that are in state s at time t, beta that of all ways on from there; both
# count the emission at t. States and times beyond a sample's lengths stay at -inf.


def _states(targets: np.ndarray, lengths: np.ndarray, blank: int) -> tuple[np.ndarray, np.ndarray]:
    """The label of each state (N, L), and where a state may be reached from two states before."""
    n, longest = len(lengths), int(lengths.max(initial=0))
    labels = np.full((n, 2 * longest + 1), blank, np.int64)
    starts = np.cumsum(lengths) - lengths
    for i, size in enumerate(lengths):
        row = targets[starts[i] : starts[i] + size] if targets.ndim == 1 else targets[i, :size]
        labels[i, 1 : 2 * size : 2] = row
    skip = np.zeros(labels.shape, bool)
    skip[:, 2:] = (labels[:, 2:] != blank) & (labels[:, 2:] != labels[:, :-2])
    return labels, skip


def _shift(x: np.ndarray, by: int) -> np.ndarray:
    out = np.full(x.shape, -np.inf, x.dtype)
    if by > 0:
        out[:, by:] = x[:, :-by]
    else:
        out[:, :by] = x[:, -by:]
    return out


def _forward(emit: np.ndarray, skip: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    alpha = np.full(emit.shape, -np.inf, emit.dtype)
    alpha[0, :, 0] = emit[0, :, 0]
    if emit.shape[2] > 1:
        alpha[0, :, 1] = np.where(lengths > 0, emit[0, :, 1], -np.inf)
    for t in range(1, len(emit)):
        a = alpha[t - 1]
        stay = np.logaddexp(a, _shift(a, 1))
        alpha[t] = np.logaddexp(stay, np.where(skip, _shift(a, 2), -np.inf)) + emit[t]
    return alpha


def _backward(
    emit: np.ndarray, skip: np.ndarray, ends: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    times, n, states = emit.shape
    beta = np.full(emit.shape, -np.inf, emit.dtype)
    s = np.arange(states)
    last = (s == 2 * lengths[:, None]) | (s == 2 * lengths[:, None] - 1)
    ahead = np.zeros_like(skip)
    ahead[:, :-2] = skip[:, 2:]
    b = np.full((n, states), -np.inf, emit.dtype)
    for t in range(times - 1, -1, -1):
        on = np.logaddexp(b, _shift(b, -1))
        on = np.logaddexp(on, np.where(ahead, _shift(b, -2), -np.inf))
        b = np.where((ends - 1 == t)[:, None], np.where(last, 0, -np.inf), on) + emit[t]
        b = np.where((t < ends)[:, None], b, -np.inf)
        beta[t] = b
    return beta


def _emissions(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.take_along_axis(
        log_probs, np.broadcast_to(labels, (len(log_probs), *labels.shape)), 2
    )


def _nll(alpha: np.ndarray, ends: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    rows = np.arange(len(ends))
    final = alpha[np.maximum(ends - 1, 0), rows]
    whole, partial = final[rows, 2 * lengths], final[rows, np.maximum(2 * lengths - 1, 0)]
    nll = -np.where(lengths > 0, np.logaddexp(whole, partial), whole)
    return np.where(ends > 0, nll, np.where(lengths > 0, np.inf, 0)).astype(alpha.dtype)


def _infer(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    zero_infinity: bool,
) -> tuple:
    given = f"log_probs={describe(log_probs)}, targets={describe(targets)}"
    name = "ctc_loss"
    floating(name, log_probs)
    _, n, classes = log_probs.shape
    if targets.dtype not in (dt.int64, dt.int32):
        raise KilnError(name, "targets must be int64 or int32", given, "targets.long()")
    if not 0 <= blank < classes:
        raise KilnError(
            name, "blank must be in label range", f"blank={blank} of {classes} labels", ""
        )
    for lengths in (input_lengths, target_lengths):
        if lengths.dtype.is_floating_point or tuple(lengths.shape) != (n,):
            raise KilnError(
                name, "input_lengths and target_lengths must be of size batch_size, and integral",
                f"{given}, lengths={describe(lengths)}", f"{n} of each",
            )  # fmt: skip
    if len(targets.shape) == 2 and targets.shape[0] != n:
        raise KilnError(name, f"Expected targets of {n} rows", given, "")
    return Size((n,)), log_probs.dtype


def _check_lengths(
    log_probs: np.ndarray, targets: np.ndarray, ends: np.ndarray, lengths: np.ndarray
) -> None:
    """Refuse lengths that inputs don't have: they are data, so no shape rule sees them."""
    name, times = "ctc_loss", len(log_probs)
    if ((ends < 0) | (ends > times)).any():
        what = f"Expected input_lengths to have value at most {times}"
        raise KilnError(name, what, f"{ends.tolist()}", "")
    if (lengths < 0).any():
        what = "Expected target_lengths to be non-negative"
        raise KilnError(name, what, f"{lengths.tolist()}", "")
    if targets.ndim == 1:
        if lengths.sum() != targets.shape[0]:
            what = "Expected 1-d targets to hold the sum of target_lengths labels"
            raise KilnError(name, what, f"{targets.shape[0]} labels of {lengths.tolist()}", "")
    elif targets.shape[1] < lengths.max(initial=0):
        what = f"Expected targets of size ({len(lengths)}, at least {lengths.max()})"
        raise KilnError(name, what, f"{targets.shape}", "")


def _samples() -> Any:
    r = rng(71)
    x = r.normal(size=(6, 3, 4))
    x = x - np.log(np.exp(x).sum(2, keepdims=True))
    padded = np.array([[1, 2, 2], [3, 1, 0], [2, 0, 0]])
    # PyTorch's gradient holds for inputs that are log_softmax of something: no plain gradient check
    yield Sample((x, padded, np.array([6, 5, 6]), np.array([3, 2, 1]), 0, False), grad=False)
    yield Sample(
        (x, np.array([1, 2, 2, 3, 1]), np.array([6, 6, 4]), np.array([3, 2, 0]), 0, True),
        grad=False,
    )


@op(
    name="ctc_loss", private=True, infer=_infer, samples=_samples,
    grad={"log_probs": lambda g, log_probs, targets, input_lengths, target_lengths, blank, zero_infinity: ctc_grad(
        g, log_probs, targets, input_lengths, target_lengths, blank, zero_infinity
    )},
)  # fmt: skip
def ctc_op(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
    zero_infinity: bool,
) -> Tensor:
    """The negative log-likelihood of each target: log_probs (T, N, C), targets (N, S) or concatenated."""
    ends, lengths = input_lengths, target_lengths
    _check_lengths(log_probs, targets, ends, lengths)
    labels, skip = _states(targets, lengths, blank)
    nll = _nll(_forward(_emissions(log_probs, labels), skip, lengths), ends, lengths)
    return np.where(nll == np.inf, nll.dtype.type(0), nll) if zero_infinity else nll


@op(
    private=True, check=False,
    infer=lambda grad, log_probs, *rest: (Size(log_probs.shape), log_probs.dtype),
    samples=lambda: (Sample((rng(72).normal(size=(3,)), *s.args), grad=False) for s in _samples()),
)  # fmt: skip
def ctc_grad(
    grad: Tensor, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int,
    zero_infinity: bool,
) -> Tensor:  # fmt: skip
    """The gradient of the loss with respect to what log_probs is the log_softmax of. Not differentiable."""
    ends, lengths = input_lengths, target_lengths
    labels, skip = _states(targets, lengths, blank)
    emit = _emissions(log_probs, labels)
    alpha = _forward(emit, skip, lengths)
    beta = _backward(emit, skip, ends, lengths)
    nll = _nll(alpha, ends, lengths)
    through = alpha + beta - np.where(emit == -np.inf, 0, emit) + nll[:, None]
    p = np.zeros(log_probs.shape, log_probs.dtype)
    t, n = np.ogrid[: log_probs.shape[0], : log_probs.shape[1]]
    np.add.at(p, (t[..., None], n[..., None], labels[None]), np.exp(through))
    out = (np.exp(log_probs) - p) * grad[:, None]
    counts = (t < ends) & ((nll < np.inf) | (not zero_infinity))
    return np.where(counts[..., None], out, log_probs.dtype.type(0))


def _lengths(x: Any) -> Tensor:
    """Lengths as data of the program, so that a captured one serves all of them."""
    if isinstance(x, Tensor):
        return x.reshape(-1)
    return tensor([int(v) for v in x] if isinstance(x, list | tuple) else [int(x)], dtype=dt.int64)


def _public_samples() -> Any:
    for s in _samples():
        x, targets, ends, lengths = s.args[:4]
        for reduction in ("mean", "sum", "none"):
            yield Sample(
                (x, targets, ends, lengths),
                {"reduction": reduction},
                grad=False,
            )
    yield Sample((x, targets, (6, 6, 9), (3, 2, 0)), error=RuntimeError)
    yield Sample((x, targets, (6, 6), (3, 2)), error=RuntimeError)


@composition(namespace="F", samples=_public_samples)
def ctc_loss(log_probs: Tensor, targets: Tensor, input_lengths: Tensor | Sequence[int],
             target_lengths: Tensor | Sequence[int], blank: int = 0, reduction: str = "mean",
             zero_infinity: bool = False) -> Tensor:  # fmt: skip
    """CTC loss: log_probs (T, N, C) or (T, C), targets (N, S) padded or one after another without padding.

    The mean divides each loss by its target's length first; `zero_infinity` drops impossible targets.
    """
    reduction = resolve_reduction("ctc_loss", None, None, reduction)
    single = log_probs.ndim == 2
    if single:
        log_probs = log_probs.unsqueeze(1)
    ends, lengths = _lengths(input_lengths), _lengths(target_lengths)
    loss = ctc_op(log_probs, targets, ends, lengths, blank, bool(zero_infinity))
    if reduction == "mean":
        return (loss / lengths.clamp(min=1).to(loss.dtype)).mean()
    out = reduced(loss, reduction)
    return out.squeeze(0) if single and reduction == "none" else out
