"""The CPU as a device with memory, by the name that PyTorch has for it on others (`torch.cuda.empty_cache`)."""

from __future__ import annotations

import importlib
from typing import Any

from ..runtime import heap
from ..runtime.blocks import blocks


def empty_cache() -> None:
    """Give memory back to the system that is kept for the results of compiled functions.

    Large results lie in blocks that are used again after their tensors have died, up to
    `kiln.config.config.memory_cache_mb` megabytes of them (KILN_MEMORY_CACHE_MB; 0 keeps none), and glibc's
    heap keeps as much of its own.
    """
    blocks.clear()
    heap.trim()


def __getattr__(name: str) -> Any:
    if name != "amp":
        raise AttributeError(f"module 'kiln.cpu' has no attribute {name!r}")
    value = globals()[name] = importlib.import_module(".amp", __name__)
    return value
