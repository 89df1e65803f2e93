"""The generator behind PyTorch's random numbers on CPU: MT19937, and the bytes in which its state is kept.

A state is what `torch.Generator.get_state` gives, 5056 bytes: the seed; how many words are left until the
624 words of the state are renewed; whether there is a seed; which word comes next; the words, as 64-bit
integers; and the second of a pair of normal numbers, with whether one is kept.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from itertools import chain
from operator import length_hint
from typing import Any

import numpy as np

SIZE = 5056
"""Bytes of a state."""

PIECE = 1 << 13
"""Numbers that are made at a time, so that what is between stays in cache."""

FEW = 1 << 9
"""Numbers up to which calls cost more than what they compute."""

KEYS, KEPT = 24, 5024
"""Where a state has its words, and the second of a pair, in bytes."""

_WORDS = 624
_KEYS = slice(KEYS, KEYS + 8 * _WORDS)
_LOW21, _LOW24 = np.uint32(2**21 - 1), np.uint32(2**24 - 1)
_LOW53, _HALF = np.uint64(2**53 - 1), np.uint64(32)
_TRUE = np.True_
_UNIT24 = np.float32(2.0**-24)
_LEFT, _SEEDED, _NEXT = 2, 3, 2  # among 32-bit numbers, and among 64-bit ones
_KEPT, _IS_KEPT = KEPT // 8, KEPT // 4 + 4


native: Callable[[], dict[str, Callable]] = dict
"""A backend's kernels (`backends.cpu.twister`) by name, functions of addresses; none where there are none."""


def first_state(seed: int) -> np.ndarray:
    """The state with which the stream of a seed begins; its low 32 bits tell streams apart."""
    state = np.zeros(SIZE, np.uint8)
    state[:8].view(np.uint64)[0] = seed
    state.view(np.uint32)[[_LEFT, _SEEDED]] = 1
    state[_KEYS].view(np.uint64)[:] = np.random.RandomState(seed % 2**32).get_state()[1]
    return state


def is_state(state: np.ndarray) -> bool:
    """Whether these bytes can be a state: one that has a seed, and a place among its words."""
    left, seeded = state.view(np.uint32)[[_LEFT, _SEEDED]].tolist()
    at = int(state.view(np.uint64)[_NEXT])
    return seeded == 1 and (left + at == _WORDS + 1 or (left, at) == (1, 0))


class _Fields:
    """A state's numbers, where they lie."""

    def __init__(self, state: np.ndarray):
        self.state, self.keys = state, state[_KEYS].view(np.uint64)
        view = memoryview(state)
        self.small, self.large, self.real = view.cast("I"), view.cast("Q"), view.cast("d")


