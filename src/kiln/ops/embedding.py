"""Table lookups: embedding, embedding_bag, one_hot."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import no_grad
from ..errors import (
    CaptureError,
    KilnError,
    KilnIndexError,
    KilnNotImplementedError,
    KilnValueError,
    describe,
)
from ..shape import Size, numel
from ..tensor import CAPTURING, PLAIN, Tensor, active_capture, wrap
from .activation import widen
from .dispatch import expect_tensor
from .registry import FUNCTIONS, Sample, composition, op
from .samples import draw, rng
from .selection import where_op

# ---------------------------------------------------------------- embedding


def _embedding_infer(
    input: Any, weight: Any, padding_idx: Any = None, scale_grad_by_freq: bool = False, sparse: bool = False
) -> tuple:  # fmt: skip
    given = f"input={describe(input)}, weight={describe(weight)}"
    if input.dtype not in (dt.int64, dt.int32):
        raise KilnError(
            "embedding",
            f"expected int64 or int32 indices, got {input.dtype.name}",
            given,
            "input.long()",
        )
    if len(weight.shape) != 2:
        raise KilnError("embedding", "'weight' must be 2-D", given, "(rows, features)")
    return Size((*input.shape, weight.shape[1])), weight.dtype


_FEW = 32  # indices that Python looks through sooner than NumPy


def _check_rows(name: str, index: np.ndarray, rows: int) -> None:
    if not index.size:
        return
    if index.size <= _FEW:
        places = index.reshape(-1).tolist()
        low, high = min(places), max(places)
    else:
        low, high = np.minimum.reduce(index, axis=None), np.maximum.reduce(index, axis=None)
    if low < 0 or high >= rows:
        wrong = index[(index < 0) | (index >= rows)].flat[0]
        raise KilnIndexError(
            name,
            "index out of range in self",
            f"{wrong} for {rows} rows",
            f"indices go from 0 to {rows - 1}",
        )


def _embedding_grad_body(
    grad: Tensor, input: Tensor, rows: int, padding_idx: int | None, scale_grad_by_freq: bool
) -> Tensor:
    n, d = numel(input.shape), grad.shape[-1]
    index, g = input.reshape(n).long(), widen(grad).reshape(n, d)
    if padding_idx is not None:
        g = where_op((index == padding_idx).unsqueeze(1), 0, g)
    if scale_grad_by_freq:
        counts = g.new_zeros((rows,)).index_add(0, index, g.new_ones((n,)))
        g = g / counts.index_select(0, index).unsqueeze(1)
    return g.new_zeros((rows, d)).index_add(0, index, g).to(grad.dtype)


@op(
    private=True, check=False, body=_embedding_grad_body,
    infer=lambda grad, input, rows, padding_idx, scale_grad_by_freq: (Size((rows, grad.shape[-1])), grad.dtype),
    grad={"grad": lambda g, input, padding_idx, scale_grad_by_freq: _embedding_grad_grad(
        g, input, padding_idx, scale_grad_by_freq
    )},
    samples=lambda: iter([
        Sample((draw(rng(), (5, 3)), np.array([0, 2, 0, 1, 3]), 4, None, False)),
        Sample((draw(rng(), (2, 2, 3)), np.array([[0, 2], [0, 1]]), 4, 0, True)),
        Sample((draw(rng(), (0, 3)), np.zeros((0,), np.int64), 4, None, False)),
    ]),
)  # fmt: skip
def embedding_grad(
    grad: Tensor, input: Tensor, rows: int, padding_idx: int | None, scale_grad_by_freq: bool
) -> Tensor:
    """The sum of the gradients of each row's uses; none for `padding_idx`."""
    d = grad.shape[-1]
    index, g = input.reshape(-1), grad.reshape(input.size, d)
    out = np.zeros((rows, d), grad.dtype)
    order = np.argsort(index, kind="stable")
    index = index[order]
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    if starts.size:
        sums = np.add.reduceat(g[order], starts, axis=0)
        if scale_grad_by_freq:
            sums /= np.diff(starts, append=index.size)[:, None].astype(g.dtype)
        out[index[starts]] = sums
    if padding_idx is not None:
        out[padding_idx] = 0
    return out


