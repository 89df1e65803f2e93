"""Pooling: the largest or the mean of each window, of fixed and of adaptive size; unfold and fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, describe
from ..shape import Size, numel
from ..tensor import Tensor
from ._windows import as_tuple, cropped, out_size, overlap_add, padded, sliding, span, taps
from .activation import _mask_bits
from .elementwise import where_op
from .movement import pad_op, slice_op
from .registry import FUNCTIONS, Sample, composition, op
from .samples import draw, rng

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
    private=True, family="movement", exact=True, check=False, infer=_windows_infer, samples=_window_samples,
    grad={"input": lambda g, input, kernel, stride, dilation: windows_grad(
        g, tuple(input.shape[-len(kernel):]), kernel, stride, dilation
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
    private=True, family="movement", check=False, samples=_windows_grad_samples,
    infer=lambda grad, input_size, kernel, stride, dilation: (
        Size((*grad.shape[: -2 * len(kernel)], *input_size)), grad.dtype
    ),
    grad={"grad": lambda g, kernel, stride, dilation: windows(g, kernel, stride, dilation)},
)  # fmt: skip
def windows_grad(grad: Tensor, input_size: tuple, kernel: tuple, stride: tuple, dilation: tuple) -> Tensor:
    """The transpose of `windows`: what lies in the windows added up, (…, *out, *kernel) to (…, *input_size)."""
    return overlap_add(grad, input_size, kernel, stride, dilation)


# ---------------------------------------------------------------- geometry in ops


def _pad_around(x: Tensor, padding: tuple, extra: tuple, value: Any) -> Tensor:
    if not any(padding) and not any(extra):
        return x
    lead = (0,) * (x.ndim - len(padding))
    return pad_op(x, (*lead, *padding), (*lead, *(p + e for p, e in zip(padding, extra, strict=True))), value)


def _crop(x: Tensor, padding: tuple, sizes: tuple) -> Tensor:
    if tuple(x.shape[-len(sizes) :]) == tuple(sizes):
        return x
    lead = tuple(x.shape[: x.ndim - len(sizes)])
    stop = (*lead, *(p + s for p, s in zip(padding, sizes, strict=True)))
    return slice_op(x, (0,) * len(lead) + tuple(padding), stop, (1,) * x.ndim)


def _padded_sizes(sizes: Sequence[Any], padding: tuple, extra: tuple) -> tuple:
    return tuple(s + 2 * p + e for s, p, e in zip(sizes, padding, extra, strict=True))


def _lowest(d: dt.dtype) -> Any:
    return float("-inf") if d.is_floating_point else dt.iinfo(d).min


# ---------------------------------------------------------------- max


def _tap_dtype(kernel: tuple) -> dt.dtype:
    return dt.uint8 if numel(kernel) <= 256 else dt.int32


def _max_infer(input: Any, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple) -> list:
    n = len(kernel)
    if input.dtype.category in (dt.BOOL, dt.COMPLEX):
        raise KilnNotImplementedError(
            f"max_pool{n}d", f"not implemented for {input.dtype.name}", describe(input), "convert first: x.float()"
        )
    sizes = _padded_sizes(input.shape[-n:], padding, extra)
    out = (out_size(*a) for a in zip(sizes, kernel, stride, dilation, strict=True))
    shape = Size((*input.shape[:-n], *out))
    return [(shape, input.dtype), (shape, _tap_dtype(kernel))]


def _max_body(input: Tensor, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple) -> tuple:
    x = _pad_around(input, padding, extra, _lowest(input.dtype))
    w = windows(x, kernel, stride, dilation)
    w = w.reshape(*w.shape[: w.ndim - len(kernel)], numel(kernel))
    return w.amax(-1), w.argmax(-1).to(_tap_dtype(kernel))


def _max_grad_body(
    grad: Tensor, taps: Tensor, input_size: tuple, kernel: tuple, stride: tuple, padding: tuple, extra: tuple,
    dilation: tuple,
) -> Tensor:  # fmt: skip
    at = FUNCTIONS["arange"](numel(kernel), dtype=taps.dtype)
    spread = where_op(taps.unsqueeze(-1) == at, grad.unsqueeze(-1), 0)
    spread = spread.reshape(*grad.shape, *kernel)
    return _crop(
        windows_grad(spread, _padded_sizes(input_size, padding, extra), kernel, stride, dilation), padding, input_size
    )


def _max_take_body(
    input: Tensor, taps: Tensor, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple
) -> Tensor:
    w = windows(_pad_around(input, padding, extra, 0), kernel, stride, dilation)
    w = w.reshape(*taps.shape, numel(kernel))
    return w.gather(-1, taps.unsqueeze(-1).long()).squeeze(-1)


def _pool_geometries() -> Any:
    """(input, kernel, stride, padding, extra, dilation)."""
    yield (2, 3, 8), (2,), (2,), (0,), (0,), (1,)
    yield (2, 3, 8), (3,), (2,), (1,), (1,), (1,)
    yield (2, 3, 6, 7), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1)
    yield (2, 3, 6, 8), (3, 2), (1, 3), (1, 0), (0, 1), (2, 1)
    yield (1, 2, 4, 5, 4), (2, 3, 2), (2, 1, 2), (1, 1, 0), (0, 0, 0), (1, 1, 1)


def _distinct(r: np.random.Generator, shape: tuple) -> np.ndarray:
    """Values at least 0.01 apart, so that no step of a gradient check changes which is largest."""
    n = int(np.prod(shape))
    return (r.permutation(n) / 100.0 - n / 200).reshape(shape)


def _max_samples() -> Any:
    r = rng(23)
    for xs, *rest in _pool_geometries():
        yield Sample((_distinct(r, xs), *rest))


def _out_of(xs: tuple, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple) -> tuple:
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
    private=True, infer=_max_infer, body=_max_body, samples=_max_samples, nondiff_outputs=(1,),
    grad={"input": lambda gs, outs, input, kernel, stride, padding, extra, dilation: max_pool_grad(
        gs[0], outs[1], tuple(input.shape[-len(kernel):]), kernel, stride, padding, extra, dilation
    )},
)  # fmt: skip
def max_pool(input: Tensor, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple) -> Tensor:
    """The largest value of each window, and which tap of the window it is (the first one at ties)."""
    lowest = -np.inf if input.dtype.kind == "f" else np.iinfo(input.dtype).min
    x = padded(input, padding, lowest, extra)
    out = tuple(out_size(*a) for a in zip(x.shape[-len(kernel) :], kernel, stride, dilation, strict=True))
    values = first = None
    index = _tap_dtype(kernel).np.type
    for i, where in enumerate(taps(out, kernel, stride, dilation)):
        v = x[(..., *where)]
        if values is None or first is None:
            values, first = v.copy(), np.zeros(v.shape, index)
        else:
            better = np.greater(v, values)
            np.maximum(first, better * index(i), out=first)  # i grows: where v is not better, first stays
            np.maximum(values, v, out=values)
    return values, first  # type: ignore[return-value]


@op(
    private=True, check=False, body=_max_grad_body, samples=_max_grad_samples,
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
    for i, where in enumerate(_taps(grad.shape[-n:], kernel, stride, dilation)):
        part = _mask_bits(grad, taps != i) if grad.ndim else grad * (taps == i)
        if apart:
            x[(..., *where)] = part
        else:
            x[(..., *where)] += part
    return cropped(x, padding, input_size)


_taps = taps  # the op's parameter has the name of the function


@op(
    private=True, check=False, body=_max_take_body, samples=_max_take_samples,
    infer=lambda input, taps, kernel, stride, padding, extra, dilation: (Size(taps.shape), input.dtype),
    grad={"input": lambda g, input, taps, kernel, stride, padding, extra, dilation: max_pool_grad(
        g, taps, tuple(input.shape[-len(kernel):]), kernel, stride, padding, extra, dilation
    )},
)  # fmt: skip
def max_pool_take(
    input: Tensor, taps: Tensor, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, dilation: tuple
) -> Tensor:
    """From each window of input the value at the given tap."""
    x = padded(input, padding, 0, extra)
    out = np.zeros(taps.shape, input.dtype)
    for i, where in enumerate(_taps(taps.shape[-len(kernel) :], kernel, stride, dilation)):
        np.copyto(out, x[(..., *where)], where=taps == i)
    return out


# ---------------------------------------------------------------- mean


def _counts(size: Any, kernel: int, stride: int, padding: int, out: Any, include_pad: bool, arange: Any) -> Any:
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
    input: Any, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, include_pad: bool, divisor: int | None
) -> tuple:
    return Size(_out_of(tuple(input.shape), kernel, stride, padding, extra, (1,) * len(kernel))), input.dtype


def _avg_body(
    input: Tensor, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, include_pad: bool, divisor: int | None
) -> Tensor:
    n = len(kernel)
    w = windows(_pad_around(input, padding, extra, 0), kernel, stride, (1,) * n)
    by = _divisor(input.shape[-n:], kernel, stride, padding, extra, include_pad, divisor, FUNCTIONS["arange"])
    return w.sum(tuple(range(w.ndim - n, w.ndim))) / by


def _avg_grad_body(
    grad: Tensor, input_size: tuple, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, include_pad: bool,
    divisor: int | None,
) -> Tensor:  # fmt: skip
    n = len(kernel)
    g = grad / _divisor(input_size, kernel, stride, padding, extra, include_pad, divisor, FUNCTIONS["arange"])
    g = g.reshape(*grad.shape, *(1,) * n).expand(*grad.shape, *kernel)
    return _crop(windows_grad(g, _padded_sizes(input_size, padding, extra), kernel, stride, (1,) * n), padding, input_size)


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
    private=True, check=False, infer=_avg_infer, body=_avg_body, samples=_avg_samples,
    grad={"input": lambda g, input, kernel, stride, padding, extra, include_pad, divisor: avg_pool_grad(
        g, tuple(input.shape[-len(kernel):]), kernel, stride, padding, extra, include_pad, divisor
    )},
)  # fmt: skip
def avg_pool(
    input: Tensor, kernel: tuple, stride: tuple, padding: tuple, extra: tuple, include_pad: bool, divisor: int | None
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
    if total.dtype.kind in "iu":  # type: ignore[union-attr]
        return np.trunc(total / by).astype(total.dtype)  # type: ignore[operator,union-attr]
    return np.divide(total, by, out=total, dtype=total.dtype)  # type: ignore[arg-type,union-attr,return-value]


@op(
    private=True, check=False, body=_avg_grad_body, samples=_avg_grad_samples,
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


# ---------------------------------------------------------------- what users call


def pool_input(name: str, x: Any, n: int) -> Any:
    """The input of a pooling function, checked: (N, C, *size) or (C, *size)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}(): argument 'input' must be Tensor, not {type(x).__name__}")
    if x.ndim not in (n + 1, n + 2):
        raise KilnError(
            name, f"Expected {n + 1}D or {n + 2}D (batch mode) tensor for input", describe(x),
            "(batch, channels, *size) or (channels, *size)",
        )  # fmt: skip
    if any(isinstance(s, int) and s == 0 for s in x.shape[x.ndim - n - 1 :]):
        raise KilnError(name, "the input may be empty in its batch dimension only", describe(x), "")
    return x


