"""Models whose parameters are sharded over processes: over one, all of them are here.

`fully_shard` over one process is the module itself. `FullyShardedDataParallel` needs an accelerator, as in PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from ...errors import KilnNotImplementedError, KilnValueError, describe
from ...nn.modules.module import Module
from ...refusal import refuse, refused
from ..group import default

_WHY = "sharding over several processes is not built yet"
_HELP = "in one process use the model as it is, or fully_shard; utils.checkpoint saves memory"


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


# ---------------------------------------------------------------- options


@dataclass
class CPUOffload:
    """Whether parameters wait on the CPU: they are there."""

    offload_params: bool = False


@dataclass
class MixedPrecision:
    """The dtypes that a sharded model computes in."""

    param_dtype: Any = None
    reduce_dtype: Any = None
    buffer_dtype: Any = None
    keep_low_precision_grads: bool = False
    cast_forward_inputs: bool = False
    cast_root_forward_inputs: bool = True
    _module_classes_to_ignore: tuple = ()


@dataclass(frozen=True)
class MixedPrecisionPolicy:
    """The dtypes that a module of `fully_shard` computes in."""

    param_dtype: Any = None
    reduce_dtype: Any = None
    output_dtype: Any = None
    cast_forward_inputs: bool = True


@dataclass
class OffloadPolicy:
    """Parameters stay where they are."""


@dataclass
class CPUOffloadPolicy(OffloadPolicy):
    """Parameters wait on the CPU: they are there."""

    pin_memory: bool = True


@dataclass
class StateDictConfig:
    """Where the tensors of a state dict are."""

    offload_to_cpu: bool = False


@dataclass
class FullStateDictConfig(StateDictConfig):
    """Of a state dict with whole tensors."""

    rank0_only: bool = False


@dataclass
class LocalStateDictConfig(StateDictConfig):
    """Of a state dict with what each process holds."""


@dataclass
class ShardedStateDictConfig(StateDictConfig):
    """Of a state dict with parts of tensors."""

    _use_dtensor: bool = False


@dataclass
class OptimStateDictConfig:
    """Where the tensors of an optimizer's state dict are."""

    offload_to_cpu: bool = True


@dataclass
class FullOptimStateDictConfig(OptimStateDictConfig):
    """Of an optimizer's state dict with whole tensors."""

    rank0_only: bool = False


@dataclass
class LocalOptimStateDictConfig(OptimStateDictConfig):
    """Of an optimizer's state dict with what each process holds."""

    offload_to_cpu: bool = False


@dataclass
class ShardedOptimStateDictConfig(OptimStateDictConfig):
    """Of an optimizer's state dict with parts of tensors."""

    _use_dtensor: bool = False


@dataclass
class StateDictSettings:
    """What kind of state dicts a model gives."""

    state_dict_type: StateDictType
    state_dict_config: StateDictConfig
    optim_state_dict_config: OptimStateDictConfig = field(default_factory=OptimStateDictConfig)


# ---------------------------------------------------------------- over one process


class UnshardHandle:
    """What `unshard` gives: parameters are whole already."""

    def wait(self) -> None:
        """Wait for them."""


class FSDPModule:
    """What modules of `fully_shard` can do beside their own: over one process there is nothing to gather or to reduce."""

    def unshard(self, async_op: bool = False) -> UnshardHandle | None:
        """Make parameters whole: they are."""
        return UnshardHandle() if async_op else None

    def reshard(self) -> None:
        """Give back what is other processes': nothing is."""

    def set_requires_gradient_sync(
        self, requires_gradient_sync: bool, *, recurse: bool = True
    ) -> None:
        """Whether gradients are averaged: over one process they are as they are."""


def _ignored(name: str, what: str) -> None:
    def ignore(self: Any, *args: Any, **kwargs: Any) -> None:
        pass

    ignore.__name__, ignore.__doc__ = name, f"{what}: over one process nothing follows from it."
    setattr(FSDPModule, name, ignore)


for _name in (
    "set_requires_all_reduce", "set_reshard_after_forward", "set_reshard_after_backward", "set_is_last_backward",
    "set_modules_to_forward_prefetch", "set_modules_to_backward_prefetch", "set_unshard_in_backward",
    "set_post_optim_event", "set_all_reduce_hook", "set_gradient_divide_factor", "set_reduce_scatter_divide_factor",
    "set_force_sum_reduction_for_comms", "set_allocate_memory_from_process_group_for_comm",
):  # fmt: skip
    _ignored(_name, "A setting of what processes tell each other")


def fully_shard(
    module: Any, *, mesh: Any = None, reshard_after_forward: bool | int | None = None, shard_placement_fn: Any = None,
    mp_policy: MixedPrecisionPolicy | None = None, offload_policy: OffloadPolicy | None = None, ignored_params: Any = None,
) -> Any:  # fmt: skip
    """A module (or a list of them) as an `FSDPModule`, in place: over one process its parameters stay as they are.

    Errors: KilnValueError before `init_process_group`; KilnNotImplementedError for a policy of other dtypes.
    """
    if mesh is None:
        default("fully_shard")
    given = [
        v
        for v in vars(mp_policy or MixedPrecisionPolicy()).values()
        if v is not None and v is not True
    ]
    if given:
        raise KilnNotImplementedError("fully_shard", "parameters in other dtypes are not built", describe(mp_policy), "with autocast('cpu', dtype=…): around the forward pass")  # fmt: skip
    modules = module if isinstance(module, list | tuple) else [module]
    for m in modules:
        if not isinstance(m, Module) or isinstance(m, FSDPModule):
            raise KilnValueError("fully_shard", "expected a module that is not one yet", describe(m), "")  # fmt: skip
        cls = type(m)
        m.__class__ = type(f"FSDP{cls.__name__}", (FSDPModule, cls), {"__module__": cls.__module__})
    return module


def register_fsdp_forward_method(module: Any, method_name: str) -> None:
    """Say that a method is called as forward is: over one process it is as any."""


FullyShardedDataParallel: Any = refused(
    "distributed.fsdp.FullyShardedDataParallel", "FSDP needs a non-CPU accelerator device, but no accelerator device is detected.",
    _HELP,
    ("full_optim_state_dict", "fsdp_modules", "get_state_dict_type", "optim_state_dict", "optim_state_dict_to_load", "rekey_optim_state_dict",
     "scatter_full_optim_state_dict", "set_state_dict_type", "shard_full_optim_state_dict", "state_dict_type", "summon_full_params"),
)  # fmt: skip
refuse(__name__, "DataParallelMeshDims share_comm_ctx", _WHY, _HELP)
