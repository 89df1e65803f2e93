"""PyTorch's own random numbers: what each of its functions draws from the words of its CPU generator.

Note [PyTorch's stream]: `kiln.random.set_stream("torch")` has seeded programs draw what PyTorch draws on a
CPU, found by watching its outputs and its generator's state after each call. The state after a draw is
PyTorch's byte for byte. Integers, uniform numbers and trials have its bits; so have float64 and half normal
numbers and what follows from the small ones. Float32 normal numbers of 16 and more are within 4 units in
the last place (PyTorch takes logarithms and cosines by polynomials of its own), and functions of float64
numbers (exponential, cauchy, gamma, …) within 2, where NumPy's and the C library's differ.

A law is a function of the stream, the size, the dtype and the law's numbers. Uniform float32 and half numbers take
a word each (its low 24 bits), float64 ones and all that PyTorch draws in double precision two. On processors of
Intel's, PyTorch may take trials with a number as probability (dropout) and exponential numbers from a generator
of MKL's; that is not reproduced. Nor is which of equal weights comes first where half numbers are drawn without
replacement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from threading import RLock
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..mersenne import FEW, Singles, Words, first_state, pieces
from ..random import default_generator
from ..shape import Size, numel
from ..sharing import watched, written
from ..tensor import CAPTURING, Tensor, active_capture, wrap
from .registry import Sample, op

_lock = RLock()
_stream: Words | None = None  # made when first drawn from: numpy.random takes a while to import

LAWS: dict[str, Callable] = {}
"""What may be drawn, by name: `law(stream, size, dtype, parameters, *numbers)` gives an array."""
kernels: Callable[[], dict[str, Callable]] | None = None
"""A backend's laws by name, asked for once, of a state in place of a stream; they give None where these are to draw."""
_quick: dict[str, Callable] = {}


def _law(fn: Callable) -> Callable:
    LAWS[fn.__name__.strip("_")] = fn
    return fn


def _draw(state: np.ndarray, law: str, size: Any, dtype: dt.dtype, parameters: Any, numbers: Any,
          owner: Tensor | None = None) -> np.ndarray:  # fmt: skip
    """What a law draws from a state, which moves on; `owner` is the tensor that has it."""
    global _stream
    if size.__class__ is not tuple:
        size = tuple(size)
    with _lock:
        out = _by_kernels(state, law, size, dtype, parameters, numbers)
        if out is None:
            s = _stream
            if s is None:
                s = _stream = Words()
            if owner is not None and owner._ver is None:
                owner._ver = [0, 0]
            s.load(state, None if owner is None else owner._ver[0])
            out = LAWS[law](s, size, dtype, parameters, *numbers)
            s.store()
    if out.dtype is not dtype.np:
        out = out.astype(dtype.np)
    return out if out.shape == size else out.reshape(size)


def _by_kernels(state: np.ndarray, law: str, size: Any, dtype: dt.dtype, parameters: Any, numbers: Any) -> Any:  # fmt: skip
    """What a backend's law of that name draws; None where it has none, or leaves it to the reference."""
    global kernels
    if config.eager != "cpu":
        return None
    if kernels is not None:
        found, kernels = kernels, None
        _quick.update(found())
    if law not in _quick:
        return None
    out = _quick[law](state, size, dtype, parameters, *numbers)
    if out is not None and _stream is not None:
        _stream.forget()
    return out


def plain(law: str, size: tuple, dtype: dt.dtype, numbers: tuple) -> Tensor | None:
    """`draws` of the default generator where a backend's law draws just such an array: the common case, kept short."""
    state = default_generator.state._a
    if state.itemsize != 1:
        return None
    with _lock:
        out = _by_kernels(state, law, size, dtype, (), numbers)
    if watched and out is not None:
        written(state)
    return None if out is None else wrap(out)


