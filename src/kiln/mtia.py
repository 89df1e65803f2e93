"""Meta's accelerators: there are none that Kiln computes on, and these functions say so."""

from __future__ import annotations

from .accelerator import constant, guard, nothing

is_available, is_initialized, is_bf16_supported = (
    constant(n, bool, "False: there is no such device.")
    for n in ("is_available", "is_initialized", "is_bf16_supported")
)
device_count = constant("device_count", int, "How many there are: 0.")


class device(guard):
    """A `with` block on a device: an error, or nothing for None and -1."""

    _kind = "mtia"


for _name in [
    "Event", "Stream", "StreamContext", "current_device", "current_stream", "default_stream", "empty_cache",
    "get_device_capability", "get_device_properties", "get_rng_state", "init", "manual_seed", "manual_seed_all",
    "max_memory_allocated", "memory_allocated", "memory_stats", "set_device", "set_rng_state", "set_stream", "stream",
    "synchronize",
]:  # fmt: skip
    globals()[_name] = nothing("mtia", _name)
