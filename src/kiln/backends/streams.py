"""Random numbers in eager mode: large ones by kernels, in blocks that begin further on in the stream.

A counter-based stream has no past, so a block of it is a call with a larger counter, and one kernel
serves any number of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..ops.random import normal_pair
from ..ops.registry import REGISTRY
from ..runtime.blocks import allocator
from . import derived

_BLOCK = 1 << 16


def _ahead(state: np.ndarray, words: int) -> np.ndarray:
    """The state so many words, a multiple of four, further on."""
    return np.array([state[0], state[1] + np.uint64(words // 4)], np.uint64)


def bind(native: Callable[[], bool]) -> None:
    """Give the primitives of float32 numbers their routines."""
    uniform_op, normal_op = REGISTRY["random_uniform"], REGISTRY["random_normal"]
    uniform_fn = derived.calling(uniform_op)

    def able(n: int, dtype: dt.dtype) -> bool:
        return dtype is dt.float32 and n >= derived.LARGE and config.eager == "cpu" and native()

    def uniform(state: np.ndarray, size: Sequence[int], dtype: dt.dtype) -> Any:
        """Element i is of word i."""
        n = prod(size)
        if able(n, dtype):
            from .cpu.one_op import blocks_of

            out = allocator(4 * n + 16)((-(-n // 4) * 4,), dtype.np)
            calls = [
                ((_ahead(state, at), (b,), dtype), (out[at : at + b],))
                for at, b in blocks_of(len(out), _BLOCK)
            ]
            if derived.shelf().fill("random_uniform", uniform_fn, calls):
                return out[:n].reshape(size)
        return uniform_op.run(state, size, dtype)

    def normal(state: np.ndarray, size: Sequence[int], dtype: dt.dtype) -> Any:
        """Elements i and n / 2 + i are of words i and n / 2 + i."""
        n = prod(size)
        h = n // 2
        if able(n, dtype) and n % 8 == 0:
            from .cpu.one_op import blocks_of

            out = allocator(4 * n)(tuple(size), dtype.np)
            flat = out.reshape(-1)
            calls = [
                (
                    (_ahead(state, at), _ahead(state, h + at), b),
                    (flat[at : at + b], flat[h + at : h + at + b]),
                )
                for at, b in blocks_of(h, _BLOCK)
            ]
            if derived.shelf().fill("random_normal", normal_pair, calls):
                return out
        return normal_op.run(state, size, dtype)

    uniform_op.eager, normal_op.eager = uniform, normal
