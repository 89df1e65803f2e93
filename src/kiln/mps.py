"""Apple's GPUs: there are none that Kiln computes on, and these functions say so."""

from __future__ import annotations

from .accelerator import nothing
from .errors import KilnError


def is_available() -> bool:
    """Whether there is such a device: False."""
    return False


def device_count() -> int:
    """How many there are: 0."""
    return 0


def manual_seed(seed: int) -> None:
    """Seed the device's generator: nothing, as there is none."""
    int(seed)


for _name in [
    "Event",
    "compile_shader",
    "current_allocated_memory",
    "driver_allocated_memory",
    "empty_cache",
    "get_rng_state",
    "recommended_max_memory",
    "seed",
    "set_per_process_memory_fraction",
    "set_rng_state",
    "synchronize",
]:
    globals()[_name] = nothing("mps", _name, KilnError)
