"""The place where PyTorch defines DistributedDataParallel; Kiln's is in `kiln.distributed`."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "DistributedDataParallel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ...distributed import DistributedDataParallel

    return DistributedDataParallel