def _geometry(
    name: str, x: Any, n: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[tuple, tuple, tuple, tuple, tuple]:
    """(kernel, stride, padding, extra, dilation) as tuples, checked against the input."""
    pool_input(name, x, n)
    k = as_tuple(kernel, n, name, "kernel_size")
    empty = stride is None or (isinstance(stride, list | tuple) and not stride)
    t = k if empty else as_tuple(stride, n, name, "stride")
    p, d = as_tuple(padding, n, name, "padding"), as_tuple(dilation, n, name, "dilation")
    for what, values in (("kernel_size", k), ("stride", t), ("dilation", d)):
        if any(v <= 0 for v in values):
            raise KilnError(name, f"{what} should be greater than zero", f"{what}={values}", "")
    if any(v < 0 for v in p):
        raise KilnError(name, "pad must be non-negative", f"padding={p}", "")
    if any(v > span(a, b) // 2 for v, a, b in zip(p, k, d, strict=True)):
        raise KilnError(
            name, "pad should be at most half of effective kernel size", f"padding={p}, kernel_size={k}, dilation={d}",
            "pad with F.pad first",
        )  # fmt: skip
    extra = []
    for s, a, b, c, e in zip(x.shape[-n:], k, t, p, d, strict=True):
        if not ceil_mode and not isinstance(s, int):
            extra.append(0)
            continue
        room = s + 2 * c - span(a, e)
        count = (-(-room // b) if ceil_mode else room // b) + 1
        if ceil_mode and (count - 1) * b >= s + c:  # the last window must start inside the input
            count -= 1
        if count < 1:
            raise KilnError(
                name, "the output size is too small", f"input={describe(x)}, kernel_size={k}, padding={p}",
                "use a smaller kernel or more padding",
            )  # fmt: skip
        extra.append(max(0, (count - 1) * b + span(a, e) - (s + 2 * c)))
    return k, t, p, tuple(extra), d


def _flat_indices(first: Tensor, size: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple) -> Tensor:
    """Positions in the flattened input from taps."""
    tap = first.long()
    arange = FUNCTIONS["arange"]
    n = len(kernel)
    flat: Any = 0
    for i in range(n):
        after = numel(kernel[i + 1 :])
        start = (arange(first.shape[i - n]) * stride[i] - padding[i]).reshape(-1, *(1,) * (n - 1 - i))
        at = start + (tap // after) % kernel[i] * dilation[i]
        flat = at if i == 0 else flat * size[i] + at
    return flat


def _max_pool(
    n: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, return_indices: bool
) -> Any:
    k, t, p, e, d = _geometry(f"max_pool{n}d", x, n, kernel, stride, padding, dilation, ceil_mode)
    values, first = max_pool(x, k, t, p, e, d)
    if not return_indices:
        return values
    return values, _flat_indices(first, tuple(x.shape[-n:]), k, t, p, d)


def _sizes(n: int) -> tuple:
    return (2, 3, 7, 6, 5)[: n + 2]


def _public_max_samples(n: int) -> Callable:
    def samples() -> Any:
        x = _distinct(rng(28), _sizes(n))
        yield Sample((x, 2))
        yield Sample((x, 3, 2, 1))
        yield Sample((x, 2), {"ceil_mode": True})
        yield Sample((x, 3), {"stride": 2, "padding": 1, "ceil_mode": True})
        yield Sample((x, (3, 2, 2)[:n]), {"stride": 1, "dilation": 2})
        yield Sample((x, 2), {"return_indices": True})
        yield Sample((x, 3), {"stride": 2, "padding": 1, "return_indices": True})
        yield Sample((x[0], 2))
        yield Sample((x[:0], 2), grad=False)
        if n > 1:
            yield Sample((np.round(x).astype(np.int64), 2), grad=False)
        yield Sample((x, 9), error=RuntimeError)
        yield Sample((x, 2), {"padding": 2}, error=RuntimeError)
        yield Sample((x, 0), error=RuntimeError)
        yield Sample((x[0, 0, 0] if n > 1 else x[0, 0], 1), error=RuntimeError)

    return samples


@composition(method=False, samples=_public_max_samples(1))
def max_pool1d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:  # fmt: skip
    """The largest value of each window of (N, C, L) or (C, L); with `return_indices` also its position."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composition(method=False, samples=_public_max_samples(2))
def max_pool2d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:  # fmt: skip
    """The largest value of each window of (N, C, H, W) or (C, H, W).

    `return_indices` also gives its position in the flattened map. Padding counts as -infinity;
    `ceil_mode` keeps a last window that is partly outside.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composition(method=False, samples=_public_max_samples(3))
def max_pool3d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
               ceil_mode: bool = False, return_indices: bool = False) -> Any:  # fmt: skip
    """The largest value of each window of (N, C, D, H, W) or (C, D, H, W)."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(
    n: int, x: Any, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, include_pad: bool, divisor: int | None
) -> Tensor:
    k, t, p, e, _ = _geometry(f"avg_pool{n}d", x, n, kernel, stride, padding, 1, ceil_mode)
    if divisor == 0:
        raise KilnError(f"avg_pool{n}d", "divisor must be not zero", divisor, "")
    return avg_pool(x, k, t, p, e, bool(include_pad), divisor)


def _public_avg_samples(n: int) -> Callable:
    def samples() -> Any:
        x = draw(rng(29), _sizes(n))
        yield Sample((x, 2))
        yield Sample((x, 3, 2, 1))
        yield Sample((x, 3, 2, 1), {"count_include_pad": False})
        yield Sample((x, 2), {"ceil_mode": True})
        yield Sample((x, 3), {"stride": 2, "padding": 1, "ceil_mode": True})
        yield Sample((x, 3), {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False})
        yield Sample((x[0], 2))
        yield Sample((x[:0], 2), grad=False)
        if n > 1:
            yield Sample((x, (3, 2, 2)[:n]), {"divisor_override": 5})
            yield Sample((x, 2), {"divisor_override": 0}, error=RuntimeError)
        yield Sample((x, 9), error=RuntimeError)
        yield Sample((x, 2), {"padding": 2}, error=RuntimeError)
        yield Sample((x, 0), error=RuntimeError)

    return samples


@composition(namespace="F", samples=_public_avg_samples(1))
def avg_pool1d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True) -> Tensor:  # fmt: skip
    """The mean of each window of (N, C, L) or (C, L)."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@composition(namespace="F", samples=_public_avg_samples(2))
def avg_pool2d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:  # fmt: skip
    """The mean of each window of (N, C, H, W) or (C, H, W); `divisor_override` replaces the window's size."""
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@composition(namespace="F", samples=_public_avg_samples(3))
def avg_pool3d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:  # fmt: skip
    """The mean of each window of (N, C, D, H, W) or (C, D, H, W)."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


FUNCTIONS["avg_pool1d"] = avg_pool1d
for _fn in (max_pool1d, max_pool2d, max_pool3d):
    FUNCTIONS[f"nn.functional.{_fn.__name__}"] = _fn


def _lp_pool(n: int, x: Any, norm_type: float, kernel: Any, stride: Any, ceil_mode: bool) -> Tensor:
    """(sum of x ** p over each window) ** (1 / p)."""
    k, t, p, e, _ = _geometry(f"lp_pool{n}d", x, n, kernel, stride, 0, 1, ceil_mode)
    mean = avg_pool(x**norm_type, k, t, p, e, True, None)
    return (mean.sign() * mean.abs().relu() * numel(k)) ** (1.0 / norm_type)


def _lp_samples(n: int) -> Callable:
    def samples() -> Any:
        x = draw(rng(30), _sizes(n), 0.1, 2.0)
        yield Sample((x, 2, 2))
        yield Sample((x, 3.0, 3, 2), {"ceil_mode": True})

    return samples


@composition(namespace="F", samples=_lp_samples(1))
def lp_pool1d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """The p-norm of each window of (N, C, L) or (C, L)."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


@composition(namespace="F", samples=_lp_samples(2))
def lp_pool2d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """The p-norm of each window of (N, C, H, W) or (C, H, W)."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


@composition(namespace="F", samples=_lp_samples(3))
def lp_pool3d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """The p-norm of each window of (N, C, D, H, W) or (C, D, H, W)."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)
