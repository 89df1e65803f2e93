"""CUDA devices: there are none that Kiln computes on, and these functions say so, as PyTorch's do without CUDA."""

from __future__ import annotations

import importlib
from typing import Any

from ..accelerator import constant, guard, nothing
from ..errors import KilnError, KilnMemoryError, KilnTypeError
from ..ops.legacy import TYPES, TensorType
from .memory import (  # noqa: F401
    caching_allocator_alloc,
    caching_allocator_delete,
    caching_allocator_enable,
    change_current_allocator,
    empty_cache,
    get_allocator_backend,
    get_per_process_memory_fraction,
    host_memory_stats,
    host_memory_stats_as_nested_dict,
    max_memory_allocated,
    max_memory_cached,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_cached,
    memory_reserved,
    memory_snapshot,
    memory_stats,
    memory_stats_as_nested_dict,
    memory_summary,
    memory_usage,
    reset_accumulated_host_memory_stats,
    reset_accumulated_memory_stats,
    reset_max_memory_allocated,
    reset_max_memory_cached,
    reset_peak_host_memory_stats,
    reset_peak_memory_stats,
    set_per_process_memory_fraction,
)  # fmt: skip
from .random import (  # noqa: F401
    default_generators,
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)  # fmt: skip

OutOfMemoryError = KilnMemoryError
has_half, has_magma = True, False


def is_available() -> bool:
    """Whether there is a CUDA device: False."""
    return False


def device_count() -> int:
    """How many CUDA devices there are: 0."""
    return 0


_initialized = False  # which programs read that save the state of random numbers


def is_initialized() -> bool:
    """Whether CUDA has been set up: False."""
    return False


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether the CUDA device computes in bfloat16: False, as there is none."""
    return False


def is_tf32_supported() -> bool:
    """Whether the CUDA device computes in TF32: False, as there is none."""
    return False


def get_arch_list() -> list[str]:
    """The architectures of CUDA that this build is for: none."""
    return []


def get_gencode_flags() -> str:
    """The options of CUDA's compiler that this build was made with: none."""
    return ""


def set_device(device: Any) -> None:
    """Compute on a CUDA device by number: an error, or nothing for a negative number."""
    index = device if isinstance(device, int) else getattr(device, "index", 0)
    if index is None or index >= 0:
        nothing("cuda", "set_device")()


class device(guard):
    """A `with` block on a CUDA device: an error, or nothing for None and -1."""

    _kind = "cuda"


class device_of(device):
    """A `with` block on the device of a tensor: nothing, as it is on the CPU."""

    def __init__(self, obj: Any):
        super().__init__(-1)


class StreamContext:
    """A `with` block on a stream; without CUDA there is only None, which does nothing."""

    def __init__(self, stream: Any):
        self.stream = stream

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


def stream(stream: Any) -> StreamContext:
    """A `with` block on a stream; without CUDA there is only None, which does nothing."""
    return StreamContext(stream)


class CudaError(RuntimeError):
    """What CUDA's runtime reports."""


class DeferredCudaCallError(Exception):
    """What a call reports that waited until CUDA was set up."""


class _Needs(type):
    """Types whose objects need a CUDA device."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return nothing("cuda", cls.__name__, KilnError)()


def _type(name: str) -> Any:
    return _Needs(name, (), {"__doc__": "Needs a CUDA device: raises.", "__module__": __name__})


Stream, ExternalStream, Event, CUDAGraph, graph, MemPool, GreenContext, CUDAPluggableAllocator = map(
    _type,
    ("Stream", "ExternalStream", "Event", "CUDAGraph", "graph", "MemPool", "GreenContext", "CUDAPluggableAllocator"),
)  # fmt: skip
for _name in ("BFloat16", "Bool", "Byte", "Char", "ComplexDouble", "ComplexFloat", "Double", "Float", "Half", "Int", "Long", "Short"):  # fmt: skip
    globals()[_name + "Storage"] = _type(_name + "Storage")


class cudaStatus:
    """Numbers that CUDA's runtime answers with."""

    SUCCESS, ERROR_NOT_READY = 0, 34


def check_error(res: int) -> None:
    """Raise CudaError for a number that is not that of success."""
    if res != cudaStatus.SUCCESS:
        raise CudaError(f"CUDA error {res}")


for _name in [
    "can_device_access_peer",
    "clock_rate",
    "cudart",
    "current_blas_handle",
    "current_device",
    "current_solver_handle",
    "current_stream",
    "default_stream",
    "device_memory_used",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_stream_from_external",
    "get_sync_debug_mode",
    "graph_pool_handle",
    "init",
    "ipc_collect",
    "is_current_stream_capturing",
    "make_graphed_callables",
    "power_draw",
    "set_stream",
    "set_sync_debug_mode",
    "synchronize",
    "temperature",
    "use_mem_pool",
    "utilization",
]:
    globals()[_name] = nothing("cuda", _name)
list_gpu_processes = constant("list_gpu_processes", str, "The processes on the device: none.")


class _CudaType(TensorType):
    """The type of tensors on a CUDA device: no tensor is of it, and none can be made."""

    def __instancecheck__(cls, x: Any) -> bool:
        return False

    def __call__(cls, *args: Any) -> Any:
        raise KilnTypeError(
            f"cuda.{cls.__name__}", "this type is not available: this build of Kiln has no cuda device", None,
            f"use {cls.__name__} where cuda.is_available() is False",
        )  # fmt: skip


for _name, _cpu in TYPES.items():
    globals()[_name] = _made = _CudaType(
        _name, (), {"__doc__": f"Tensors of {_cpu.dtype.name} on a CUDA device.", "__module__": __name__}
    )  # fmt: skip
    _made.dtype, _made.device = _cpu.dtype, "cuda"

_ROOMS = {
    "amp", "green_contexts", "jiterator", "memory", "nccl", "nvtx", "profiler", "random", "sparse", "tunable",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'kiln.cuda' has no attribute {name!r}")
    value = globals()[name] = importlib.import_module(f".{name}", __name__)
    return value
