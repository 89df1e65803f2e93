"""Random numbers: the counter-based stream, and distributions made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, KilnTypeError, describe
from ..random import Generator, default_generator
from ..shape import Size, broadcast_shapes, numel
from ..sharing import watched, written
from ..tensor import CAPTURING, Tensor, active_capture
from .creation import _finish, _placed, _size, arange_op, empty_like, full_op
from .joining import cat
from .registry import FUNCTIONS, Sample, composition, method, op
from .rules import zero_gradient
from .scan import cumsum_op
from .selection import where_op
from .sorting import search_op, sort_op, topk

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


def draw(generator: Generator | None, words: Any, source: Callable, *args: Any) -> Tensor:
    """A primitive of the generator's state, which then moves on by the words that it took."""
    if generator is not None and not isinstance(generator, Generator):
        raise KilnTypeError(
            "random", "generator must be a kiln.Generator", describe(generator), "kiln.Generator()"
        )
    state = (generator or default_generator).state
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


def _floating(name: str, d: dt.dtype) -> dt.dtype:
    if d.category != dt.FLOAT:
        raise KilnNotImplementedError(
            name, f"not implemented for {d.name}", d, "draw floats and convert them"
        )
    return d


def uniform(
    size: Sequence[int], dtype: dt.dtype, generator: Generator | None, name: str = "rand"
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    if dtype.is_complex:
        return _complex(uniform, size, dtype, generator, 1.0)
    return draw(
        generator, _uniform_words(numel(size), _floating(name, dtype)), random_uniform, size, dtype
    )


def gaussian(
    size: Sequence[int], dtype: dt.dtype, generator: Generator | None, name: str = "randn"
) -> Tensor:
    """Standard normal numbers."""
    if dtype.is_complex:
        return _complex(gaussian, size, dtype, generator, math.sqrt(0.5))
    return draw(
        generator, _normal_words(numel(size), _floating(name, dtype)), random_normal, size, dtype
    )


def _complex(one: Callable, size: Any, dtype: dt.dtype, generator: Any, scale: float) -> Tensor:
    real, imag = (one(size, dtype.to_real(), generator) * scale for _ in range(2))
    return real + imag * 1j


# ---------------------------------------------------------------- new tensors


def _checked(name: str, size: Sequence[int]) -> Any:
    return _size(tuple(size), None, name)


def _lying(r: Tensor, input: Tensor, format: Any) -> Tensor:
    """New numbers in a memory format, that of `input` unless given."""
    if format is None and input.is_contiguous():
        return r
    return empty_like(input, dtype=r.dtype, memory_format=format).copy_(r)


def _of_size(name: str, make: Callable, doc: str) -> Callable:
    def new(*size: Any, generator: Generator | None = None, out: Tensor | None = None, dtype: Any = None,
            layout: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False,
            **named: Any) -> Tensor:  # fmt: skip
        if not size and "size" not in named:
            raise KilnTypeError(name, "a size is missing", "()", f"e.g. kiln.{name}(2, 3)")
        shape = _size(size, named.pop("size", None), name)
        if named:
            raise KilnTypeError(
                name, "unexpected argument", ", ".join(named), "see its documentation"
            )
        d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
        r = make(shape, d, generator, name)
        return _placed(arange_op, r, requires_grad, out)

    def like(input: Tensor, *, generator: Generator | None = None, dtype: Any = None, layout: Any = None,
             device: Any = None, requires_grad: bool = False, memory_format: Any = None) -> Tensor:  # fmt: skip
        d = input.dtype if dtype is None else dt.as_dtype(dtype)
        r = make(input._a.shape, d, generator, name + "_like")
        return _finish(_lying(r, input, memory_format), requires_grad)

    new.__name__, new.__doc__ = name, doc + " of a given size, default dtype float."
    like.__name__, like.__doc__ = name + "_like", doc + " with the size and dtype of `input`."
    FUNCTIONS[name], FUNCTIONS[like.__name__] = new, like
    return new


rand = _of_size("rand", uniform, "Uniform numbers in [0, 1)")
randn = _of_size("randn", gaussian, "Normal numbers of mean 0 and variance 1")

_EXACT = {dt.float16: 2**11, dt.bfloat16: 2**8, dt.float32: 2**24, dt.float64: 2**53, dt.bool_: 1}


def _integers(size: Any, low: int, high: int, d: dt.dtype, generator: Generator | None) -> Tensor:
    if low >= high:
        raise KilnError(
            "random_",
            f"expects 'from' to be less than 'to', but got from={low} >= to={high}",
            f"[{low}, {high})",
            "",
        )
    if d.category in (dt.BOOL, dt.INT):
        first, last = (0, 1) if d is dt.bool_ else (dt.iinfo(d).min, dt.iinfo(d).max)
        if not (first <= low and high - 1 <= last):
            raise KilnError(
                "random_",
                f"bounds are out of range for {d.name}",
                f"[{low}, {high})",
                f"{first} to {last}",
            )
    return draw(generator, 2 * numel(size), random_integers, size, low, high).to(d)


def randint(*args: Any, generator: Generator | None = None, out: Tensor | None = None, dtype: Any = None,
            layout: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False,
            **named: Any) -> Tensor:  # fmt: skip
    """Uniform integers: `randint(high, size)` in [0, high) or `randint(low, high, size)` in [low, high)."""
    names = (
        ("low", "high", "size")
        if len(args) == 3 or ("high" in named and len(args) == 1)
        else ("high", "size")
    )
    given = dict(zip(names, args, strict=False)) | named
    if (
        not isinstance(given.get("size"), list | tuple)
        or len(args) > 3
        or not given.keys() <= {"low", "high", "size"}
    ):
        raise KilnTypeError(
            "randint",
            "an invalid combination of arguments",
            describe(args),
            "randint(low, high, (2, 3))",
        )
    d = dt.int64 if dtype is None else dt.as_dtype(dtype)
    size = _checked("randint", given["size"])
    r = _integers(size, int(given.get("low", 0)), int(given["high"]), d, generator)
    return _placed(arange_op, r, requires_grad, out)


def randint_like(input: Tensor, low: int, high: int | None = None, *, generator: Generator | None = None,
                 dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False,
                 memory_format: Any = None) -> Tensor:  # fmt: skip
    """Uniform integers in [low, high), or [0, low), with the size and dtype of `input`."""
    bounds = (0, low) if high is None else (low, high)
    d = input.dtype if dtype is None else dt.as_dtype(dtype)
    r = _integers(input._a.shape, *map(int, bounds), d, generator)
    return _finish(_lying(r, input, memory_format), requires_grad)


def randperm(n: int, *, generator: Generator | None = None, out: Tensor | None = None, dtype: Any = dt.int64,
             layout: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """The integers from 0 to n - 1 in random order."""
    (n,) = _checked("randperm", (n,))
    order = sort_op(draw(generator, n, random_bits, (n,)), 0, False)[1]
    r = order.to(dt.as_dtype(dtype))
    return _placed(arange_op, r, requires_grad, out)


def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None,
           out: Tensor | None = None, dtype: Any = None, layout: Any = None, device: Any = None,
           requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """Normal numbers with given mean and standard deviation: tensors that broadcast, or numbers and a size."""
    tensors = [x for x in (mean, std) if isinstance(x, Tensor)]
    if size is None and not tensors:
        raise KilnTypeError(
            "normal",
            "numbers as mean and std need a size",
            f"{mean}, {std}",
            "normal(0.0, 1.0, (2, 3))",
        )
    if not isinstance(std, Tensor) and std < 0:
        raise KilnError("normal", f"normal expects std >= 0.0, but found std {std}", std, "")
    if tensors:
        shape = broadcast_shapes(*[x.shape for x in tensors], op="normal")
        d = tensors[0].dtype
        mean, std = (x.detach() if isinstance(x, Tensor) else x for x in (mean, std))
    else:
        shape = _size((size,), None, "normal")
        d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
    r = gaussian(shape, d, generator, "normal") * std + mean
    return _placed(arange_op, r, requires_grad, out)


for _fn in (randint, randint_like, randperm, normal):
    FUNCTIONS[_fn.__name__] = _fn


# ---------------------------------------------------------------- in place


def _fill(fn: Callable) -> Callable:
    """Bind `fn(self, …)`, which gives new values, as a method that stores them in self."""

    def into(self: Tensor, *args: Any, generator: Generator | None = None, **kwargs: Any) -> Tensor:
        return self.copy_(fn(self, generator, *args, **kwargs))

    into.__name__, into.__doc__ = fn.__name__.removeprefix("_"), fn.__doc__
    return method(into.__name__)(into)


def _demand(name: str, ok: bool, what: str, received: Any) -> None:
    if not ok:
        raise KilnError(name, what, received, "see its documentation")


@_fill
def _uniform_(
    self: Tensor, generator: Any, a: float = 0.0, b: float = 1.0, **bounds: float
) -> Tensor:
    """Fill with uniform numbers in [from, to)."""
    low, high = bounds.get("from", a), bounds.get("to", b)
    _demand(
        "uniform_",
        low <= high,
        f"expects to return a [from, to) range, but found from={low} > to={high}",
        (low, high),
    )
    u = uniform(self._a.shape, self.dtype, generator, "uniform_")
    return u if (low, high) == (0.0, 1.0) else u * (high - low) + low


@_fill
def _normal_(self: Tensor, generator: Any, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normal numbers."""
    _demand("normal_", std >= 0, f"expects std >= 0.0, but found std {std}", std)
    z = gaussian(self._a.shape, self.dtype, generator, "normal_")
    return z if (mean, std) == (0.0, 1.0) else z * std + mean


@_fill
def _log_normal_(self: Tensor, generator: Any, mean: float = 1.0, std: float = 2.0) -> Tensor:
    """Fill with exponentials of normal numbers."""
    _demand("log_normal_", std > 0, f"expects std > 0.0, but found std={std}", std)
    return (gaussian(self._a.shape, self.dtype, generator, "log_normal_") * std + mean).exp()


@_fill
def _exponential_(self: Tensor, generator: Any, lambd: float = 1.0) -> Tensor:
    """Fill with exponentially distributed numbers of rate lambd."""
    _demand("exponential_", lambd > 0, f"expects lambda > 0.0, but found lambda={lambd}", lambd)
    if self.dtype.category != dt.FLOAT:
        raise KilnError(
            "exponential_", "dtype must be a floating point", describe(self), "use a float tensor"
        )
    return (-uniform(self._a.shape, self.dtype, generator)).log1p() / -lambd


@_fill
def _cauchy_(self: Tensor, generator: Any, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    """Fill with numbers of the Cauchy distribution."""
    _demand("cauchy_", sigma > 0, f"expects sigma > 0.0, but found sigma={sigma}", sigma)
    if self.dtype.category != dt.FLOAT:
        raise KilnError(
            "cauchy_", "dtype must be a floating point", describe(self), "use a float tensor"
        )
    return ((uniform(self._a.shape, self.dtype, generator) - 0.5) * math.pi).tan() * sigma + median


@_fill
def _geometric_(self: Tensor, generator: Any, p: float) -> Tensor:
    """Fill with the number of trials, each a success with probability p, up to the first success."""
    _demand("geometric_", 0 < p < 1, f"expects p to be in (0, 1), but got p={p}", p)
    d = dt.float64 if self.dtype in (dt.float64, dt.int64) else dt.float32
    u = uniform(self._a.shape, d, generator)
    return ((-u).log1p() / math.log1p(-p)).ceil().clamp(min=1)


@_fill
def _random_(
    self: Tensor, generator: Any, a: int | None = None, b: int | None = None, **bounds: int
) -> Tensor:
    """Fill with uniform integers: in [from, to), in [0, to), or as many as the dtype holds exactly."""
    low, high = bounds.get("from", a), bounds.get("to", b)
    d = self.dtype
    if low is None and high is None:
        high = (_EXACT[d] if d in _EXACT else dt.iinfo(d).max) + 1
    if high is None:
        low, high = 0, low
    return _integers(self._a.shape, int(low or 0), int(high), d, generator)  # type: ignore[arg-type]


# ---------------------------------------------------------------- draws with given probabilities


def _trials(name: str, p: Any, shape: Any, dtype: dt.dtype, generator: Generator | None) -> Tensor:
    """1 with probability p, else 0."""
    if not isinstance(p, Tensor):
        _demand(name, 0 <= p <= 1, f"bernoulli_ expects p to be in [0, 1], but got p={p}", p)
    elif active_capture() is None:
        _demand(
            name, bool(((p >= 0) & (p <= 1)).all()), "expects probabilities in [0, 1]", describe(p)
        )
    d = p.dtype if isinstance(p, Tensor) and p.dtype is dt.float64 else dt.float32
    return (uniform(shape, d, generator) < p).to(dtype)


@composition(samples=lambda: iter([
    Sample((np.array([0.0, 1.0]),), grad=False), Sample((np.array([1.5]),), error=RuntimeError),
    Sample((np.array([1]),), error=NotImplementedError), Sample((np.zeros(2), 1.0), grad=False),
]))  # fmt: skip
def bernoulli(
    input: Tensor,
    p: float | None = None,
    *,
    generator: Generator | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """1 with the probability that `input` (or p) gives, else 0."""
    if p is None:
        _floating("bernoulli", input.dtype)
    r = _trials(
        "bernoulli", input.detach() if p is None else p, input._a.shape, input.dtype, generator
    )
    return _placed(full_op, zero_gradient(r, input), False, out)


@_fill
def _bernoulli_(self: Tensor, generator: Any, p: Any = 0.5) -> Tensor:
    """Fill with 1 with probability p (a number or a tensor that broadcasts), else 0."""
    return _trials("bernoulli_", p, self._a.shape, self.dtype, generator)


def _check_weights(input: Tensor, num_samples: int, replacement: bool) -> None:
    n = len(input.shape)
    _demand("multinomial", 1 <= n <= 2, "prob_dist must be 1 or 2 dim", describe(input))
    _demand(
        "multinomial",
        input.is_floating_point(),
        "only supports floating-point dtypes for input",
        describe(input),
    )
    _demand("multinomial", num_samples > 0, "cannot sample n_sample <= 0 samples", num_samples)
    _demand("multinomial", replacement or num_samples <= input.shape[-1],
            "cannot sample n_sample > prob_dist.size(-1) samples without replacement", num_samples)  # fmt: skip
    if active_capture() is None:
        bad = ~(input.isfinite() & (input >= 0))
        _demand(
            "multinomial",
            not bool(bad.any()),
            "probability tensor contains either `inf`, `nan` or element < 0",
            describe(input),
        )
        _demand(
            "multinomial",
            bool((input.sum(-1) > 0).all()),
            "invalid multinomial distribution (sum of probabilities <= 0)",
            describe(input),
        )


@composition(samples=lambda: iter([
    Sample((np.array([0.0, 1.0]), 1), grad=False), Sample((np.ones(3), 4), error=RuntimeError),
    Sample((np.array([[0.0, 1.0], [2.0, 0.0]]), 3, True), grad=False), Sample((np.zeros(3), 1), error=RuntimeError),
    Sample((np.array([-1.0, 2.0]), 1), error=RuntimeError), Sample((np.ones(3, np.int64), 1), error=RuntimeError),
]))  # fmt: skip
def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None,
                out: Tensor | None = None) -> Tensor:  # fmt: skip
    """Indices of categories drawn with probabilities proportional to each row of `input`."""
    _check_weights(input, num_samples, replacement)
    p = input.detach().double()
    if (
        not replacement
    ):  # the order of p / exponential is a draw without replacement (Efraimidis, Spirakis 2006)
        u = uniform(p._a.shape, dt.float64, generator)
        race = where_op(p > 0, p / (-u).log1p().neg(), -1.0)
        r = topk(race, num_samples)[1]
    else:
        cdf = cumsum_op(p, -1)
        u = uniform((*p._a.shape[:-1], num_samples), dt.float64, generator)
        r = search_op(cdf, u * cdf[..., -1:], True, dt.int64).clamp(max=p._a.shape[-1] - 1)
    if out is not None and out.dtype is not dt.int64:
        raise KilnError("multinomial", "expects an int64 tensor as out=", describe(out), "")
    return _placed(full_op, r, False, out)
