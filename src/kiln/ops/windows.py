"""Sliding windows as ops: the windows themselves, the largest and the mean of each, and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnNotImplementedError, describe
from ..shape import Size, numel
from ..tensor import Tensor
from ._windows import cropped, out_size, overlap_add, padded, sliding, span, taps
from .activation import mask_bits
from .registry import FUNCTIONS, LEADING, Sample, op
from .samples import draw, rng
from .selection import where_op
from .slicing import pad_op, slice_op

# Note [Windows]
# Every pooling op reads windows of an input padded by `padding` on both sides and by `extra` at the
# end (what `ceil_mode` adds). In the loops of references a window's taps come one after another,
# each as one strided slice: NumPy is quick at that. Bodies use `windows`, one strided view.


def _windows_infer(input: Any, kernel: tuple, stride: tuple, dilation: tuple) -> tuple:
    n = len(kernel)
    sizes = input.shape[-n:]
    out = (out_size(*a) for a in zip(sizes, kernel, stride, dilation, strict=True))
    return Size((*input.shape[:-n], *out, *kernel)), input.dtype


def _window_samples() -> Any:
    r = rng(21)
    yield Sample((draw(r, (2, 7)), (3,), (2,), (1,)))
    yield Sample((draw(r, (2, 5, 6)), (2, 3), (1, 2), (2, 1)))
    yield Sample((draw(r, (6, 5)), (2, 2), (2, 3), (1, 1)))
    yield Sample((draw(r, (0, 5)), (2,), (1,), (1,)))


@op(
    private=True, batch=LEADING, family="movement", exact=True, check=False, infer=_windows_infer, samples=_window_samples,
    grad={"input": lambda g, in_shape, kernel, stride, dilation: windows_grad(
        g, tuple(in_shape[-len(kernel):]), kernel, stride, dilation
    )},
)  # fmt: skip
def windows(input: Tensor, kernel: tuple, stride: tuple, dilation: tuple) -> Tensor:
    """The sliding windows over the last len(kernel) dimensions: (…, *size) to (…, *out, *kernel)."""
    return sliding(input, kernel, stride, dilation)


def _windows_grad_samples() -> Any:
    r = rng(22)
    yield Sample((draw(r, (2, 3, 3)), (7,), (3,), (2,), (1,)))
    yield Sample((draw(r, (2, 3, 2, 2, 3)), (5, 6), (2, 3), (1, 2), (2, 1)))
    yield Sample((draw(r, (0, 4, 2)), (5,), (2,), (1,), (1,)))


@op(
    private=True, batch=LEADING, family="movement", check=False, samples=_windows_grad_samples,
    infer=lambda grad, input_size, kernel, stride, dilation: (
        Size((*grad.shape[: -2 * len(kernel)], *input_size)), grad.dtype
    ),
    grad={"grad": lambda g, kernel, stride, dilation: windows(g, kernel, stride, dilation)},
)  # fmt: skip
def windows_grad(
    grad: Tensor, input_size: tuple, kernel: tuple, stride: tuple, dilation: tuple
) -> Tensor:
    """The transpose of `windows`: what lies in the windows added up, (…, *out, *kernel) to (…, *input_size)."""
    return overlap_add(grad, input_size, kernel, stride, dilation)


# ---------------------------------------------------------------- geometry in ops


def pad_around(x: Tensor, padding: tuple, extra: tuple, value: Any) -> Tensor:
    if not any(padding) and not any(extra):
        return x
    lead = (0,) * (x.ndim - len(padding))
    return pad_op(
        x, (*lead, *padding), (*lead, *(p + e for p, e in zip(padding, extra, strict=True))), value
    )


def crop(x: Tensor, padding: tuple, sizes: tuple) -> Tensor:
    if tuple(x.shape[-len(sizes) :]) == tuple(sizes):
        return x
    lead = tuple(x.shape[: x.ndim - len(sizes)])
    stop = (*lead, *(p + s for p, s in zip(padding, sizes, strict=True)))
    return slice_op(x, (0,) * len(lead) + tuple(padding), stop, (1,) * x.ndim)


def _padded_sizes(sizes: Sequence[Any], padding: tuple, extra: tuple) -> tuple:
    return tuple(s + 2 * p + e for s, p, e in zip(sizes, padding, extra, strict=True))


def _lowest(d: dt.dtype) -> Any:
    """A value below all others: what uint8 is padded with needs a wider dtype."""
    return float("-inf") if d.is_floating_point else -1 if d is dt.uint8 else dt.iinfo(d).min


# ---------------------------------------------------------------- max


def _tap_dtype(kernel: tuple) -> dt.dtype:
    return dt.uint8 if numel(kernel) <= 256 else dt.int32


def _max_infer(
    input: Any, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple
) -> list:
    n = len(kernel)
    if input.dtype.category in (dt.BOOL, dt.COMPLEX):
        raise KilnNotImplementedError(
            f"max_pool{n}d",
            f"not implemented for {input.dtype.name}",
            describe(input),
            "convert first: x.float()",
        )
    sizes = _padded_sizes(input.shape[-n:], padding, extra)
    out = (out_size(*a) for a in zip(sizes, kernel, stride, dilation, strict=True))
    shape = Size((*input.shape[:-n], *out))
    return [(shape, input.dtype), (shape, _tap_dtype(kernel))]


def _max_body(
    input: Tensor, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple
) -> tuple:
    x = input.to(dt.int16) if input.dtype is dt.uint8 else input
    w = windows(pad_around(x, padding, extra, _lowest(input.dtype)), kernel, stride, dilation)
    w = w.reshape(*w.shape[: w.ndim - len(kernel)], numel(kernel))
    return w.amax(-1).to(input.dtype), w.argmax(-1).to(_tap_dtype(kernel))


def _max_grad_body(
    grad: Tensor, taps: Tensor, input_size: tuple, kernel: tuple, stride: tuple, padding: tuple, extra: tuple,
    dilation: tuple,
) -> Tensor:  # fmt: skip
    at = FUNCTIONS["arange"](numel(kernel), dtype=taps.dtype)
    spread = where_op(taps.unsqueeze(-1) == at, grad.unsqueeze(-1), 0)
    spread = spread.reshape(*grad.shape, *kernel)
    return crop(
        windows_grad(spread, _padded_sizes(input_size, padding, extra), kernel, stride, dilation),
        padding,
        input_size,
    )


def _max_take_body(
    input: Tensor,
    taps: Tensor,
    kernel: tuple,
    stride: tuple,
    padding: tuple,
    extra: tuple,
    dilation: tuple,
) -> Tensor:
    w = windows(pad_around(input, padding, extra, 0), kernel, stride, dilation)
    w = w.reshape(*taps.shape, numel(kernel))
    return w.gather(-1, taps.unsqueeze(-1).long()).squeeze(-1)


def _pool_geometries() -> Any:
    """(input, kernel, stride, padding, extra, dilation)."""
    yield (2, 3, 8), (2,), (2,), (0,), (0,), (1,)
    yield (2, 3, 8), (3,), (2,), (1,), (1,), (1,)
    yield (2, 3, 6, 7), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1)
    yield (2, 3, 6, 8), (3, 2), (1, 3), (1, 0), (0, 1), (2, 1)
    yield (1, 2, 4, 5, 4), (2, 3, 2), (2, 1, 2), (1, 1, 0), (0, 0, 0), (1, 1, 1)


def distinct(r: np.random.Generator, shape: tuple) -> np.ndarray:
    """Values at least 0.01 apart, so that no step of a gradient check changes which is largest."""
    n = int(np.prod(shape))
    return (r.permutation(n) / 100.0 - n / 200).reshape(shape)


def _max_samples() -> Any:
    r = rng(23)
    for xs, *rest in _pool_geometries():
        yield Sample((distinct(r, xs), *rest))


def _out_of(
    xs: tuple, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple
) -> tuple:
    n = len(kernel)
    sizes = _padded_sizes(xs[-n:], padding, extra)
    return (*xs[:-n], *(out_size(*a) for a in zip(sizes, kernel, stride, dilation, strict=True)))


def _max_grad_samples() -> Any:
    r = rng(24)
    for xs, kernel, *rest in _pool_geometries():
        out = _out_of(xs, kernel, *rest)
        taps_ = r.integers(0, numel(kernel), out).astype(np.uint8)
        yield Sample((draw(r, out), taps_, xs[2:], kernel, *rest))


def _max_take_samples() -> Any:
    r = rng(25)
    for xs, kernel, *rest in _pool_geometries():
        taps_ = r.integers(0, numel(kernel), _out_of(xs, kernel, *rest)).astype(np.uint8)
        yield Sample((draw(r, xs), taps_, kernel, *rest))


@op(
    node=("MaxPool2DWithIndicesBackward0", lambda node: f"MaxPool{len(node.args[1])}DWithIndicesBackward0"), private=True, batch=LEADING, lies="channels", formal=("input",), infer=_max_infer, body=_max_body, samples=_max_samples, nondiff_outputs=(1,),
    grad={"input": lambda gs, picks, in_shape, kernel, stride, padding, extra, dilation: max_pool_grad(
        gs[0], picks, tuple(in_shape[-len(kernel):]), kernel, stride, padding, extra, dilation
    )},
)  # fmt: skip
def max_pool(
    input: Tensor, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple
) -> Tensor:
    """The largest value of each window, and which tap of the window it is (the first one at ties).

    NaN is the largest. Of several in one window it is the first as well, where PyTorch takes the last.
    """
    d = input.dtype
    x = padded(
        input.astype(np.int16) if d == np.uint8 else input, padding, _lowest(dt.OF_NUMPY[d]), extra
    )
    out = tuple(
        out_size(*a) for a in zip(x.shape[-len(kernel) :], kernel, stride, dilation, strict=True)
    )
    values = first = None
    index = _tap_dtype(kernel).np.type
    places = list(enumerate(taps(out, kernel, stride, dilation)))
    for i, where in places:
        v = x[(..., *where)]
        if values is None or first is None:
            values, first = v.copy(), np.zeros(v.shape, index)
        else:
            better = np.greater(v, values)
            np.maximum(
                first, better * index(i), out=first
            )  # i grows: where v is not better, first stays
            np.maximum(values, v, out=values)
    if values is not None and values.dtype.kind not in "iu" and np.isnan(values).any():
        for i, where in reversed(places):
            first[np.isnan(x[(..., *where)])] = i  # type: ignore[index]
    return values.astype(d, copy=False), first  # type: ignore[union-attr]


@op(
    private=True, batch=LEADING, check=False, body=_max_grad_body, samples=_max_grad_samples,
    infer=lambda grad, taps, input_size, kernel, stride, padding, extra, dilation: (
        Size((*grad.shape[: -len(kernel)], *input_size)), grad.dtype
    ),
    grad={"grad": lambda g, taps, kernel, stride, padding, extra, dilation: max_pool_take(
        g, taps, kernel, stride, padding, extra, dilation
    )},
)  # fmt: skip
def max_pool_grad(
    grad: Tensor, taps: Tensor, input_size: tuple, kernel: tuple, stride: tuple, padding: tuple, extra: tuple,
    dilation: tuple,
) -> Tensor:  # fmt: skip
    """Each window's gradient at the tap that was largest."""
    n = len(kernel)
    x = np.zeros((*grad.shape[:-n], *_padded_sizes(input_size, padding, extra)), grad.dtype)
    grad = np.ascontiguousarray(grad)
    apart = all(s >= span(k, d) for s, k, d in zip(stride, kernel, dilation, strict=True))
    if scatters(kernel):
        places = _tap_places(taps, x.shape[-n:], kernel, stride, dilation)
        np.add.at(x.reshape(-1), places.reshape(-1), grad.reshape(-1))
        return cropped(x, padding, input_size)
    for i, where in enumerate(_taps(grad.shape[-n:], kernel, stride, dilation)):
        part = mask_bits(grad, taps != i) if grad.ndim else grad * (taps == i)
        if apart:
            x[(..., *where)] = part
        else:
            x[(..., *where)] += part
    return cropped(x, padding, input_size)