def chosen(generator: Any, weights: np.ndarray) -> np.ndarray | None:
    """A place of each row of weights with a probability proportional to it, by a kernel; None where others are to draw, or to say what is wrong."""
    state = (default_generator if generator is None else generator).state._a
    if state.itemsize != 1:
        return None
    with _lock:
        out = _by_kernels(state, "chosen", weights.shape, dt.int64, weights, ())
    if watched and out is not None:
        written(state)
    return out


def _samples() -> Iterator[Sample]:
    state, p = first_state(5), np.array([0.2, 0.5, 0.9])
    yield Sample((state, [], "uniform", (2, 3), dt.float32, (0.0, 1.0)), grad=False)
    yield Sample((state, [], "normal", (17,), dt.float64, (0.0, 1.0, True)), grad=False)
    yield Sample((state, [p], "bernoulli", (3,), dt.float32, ()), grad=False)
    yield Sample((state, [], "integers", (0,), dt.int64, (0, 9)), grad=False)


def _infer(state: Any, parameters: Any, law: str, size: Any, dtype: dt.dtype, numbers: Any) -> list:
    return [(Size(size), dtype), (state.shape, dt.uint8)]


@op(name="torch_draw", private=True, family="random", exact=True, check=False, infer=_infer, samples=_samples)  # fmt: skip
def torch_draw(state: Tensor, parameters: Sequence[Tensor], law: str, size: Sequence[int], dtype: dt.dtype,
               numbers: tuple) -> Any:  # fmt: skip
    """What a law draws from PyTorch's generator in a state, and the state after it."""
    after = state.copy()
    return _draw(after, law, size, dtype, parameters, numbers), after


def draws(state: Tensor, law: str, size: Sequence[int], dtype: dt.dtype, parameters: Sequence[Tensor],
          numbers: tuple) -> Tensor:  # fmt: skip
    """What a law draws from a generator's state, which then moves on; in a captured program, at each call."""
    if CAPTURING and (ctx := active_capture()):
        ctx.drawn(0)
        values, after = torch_draw(state, list(parameters), law, tuple(size), dtype, numbers)
        state.copy_(after)
        return values
    given = [p._a for p in parameters] if parameters else ()
    out = wrap(_draw(state._a, law, size, dtype, given, numbers, state))
    if watched:
        written(state._a)
    return out


# ---------------------------------------------------------------- arithmetic