def _quick_rows(
    g: np.ndarray, input: np.ndarray, in_shape: tuple, padding_idx: Any, by_freq: bool, sparse: bool
) -> np.ndarray:
    if sparse:
        raise NotImplementedError  # of arrays
    return embedding_grad.op.eager(g, input, in_shape[0], padding_idx, by_freq)


def _embedding_grad_grad(
    g: Tensor, input: Tensor, padding_idx: int | None, by_freq: bool
) -> Tensor:
    out = embedding_op(input, g, padding_idx, False)
    if by_freq:
        n = numel(input.shape)
        index = input.reshape(n).long()
        counts = g.new_zeros((g.shape[0],)).index_add(0, index, g.new_ones((n,)))
        out = out / counts.index_select(0, index).reshape(*input.shape, 1)
    if padding_idx is not None:
        out = where_op((input == padding_idx).unsqueeze(-1), 0, out)
    return out


def _embedding_samples() -> Any:
    r = rng(51)
    w = draw(r, (5, 3))
    for index in (
        np.array([0, 4, 1, 1]),
        np.array(2),
        np.array([[1, 2], [3, 1]]),
        np.zeros((0,), np.int64),
    ):
        yield Sample((index, w))
        yield Sample((index, w), {"padding_idx": 1}, grad=False)
        yield Sample((index, w), {"padding_idx": -1, "scale_grad_by_freq": True}, grad=False)
    yield Sample((np.array([1, 2], np.int32), w))
    yield Sample((np.array([5]), w), error=IndexError)
    yield Sample((np.array([-1]), w), error=IndexError)
    yield Sample((draw(r, (2,)), w), error=RuntimeError)
    yield Sample((np.array([1]), w[0]), error=RuntimeError)


@op(
    name="embedding", private=True, exact=True, check=False, infer=_embedding_infer,
    batch=lambda n, input, weight, *rest: None if weight.batched else (input.tensor, weight.tensor, *rest),
    samples=lambda: iter([Sample((np.array([0, 4, 1, 1]), draw(rng(), (5, 3)), None, False))]),
    body=lambda input, weight, padding_idx, scale_grad_by_freq, sparse: weight.index_select(
        0, input.reshape(numel(input.shape))
    ).reshape(*input.shape, weight.shape[1]),
    grad={"weight": lambda g, input, in_shape, padding_idx, scale_grad_by_freq, sparse: (
        _sparse_grad(g, input, in_shape, padding_idx, scale_grad_by_freq) if sparse else
        embedding_grad(g, input, in_shape[0], padding_idx, scale_grad_by_freq)
    )},
    quick={"weight": lambda g, input, in_shape, padding_idx, scale_grad_by_freq, sparse: _quick_rows(
        g, input, in_shape, padding_idx, scale_grad_by_freq, sparse)},
)  # fmt: skip
def embedding_op(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None,
    scale_grad_by_freq: bool,
    sparse: bool = False,
) -> Tensor:
    """weight[input]: the rows at the indices."""
    if input.dtype.kind != "i" or input.dtype.itemsize < 4 or weight.ndim != 2:
        raise TypeError  # the shape rule tells why
    _check_rows("embedding", input, weight.shape[0])
    if weight.dtype.isbuiltin == 1:
        return weight.take(input, 0)
    return dt.bits(weight).take(input, axis=0).view(weight.dtype)