_taps = taps  # the op's parameter has the name of the function


def scatters(kernel: tuple) -> bool:
    """Whether windows are so large that their gradients go to their places sooner than all elements look for theirs."""
    return numel(kernel) >= 16


def _tap_places(
    taps: np.ndarray, sizes: tuple, kernel: tuple, stride: tuple, dilation: tuple
) -> np.ndarray:
    """Where in flat memory of images of these sizes the taps of all windows lie."""
    n = len(kernel)
    image, ahead = np.arange(taps[..., *[0] * n].size) * numel(sizes), np.zeros(kernel, np.int64)
    places = image.reshape(*taps.shape[:-n], *[1] * n)
    for i, (s, d) in enumerate(zip(stride, dilation, strict=True)):
        step = numel(sizes[i + 1 :])
        along = [-1 if j == i else 1 for j in range(n)]
        places = places + (np.arange(taps.shape[i - n]) * (s * step)).reshape(along)
        ahead += (np.arange(kernel[i]) * (d * step)).reshape(along)
    return places + ahead.reshape(-1)[taps]


@op(
    private=True, batch=LEADING, check=False, body=_max_take_body, samples=_max_take_samples,
    infer=lambda input, taps, kernel, stride, padding, extra, dilation: (Size(taps.shape), input.dtype),
    grad={"input": lambda g, in_shape, taps, kernel, stride, padding, extra, dilation: max_pool_grad(
        g, taps, tuple(in_shape[-len(kernel):]), kernel, stride, padding, extra, dilation
    )},
)  # fmt: skip
def max_pool_take(
    input: Tensor,
    taps: Tensor,
    kernel: tuple,
    stride: tuple,
    padding: tuple,
    extra: tuple,
    dilation: tuple,
) -> Tensor:
    """From each window of input the value at the given tap."""
    x = padded(input, padding, 0, extra)
    out = np.zeros(taps.shape, input.dtype)
    for i, where in enumerate(_taps(taps.shape[-len(kernel) :], kernel, stride, dilation)):
        np.copyto(out, x[(..., *where)], where=taps == i)
    return out


