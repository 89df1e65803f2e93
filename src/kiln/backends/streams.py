"""Random numbers in eager mode: large ones by kernels, in blocks that begin further on in the stream.

A counter-based stream has no past, so a block of it is a call with a larger counter, and one kernel
serves any number of elements. The words of PyTorch's stream, a chain, come from kernels of their own (`cpu/twister.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from .. import mersenne
from ..config import config
from ..ops.dispatch import LARGE
from ..ops.random import normal_pair, wide_words
from ..ops.registry import REGISTRY, Op
from ..runtime.blocks import allocator
from . import one_call

_BLOCK = 1 << 16


def _ahead(state: np.ndarray, words: int) -> np.ndarray:
    """The state so many words, a multiple of four, further on."""
    return np.array([state[0], state[1] + np.uint64(words // 4)], np.uint64)


def bind(native: Callable[[], bool]) -> None:
    """Give the primitives of float32 and half floats their routines."""
    for name in ("random_uniform", "dropout_mask"):
        _of_one_word(REGISTRY[name], native)
    _normal(REGISTRY["random_normal"], native)
    _integers(REGISTRY["random_integers"], native)

    def twister() -> dict[str, Callable]:
        if config.eager != "cpu" or not native():
            return {}
        from .cpu import isa, twister

        return twister.kernels(isa.host_isa())

    mersenne.native = twister


def _able(n: int, dtype: dt.dtype, native: Callable[[], bool]) -> bool:
    large = n >= LARGE and dtype.itemsize <= 4
    return large and config.eager == "cpu" and native()


def _of_one_word(op: Op, native: Callable[[], bool]) -> None:
    """Element i is of word i."""
    fn = one_call.calling(op)

    def run(state: np.ndarray, size: Sequence[int], *rest: Any) -> Any:
        n, d = prod(size), rest[-1]
        if _able(n, d, native):
            from .cpu.one_op import blocks_of

            whole = -(-n // 4) * 4
            out = allocator(whole * d.itemsize)((whole,), d.np)
            calls = [
                ((_ahead(state, at), (b,), *rest), (out[at : at + b],))
                for at, b in blocks_of(whole, _BLOCK)
            ]
            if one_call.shelf().fill(op.name, fn, calls):
                return out[:n].reshape(size)
        return op.run(state, size, *rest)

    op.eager = run


def _normal(op: Op, native: Callable[[], bool]) -> None:
    """Elements i and n / 2 + i are of words i and n / 2 + i."""

    def run(state: np.ndarray, size: Sequence[int], dtype: dt.dtype) -> Any:
        n = prod(size)
        h = n // 2
        if dtype is dt.float32 and n % 8 == 0 and _able(n, dtype, native):
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
            if one_call.shelf().fill(op.name, normal_pair, calls):
                return out
        return op.run(state, size, dtype)

    op.eager = run


def _integers(op: Op, native: Callable[[], bool]) -> None:
    """Element i is of words i and n + i."""

    def run(state: np.ndarray, size: Sequence[int], low: int, high: int) -> Any:
        n = prod(size)
        if n % 4 == 0 and n >= LARGE and config.eager == "cpu" and native():
            from .cpu.one_op import blocks_of

            wide = allocator(8 * n)((n,), dt.uint64.np)
            blocks = blocks_of(n, _BLOCK)
            calls = [
                ((_ahead(state, at), _ahead(state, n + at), b), (wide[at : at + b],))
                for at, b in blocks
            ]
            if one_call.shelf().fill(op.name, wide_words, calls):
                span = np.uint64(high - low)
                for at in range(
                    0, n, _BLOCK
                ):  # a division and a product: NumPy has no quick remainder
                    part = wide[at : at + _BLOCK]
                    part -= part // span * span
                out = wide.view(np.int64)
                out += low
                return out.reshape(size)
        return op.run(state, size, low, high)

    op.eager = run