class Words:
    """The words of the stream whose state is loaded, drawn by NumPy's generator of that name.

    Where few are drawn again and again, all words of the present 624 are looked at once, as are the floats and doubles
    that they make, and draws are parts of these.
    """

    def __init__(self) -> None:
        bits = np.random.MT19937(0)
        self._raw, self._source = bits.random_raw, np.random.RandomState(bits)
        struct = ctypes.c_uint32 * (_WORDS + 1)  # NumPy keeps the words, and which comes next
        self._memory = np.ctypeslib.as_array(struct.from_address(bits.ctypes.state_address))
        self._address = bits.ctypes.state_address
        self._fields: Any = None
        self._place = memoryview(self._memory[_WORDS:]).cast("B").cast("I")
        self._drawn = self._at = 0
        self._loaded: int | None = None
        self._version: int | None = None
        self.kept: float | None = None
        self._was_kept: float | None = None
        self._leave()

    def _leave(self) -> None:
        """Forget the present words: others may come."""
        self._block: Any = None
        self._few = False  # whether few were drawn last

    def forget(self) -> None:
        """Somebody else has drawn from the state that was loaded."""
        self._version = None

    def load(self, state: np.ndarray, version: int | None = None) -> None:
        """Go on from a state; where it is the last one, and of the same `version`, nobody else has written to it."""
        f = self._fields
        if f is None or f.state is not state:
            f = self._fields = _Fields(state)
            self._version = None
        if version is None or version != self._version:
            self._memory[:_WORDS] = f.keys
            self._place[0] = _WORDS if f.small[_LEFT] == 1 else f.large[_NEXT]
            self.kept = self._was_kept = f.real[_KEPT] if f.small[_IS_KEPT] else None
            self._leave()
        self._loaded, self._version = version, None  # until it is stored
        self._at, self._drawn = self._place[0], 0

    def store(self) -> None:
        """Write into the state that was loaded what has become of it."""
        f = self._fields
        if self._drawn:
            at = self._place[0]
            if at != self._at + self._drawn:  # the words were renewed
                f.keys[:] = self._memory[:_WORDS]
            f.small[_LEFT], f.large[_NEXT] = _WORDS + 1 - at, at
        if self.kept is not self._was_kept:
            f.real[_KEPT], f.small[_IS_KEPT] = self.kept or 0.0, self.kept is not None
            self._was_kept = self.kept
        self._version = self._loaded

    def words(self, n: int) -> np.ndarray:
        """The next n words, to be read only."""
        if n <= FEW:
            return self._next(n)
        self._drawn += n
        self._leave()
        if (out := self._made("words", n, np.dtype(np.uint32))) is not None:
            return out
        return np.frombuffer(self._source.bytes(4 * n), "<u4")

    def _next(self, n: int) -> np.ndarray:
        """The next few words, to be read only."""
        self._drawn += n
        if not self._few or not 0 < n <= _WORDS:
            self._block, self._few = None, True
            return self._raw(n).astype(np.uint32)
        at = self._place[0]
        left = _WORDS - at
        if n > left:
            rest = self._look(at)[at:] if left else None
            first = self._look(_WORDS)[: n - left]
            self._place[0] = n - left
            return first if rest is None else np.concatenate([rest, first])
        block = self._look(at)
        self._place[0] = at + n
        return block[at : at + n]

    def _look(self, at: int) -> np.ndarray:
        """The present 624 words, or the next ones from the place behind them."""
        if self._block is None or at == _WORDS:
            self._place[0] = at if at == _WORDS else 0  # where NumPy renews them
            self._block = self._raw(_WORDS).astype(np.uint32)
            self._floats: np.ndarray | None = None
            self._doubles: list[np.ndarray | None] = [None, None]
        return self._block

    def _next_doubles(self, n: int) -> np.ndarray:
        """The next few doubles, to be read only."""
        at = self._place[0]
        end, odd = at + 2 * n, at & 1
        if self._block is None or 2 * n > _WORDS or (odd and end > _WORDS):
            return _double(self._next(2 * n))
        self._drawn += 2 * n
        start = at >> 1
        if end <= _WORDS:
            self._place[0] = end
            return self._all(odd)[start : start + n]
        rest, end = self._all(0)[start:], end - _WORDS
        self._look(_WORDS)
        self._place[0] = end
        return np.concatenate([rest, self._all(0)[: end >> 1]])

    def _all(self, odd: int) -> np.ndarray:
        """The doubles that begin at even, or at odd, places of the present words."""
        out = self._doubles[odd]
        if out is None:
            out = self._doubles[odd] = _double(self._block[odd : _WORDS - odd])
        return out

    def ahead(self, n: int) -> list[float]:
        """About so many doubles, few, that can be given `back`: those of the present words."""
        return self.few(max(1, min(n, (_WORDS - self._place[0]) // 2)))

    def back(self, n: int) -> None:
        """Give back so many of the doubles that `ahead` gave last, but not all of them."""
        self._place[0] -= 2 * n
        self._drawn -= 2 * n

    def _made(self, kind: str, n: int, dtype: np.dtype, *numbers: Any) -> np.ndarray | None:
        """n elements that a kernel makes of the next words; None where there is none."""
        kernel = native().get(kind)
        if kernel is None:
            return None
        out = np.empty(n, dtype)
        given = np.zeros(2, np.uint64)
        for i, x in enumerate(numbers):
            given[i : i + 1].view(x.dtype)[0] = x
        kernel(self._address, out.ctypes.data, n, given.ctypes.data)
        return out

    def few(self, n: int) -> list[float]:
        """A few float64 in [0, 1) of 53 bits, as Python's numbers."""
        return self._next_doubles(n).tolist()

    def pairs(self, n: int) -> np.ndarray:
        """The next n integers of 64 bits, of two words each, the high one first."""
        return _pairs(self.words(2 * n))

    def below(self, n: int, p: float, value: np.generic = _TRUE) -> np.ndarray:
        """A value where the next n doubles are less than p, in [0, 1], else 0: their 53 bits are compared, not made doubles."""
        if n <= FEW:
            return _where(self._next_doubles(n) < p, value)
        bound = math.ceil(p * 2.0**53)
        out = self._made(f"below_{value.dtype}", n, value.dtype, np.uint64(bound), value)
        if out is not None:
            self._drawn += 2 * n
            self._leave()
            return out
        high, low = np.uint32(bound >> 32), np.uint32(bound & 2**32 - 1)
        out = np.empty(n, np.bool_)
        for part in pieces(out):
            w = self.words(2 * len(part))
            top = w[::2] & _LOW21
            np.less(top, high, out=part)
            for i in np.flatnonzero(top == high):
                part[i] = w[2 * i + 1] < low
        return _where(out, value)

    def floats(self, n: int) -> np.ndarray:
        """n float32 in [0, 1) of 24 bits, a word each."""
        if n <= FEW:
            at = self._place[0]
            if self._block is None or at + n > _WORDS:
                return _single(self._next(n))
            if self._floats is None:
                self._floats = _single(self._block)
            self._drawn += n
            self._place[0] = at + n
            return self._floats[at : at + n].copy()
        if (out := self._made("float32", n, np.dtype(np.float32))) is not None:
            self._drawn += n
            self._leave()
            return out
        out = np.empty(n, np.float32)
        for part in pieces(out):
            w = self.words(len(part)) & _LOW24
            np.copyto(part, w.view(np.int32), casting="unsafe")
            part *= _UNIT24
        return out

    def doubles(self, n: int) -> np.ndarray:
        """n float64 in [0, 1) of 53 bits, two words each."""
        if n <= FEW:
            return self._next_doubles(n).copy()
        if (out := self._made("float64", n, np.dtype(np.float64))) is not None:
            self._drawn += 2 * n
            self._leave()
            return out
        out = np.empty(n, np.float64)
        for part in pieces(out):
            w = self.pairs(len(part))
            w &= _LOW53
            np.copyto(part, w.view(np.int64), casting="unsafe")
            part *= 2.0**-53
        return out


def _pairs(w: np.ndarray) -> np.ndarray:
    w = w.view("<u8")
    out = w << _HALF
    out |= w >> _HALF
    return out


def _double(w: np.ndarray) -> np.ndarray:
    """Doubles of two words each."""
    v = _pairs(w)
    v &= _LOW53
    out = v.view(np.int64).astype(np.float64)
    out *= 2.0**-53
    return out


def _single(w: np.ndarray) -> np.ndarray:
    """Floats of a word each."""
    out = (w & _LOW24).astype(np.float32)
    out *= _UNIT24
    return out


def _where(chosen: np.ndarray, value: np.generic) -> np.ndarray:
    """A value in some places, 0 elsewhere."""
    if value is _TRUE:
        return chosen
    if value.dtype.char in "fd":
        return chosen * value
    out = np.zeros(chosen.shape, value.dtype)
    out[chosen] = value
    return out


def pieces(a: np.ndarray) -> Iterator[np.ndarray]:
    """An array of one dimension in pieces."""
    for at in range(0, len(a), PIECE):
        yield a[at : at + PIECE]


class Singles:
    """Doubles of a stream one by one, for draws that don't know how many they take: about so many; `next()` gives one."""

    def __init__(self, stream: Words, about: int):
        self._stream, self._size = stream, min(max(about, 4), FEW // 2)
        self._ahead: Iterator[float] = iter(())
        self.next: Callable[[], float] = chain.from_iterable(self._chunks()).__next__

    def _chunks(self) -> Iterator[Iterator[float]]:
        while True:
            self._ahead = iter(self._stream.ahead(self._size))
            yield self._ahead

    def close(self) -> None:
        """Leave the stream behind the last one that was taken."""
        self._stream.back(length_hint(self._ahead))