# ---------------------------------------------------------------- mean


def _counts(
    size: Any, kernel: int, stride: int, padding: int, out: Any, include_pad: bool, arange: Any
) -> Any:
    """How many elements each window along one dimension counts; `arange` is NumPy's or Kiln's."""
    start = arange(out) * stride - padding
    stop = (start + kernel).clip(None, size + padding)
    return stop - start if include_pad else stop.clip(None, size) - start.clip(0, None)


def _divisor(
    sizes: Sequence[Any], kernel: tuple, stride: tuple, padding: tuple, extra: tuple, include_pad: bool,
    divisor: int | None, arange: Any,
) -> Any:  # fmt: skip
    """What the sums of windows are divided by: a number, or an array (*out)."""
    if divisor is not None:
        return divisor
    if not any(extra) and (include_pad or not any(padding)):
        return numel(kernel)
    total: Any = None
    n = len(kernel)
    for i, (s, k, t, p, e) in enumerate(zip(sizes, kernel, stride, padding, extra, strict=True)):
        out = out_size(s + 2 * p + e, k, t, 1)
        c = _counts(s, k, t, p, out, include_pad, arange).reshape((out,) + (1,) * (n - 1 - i))
        total = c if total is None else total * c
    return total


def _avg_infer(
    input: Any,
    kernel: tuple,
    stride: tuple,
    padding: tuple,
    extra: tuple,
    include_pad: bool,
    divisor: int | None,
) -> tuple:
    return Size(
        _out_of(tuple(input.shape), kernel, stride, padding, extra, (1,) * len(kernel))
    ), input.dtype


