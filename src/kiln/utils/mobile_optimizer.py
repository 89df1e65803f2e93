"""The names of `torch.utils.mobile_optimizer`: modules for phones are files of `kiln build`."""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..jit import optimize_for_inference


class MobileOptimizerType(Enum):
    """What PyTorch does to modules for phones, one by one."""

    CONV_BN_FUSION = 1
    INSERT_FOLD_PREPACK_OPS = 2
    REMOVE_DROPOUT = 3
    FUSE_ADD_RELU = 4
    HOIST_CONV_PACKED_PARAMS = 5
    CONV_1D_TO_2D = 6
    VULKAN_AUTOMATIC_GPU_TRANSFER = 10


def optimize_for_mobile(
    script_module: Any, optimization_blocklist: Any = None, preserved_methods: Any = None, backend: str = "CPU"
) -> Any:  # fmt: skip
    """A module for inference: itself, in eval mode. Programs compiled from it fold and fuse what can be."""
    return optimize_for_inference(script_module)
