"""Optimizers over several processes: not built yet."""

from ..refusal import refuse
from .group import _SINGLE

refuse(
    __name__, "DistributedOptimizer PostLocalSGDOptimizer ZeroRedundancyOptimizer",
    "optimizers over several processes are not built yet", _SINGLE,
)  # fmt: skip
