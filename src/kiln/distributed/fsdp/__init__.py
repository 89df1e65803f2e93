"""Models whose parameters are sharded over processes: not built yet; one process needs no sharding."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

from ...refusal import refuse, refused

_WHY = "sharding over several processes is not built yet"
_HELP = "in one process use the model as it is; utils.checkpoint saves memory"


class ShardingStrategy(Enum):
    """What is sharded."""

    FULL_SHARD = auto()
    SHARD_GRAD_OP = auto()
    NO_SHARD = auto()
    HYBRID_SHARD = auto()
    _HYBRID_SHARD_ZERO2 = auto()


class OptimStateKeyType(Enum):
    """What an optimizer's state is filed under."""

    PARAM_NAME = auto()
    PARAM_ID = auto()


class BackwardPrefetch(Enum):
    """When the next shards are fetched in backward."""

    BACKWARD_PRE = auto()
    BACKWARD_POST = auto()


class StateDictType(Enum):
    """What a state_dict holds."""

    FULL_STATE_DICT = auto()
    LOCAL_STATE_DICT = auto()
    SHARDED_STATE_DICT = auto()


FullyShardedDataParallel: Any = refused(
    "distributed.fsdp.FullyShardedDataParallel", _WHY, _HELP,
    ("full_optim_state_dict", "fsdp_modules", "get_state_dict_type", "optim_state_dict", "optim_state_dict_to_load", "rekey_optim_state_dict",
     "scatter_full_optim_state_dict", "set_state_dict_type", "shard_full_optim_state_dict", "state_dict_type", "summon_full_params"),
)  # fmt: skip
refuse(
    __name__,
    "CPUOffload CPUOffloadPolicy FSDPModule FullOptimStateDictConfig FullStateDictConfig LocalOptimStateDictConfig "
    "LocalStateDictConfig MixedPrecision MixedPrecisionPolicy OffloadPolicy OptimStateDictConfig ShardedOptimStateDictConfig "
    "ShardedStateDictConfig StateDictConfig StateDictSettings UnshardHandle fully_shard register_fsdp_forward_method",
    _WHY, _HELP,
)  # fmt: skip