def fma(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """x * a + b rounded once, as PyTorch's compiled code has it."""
    if x.dtype == np.float32:
        out = np.empty_like(x)
        for part, into in zip(pieces(x), pieces(out), strict=True):
            wide = part.astype(np.float64)
            wide *= float(np.float32(a))
            wide += float(np.float32(b))
            into[:] = wide
        return out
    if a == 1 or b == 0:
        return x * a + b
    p = x * a
    (xh, xl), (ah, al) = _halves(x), _halves(a)
    lost = ((xh * ah - p) + xh * al + xl * ah) + xl * al  # of the product (Dekker, 1971)
    s = p + b
    z = s - p
    return s + (((p - (s - z)) + (b - z)) + lost)  # and of the sum (Knuth, 1969)


def _halves(x: Any) -> tuple[Any, Any]:
    t = x * 134217729.0
    high = t - (t - x)
    return high, x - high


_SCALARS = 64  # up to which the C library's functions are taken, as PyTorch does
_SHORT = 384  # where a loop of Python's is over before NumPy has begun


def _each(scalar: Callable, array: Callable, x: np.ndarray) -> np.ndarray:
    """A function of each element: by the C library as in PyTorch where there are few, else by NumPy."""
    return np.array([scalar(v) for v in x.tolist()]) if x.size <= _SCALARS else array(x)


# ---------------------------------------------------------------- uniform and normal numbers


@_law
def uniform(s: Words, size: Any, dtype: dt.dtype, _: Any, low: float, high: float) -> np.ndarray:
    """In [low, high); what rounding brings to `high` becomes `low`."""
    n = numel(size)
    x = s.doubles(n) if dtype is dt.float64 else s.floats(n)
    if low != 0.0 or high != 1.0:
        kind = x.dtype.type
        x = fma(x, float(kind(high) - kind(low)), low)
    elif x.dtype is dtype.np:
        return x
    x = x.astype(dtype.np, copy=False)
    x[x == dtype.np.type(high)] = low
    return x


@_law
def normal(s: Words, size: Any, dtype: dt.dtype, _: Any, mean: float, std: float, dense: bool) -> np.ndarray:  # fmt: skip
    """Pairs by Box and Muller (1958): eight and eight of each 16 where 16 or more lie together, else one by one."""
    n = numel(size)
    if n < 16 and mean == 0.0 and std == 1.0:
        return np.array(_few_normals(s, n), dtype.np)
    if n < 16 or not dense:
        return fma(_one_by_one(s, n), std, mean)
    if dtype.itemsize == 2:  # the last block is drawn anew, and overlaps the one before
        z = _blocks(s.floats(-(-n // 16) * 16))
        z = np.concatenate([z[: n - 16], z[-16:]]) if n % 16 else z
    else:
        take = s.doubles if dtype is dt.float64 else s.floats
        z = take(n)
        if n % 16 and n <= FEW:  # all of these at once
            whole = _blocks(np.concatenate([z[: n // 16 * 16], take(16)]))
            z[:-16], z[-16:] = whole[: n - 16], whole[-16:]
            return z if (mean, std) == (0.0, 1.0) else fma(z, std, mean)
        for part in pieces(z[: n // 16 * 16]):
            part[:] = _blocks(part)
        if n % 16:
            z[-16:] = _blocks(take(16))
    return z if (mean, std) == (0.0, 1.0) else fma(z, std, mean)


def _blocks(u: np.ndarray) -> np.ndarray:
    kind, halves = u.dtype.type, u.reshape(-1, 2, 8)
    r = np.log(kind(1) - halves[:, 0])
    r *= kind(-2)
    np.sqrt(r, out=r)
    turn = halves[:, 1] * kind(math.tau)
    out = np.empty_like(halves)
    np.multiply(r, np.cos(turn), out[:, 0])
    np.multiply(r, np.sin(turn, out=turn), out[:, 1])
    return out.reshape(-1)


def _pair(turn: float, length: float) -> tuple[float, float]:
    """Two normal numbers of two uniform ones."""
    r, turn = math.sqrt(-2.0 * math.log1p(-length)), math.tau * turn
    return r * math.cos(turn), r * math.sin(turn)


def _one_by_one(s: Words, n: int) -> np.ndarray:
    """n float64 normal numbers, the first of which may be the second of a pair drawn before."""
    if n <= 2 * _SCALARS:
        return np.array(_few_normals(s, n))
    first = [] if s.kept is None else [s.kept]
    pairs = (n - len(first) + 1) // 2
    u = s.doubles(2 * pairs).reshape(pairs, 2)
    r, turn = np.sqrt(np.log1p(-u[:, 1]) * -2.0), u[:, 0] * math.tau
    z = np.stack([r * np.cos(turn), r * np.sin(turn)], 1).reshape(-1)
    z = np.concatenate([first, z]) if first else z
    s.kept = float(z[-1]) if len(z) > n else None
    return z[:n]


def _few_normals(s: Words, n: int) -> list[float]:
    """A few normal numbers, as Python's."""
    if not n:
        return []
    z = [] if s.kept is None else [s.kept]
    u = s.few((n - len(z) + 1) // 2 * 2)
    for i in range(0, len(u), 2):
        z += _pair(u[i], u[i + 1])
    s.kept = z.pop() if len(z) > n else None
    return z


@_law
def log_normal(s: Words, size: Any, dtype: Any, _: Any, mean: float, std: float) -> np.ndarray:
    """Exponentials of normal numbers."""
    return _each(math.exp, np.exp, fma(_one_by_one(s, numel(size)), std, mean))


@_law
def exponential(s: Words, size: Any, dtype: Any, _: Any, rate: float) -> np.ndarray:
    """By the inverse of the distribution function."""
    n = numel(size)
    if n <= _SCALARS:
        return np.array([math.log1p(-u) / -rate for u in s.few(n)], dtype.np)
    return np.log1p(-s.doubles(n)) / -rate


@_law
def cauchy(s: Words, size: Any, dtype: Any, _: Any, median: float, sigma: float) -> np.ndarray:
    """By the inverse of the distribution function."""
    turn = (s.doubles(numel(size)) - 0.5) * math.pi
    return fma(_each(math.tan, np.tan, turn), sigma, median)


# ---------------------------------------------------------------- integers and trials


@_law
def integers(s: Words, size: Any, dtype: Any, _: Any, low: int, high: int) -> np.ndarray:
    """In [low, high): remainders of a word, or of two where there are 2**28 integers or more."""
    n, span = numel(size), high - low
    if span >= 2**28:
        return (s.pairs(n) % np.uint64(span)).astype(np.int64) + low
    if n <= _SCALARS:
        return np.array([w % span + low for w in s.words(n).tolist()], np.int64)
    if n <= FEW:
        return (s.words(n) % np.uint32(span)).astype(np.int64) + low
    out = np.empty(n, np.int64)
    for part in pieces(out):
        part[:] = s.words(len(part)) % np.uint32(span)
    if low:
        out += low
    return out


@_law
def all_integers(s: Words, size: Any, dtype: dt.dtype, _: Any) -> np.ndarray:
    """From 0 to the largest integer up to which the dtype holds all."""
    n = numel(size)
    if dtype in (dt.float64, dt.int64):
        last = 2**63 - 1 if dtype is dt.int64 else 2**53
        return (s.pairs(n) % np.uint64(last + 1)).astype(np.int64)
    if dtype.category == dt.FLOAT:
        return s.words(n) % np.uint32({dt.float16: 2**11, dt.bfloat16: 2**8}.get(dtype, 2**24) + 1)
    last = 1 if dtype is dt.bool_ else dt.iinfo(dtype).max
    return s.words(n) & np.uint32(last)


@_law
def permutation(s: Words, size: Any, dtype: Any, _: Any) -> np.ndarray:
    """The integers below size[-1] in random order, each swapped with one behind it (Fisher and Yates)."""
    *rows, n = size
    out = np.empty((numel(rows), n), np.int64)
    for row in out:
        row[:] = np.arange(n)
        if n > 1:
            row[:-1] += s.words(n - 1) % np.arange(n, 1, -1, dtype=np.uint32)
            row[:] = _swapped(row)
    return out


def _swapped(other: np.ndarray) -> Any:
    """What 0, 1, … become where each place i in turn is swapped with another, other[i] >= i.

    The last k < i whose other is i leaves there what k had in its turn: chains that are followed for all i at
    once, twice as far each time. What i gets is what the last k < i with the same other as i had, if any.
    """
    n = len(other)
    if n <= _SHORT:
        order = list(range(n))
        for i, j in enumerate(other.tolist()):
            order[i], order[j] = order[j], order[i]
        return order
    had = np.arange(n)
    moved = np.flatnonzero(other > had)
    had[other[moved]] = moved  # of equal places the last one stays
    while not np.array_equal(before := had[had], had):
        had = before
    bits = n.bit_length()
    key = np.sort(other << bits | np.arange(n))
    by, places = key & (1 << bits) - 1, key >> bits
    same = places[1:] == places[:-1]
    out = other.copy()
    out[by[1:][same]] = had[by[:-1][same]]
    return out


@_law
def bernoulli(s: Words, size: Any, dtype: Any, given: Any, p: float | None = None, scale: float = 1.0) -> np.ndarray:  # fmt: skip
    """1 with probability p, a number or a tensor; with a scale 1 / scale, rounded as the quotient of such numbers."""
    n = numel(size)
    if p is not None:
        return s.below(n, p, scaled_one(scale, dtype))
    (q,) = given
    u = s.doubles(n) if q.dtype == np.float64 else s.floats(n)
    return u < q.astype(u.dtype, copy=False).reshape(-1)


@lru_cache(64)
def scaled_one(scale: float, dtype: dt.dtype) -> np.generic:
    """What stands where a trial is a success."""
    wide = np.float64 if dtype is dt.float64 else np.float32
    return (wide(1) / wide(scale)).astype(dtype.np) if dtype.category == dt.FLOAT else np.True_


@_law
def geometric(s: Words, size: Any, dtype: Any, _: Any, p: float) -> np.ndarray:
    """Trials up to the first success, by the inverse of the distribution function."""
    return np.ceil(_each(_log, np.log, s.doubles(numel(size))) / math.log1p(-p))


def _log(x: float) -> float:
    return math.log(x) if x else -math.inf


@_law
def multinomial(s: Words, size: Any, dtype: Any, given: Any) -> np.ndarray:
    """Categories with probabilities proportional to rows of weights, with replacement."""
    (weights,) = given
    if weights.dtype.itemsize < 4:
        weights = weights.astype(np.float32)
    rows = weights.reshape(-1, weights.shape[-1])
    u, out = s.doubles(numel(size)).reshape(len(rows), size[-1]), np.empty(size, np.int64)
    for row, x, into in zip(rows, u, out.reshape(len(rows), -1), strict=True):
        sums = np.cumsum(row)
        sums /= sums[-1]
        sums[-1] = 1
        into[:] = np.searchsorted(sums, x)
    return out


@_law
def slopes(s: Words, size: Any, dtype: dt.dtype, given: Any, low: float, high: float) -> np.ndarray:
    """rrelu's: uniform in [low, high) where the input is not positive, else 1."""
    below = given[0].reshape(-1) <= 0
    out = np.ones(below.size)
    out[below] = fma(s.doubles(int(below.sum())), high - low, low)
    return out


# ---------------------------------------------------------------- one by one


def _elementwise(fn: Callable) -> Callable:
    """Bind `fn(uniform, stream, dtype, *parameters)`, one number, as a law of parameters of the size."""

    def law(s: Words, size: Any, dtype: dt.dtype, given: Any) -> np.ndarray:
        one = Singles(s, 4 * numel(size))
        columns = [np.broadcast_to(p, size).astype(np.float64).ravel().tolist() for p in given]
        out = [
            fn(one.next, s, dtype, *values) if min(values) >= 0 else math.nan
            for values in zip(*columns, strict=True)
        ]
        one.close()
        return np.array(out, np.float64)

    LAWS[fn.__name__.strip("_")] = law
    return fn


@cache
def _tiny(dtype: dt.dtype) -> float:
    return float(dt.finfo(dtype).tiny)


@_law
def gamma(s: Words, size: Any, dtype: dt.dtype, given: Any) -> np.ndarray:
    """Marsaglia and Tsang (2000), with a third in single precision."""
    kind, least = dtype.np.type, _tiny(dtype)
    alpha = np.broadcast_to(given[0], size).astype(dtype.np).ravel()
    below = alpha < 1
    with np.errstate(divide="ignore", over="ignore"):
        power = (kind(1) / alpha).astype(np.float64).tolist()
    d = (np.where(below, alpha + kind(1), alpha) - kind(np.float32(1 / 3))).astype(np.float64)
    out, one, sqrt, log = [], Singles(s, 3 * alpha.size), math.sqrt, math.log
    u, kept = one.next, s.kept
    for a, small, p, size_ in zip(alpha.tolist(), below.tolist(), power, d.tolist(), strict=True):
        if not a > 0:
            out.append(least if a == 0 else math.nan)
            continue
        scale = (1 - u()) ** p if small else 1.0
        c = 1 / sqrt(9 * size_)
        while True:
            y = 0.0
            while y <= 0:
                if kept is None:
                    x, kept = _pair(u(), u())
                else:
                    x, kept = kept, None
                y = 1 + c * x
            v, w, xx = y * y * y, 1 - u(), x * x
            if w < 1 - 0.0331 * xx * xx or log(w) < 0.5 * xx + size_ * (1 - v + log(v)):
                out.append(max(least, scale * size_ * v))
                break
    s.kept = kept
    one.close()
    return np.array(out, np.float64)


@_law
def dirichlet(s: Words, size: Any, dtype: dt.dtype, given: Any) -> np.ndarray:
    """Gamma numbers in double precision, each by the sum of its row."""
    x = LAWS["gamma"](s, size, dt.float64, given).reshape(size)
    return x / x.cumsum(-1)[..., -1:]  # one after the other, as PyTorch adds them


@_elementwise
def _poisson(u: Callable[[], float], s: Words, dtype: dt.dtype, rate: float) -> float:
    """Products of uniform numbers; for rates of 10 and more Hörmann's PTRS (1993)."""
    if rate == 0:
        return 0.0
    if rate < 10:
        least, k, product = math.exp(-rate), 0, u()
        while product > least:
            k, product = k + 1, product * u()
        return float(k)
    b = 0.931 + 2.53 * math.sqrt(rate)
    a = -0.059 + 0.02483 * b
    scale, steep = 1.1239 + 1.1328 / (b - 3.4), 0.9277 - 3.6224 / (b - 2)
    while True:
        x, v = u() - 0.5, u()
        us = 0.5 - abs(x)
        k = math.floor((2 * a / us + b) * x + rate + 0.43)
        if us >= 0.07 and v <= steep:
            return float(k)
        if k < 0 or (us < 0.013 and v > us):
            continue
        density = k * math.log(rate) - rate - math.lgamma(k + 1)
        if math.log(v) + math.log(scale) - math.log(a / (us * us) + b) <= density:
            return float(k)


@_elementwise
def _binomial(u: Callable[[], float], s: Words, dtype: dt.dtype, count: float, p: float) -> float:
    """Sums of geometric numbers; where 10 successes or more are due, Hörmann's BTRS (1993)."""
    if count <= 0 or p <= 0:
        return 0.0
    if p >= 1:
        return count
    q = min(p, 1 - p)
    k = (_transformed if count * q >= 10 else _by_waiting)(u, count, q)
    return k if p <= 0.5 else count - k


def _by_waiting(u: Callable[[], float], count: float, p: float) -> float:
    waited, k = 0, -1
    while waited <= count:
        waited, k = waited + math.ceil(math.log(u()) / math.log1p(-p)), k + 1
    return float(k)


def _transformed(u: Callable[[], float], n: float, p: float) -> float:
    spread = math.sqrt(n * p * (1 - p))
    b = 1.15 + 2.53 * spread
    a, c, steep = -0.0873 + 0.0248 * b + 0.01 * p, n * p + 0.5, 0.92 - 4.2 / b
    odds, alpha, mode = p / (1 - p), (2.83 + 5.1 / b) * spread, math.floor((n + 1) * p)
    while True:
        x, v = u() - 0.5, u()
        us = 0.5 - abs(x)
        k = math.floor((2 * a / us + b) * x + c)
        if us >= 0.07 and v <= steep:
            return float(k)
        if k < 0 or k > n:
            continue
        bound = (
            (mode + 0.5) * math.log((mode + 1) / (odds * (n - mode + 1)))
            + (n + 1) * math.log((n - mode + 1) / (n - k + 1))
            + (k + 0.5) * math.log(odds * (n - k + 1) / (k + 1))
            + (_stirling(mode) + _stirling(n - mode) - _stirling(k) - _stirling(n - k))
        )
        if math.log(v * alpha / (a / (us * us) + b)) <= bound:
            return float(k)


def _stirling(k: float) -> float:
    """log(k!) less Stirling's approximation to it."""
    if k <= 9:
        k = float(k)
        return math.lgamma(k + 1) - (k + 0.5) * math.log(k + 1) + k + 1 - 0.5 * math.log(math.tau)
    return (1 / 12 - (1 / 360 - 1 / 1260 / (k + 1) ** 2) / (k + 1) ** 2) / (k + 1)
