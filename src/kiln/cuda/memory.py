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
for _name in (
    "caching_allocator_enable", "empty_cache", "reset_accumulated_host_memory_stats", "reset_accumulated_memory_stats",
    "reset_max_memory_allocated", "reset_max_memory_cached", "reset_peak_host_memory_stats", "reset_peak_memory_stats",
):  # fmt: skip
    globals()[_name] = constant(_name, lambda: None, _NOTHING)
for _name in (
    "caching_allocator_alloc", "caching_allocator_delete", "change_current_allocator", "get_allocator_backend",
    "get_per_process_memory_fraction", "mem_get_info", "memory_summary", "memory_usage", "set_per_process_memory_fraction",
):  # fmt: skip
    globals()[_name] = nothing("cuda", _name)


def memory_stats(device: Any = None) -> dict[str, Any]:
    """What is known about the memory of the device: nothing, as there is none."""
    return OrderedDict()


memory_stats_as_nested_dict, host_memory_stats, host_memory_stats_as_nested_dict = (
    constant(n, kind, "What is known about the memory of the device, or what is pinned for it: nothing.")
    for n, kind in (("memory_stats_as_nested_dict", dict), ("host_memory_stats", OrderedDict),
                    ("host_memory_stats_as_nested_dict", dict))
)  # fmt: skip
memory_snapshot = constant("memory_snapshot", list, "The blocks of memory on the device: none.")
_record_memory_history = nothing("cuda", "memory._record_memory_history")