def _avg_body(
    input: Tensor,
    kernel: tuple,
    stride: tuple,
    padding: tuple,
    extra: tuple,
    include_pad: bool,
    divisor: int | None,
) -> Tensor:
    n = len(kernel)
    w = windows(pad_around(input, padding, extra, 0), kernel, stride, (1,) * n)
    by = _divisor(
        input.shape[-n:], kernel, stride, padding, extra, include_pad, divisor, FUNCTIONS["arange"]
    )
    return w.sum(tuple(range(w.ndim - n, w.ndim))) / by


def _avg_grad_body(
    grad: Tensor, input_size: tuple, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, include_pad: bool,
    divisor: int | None,
) -> Tensor:  # fmt: skip
    n = len(kernel)
    g = grad / _divisor(
        input_size, kernel, stride, padding, extra, include_pad, divisor, FUNCTIONS["arange"]
    )
    g = g.reshape(*grad.shape, *(1,) * n).expand(*grad.shape, *kernel)
    return crop(
        windows_grad(g, _padded_sizes(input_size, padding, extra), kernel, stride, (1,) * n),
        padding,
        input_size,
    )


def _avg_samples() -> Any:
    r = rng(26)
    for xs, kernel, stride, padding, extra, _ in _pool_geometries():
        for include_pad, divisor in ((True, None), (False, None), (True, 5)):
            yield Sample((draw(r, xs), kernel, stride, padding, extra, include_pad, divisor))


