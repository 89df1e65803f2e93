"""The CPU as a device with memory, by the name that PyTorch has for it on others (`torch.cuda.empty_cache`)."""

from __future__ import annotations

import importlib
from typing import Any

from ..runtime import heap
from ..runtime.blocks import blocks
from ..streams import Event as Event
from ..streams import Stream, StreamContext


def empty_cache() -> None:
    """Give memory back to the system that is kept for the results of compiled functions.

    Large results lie in blocks that are used again after their tensors have died, up to
    `kiln.config.config.memory_cache_mb` megabytes of them (KILN_MEMORY_CACHE_MB; 0 keeps none), and glibc's
    heap keeps as much of its own.
    """
    blocks.clear()
    heap.trim()


def is_available() -> bool:
    """Whether there is a CPU: True."""
    return True


def is_initialized() -> bool:
    """Whether the CPU is ready: True."""
    return True


def device_count() -> int:
    """How many CPUs there are as devices: 1, with all its cores."""
    return 1


def current_device() -> str:
    """The CPU that is computed on: "cpu", the only one."""
    return "cpu"


def set_device(device: Any) -> None:
    """Compute on a CPU: there is one."""


def synchronize(device: Any = None) -> None:
    """Wait for what was begun: calls have ended when they return."""


def current_stream(device: Any = None) -> Stream:
    """The stream of the calls of this thread."""
    return _STREAM


def stream(stream: Any) -> StreamContext:
    """A `with` block on a stream."""
    return StreamContext(stream)


def get_capabilities() -> dict[str, Any]:
    """What LLVM says of the processor: each of its features by name, and whether it has it."""
    import llvmlite.binding as llvm

    return {"architecture": llvm.get_host_cpu_name(), **llvm.get_host_cpu_features()}


_STREAM = Stream()


def __getattr__(name: str) -> Any:
    if name != "amp":
        raise AttributeError(f"module 'kiln.cpu' has no attribute {name!r}")
    value = globals()[name] = importlib.import_module(".amp", __name__)
    return value
