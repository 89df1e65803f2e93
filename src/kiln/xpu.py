"""Intel's GPUs: there are none that Kiln computes on; these functions answer as those of `cuda` do."""

from __future__ import annotations

from typing import Any

from .accelerator import guard, nothing
from .cuda.memory import (  # noqa: F401
    empty_cache,
    max_memory_allocated,
    max_memory_reserved,
    memory_allocated,
    memory_reserved,
    memory_snapshot,
    memory_stats,
    memory_stats_as_nested_dict,
    reset_accumulated_memory_stats,
    reset_peak_memory_stats,
)  # fmt: skip
from .cuda.random import (  # noqa: F401
    default_generators,
    get_rng_state_all,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state_all,
)  # fmt: skip


def is_available() -> bool:
    """Whether there is such a device: False."""
    return False


def device_count() -> int:
    """How many there are: 0."""
    return 0


def is_initialized() -> bool:
    """Whether it has been set up: False."""
    return False


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the device computes in bfloat16: False, as there is none."""
    return False


def is_tf32_supported() -> bool:
    """Whether the device computes in TF32: False, as there is none."""
    return False


def get_arch_list() -> list[str]:
    """The architectures of such devices that this build is for: none."""
    return []


def get_gencode_flags() -> str:
    """The options of the compiler for such devices that this build was made with: none."""
    return ""


class device(guard):
    """A `with` block on a device: an error, or nothing for None and -1."""

    _kind = "xpu"


class device_of(device):
    """A `with` block on the device of a tensor: nothing, as it is on the CPU."""

    def __init__(self, obj: Any):
        super().__init__(-1)


for _name in [
    "Event",
    "MemPool",
    "Stream",
    "StreamContext",
    "XPUGraph",
    "XPUPluggableAllocator",
    "can_device_access_peer",
    "change_current_allocator",
    "clock_rate",
    "current_device",
    "current_stream",
    "device_memory_used",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_per_process_memory_fraction",
    "get_rng_state",
    "get_stream_from_external",
    "graph",
    "graph_pool_handle",
    "init",
    "initial_seed",
    "is_current_stream_capturing",
    "make_graphed_callables",
    "mem_get_info",
    "memory_usage",
    "power_draw",
    "set_device",
    "set_per_process_memory_fraction",
    "set_rng_state",
    "set_stream",
    "stream",
    "synchronize",
    "temperature",
    "use_mem_pool",
    "utilization",
]:
    globals()[_name] = nothing("xpu", _name)
