"""What distributions compute of few numbers again and again, each as one op: a node where there would be two to eight.

In eager mode a small tensor costs what the calls cost. So these are taken for few elements of plain float32 and float64
tensors, and give the bits that the ops give of which they consist; everything else, what is captured or mapped included,
is computed by those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import record, record_unary
from ..shape import Size
from ..tensor import CAPTURING, PLAIN, Tensor, wrap
from .registry import Op, Sample, op
from .rules import by_body
from .samples import draw, rng
from .statistics import logsumexp

FEW = 1 << 12
"""Elements from where on ops may have kernels."""

_F32, _F64 = dt.float32.np, dt.float64.np
_HALF_LOG_TAU = 0.5 * math.log(math.tau)
_sum = np.add.reduce


def _few(x: Any) -> bool:
    """Whether a tensor is one of few floats that no one has to be asked about."""
    if CAPTURING or x.__class__ not in PLAIN:
        return False
    a = x._a
    return a.__class__ is np.ndarray and 0 < a.size < FEW and (a.dtype is _F32 or a.dtype is _F64)


def _alike(*xs: Any) -> bool:
    """Whether tensors are such, of one shape and dtype."""
    if not _few(xs[0]):
        return False
    a = xs[0]._a
    for x in xs:
        b = x._a
        if (
            x.__class__ not in PLAIN
            or b.__class__ is not np.ndarray
            or b.dtype is not a.dtype
            or b.shape != a.shape
        ):
            return False
    return True


def _recorded(op: Op, args: tuple, r: Any) -> Tensor:
    """An op's result, put on the tape."""
    out = wrap(r if r.__class__ is np.ndarray else np.asarray(r))
    for x in args:
        if x.__class__ in PLAIN and (x._rg or x._base is not None):
            record(op, args, (out,))
            break
    return out


def _same(input: Any, *_: Any) -> tuple:
    return Size(input.shape), input.dtype


def _leading(input: Any, *_: Any) -> tuple:
    return Size(input.shape[:-1]), input.dtype


def _one(body: Callable, targets: tuple[str, ...], quick: Callable, samples: Callable[[], Iterator[Sample]], infer: Callable = _same,
         **facts: Any) -> Callable:  # fmt: skip
    """A private op of floats that is written in ops as `body`; `quick` gives the gradients of `targets`, which are wanted in turn."""
    return op(
        private=True, check=False, infer=infer, body=body, grad=by_body(body, *targets),
        quick={targets if len(targets) > 1 else targets[0]: quick}, samples=samples, **facts,
    )  # fmt: skip


def _rows(low: float = -2.0, high: float = 2.0, *rest: Any) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        for shape in ((4,), (1, 2), (2, 3, 5), (3, 1)):
            yield Sample((draw(rng(), shape, low, high), *rest))

    return samples


# ---------------------------------------------------------------- probabilities of categories


def _normalized_body(input: Tensor) -> Tensor:
    return input / input.sum(-1, True)


def _normalized_quick(g: np.ndarray, input: np.ndarray) -> np.ndarray:
    s = _sum(input, -1, None, None, True)
    return g / s + _sum(-g * (input / s / s), -1, None, None, True)


@_one(_normalized_body, ("input",), _normalized_quick, _rows(0.2, 2.0), node="DivBackward0")
def normalized_op(input: Tensor) -> Tensor:
    """Weights as probabilities: by their sum along the last dimension."""
    return input / _sum(input, -1, None, None, True)


def normalized(input: Tensor) -> Tensor:
    """Weights by their sum along the last dimension."""
    if _few(input) and input._a.flags.c_contiguous:
        try:
            return _unary(normalized_op, input)
        except RuntimeWarning:  # where somebody turns warnings into errors
            pass
    return _normalized_body(input)


def _unary(fn: Any, input: Tensor) -> Tensor:
    op = fn.op
    out = wrap(op.reference(input._a))
    if input._rg or input._base is not None:
        record_unary(op, input, out)
    return out


def _scores_body(input: Tensor) -> Tensor:
    return input - input.logsumexp(-1, True)


def _scores_quick(g: np.ndarray, input: np.ndarray) -> np.ndarray:
    return g + _sum(-g, -1, None, None, True) * np.exp(input - _logsumexp(input, -1, True))


_logsumexp = logsumexp.op.reference  # type: ignore[attr-defined]


@_one(_scores_body, ("input",), _scores_quick, _rows(), node="SubBackward0")
def scores_op(input: Tensor) -> Tensor:
    """Logits as logarithms of probabilities."""
    return input - _logsumexp(input, -1, True)


def scores(input: Tensor) -> Tensor:
    """Logits as logarithms of probabilities, along the last dimension."""
    if _few(input) and input._a.flags.c_contiguous:
        try:
            return _unary(scores_op, input)
        except RuntimeWarning:
            pass
    return _scores_body(input)


def _log_inside_body(input: Tensor, eps: float) -> Tensor:
    return input.clamp(eps, 1 - eps).log()


def _inside(x: np.ndarray, eps: float) -> np.ndarray:
    return np.minimum(1 - eps, np.maximum(eps, x))


def _log_inside_quick(g: np.ndarray, input: np.ndarray, eps: float) -> np.ndarray:
    kept = (input >= eps) & (input <= 1 - eps)
    return np.where(kept, g / _inside(input, eps), g.dtype.type(0))


