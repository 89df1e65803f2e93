"""NVIDIA's collectives: not in this build."""

from __future__ import annotations

from typing import Any

from ..accelerator import nothing

version, init_rank, unique_id, all_gather, all_reduce, broadcast, reduce, reduce_scatter = (
    nothing("cuda", f"nccl.{n}")
    for n in ("version", "init_rank", "unique_id", "all_gather", "all_reduce", "broadcast", "reduce", "reduce_scatter")
)  # fmt: skip
SUM = 0


def is_available(tensors: Any) -> bool:
    """Whether tensors can be reduced by NCCL: False."""
    return False
