"""Pooling: the largest or the mean of each window, of fixed and of adaptive size, and unpooling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnValueError, describe
from ..shape import index_int, numel
from ..tensor import Tensor, wrap
from ._windows import as_tuple, span
from .activation import floating
from .registry import FUNCTIONS, Sample, composition
from .rules import tied
from .samples import draw, rng
from .windows import avg_pool, distinct, max_pool

# ---------------------------------------------------------------- fixed windows


def pool_input(name: str, x: Any, n: int) -> Any:
    """The input of a pooling function, checked: (N, C, *size) or (C, *size)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}(): argument 'input' must be Tensor, not {type(x).__name__}")
    if x.ndim not in (n + 1, n + 2):
        few = name.startswith("adaptive") and n > 1 and x.ndim <= n
        raise (KilnValueError if few else KilnError)(
            name, f"Expected {n + 1}D or {n + 2}D (batch mode) tensor for input", describe(x),
            "(batch, channels, *size) or (channels, *size)",
        )  # fmt: skip
    if any(isinstance(s, int) and s == 0 for s in x.shape[x.ndim - n - 1 :]):
        raise KilnError(name, "the input may be empty in its batch dimension only", describe(x), "")
    return x


def _geometry(
    name: str,
    x: Any,
    n: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
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


def _flat_indices(
    first: Tensor, size: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple
) -> Tensor:
    """Positions in the flattened input from taps."""
    tap = first.long()
    arange = FUNCTIONS["arange"]
    n = len(kernel)
    flat: Any = 0
    for i in range(n):
        after = numel(kernel[i + 1 :])
        start = (arange(first.shape[i - n]) * stride[i] - padding[i]).reshape(
            -1, *(1,) * (n - 1 - i)
        )
        at = start + (tap // after) % kernel[i] * dilation[i]
        flat = at if i == 0 else flat * size[i] + at
    return flat


def _max_pool(
    n: int,
    x: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    k, t, p, e, d = _geometry(f"max_pool{n}d", x, n, kernel, stride, padding, dilation, ceil_mode)
    values, first = max_pool(x, k, t, p, e, d)
    if not return_indices:
        return values
    return values, _flat_indices(first, tuple(x.shape[-n:]), k, t, p, d)


def sample_size(n: int) -> tuple:
    return (2, 3, 7, 6, 5)[: n + 2]


def _public_max_samples(n: int) -> Callable:
    def samples() -> Any:
        x = distinct(rng(28), sample_size(n))
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
    n: int,
    x: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    include_pad: bool,
    divisor: int | None,
) -> Tensor:
    k, t, p, e, _ = _geometry(f"avg_pool{n}d", x, n, kernel, stride, padding, 1, ceil_mode)
    if divisor == 0:
        raise KilnError(f"avg_pool{n}d", "divisor must be not zero", divisor, "")
    return avg_pool(x, k, t, p, e, bool(include_pad), divisor)


def _public_avg_samples(n: int) -> Callable:
    def samples() -> Any:
        x = draw(rng(29), sample_size(n))
        yield Sample((x, 2))
        yield Sample((x, 3, 2, 1))
        yield Sample((x, 3, 2, 1), {"count_include_pad": False})
        yield Sample((x, 2), {"ceil_mode": True})
        yield Sample((x, 3), {"stride": 2, "padding": 1, "ceil_mode": True})
        yield Sample(
            (x, 3), {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}
        )
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


@composition(namespace="F", samples=_public_avg_samples(2), out=True)
def avg_pool2d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:  # fmt: skip
    """The mean of each window of (N, C, H, W) or (C, H, W); `divisor_override` replaces the window's size."""
    return _avg_pool(
        2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@composition(namespace="F", samples=_public_avg_samples(3), out=True)
def avg_pool3d(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
               count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:  # fmt: skip
    """The mean of each window of (N, C, D, H, W) or (C, D, H, W)."""
    return _avg_pool(
        3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


FUNCTIONS["avg_pool1d"] = avg_pool1d
for _fn in (max_pool1d, max_pool2d, max_pool3d):
    FUNCTIONS[f"nn.functional.{_fn.__name__}"] = _fn
    FUNCTIONS[f"nn.functional.{_fn.__name__}_with_indices"] = partial(_fn, return_indices=True)


def _lp_pool(n: int, x: Any, norm_type: float, kernel: Any, stride: Any, ceil_mode: bool) -> Tensor:
    """(sum of x ** p over each window) ** (1 / p)."""
    k, t, p, e, _ = _geometry(f"lp_pool{n}d", x, n, kernel, stride, 0, 1, ceil_mode)
    mean = avg_pool(x**norm_type, k, t, p, e, True, None)
    return (mean.sign() * mean.abs().relu() * numel(k)) ** (1.0 / norm_type)


def _lp_samples(n: int) -> Callable:
    def samples() -> Any:
        x = draw(rng(30), sample_size(n), 0.1, 2.0)
        yield Sample((x, 2, 2))
        yield Sample((x, 3.0, 3, 2), {"ceil_mode": True})

    return samples


@composition(namespace="F", samples=_lp_samples(1))
def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """The p-norm of each window of (N, C, L) or (C, L)."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


@composition(namespace="F", samples=_lp_samples(2))
def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """The p-norm of each window of (N, C, H, W) or (C, H, W)."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


@composition(namespace="F", samples=_lp_samples(3))
def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """The p-norm of each window of (N, C, D, H, W) or (C, D, H, W)."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


# ---------------------------------------------------------------- adaptive pooling


def _adaptive_sizes(name: str, x: Any, output_size: Any, n: int) -> tuple[int, ...]:
    pool_input(name, x, n)
    wanted = tuple(output_size) if isinstance(output_size, list | tuple) else (output_size,) * n
    if len(wanted) != n:
        raise KilnError(name, f"output_size must be {n} values", f"output_size={output_size}", "")
    sizes = tuple(
        s if w is None else index_int(w, name, "output_size")
        for s, w in zip(x.shape[-n:], wanted, strict=True)
    )
    if any(s < 0 for s in sizes):
        raise KilnError(
            name,
            "elements of output_size must be greater than or equal to 0",
            f"output_size={wanted}",
            "",
        )
    return sizes


def _bins(size: int, out: int) -> list[tuple[int, int]]:
    """Where each of `out` bins begins and ends."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def constant(a: np.ndarray, like: Tensor | None = None) -> Tensor:
    return wrap(a if like is None else a.astype(like.dtype.np))


def _bin_means(x: Tensor, out: int, dim: int) -> Tensor:
    """The mean of each bin along one dimension, as a product with the matrix that takes it."""
    size = x.shape[dim]
    m = np.zeros((size, out))
    for j, (a, b) in enumerate(_bins(size, out)):
        m[a:b, j] = 1 / (b - a)
    return (x.transpose(dim, -1) @ constant(m, x)).transpose(dim, -1)


def adaptive_avg(n: int, x: Any, output_size: Any) -> Tensor:
    name = f"adaptive_avg_pool{n}d"
    sizes = _adaptive_sizes(name, x, output_size, n)
    floating(name, x)
    if sizes == (1,) * n:
        return x.mean(tuple(range(-n, 0)), True)
    if all(o > 0 and s % o == 0 for s, o in zip(x.shape[-n:], sizes, strict=True)):
        k = tuple(s // o for s, o in zip(x.shape[-n:], sizes, strict=True))
        return (
            x
            if k == (1,) * n and not x.requires_grad
            else avg_pool(x, k, k, (0,) * n, (0,) * n, True, None)
        )
    whole = x
    for i, o in enumerate(sizes):
        if o != x.shape[i - n]:
            x = _bin_means(x, o, i - n)
    return tied(x.contiguous(), f"AdaptiveAvgPool{n}D", whole)


def _adaptive_max(n: int, x: Any, output_size: Any, return_indices: bool) -> Any:
    name = f"adaptive_max_pool{n}d"
    sizes = _adaptive_sizes(name, x, output_size, n)
    floating(name, x)
    space, lead = tuple(x.shape[-n:]), tuple(x.shape[: x.ndim - n])
    # positions in the flattened map of every element of every bin; short bins repeat their last one
    at: Any = np.zeros((1,) * (2 * n), np.int64)
    for i, (s, o) in enumerate(zip(space, sizes, strict=True)):
        bins = _bins(s, o)
        widest = max((b - a for a, b in bins), default=1)
        index = np.array(
            [[min(a + j, b - 1) for j in range(widest)] for a, b in bins], np.int64
        ).reshape(o, widest)
        shape = [1] * (2 * n)
        shape[i], shape[n + i] = o, widest
        at = at * s + index.reshape(shape)
    count, taps = numel(sizes), numel(at.shape[n:])
    flat = x.reshape(*lead, numel(space))
    at_flat = constant(at.reshape(count * taps))
    best = flat.detach().index_select(-1, at_flat).reshape(*lead, count, taps).argmax(-1, True)
    where = at_flat.reshape((1,) * len(lead) + (count, taps)).expand(*lead, count, taps)
    where = where.gather(-1, best).reshape(*lead, count)
    values = tied(flat.gather(-1, where).reshape(*lead, *sizes), f"AdaptiveMaxPool{n}D", x)
    return (values, where.reshape(*lead, *sizes)) if return_indices else values


def _adaptive_samples(n: int, apart: bool) -> Callable:
    def samples() -> Any:
        r = rng(61)
        x = distinct(r, sample_size(n)) if apart else draw(r, sample_size(n))
        for size in (1, 2, 3, (7, 6, 5)[:n], (4, None, 2)[:n] if n > 1 else 4, 9):
            yield Sample((x, size))
        yield Sample((x[0], 2))
        yield Sample((x[0, 0, 0] if n > 1 else x[0, 0], 2), error=RuntimeError)
        if apart:
            yield Sample((x, 3), {"return_indices": True})

    return samples


@composition(method=False, samples=_adaptive_samples(1, False))
def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """The means of output_size bins of (N, C, L) or (C, L)."""
    return adaptive_avg(1, input, output_size)


@composition(namespace="F", samples=_adaptive_samples(2, False), lies="channels")
def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The means of (h, w) bins of (N, C, H, W) or (C, H, W); None keeps a size."""
    return adaptive_avg(2, input, output_size)


@composition(namespace="F", samples=_adaptive_samples(3, False))
def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """The means of (d, h, w) bins of (N, C, D, H, W) or (C, D, H, W); None keeps a size."""
    return adaptive_avg(3, input, output_size)


@composition(namespace="F", samples=_adaptive_samples(1, True))
def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest values of output_size bins of (N, C, L) or (C, L)."""
    return _adaptive_max(1, input, output_size, return_indices)


@composition(namespace="F", samples=_adaptive_samples(2, True), lies="channels")
def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest values of (h, w) bins of (N, C, H, W) or (C, H, W); None keeps a size."""
    return _adaptive_max(2, input, output_size, return_indices)


@composition(namespace="F", samples=_adaptive_samples(3, True))
def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest values of (d, h, w) bins of (N, C, D, H, W) or (C, D, H, W); None keeps a size."""
    return _adaptive_max(3, input, output_size, return_indices)


FUNCTIONS["nn.functional.adaptive_avg_pool1d"] = adaptive_avg_pool1d
for _fn in (adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d):
    FUNCTIONS[f"nn.functional.{_fn.__name__}_with_indices"] = partial(_fn, return_indices=True)


# ---------------------------------------------------------------- unpooling


def _unpool(
    n: int, x: Any, indices: Any, kernel: Any, stride: Any, padding: Any, output_size: Any
) -> Tensor:
    name = f"max_unpool{n}d"
    pool_input(name, x, n)
    if indices.dtype is not dt.int64:
        raise KilnError(name, "elements in indices should be type int64", describe(indices), "")
    if indices.shape != x.shape:
        raise KilnError(
            name, "Expected shape of indices to be same as that of the input", describe(indices), ""
        )
    k = as_tuple(kernel, n, name, "kernel_size")
    t = k if stride is None else as_tuple(stride, n, name, "stride")
    p = as_tuple(padding, n, name, "padding")
    usual = tuple((s - 1) * b + a - 2 * c for s, a, b, c in zip(x.shape[-n:], k, t, p, strict=True))
    size = usual if output_size is None else tuple(output_size)[-n:]
    for d, (s, u, b) in enumerate(zip(size, usual, t, strict=True)):
        if not u - b < s < u + b and output_size is not None:
            raise KilnValueError(
                name, f'invalid output_size "{output_size}" (dim {d} must be between {u - b} and {u + b})',
                describe(x), "",
            )  # fmt: skip
    lead = tuple(x.shape[: x.ndim - n])
    count, area = numel(x.shape[-n:]), numel(size)
    flat = x.new_zeros((*lead, area)).scatter(
        -1, indices.reshape(*lead, count), x.reshape(*lead, count)
    )
    return flat.reshape(*lead, *size)


def _unpool_samples(n: int) -> Callable:
    def samples() -> Any:
        x = draw(rng(62), (1, 2, 2, 2, 2)[: n + 2])
        area = 4**n
        step = {1: [0, 2], 2: [0, 2, 9, 15], 3: [0, 2, 9, 15, 35, 37, 48, 63]}[n]
        index = np.broadcast_to(np.array(step).reshape((2,) * n), x.shape).copy()
        yield Sample((x, index, 2))
        if area > 4:
            yield Sample((x, index, 2), {"output_size": (4, 4, 4)[:n]})
        yield Sample((x, index.astype(np.int32), 2), error=RuntimeError)

    return samples


@composition(namespace="F", samples=_unpool_samples(1))
def max_unpool1d(input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
                 output_size: Any = None) -> Tensor:  # fmt: skip
    """Zeros with the values of a max pooling put back where its indices say: (N, C, L) or (C, L)."""
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


@composition(namespace="F", samples=_unpool_samples(2), lies="channels")
def max_unpool2d(input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
                 output_size: Any = None) -> Tensor:  # fmt: skip
    """Zeros with the values of a max pooling put back where its indices say: (N, C, H, W) or (C, H, W)."""
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


@composition(namespace="F", samples=_unpool_samples(3))
def max_unpool3d(input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
                 output_size: Any = None) -> Tensor:  # fmt: skip
    """Zeros with the values of a max pooling put back where its indices say: (N, C, D, H, W) or (C, D, H, W)."""
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)