def _renormalize(weight: Tensor, input: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale down, in place, the rows in use whose norm is above max_norm."""
    with no_grad():
        n = numel(input.shape)
        used = weight.new_zeros((weight.shape[0],)).index_fill(0, input.reshape(n).long(), 1) > 0
        norms = weight.detach().norm(norm_type, 1)
        scale = where_op(used & (norms > max_norm), max_norm / (norms + 1e-7), 1)
        weight.mul_(scale.unsqueeze(1))


def _padding_row(name: str, padding_idx: int | None, rows: Any) -> int | None:
    if padding_idx is None:
        return None
    if isinstance(rows, int) and not -rows <= padding_idx < rows:
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx + rows if padding_idx < 0 else padding_idx


def _sparse_grad(
    g: Tensor, input: Tensor, shape: Any, padding_idx: int | None, by_freq: bool
) -> Tensor:
    """The gradient of a table as a sparse tensor: a row for each use."""
    from ..sparse.tensor import coo

    if active_capture() is not None:
        raise CaptureError(
            "compile", "sparse gradients have no fixed size, so they can't be captured", describe(g),
            "leave sparse=False in a compiled step: its dense gradient goes where it is used",
        )  # fmt: skip
    n = numel(input.shape)
    index, rows = input.reshape(n).long(), g.reshape(n, shape[1])
    if padding_idx is not None:
        used = (index != padding_idx).nonzero().reshape(-1)
        index, rows = index.index_select(0, used), rows.index_select(0, used)
    if by_freq:
        raise KilnError(
            "embedding", "scale_grad_by_freq is not defined for sparse gradients", describe(g), ""
        )
    return coo(index.reshape(1, index.shape[0]), rows, shape)


@composition(namespace="F", samples=_embedding_samples)
def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
              norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False) -> Tensor:  # fmt: skip
    """The rows of weight (rows, features) at the indices: input (*) gives (*, features).

    The row `padding_idx` gets no gradient; rows in use with a norm above `max_norm` are scaled down in
    place; `scale_grad_by_freq` divides a row's gradient by its number of uses; `sparse` makes the table's
    gradient a sparse tensor, for the optimizers SparseAdam, SGD and Adagrad.
    """
    if padding_idx is not None:
        padding_idx = _padding_row("embedding", padding_idx, weight.shape[0])
    if max_norm is not None:
        _renormalize(weight, input, max_norm, norm_type)
    return embedding_op(input, weight, padding_idx, bool(scale_grad_by_freq), bool(sparse))


def _sums_infer(input: Any, weight: Any, bag: Any, bags: int) -> tuple:
    shape, d = _embedding_infer(input, weight)
    return Size((bags, shape[-1])), d


def _sums_samples() -> Any:
    r = rng(55)
    w = draw(r, (5, 3))
    for index, bag in (([0, 4, 1, 1], [2, 0, 0, 3]), ([3], [0]), ([], [])):
        yield Sample((np.array(index, np.int64), w, np.array(bag, np.int64), 4))
    index = r.integers(0, 5, (600,))
    yield Sample((index, w, np.sort(r.integers(0, 4, (600,))), 4), grad=False)
    yield Sample((np.array([5]), w, np.array([0]), 1), error=IndexError)


@op(
    private=True, check=False, infer=_sums_infer, samples=_sums_samples, node="EmbeddingBagBackward0",
    body=lambda input, weight, bag, bags: weight.new_zeros((bags, weight.shape[1])).index_add(
        0, bag, weight.index_select(0, input)
    ),
    grad={"weight": lambda g, input, in_shape, bag: embedding_sums(bag, g, input, in_shape[0])},
    quick={"weight": lambda g, input, in_shape, bag: embedding_sums.op.eager(bag, g, input, in_shape[0])},
)  # fmt: skip
def embedding_sums(input: Tensor, weight: Tensor, bag: Tensor, bags: int) -> Tensor:
    """Sums of the rows weight[input] that are in one bag; with the indices exchanged its own gradient."""
    if input.dtype.kind != "i" or weight.ndim != 2:
        raise TypeError  # the shape rule tells why
    _check_rows("embedding_bag", input, weight.shape[0])
    return embedding_grad.op.reference(weight[input], bag, bags, None, False)


def _bag_samples() -> Any:
    r = rng(52)
    w = draw(r, (6, 3))
    two, one = np.array([[0, 5, 2], [1, 1, 4]]), np.array([0, 5, 2, 1, 1, 4])
    offsets = np.array([0, 2, 2, 5])
    for mode in ("sum", "mean", "max"):
        yield Sample((two, w), {"mode": mode})
        yield Sample((one, w, offsets), {"mode": mode})
        yield Sample((two, w), {"mode": mode, "padding_idx": 1})
        yield Sample((one, w, offsets), {"mode": mode, "padding_idx": 4})
    yield Sample((one, w, np.array([0, 2, 6])), {"include_last_offset": True, "mode": "sum"})
    yield Sample((two, w), {"mode": "sum", "per_sample_weights": draw(r, (2, 3))})
    yield Sample((one, w, offsets), {"mode": "sum", "per_sample_weights": draw(r, (6,))})
    yield Sample((one, w), error=ValueError)
    yield Sample((two, w, offsets), error=ValueError)
    yield Sample((one, w, np.array([1, 2])), error=RuntimeError)
    yield Sample((one, w, np.array([0, 9])), error=RuntimeError)
    yield Sample((two, w), {"mode": "most"}, error=ValueError)
    yield Sample((two, w), {"per_sample_weights": draw(r, (2, 3))}, error=NotImplementedError)


def _bags(name: str, input: Any, offsets: Any, include_last: bool) -> tuple[Any, Any, Any]:
    """Flat indices, the bag of each, and the number of bags."""
    arange = FUNCTIONS["arange"]
    if input.ndim == 2:
        if offsets is not None:
            raise KilnValueError(
                name, "if input is 2D, then offsets has to be None, as input is treated as a mini-batch of fixed "
                "length sequences", describe(offsets), "",
            )  # fmt: skip
        b, n = input.shape
        return input.reshape(b * n), arange(b).unsqueeze(1).expand(b, n).reshape(b * n), b
    if input.ndim != 1:
        raise KilnValueError(name, "input has to be 1D or 2D Tensor", describe(input), "")
    if offsets is None or offsets.ndim != 1:
        raise KilnValueError(
            name,
            "offsets has to be a 1D Tensor",
            describe(offsets),
            "where each bag begins in input",
        )
    n = input.shape[0]
    if isinstance(offsets._a, np.ndarray) and offsets._a.size:
        if offsets._a[0] != 0:
            raise KilnError(name, "offsets[0] has to be 0", f"offsets[0]={offsets._a[0]}", "")
        if offsets._a[-1] > n:
            raise KilnError(
                name,
                f"offsets[-1] can not be greater than input's length {n}",
                f"offsets[-1]={offsets._a[-1]}",
                "",
            )
    if include_last:
        offsets = offsets[:-1]
    if CAPTURING or offsets._a.__class__ is not np.ndarray:
        bag = (arange(n).unsqueeze(1) >= offsets).sum(1) - 1
    else:
        bag = wrap(_bag_of_each(offsets._a, n))
    return input, bag, offsets.shape[0]


def _bag_of_each(offsets: np.ndarray, n: int) -> np.ndarray:
    """Which bag each of n entries is in."""
    many = np.diff(offsets, append=n)
    if many.size and many.min() >= 0:
        return np.arange(len(offsets)).repeat(many)
    return np.searchsorted(np.sort(offsets), np.arange(n), "right") - 1


@composition(namespace="F", samples=_bag_samples)
def embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
                  norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
                  per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
                  padding_idx: int | None = None) -> Tensor:  # fmt: skip
    """The sum, mean or max of the rows in each bag: (bags, n) indices, or flat ones with `offsets`.

    Entries equal to `padding_idx` count for nothing; an empty bag gives zeros.
    """
    name = "embedding_bag"
    if mode not in ("sum", "mean", "max"):
        raise KilnValueError(name, "mode has to be one of sum, mean or max", repr(mode), "")
    if per_sample_weights is not None and mode != "sum":
        raise KilnNotImplementedError(
            name, "per_sample_weights is only supported for mode='sum'", f"mode={mode!r}", ""
        )
    if per_sample_weights is not None and per_sample_weights.shape != input.shape:
        raise KilnValueError(
            name,
            "per_sample_weights must have the shape of input",
            describe(per_sample_weights),
            "",
        )
    index, bag, bags = _bags(name, input, offsets, include_last_offset)
    padding_idx = _padding_row(name, padding_idx, weight.shape[0])
    if max_norm is not None:
        _renormalize(weight, index, max_norm, norm_type)
    if mode == "max" and (sparse or scale_grad_by_freq):
        what = "sparse gradients" if sparse else "scaling the gradient by frequency"
        raise KilnValueError(
            name, f"max mode does not support {what}", "mode='max'", "leave it out"
        )
    if (
        mode != "max" and padding_idx is per_sample_weights is None and not (scale_grad_by_freq or sparse)
        and not CAPTURING and index._a.__class__ is bag._a.__class__ is np.ndarray
    ):  # fmt: skip
        out = embedding_sums(index.long(), weight, bag, bags)
        if mode == "sum":
            return out
        many = np.bincount(bag._a, minlength=bags) if offsets is not None else input.shape[1]
        counts = np.maximum(many, 1).astype(out._a.dtype)
        return out / wrap(counts.reshape(-1, 1))
    rows = embedding_op(index, weight, padding_idx, bool(scale_grad_by_freq), bool(sparse))
    counted = None if padding_idx is None else index != padding_idx
    if mode == "max":
        return _bag_max(rows, bag, bags, counted)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(numel(per_sample_weights.shape), 1)
    if counted is not None:
        rows = where_op(counted.unsqueeze(1), rows, 0)
    if offsets is None:  # bags of one length
        out = rows.reshape(*input.shape, weight.shape[1]).sum(1)
    else:
        out = rows.new_zeros((bags, weight.shape[1])).index_add(0, bag, rows)
    if mode != "mean":
        return out
    ones = rows.new_ones((rows.shape[0],)) if counted is None else counted.to(rows.dtype)
    if offsets is None:
        counts = ones.reshape(input.shape).sum(1)
    else:
        counts = rows.new_zeros((bags,)).index_add(0, bag, ones)
    return out / counts.clamp(min=1).unsqueeze(1)


def _bag_max(rows: Tensor, bag: Tensor, bags: Any, counted: Any) -> Tensor:
    if rows.shape[0] == 0:
        return rows.new_zeros((bags, rows.shape[1]))
    inside = FUNCTIONS["arange"](bags).unsqueeze(1) == bag
    if counted is not None:
        inside = inside & counted
    inside = inside.unsqueeze(-1)  # (bags, entries, 1)
    best = where_op(inside, rows.detach(), float("-inf")).argmax(1)
    return where_op(inside.any(1), rows.gather(0, best), 0)


def _range(a: np.ndarray) -> tuple[int, int]:
    """The least and the largest of some integers; 0 and -1 of none."""
    if a.size < 2:
        return (a.item(), a.item()) if a.size else (0, -1)
    return int(np.minimum.reduce(a, None)), int(np.maximum.reduce(a, None))


@composition(namespace="F", samples=lambda: iter([
    Sample((np.array([0, 2, 1]),), grad=False), Sample((np.array([[0], [2]]), 4), grad=False),
    Sample((np.array(1), 3), grad=False), Sample((np.array([3]), 3), error=RuntimeError),
    Sample((draw(rng(), (3,)), 3), error=RuntimeError),
]))  # fmt: skip
def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 zeros with a one at each index, in a new last dimension of `num_classes`."""
    expect_tensor("one_hot", tensor)
    if tensor.dtype is not dt.int64:
        raise KilnError(
            "one_hot", "only applicable to int64 index tensors", describe(tensor), "x.long()"
        )
    if num_classes == -1 or active_capture() is None:
        a = tensor._host("one_hot")
        if a.size == 0 and num_classes <= 0:
            raise KilnError(
                "one_hot",
                "can't infer the number of classes of an empty tensor",
                describe(tensor),
                "",
            )
        low, high = _range(a)
        if low < 0:
            raise KilnError("one_hot", "class values must be non-negative", f"{low}", "")
        if num_classes == -1:
            num_classes = high + 1
        elif high >= num_classes:
            raise KilnError(
                "one_hot",
                "class values must be smaller than num_classes",
                f"{high} >= {num_classes}",
                "",
            )
        if not CAPTURING and tensor.__class__ in PLAIN:
            out = np.zeros((*a.shape, num_classes), np.int64)
            out.reshape(a.size, num_classes)[np.arange(a.size), a.reshape(-1)] = 1
            return wrap(out)
    classes = FUNCTIONS["arange"](num_classes)
    return (tensor.unsqueeze(-1) == classes).to(dt.int64)