def _avg_grad_samples() -> Any:
    r = rng(27)
    for xs, kernel, stride, padding, extra, _ in _pool_geometries():
        out = _out_of(xs, kernel, stride, padding, extra, (1,) * len(kernel))
        yield Sample((draw(r, out), xs[2:], kernel, stride, padding, extra, False, None))


@op(
    node=("AvgPool2DBackward0", lambda node: f"AvgPool{len(node.args[1])}DBackward0"), private=True, batch=LEADING, lies="images", formal=("input",), check=False, infer=_avg_infer, body=_avg_body, samples=_avg_samples,
    grad={"input": lambda g, in_shape, kernel, stride, padding, extra, include_pad, divisor: avg_pool_grad(
        g, tuple(in_shape[-len(kernel):]), kernel, stride, padding, extra, include_pad, divisor
    )},
)  # fmt: skip
def avg_pool(
    input: Tensor,
    kernel: tuple,
    stride: tuple,
    padding: tuple,
    extra: tuple,
    include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """The sum of each window divided by its size (with or without padding) or by `divisor`."""
    n = len(kernel)
    x = padded(input, padding, 0, extra)
    out = tuple(out_size(*a, 1) for a in zip(x.shape[-n:], kernel, stride, strict=True))
    total = None
    for where in taps(out, kernel, stride, (1,) * n):
        v = x[(..., *where)]
        total = v.copy() if total is None else np.add(total, v, out=total)
    by = _divisor(input.shape[-n:], kernel, stride, padding, extra, include_pad, divisor, np.arange)
    if total.dtype.kind in "iu":
        return np.trunc(total / by).astype(total.dtype)
    return np.divide(total, by, out=total, dtype=total.dtype)


@op(
    private=True, batch=LEADING, check=False, body=_avg_grad_body, samples=_avg_grad_samples,
    infer=lambda grad, input_size, kernel, stride, padding, extra, include_pad, divisor: (
        Size((*grad.shape[: -len(kernel)], *input_size)), grad.dtype
    ),
    grad={"grad": lambda g, kernel, stride, padding, extra, include_pad, divisor: avg_pool(
        g, kernel, stride, padding, extra, include_pad, divisor
    )},
)  # fmt: skip
def avg_pool_grad(
    grad: Tensor, input_size: tuple, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, include_pad: bool,
    divisor: int | None,
) -> Tensor:  # fmt: skip
    """Each window's gradient shared by its elements."""
    n = len(kernel)
    x = np.zeros((*grad.shape[:-n], *_padded_sizes(input_size, padding, extra)), grad.dtype)
    by = _divisor(input_size, kernel, stride, padding, extra, include_pad, divisor, np.arange)
    g = np.divide(grad, by, dtype=grad.dtype)
    for where in taps(grad.shape[-n:], kernel, stride, (1,) * n):
        x[(..., *where)] += g
    return cropped(x, padding, input_size)
