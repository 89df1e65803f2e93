"""Calls of functions in other processes: not built yet."""

from ...refusal import refuse
from ..group import _SINGLE

refuse(
    __name__, "BackendType PyRRef RRef RpcBackendOptions TensorPipeRpcBackendOptions WorkerInfo debug_info enable_gpu_profiling "
    "get_worker_info init_rpc remote rpc_async rpc_sync shutdown", "calls of other processes are not built yet", _SINGLE,
)  # fmt: skip


def is_available() -> bool:
    """Whether other processes can be called: False."""
    return False
