"""Memory of programs' results: large blocks that are kept when their arrays die, and handed out again.

Fresh memory is mapped and zeroed page by page by the system, which for a result of 64 MB takes longer than
computing it. So a large array lies in a block that goes back to a cache with the last array that lies in it.
The cache is bounded (`config.memory_cache_mb`); `kiln.cpu.empty_cache` gives it back to the system. Smaller
arrays lie in the C library's heap, which is told to keep as much (`heap`).
"""

from __future__ import annotations

import collections
import ctypes
import functools
import math
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..config import config
from ..sharing import OWNERS
from . import heap
from .arena import ALIGN

SMALL = 1 << 19
"""Arrays of fewer bytes come straight from NumPy: they are cheaper to allocate than to keep."""


class _Block:
    """Memory of so many bytes, and the first address in it that is aligned."""

    __slots__ = ("address", "memory", "size")

    def __init__(self, size: int):
        self.size, self.memory = size, np.empty(size + ALIGN, np.uint8)
        self.address = -(-self.memory.ctypes.data // ALIGN) * ALIGN


class _Lease(ctypes.Array):
    """What an array in a block has as its base: gives the block back when nothing lies in it any more."""

    _type_, _length_ = ctypes.c_uint8, 0
    block: _Block
    give: Callable[[_Block], None]

    def __del__(self) -> None:
        self.give(self.block)


@functools.cache
def _lease(size: int) -> type[_Lease]:
    """The type of leases of so many bytes."""
    return type("_Lease", (_Lease,), {"_length_": size})


class Blocks:
    """A bounded cache of blocks of memory, by size; safe with threads, in finalizers and after a fork."""

    def __init__(self) -> None:
        self.held = 0
        self._free: dict[int, list[_Block]] = {}  # least recently used sizes first
        self._given: collections.deque[_Block] = collections.deque()
        self.reset()

    def reset(self) -> None:
        """Forget who holds the lock: after a fork that may be a thread which is not here."""
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of these sizes, contents undefined, aligned to 64 bytes; MemoryError where there is no room."""
        size = rounded(math.prod(shape) * dtype.itemsize)
        block = self._take(size) or self.make(lambda: _Block(size))
        lease = _lease(size).from_address(block.address)
        lease.block, lease.give = block, self.give
        return np.ndarray(shape, dtype, lease)

    def make(self, allocate: Callable[[], Any]) -> Any:
        """What a function allocates; if there is not enough memory, once more with the cache emptied."""
        try:
            return allocate()
        except MemoryError:
            self.clear()
            return allocate()

    def clear(self) -> None:
        """Let go of all blocks that no array lies in."""
        with self._lock:
            self._settle(0)

    def give(self, block: _Block) -> None:
        """Take a block back. Never waits: a finalizer may run in the thread that holds the lock."""
        self._given.append(block)
        while self._given and self._lock.acquire(False):
            try:
                self._settle(config.memory_cache_mb << 20)
            finally:
                self._lock.release()

    def _take(self, size: int) -> _Block | None:
        with self._lock:
            if self._given:
                self._settle(config.memory_cache_mb << 20)
            kept = self._free.get(size)
            if not kept:
                return None
            self.held -= size
            return kept.pop()

    def _settle(self, limit: int) -> None:
        """Put what was given back where it belongs, and keep no more than so many bytes."""
        while self._given:
            block = self._given.popleft()
            kept = self._free.pop(block.size, [])
            kept.append(block)
            self._free[block.size] = kept
            self.held += block.size
        while self.held > limit:
            size, kept = next(iter(self._free.items()))
            if kept:
                self.held -= size
                kept.pop()
            else:
                del self._free[size]


def rounded(size: int) -> int:
    """A size of which there are eight between powers of two, so that blocks fit more than one shape."""
    step = 1 << max(size.bit_length() - 4, 12)
    return -(-size // step) * step


def allocator(size: int) -> Callable[[tuple[int, ...], np.dtype], np.ndarray]:
    """What makes the array of a result of so many bytes, from its shape and dtype."""
    return blocks.empty if size >= SMALL else np.empty


blocks = Blocks()
OWNERS.append(_Lease)
heap.keep(config.memory_cache_mb << 20)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=blocks.reset)