@_one(_log_inside_body, ("input",), _log_inside_quick, _rows(0.1, 0.9, 0.05), node="LogBackward0")
def log_inside_op(input: Tensor, eps: float) -> Tensor:
    """Logarithms of probabilities kept away from 0 and 1."""
    return np.log(_inside(input, eps))


def log_inside(input: Tensor, eps: float) -> Tensor:
    """Logarithms of probabilities kept `eps` away from 0 and 1."""
    if _few(input):
        return _recorded(log_inside_op.op, (input, eps), log_inside_op.op.reference(input._a, eps))
    return _log_inside_body(input, eps)


def _picked_body(input: Tensor, index: Tensor) -> Tensor:
    return input.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def _flat(index: np.ndarray, n: int) -> Any:
    """Where in flat memory the elements lie that are picked from rows of n; None where an index is none of n."""
    if index.size == 1:
        i = index.item()
        return i if 0 <= i < n else None
    i = index.ravel()
    if i.view(np.uint64).max() >= n:  # negative ones are large
        return None
    return i + np.arange(0, i.size * n, n)


def _picked_quick(g: np.ndarray, input_shape: tuple, index: np.ndarray) -> np.ndarray:
    out = np.zeros(input_shape, g.dtype)
    out.reshape(-1)[_flat(index, input_shape[-1])] = g.item() if g.size == 1 else g.ravel()
    return out


def _picked_samples() -> Iterator[Sample]:
    for shape in ((4,), (1, 2), (2, 3, 5)):
        yield Sample((draw(rng(), shape), rng(1).integers(0, shape[-1], shape[:-1])))


@_one(_picked_body, ("input",), _picked_quick, _picked_samples, _leading, node="SqueezeBackward1")
def picked_op(input: Tensor, index: Tensor) -> Tensor:
    """The element of each row, a last dimension, that an index tells."""
    at = _flat(index, input.shape[-1])
    return input.reshape(-1)[at].reshape(index.shape)


def picked(input: Tensor, index: Tensor) -> Tensor:
    """The element of each row, a last dimension, that an int64 index tells."""
    if _few(input) and index.__class__ in PLAIN and input._a.ndim:
        a, i = input._a, index._a
        if (
            i.__class__ is np.ndarray
            and i.dtype is dt.int64.np
            and i.shape == a.shape[:-1]
            and a.flags.c_contiguous
        ):
            at = _flat(i, a.shape[-1])
            if at is not None:
                return _recorded(picked_op.op, (input, index), a.reshape(-1)[at].reshape(i.shape))
    return _picked_body(input, index)


def _entropy_body(logits: Tensor, probs: Tensor, least: float) -> Tensor:
    return -(logits.clamp(least) * probs).sum(-1)


def _entropy_quick(g: np.ndarray, logits: np.ndarray, probs: np.ndarray, least: float) -> tuple:
    g = (-g)[..., None]
    inner = np.where(logits >= least, g * probs, g.dtype.type(0))
    return inner, g * np.maximum(least, logits)


def _entropy_samples() -> Iterator[Sample]:
    for shape in ((4,), (1, 2), (2, 3, 5)):
        yield Sample((draw(rng(), shape), draw(rng(1), shape, 0.1, 1.0), -1e30))


@_one(
    _entropy_body,
    ("logits", "probs"),
    _entropy_quick,
    _entropy_samples,
    _leading,
    node="NegBackward0",
)
def entropy_op(logits: Tensor, probs: Tensor, least: float) -> Tensor:
    """The sum of -p log p along the last dimension, logarithms being at least so large."""
    return np.negative(_sum(np.maximum(least, logits) * probs, -1))


def entropy(logits: Tensor, probs: Tensor) -> Tensor:
    """The sum of -p log p along the last dimension; where p is 0 so is that."""
    least = dt.finfo(logits.dtype).min
    if _alike(logits, probs) and logits._a.flags.c_contiguous and probs._a.flags.c_contiguous:
        args = (logits, probs, least)
        return _recorded(entropy_op.op, args, entropy_op.op.reference(logits._a, probs._a, least))
    return _entropy_body(logits, probs, least)


# ---------------------------------------------------------------- numbers


def _gaussian_body(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    z = (value - loc) / scale
    return -0.5 * z.square() - scale.log() - _HALF_LOG_TAU


def _gaussian_quick(
    g: np.ndarray, value: np.ndarray, loc: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    d = value - loc
    at_z = g * -0.5 * (d / scale * 2)
    at_d = at_z / scale
    return at_d, -at_d, -g / scale - at_z * (d / scale / scale)


def _gaussian_samples() -> Iterator[Sample]:
    for shape in ((4,), (), (2, 3)):
        yield Sample((draw(rng(), shape), draw(rng(1), shape), draw(rng(2), shape, 0.5, 2.0)))


@_one(
    _gaussian_body,
    ("value", "loc", "scale"),
    _gaussian_quick,
    _gaussian_samples,
    node="SubBackward0",
)
def gaussian_op(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The logarithm of the normal density."""
    z = (value - loc) / scale
    return np.square(z) * -0.5 - np.log(scale) - _HALF_LOG_TAU


def gaussian(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The logarithm of the density of normal numbers of this mean and standard deviation."""
    if _alike(value, loc, scale):
        args = (value, loc, scale)
        try:
            return _recorded(
                gaussian_op.op, args, gaussian_op.op.reference(value._a, loc._a, scale._a)
            )
        except RuntimeWarning:
            pass
    return _gaussian_body(value, loc, scale)
