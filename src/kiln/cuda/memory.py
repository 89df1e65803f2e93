"""Memory of CUDA devices: none is held, as there is no such device."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ..accelerator import constant, nothing

_ZERO = "Bytes on the device: 0, as there is none."
memory_allocated, max_memory_allocated, memory_reserved, max_memory_reserved, memory_cached, max_memory_cached = (
    constant(n, int, _ZERO) for n in (
        "memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "memory_cached",
        "max_memory_cached",
    )
)  # fmt: skip
_NOTHING = "Nothing, as there is no device."
empty_cache, reset_peak_memory_stats, reset_accumulated_memory_stats, reset_max_memory_allocated, reset_max_memory_cached = (
    constant(n, lambda: None, _NOTHING) for n in (
        "empty_cache", "reset_peak_memory_stats", "reset_accumulated_memory_stats", "reset_max_memory_allocated",
        "reset_max_memory_cached",
    )
)  # fmt: skip
mem_get_info, memory_summary, memory_usage, set_per_process_memory_fraction, get_per_process_memory_fraction = (
    nothing("cuda", n) for n in (
        "mem_get_info", "memory_summary", "memory_usage", "set_per_process_memory_fraction",
        "get_per_process_memory_fraction",
    )
)  # fmt: skip


def memory_stats(device: Any = None) -> dict[str, Any]:
    """What is known about the memory of the device: nothing, as there is none."""
    return OrderedDict()


memory_stats_as_nested_dict = constant(
    "memory_stats_as_nested_dict", dict, "What is known about the memory of the device: nothing."
)
memory_snapshot = constant("memory_snapshot", list, "The blocks of memory on the device: none.")
_record_memory_history = nothing("cuda", "memory._record_memory_history")
