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


def _without_effect(name: str) -> Any:
    return constant(name, lambda: None, "Nothing, as there is no device.")


caching_allocator_enable = _without_effect("caching_allocator_enable")
empty_cache = _without_effect("empty_cache")
reset_accumulated_host_memory_stats = _without_effect("reset_accumulated_host_memory_stats")
reset_accumulated_memory_stats = _without_effect("reset_accumulated_memory_stats")
reset_max_memory_allocated = _without_effect("reset_max_memory_allocated")
reset_max_memory_cached = _without_effect("reset_max_memory_cached")
reset_peak_host_memory_stats = _without_effect("reset_peak_host_memory_stats")
reset_peak_memory_stats = _without_effect("reset_peak_memory_stats")
caching_allocator_alloc = nothing("cuda", "caching_allocator_alloc")
caching_allocator_delete = nothing("cuda", "caching_allocator_delete")
change_current_allocator = nothing("cuda", "change_current_allocator")
get_allocator_backend = nothing("cuda", "get_allocator_backend")
get_per_process_memory_fraction = nothing("cuda", "get_per_process_memory_fraction")
mem_get_info = nothing("cuda", "mem_get_info")
memory_summary = nothing("cuda", "memory_summary")
memory_usage = nothing("cuda", "memory_usage")
set_per_process_memory_fraction = nothing("cuda", "set_per_process_memory_fraction")


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
