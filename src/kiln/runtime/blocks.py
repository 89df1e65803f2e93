"""Memory of programs' results: large blocks that are kept when their arrays die, and handed out again.

Fresh memory is mapped and zeroed page by page by the system, which for a result of 64 MB takes longer than
computing it. So a large array lies in a block that goes back to a cache with the last array that lies in it.
The cache is bounded (`config.memory_cache_mb`); `kiln.cpu.empty_cache` gives it back to the system.
"""

from __future__ import annotations

import collections
import math
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..config import config
from .arena import ALIGN

SMALL = 1 << 18
"""Arrays of fewer bytes come straight from NumPy: they are cheaper to allocate than to keep."""


class _Lease:
    """What an array in a block has as its base: gives the block back when nothing lies in it any more."""

    __slots__ = ("__array_interface__", "_block", "_blocks")

    def __init__(self, blocks: Blocks, block: np.ndarray, shape: tuple[int, ...], dtype: np.dtype):
        self._blocks, self._block = blocks, block
        self.__array_interface__ = {
            "version": 3, "shape": shape, "typestr": dtype.str,
            "data": (-(-block.ctypes.data // ALIGN) * ALIGN, False),
        }  # fmt: skip

    def __del__(self) -> None:
        self._blocks.give(self._block)


class Blocks:
    """A bounded cache of blocks of memory, by size; safe with threads, in finalizers and after a fork."""

    def __init__(self) -> None:
        self.held = 0
        self._free: dict[int, list[np.ndarray]] = {}  # least recently used sizes first
        self._given: collections.deque[np.ndarray] = collections.deque()
        self.reset()

    def reset(self) -> None:
        """Forget who holds the lock: after a fork that may be a thread which is not here."""
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of these sizes, contents undefined, aligned to 64 bytes; MemoryError where there is no room."""
        size = _rounded(math.prod(shape) * dtype.itemsize) + ALIGN
        block = self._take(size)
        if block is None:
            block = self.make(lambda: np.empty(size, np.uint8))
        # an interface says nothing of types that are not NumPy's own, such as bfloat16
        plain = dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")
        a = np.asarray(_Lease(self, block, shape, plain))
        return a if plain is dtype else a.view(dtype)

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

    def give(self, block: np.ndarray) -> None:
        """Take a block back. Never waits: a finalizer may run in the thread that holds the lock."""
        self._given.append(block)
        while self._given and self._lock.acquire(blocking=False):
            try:
                self._settle(config.memory_cache_mb << 20)
            finally:
                self._lock.release()

    def _take(self, size: int) -> np.ndarray | None:
        with self._lock:
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
            kept = self._free.pop(block.nbytes, [])
            kept.append(block)
            self._free[block.nbytes] = kept
            self.held += block.nbytes
        while self.held > limit:
            size = next(iter(self._free))
            kept = self._free[size]
            if kept:
                self.held -= size
                kept.pop()
            else:
                del self._free[size]


def _rounded(size: int) -> int:
    """A size of which there are eight between powers of two, so that blocks fit more than one shape."""
    step = 1 << max(size.bit_length() - 4, 12)
    return -(-size // step) * step


def allocator(size: int) -> Callable[[tuple[int, ...], np.dtype], np.ndarray]:
    """What makes the array of a result of so many bytes, from its shape and dtype."""
    return blocks.empty if size >= SMALL else np.empty


blocks = Blocks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=blocks.reset)
