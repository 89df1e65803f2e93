"""NVIDIA's collectives: not in this build."""

from __future__ import annotations

from typing import Any

from ..accelerator import nothing

version = nothing("cuda", "nccl.version")


def is_available(tensors: Any) -> bool:
    """Whether tensors can be reduced by NCCL: False."""
    return False
