"""The CPU as a device with memory, by the name that PyTorch has for it on others (`torch.cuda.empty_cache`)."""

from __future__ import annotations

from .runtime.blocks import blocks


def empty_cache() -> None:
    """Give memory back to the system that is kept for the results of compiled functions.

    Large results lie in blocks that are used again after their tensors have died, up to
    `kiln.config.config.memory_cache_mb` megabytes of them (KILN_MEMORY_CACHE_MB; 0 keeps none).
    """
    blocks.clear()
