"""Random numbers: the counter-based stream, and the laws of what is drawn from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnTypeError, describe
from ..random import Generator, default_generator
from ..shape import Size, numel
from ..sharing import watched, written
from ..tensor import CAPTURING, Tensor, active_capture
from .creation import arange_op
from .joining import cat
from .registry import Sample, op
from .scan import cumsum_op
from .sorting import search_op, sort_op

# Note [Random streams]
# A generator's state is uint64 [key, counter]. Block b of the stream is Philox4x32-10 (Salmon et
# al., 2011, "Parallel random numbers: as easy as 1, 2, 3") of
#     counter words: low 32 bits of b, high 32 bits of b, 0, 0
#     key words:     low 32 bits of the key, high 32 bits of the key
# and gives four 32-bit words. Element i, in row-major order, of `random_bits(state, size)` is word
# i % 4 of block counter + i // 4 (modulo 2**64). A draw of n words then adds ceil(n / 4) to the
# counter. What an n-element result takes from `w = random_bits(state, …)`:
#     uniform float32   w[i] >> 8                               n words, times 2**-24
#     uniform float16   w[i] >> 21; bfloat16: w[i] >> 24        n words, times 2**-11; 2**-8
#     uniform float64   (w[i] >> 5) * 2**26 + (w[n + i] >> 6)   2 n words, times 2**-53
#     integers          (w[i] << 32 | w[n + i]) % range + low   2 n words
#     normal            Box-Muller on h = ceil(n / 2) pairs: the first h are r cos t, the others r sin t;
#       float32 (and halves, rounded): r from (w[i] + 0.5) * 2**-32, t from w[h + i] * 2**-32   2 h words
#       float64: u1, u2 as two runs of uniform float64 of h elements; r from u1 + 2**-53        4 h words
# Each function is an op on the state that does not change it; advancing it is an in-place add.

_M = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_W = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_ROUNDS = np.arange(10, dtype=np.uint64).reshape(10, 1, 1) * _W
_CHUNK = 1 << 14
_BITS = {dt.float16: 11, dt.bfloat16: 8, dt.float32: 24, dt.float64: 53}


@lru_cache(64)
def _round_keys(key: int) -> np.ndarray:
    return (_ROUNDS + np.array([[key & 0xFFFFFFFF], [key >> 32]], np.uint64)).astype(np.uint32)


def _philox(key: int, first: int, blocks: int) -> np.ndarray:
    """The words of consecutive blocks of the stream."""
    out = np.empty((blocks, 4), np.uint32)
    for at in range(0, blocks, _CHUNK):
        part = out[at : at + _CHUNK]
        m = len(part)
        n = np.arange(m, dtype=np.uint64) + np.array([(first + at) % 2**64], np.uint64)
        even, odd = (
            np.zeros((2, m), np.uint32),
            np.zeros((2, m), np.uint32),
        )  # words 0 and 2; 1 and 3
        even[0], odd[0] = n & np.uint64(0xFFFFFFFF), n >> np.uint64(32)
        for k in _round_keys(key):
            halves = (even * _M).view(np.uint32)[
                ::-1
            ]  # low, high, low, high, … on a little-endian machine
            even = halves[:, 1::2] ^ odd
            even ^= k
            odd = halves[:, 0::2]
        part[:, 0], part[:, 2] = even
        part[:, 1], part[:, 3] = odd
    return out.reshape(-1)


def stream_words(state: np.ndarray, n: int) -> np.ndarray:
    """The next n words of a state's stream."""
    key, counter = state.tolist()
    return _philox(key, counter, -(-n // 4))[:n]


def primitive(name: str, **facts: Any) -> Callable:
    """An op that reads a state and leaves it as it is."""
    return op(name=name, private=True, family="random", exact=True, check=False, **facts)


def states(*rest: tuple) -> Callable[[], Iterator[Sample]]:
    """Samples of an op on a state: the other arguments of each."""
    state = np.array([2**40 + 3, 2**32 - 1], np.uint64)
    return lambda: iter([Sample((state, *args), grad=False) for args in rest])


@primitive("random_bits", infer=lambda state, size: (Size(size), dt.uint32),
            samples=states(((5,),), ((2, 3, 3),), ((0,),), ((),)))  # fmt: skip
def random_bits(state: Tensor, size: Sequence[int]) -> Tensor:
    """Uniform 32-bit words: the stream's next ones, see Note [Random streams]."""
    return stream_words(state, numel(size)).reshape(size)


def _typed_infer(state: Any, size: Any, dtype: dt.dtype) -> tuple:
    return Size(size), dtype


def _fraction(words: Any, n: Any, at: Any, cast: Callable) -> Any:
    """n float64 in [0, 1) from the 2 n words from `at`; for arrays and for tensors."""
    high, low = words[at : at + n] >> 5, words[at + n : at + 2 * n] >> 6
    return (cast(high) * 67108864.0 + cast(low)) * 2.0**-53


def _as_f64(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


def _uniform_words(n: Any, dtype: dt.dtype) -> Any:
    return 2 * n if dtype is dt.float64 else n


def _uniform_body(state: Tensor, size: Any, dtype: dt.dtype) -> Tensor:
    n = numel(size)
    if dtype is dt.float64:
        return _fraction(random_bits(state, (2 * n,)), n, 0, Tensor.double).reshape(size)
    p = _BITS[dtype]
    return ((random_bits(state, size) >> (32 - p)).float() * 2.0**-p).to(dtype)


_TYPES = [
    ((5,), dt.float32),
    ((2, 3), dt.float64),
    ((), dt.float32),
    ((0,), dt.float64),
    ((7,), dt.bfloat16),
    ((9,), dt.float16),
]


@primitive("random_uniform", infer=_typed_infer, body=_uniform_body, samples=states(*_TYPES))
def random_uniform(state: Tensor, size: Sequence[int], dtype: dt.dtype) -> Tensor:
    """Uniform numbers in [0, 1) with as many bits as the dtype holds exactly."""
    n = numel(size)
    words = stream_words(state, _uniform_words(n, dtype))
    if dtype is dt.float64:
        return _fraction(words, n, 0, _as_f64).reshape(size)
    p = _BITS[dtype]
    words >>= np.uint32(32 - p)
    return (
        (words.astype(np.float32) * np.float32(2.0**-p)).reshape(size).astype(dtype.np, copy=False)
    )


def _normal_words(n: Any, dtype: dt.dtype) -> Any:
    pairs = (n + 1) // 2
    return (4 if dtype is dt.float64 else 2) * pairs


def _normal_body(state: Tensor, size: Any, dtype: dt.dtype) -> Tensor:
    n = numel(size)
    h = (n + 1) // 2
    words = random_bits(state, (_normal_words(n, dtype),))
    if dtype is dt.float64:
        u = _fraction(words, h, 0, Tensor.double) + 2.0**-53
        turn = _fraction(words, h, 2 * h, Tensor.double) * math.tau
    else:
        u = (words[:h].float() + 0.5) * 2.0**-32
        turn = words[h:].float() * (math.tau * 2.0**-32)
    return cat(_box_muller(u, turn))[:n].reshape(size).to(dtype)


def _box_muller(u: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    r = (u.log() * -2.0).sqrt()
    return r * turn.cos(), r * turn.sin()


def normal_pair(first: Tensor, second: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """2 n normal numbers in float32, of the next n words of two states: a part of `random_normal`."""
    u = (random_bits(first, (n,)).float() + 0.5) * 2.0**-32
    return _box_muller(u, random_bits(second, (n,)).float() * (math.tau * 2.0**-32))


@primitive("random_normal", infer=_typed_infer, body=_normal_body, samples=states(*_TYPES))
def random_normal(state: Tensor, size: Sequence[int], dtype: dt.dtype) -> Tensor:
    """Normal numbers of mean 0 and variance 1 (Box and Muller, 1958)."""
    n = numel(size)
    h = (n + 1) // 2
    words = stream_words(state, _normal_words(n, dtype))
    if dtype is dt.float64:
        u = _fraction(words, h, 0, _as_f64) + 2.0**-53
        turn = _fraction(words, h, 2 * h, _as_f64) * math.tau
    else:
        u = (words[:h].astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
        turn = words[h:].astype(np.float32) * np.float32(math.tau * 2.0**-32)
    r = np.sqrt(np.log(u) * u.dtype.type(-2.0))
    out = np.concatenate([r * np.cos(turn), r * np.sin(turn)])[:n].reshape(size)
    return out.astype(dtype.np, copy=False)


def wide_words(first: Tensor, second: Tensor, n: int) -> Tensor:
    """n words of one state, each before one of another: a part of `random_integers`."""
    high, low = (random_bits(s, (n,)).to(dt.uint64) for s in (first, second))
    return high << 32 | low


def _integers_body(state: Tensor, size: Any, low: int, high: int) -> Tensor:
    n = numel(size)
    words = random_bits(state, (2 * n,)).to(dt.uint64)
    return ((words[:n] << 32 | words[n:]) % (high - low)).to(dt.int64).reshape(size) + low


@primitive("random_integers", infer=lambda state, size, low, high: (Size(size), dt.int64), body=_integers_body,
            samples=states(((5,), 0, 10), ((2, 3), -5, 2**62), ((0,), 0, 1)))  # fmt: skip
def random_integers(state: Tensor, size: Sequence[int], low: int, high: int) -> Tensor:
    """Uniform integers in [low, high), unbiased to (high - low) / 2**64."""
    n = numel(size)
    words = stream_words(state, 2 * n).astype(np.uint64)
    wide = (words[:n] << np.uint64(32)) | words[n:]
    return ((wide % np.uint64(high - low)).astype(np.int64) + low).reshape(size)


def reached(generator: Generator | None) -> Generator:
    """The generator that is meant; that it has the same state is a fact of programs that draw from it."""
    if generator is None:
        generator = default_generator
    elif not isinstance(generator, Generator):
        raise KilnTypeError(
            "random", "generator must be a kiln.Generator", describe(generator), "kiln.Generator()"
        )
    if CAPTURING and (ctx := active_capture()) and ctx.capture is not None:
        ctx.capture.watch(generator)
    return generator


def draw(generator: Generator | None, words: Any, source: Callable, *args: Any) -> Tensor:
    """A primitive of the generator's state, which then moves on by the words that it took."""
    state = reached(generator).state
    if CAPTURING and (ctx := active_capture()):
        words = ctx.drawn(words)
    r = source(state, *args)
    blocks = (words + 3) // 4
    if CAPTURING:
        state.add_(arange_op(0, blocks, 2, dt.uint64))
    else:
        state._a[1] += np.uint64(blocks)
        if watched:
            written(state._a)
    return r


# ---------------------------------------------------------------- laws

LAWS: dict[str, Callable] = {}
"""What may be drawn, by name: `law(generator, size, dtype, parameters, *numbers)` gives a tensor."""


def _law(fn: Callable) -> Callable:
    LAWS[fn.__name__.strip("_")] = fn
    return fn


def unit(g: Any, size: Any, dtype: dt.dtype) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return draw(g, _uniform_words(numel(size), dtype), random_uniform, size, dtype)


@_law
def _uniform(g: Any, size: Any, dtype: dt.dtype, _: Any, low: float, high: float) -> Tensor:
    u = unit(g, size, dtype)
    return u if (low, high) == (0.0, 1.0) else u * (high - low) + low


@_law
def _normal(g: Any, size: Any, dtype: dt.dtype, _: Any, mean: float, std: float, dense: bool = True) -> Tensor:  # fmt: skip
    z = draw(g, _normal_words(numel(size), dtype), random_normal, size, dtype)
    return z if (mean, std) == (0.0, 1.0) else z * std + mean


@_law
def _log_normal(g: Any, size: Any, dtype: dt.dtype, _: Any, mean: float, std: float) -> Tensor:
    return (_normal(g, size, dtype, _, 0.0, 1.0) * std + mean).exp()


@_law
def _exponential(g: Any, size: Any, dtype: dt.dtype, _: Any, rate: float) -> Tensor:
    return (-unit(g, size, dtype)).log1p() / -rate


@_law
def _cauchy(g: Any, size: Any, dtype: dt.dtype, _: Any, median: float, sigma: float) -> Tensor:
    return ((unit(g, size, dtype) - 0.5) * math.pi).tan() * sigma + median


@_law
def _geometric(g: Any, size: Any, dtype: dt.dtype, _: Any, p: float) -> Tensor:
    d = dt.float64 if dtype in (dt.float64, dt.int64) else dt.float32
    return ((-unit(g, size, d)).log1p() / math.log1p(-p)).ceil().clamp(min=1)


@_law
def _integers(g: Any, size: Any, dtype: dt.dtype, _: Any, low: int, high: int) -> Tensor:
    return draw(g, 2 * numel(size), random_integers, size, low, high).to(dtype)


_EXACT = {dt.float16: 2**11, dt.bfloat16: 2**8, dt.float32: 2**24, dt.float64: 2**53, dt.bool_: 1}


@_law
def _all_integers(g: Any, size: Any, dtype: dt.dtype, _: Any) -> Tensor:
    last = _EXACT[dtype] if dtype in _EXACT else dt.iinfo(dtype).max
    return _integers(g, size, dtype, _, 0, last + 1)


@_law
def _permutation(g: Any, size: Any, dtype: dt.dtype, _: Any) -> Tensor:
    return sort_op(draw(g, numel(size), random_bits, size), 0, False)[1].to(dtype)


@_law
def _bernoulli(g: Any, size: Any, dtype: dt.dtype, given: Any, p: float | None = None) -> Tensor:
    q = p if p is not None else given[0]
    d = q.dtype if isinstance(q, Tensor) and q.dtype is dt.float64 else dt.float32
    return (unit(g, size, d) < q).to(dtype)


@_law
def _multinomial(g: Any, size: Any, dtype: dt.dtype, given: Any) -> Tensor:
    p = given[0].double()
    sums = cumsum_op(p, -1)
    u = unit(g, size, dt.float64)
    return search_op(sums, u * sums[..., -1:], True, dt.int64).clamp(max=p._a.shape[-1] - 1)


@_law
def _slopes(g: Any, size: Any, dtype: dt.dtype, given: Any, low: float, high: float) -> Tensor:
    return _uniform(g, size, dtype, given, low, high)
