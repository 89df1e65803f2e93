"""Process groups of one process: programs written for several processes run as their only member.

`init_process_group` takes any way of meeting as long as the group has one member; collectives then have the
result that they have in such a group, which is mostly their input. A group of more processes is an error that
says so. What shards models over processes can be imported, and says what is missing where it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

from .collectives import (
    P2POp,
    ReduceOp,
    Work,
    all_gather,
    all_gather_coalesced,
    all_gather_into_tensor,
    all_gather_object,
    all_reduce,
    all_reduce_coalesced,
    all_to_all,
    all_to_all_single,
    barrier,
    batch_isend_irecv,
    broadcast,
    broadcast_object_list,
    gather,
    gather_object,
    irecv,
    isend,
    monitored_barrier,
    recv,
    reduce,
    reduce_op,
    reduce_scatter,
    reduce_scatter_tensor,
    scatter,
    scatter_object_list,
    send,
)
from .group import (
    Backend,
    DistBackendError,
    DistError,
    DistNetworkError,
    DistStoreError,
    GroupMember,
    ProcessGroup,
    default_pg_timeout,
    destroy_process_group,
    get_backend,
    get_default_backend_for_device,
    get_global_rank,
    get_group_rank,
    get_node_local_rank,
    get_process_group_ranks,
    get_rank,
    get_world_size,
    group,
    init_process_group,
    is_available,
    is_backend_available,
    is_gloo_available,
    is_initialized,
    is_mpi_available,
    is_nccl_available,
    is_torchelastic_launched,
    is_ucc_available,
    is_xccl_available,
    new_group,
)
from .store import FileStore, HashStore, PrefixStore, Store, TCPStore

__all__ = [
    "Backend", "DeviceMesh", "DistBackendError", "DistError", "DistNetworkError", "DistStoreError", "FileStore",
    "GroupMember", "HashStore", "P2POp", "PrefixStore", "ProcessGroup", "ReduceOp", "Store", "TCPStore", "Work",
    "all_gather", "all_gather_coalesced", "all_gather_into_tensor", "all_gather_object", "all_reduce",
    "all_reduce_coalesced", "all_to_all", "all_to_all_single", "barrier", "batch_isend_irecv", "broadcast",
    "broadcast_object_list", "default_pg_timeout", "destroy_process_group", "gather", "gather_object", "get_backend",
    "get_default_backend_for_device", "get_global_rank", "get_group_rank", "get_node_local_rank",
    "get_process_group_ranks", "get_rank", "get_world_size", "group", "init_device_mesh", "init_process_group", "irecv",
    "is_available", "is_backend_available", "is_gloo_available", "is_initialized", "is_mpi_available",
    "is_nccl_available", "is_torchelastic_launched", "is_ucc_available", "is_xccl_available", "isend",
    "monitored_barrier", "new_group", "recv", "reduce", "reduce_op", "reduce_scatter", "reduce_scatter_tensor",
    "scatter", "scatter_object_list", "send",
]  # fmt: skip

dist_backend = _backend = None  # names of releases before 1.0 that programs still ask for

_ROOMS = {
    "_functional_collectives", "_tensor", "algorithms", "autograd", "checkpoint", "device_mesh",
    "distributed_c10d", "elastic", "fsdp", "nn", "optim", "pipelining", "rpc", "tensor",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "DistributedDataParallel":
        return importlib.import_module(".parallel", __name__).DistributedDataParallel
    if name in ("DeviceMesh", "init_device_mesh"):
        return getattr(importlib.import_module(".device_mesh", __name__), name)
    if name not in _ROOMS:
        raise AttributeError(f"module 'kiln.distributed' has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
