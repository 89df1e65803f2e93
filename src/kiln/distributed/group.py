"""The process group: one process, rank 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self
from urllib.parse import parse_qs, urlparse

from ..device import device
from ..errors import KilnError, KilnNotImplementedError, KilnTypeError, KilnValueError, describe

default_pg_timeout = timedelta(minutes=30)


class DistError(RuntimeError):
    """What goes wrong between processes."""


class DistBackendError(DistError):
    """What goes wrong in a backend."""


class DistNetworkError(DistError):
    """What goes wrong in a network."""


class DistStoreError(DistError):
    """What goes wrong in a store."""


class Backend(str):
    """The name of a backend, in lower case."""

    __slots__ = ()
    UNDEFINED, GLOO, NCCL, MPI, UCC, XCCL, FAKE = (
        "undefined", "gloo", "nccl", "mpi", "ucc", "xccl", "fake",
    )  # fmt: skip
    backend_list = [UNDEFINED, GLOO, NCCL, XCCL, UCC, MPI, FAKE]  # noqa: RUF012
    default_device_backend_map = {"cpu": GLOO, "cuda": NCCL, "xpu": XCCL, "mps": GLOO}  # noqa: RUF012

    def __new__(cls, name: str) -> Self:
        if not isinstance(name, str):
            raise KilnValueError(
                "Backend", "a backend is named by a string", describe(name), "gloo"
            )
        return str.__new__(cls, name.lower())


class ProcessGroup:
    """A group of processes: this one alone, rank 0 of 1; or none of its members for other ranks' groups."""

    def __init__(self, backend: str, ranks: Sequence[int] = (0,), timeout: Any = None):
        self.backend, self.ranks, self.timeout = backend, list(ranks), timeout

    def rank(self) -> int:
        """The rank of this process in the group."""
        return 0

    def size(self) -> int:
        """How many processes the group has."""
        return 1

    def name(self) -> str:
        """The name of its backend."""
        return self.backend


class _Group(type):
    """`group.WORLD` is the default group as it is at the time."""

    @property
    def WORLD(cls) -> ProcessGroup | None:
        """The group of all processes, None before `init_process_group`."""
        return _world[0]


class group(metaclass=_Group):
    """The default group: `group.WORLD`."""


class GroupMember(metaclass=_Group):
    """The default group, and what `new_group` gives to processes that are not in it."""

    NON_GROUP_MEMBER = -100


_world: list[ProcessGroup | None] = [None]
_SINGLE = (
    "start one process; it uses all cores. Training over several processes is not built yet: "
    "run it under PyTorch"
)


def is_available() -> bool:
    """Whether process groups can be made: True, of one process."""
    return True


def is_initialized() -> bool:
    """Whether `init_process_group` has been called."""
    return _world[0] is not None


def is_gloo_available() -> bool:
    """Whether the backend "gloo" is there: True, for groups of one process."""
    return True


def is_nccl_available() -> bool:
    """Whether the backend "nccl" is there: False, there is no CUDA device."""
    return False


is_mpi_available = is_ucc_available = is_xccl_available = is_nccl_available


def is_backend_available(backend: str) -> bool:
    """Whether a backend is there."""
    return backend.lower() in ("gloo", "fake")


def is_torchelastic_launched() -> bool:
    """Whether `torchrun` has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def get_default_backend_for_device(device_: Any = "cpu") -> str:
    """The backend for the tensors of a device: "gloo" for the CPU."""
    kind = device(device_).type
    return {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}.get(kind, "gloo")


def _environment(name: str, given: int) -> int:
    if given >= 0:
        return given
    text = os.environ.get(name)
    if text is None:
        raise KilnValueError(
            "init_process_group", f"environment variable {name} expected, but not set", None,
            f"set it, or pass {name.lower()}=; one process is rank 0 of world_size 1",
        )  # fmt: skip
    return int(text)


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: timedelta | None = None,
    world_size: int = -1,
    rank: int = -1,
    store: Any = None,
    group_name: str = "",
    pg_options: Any = None,
    device_id: Any = None,
    _ranks: Any = None,
) -> None:
    """Make the default group, of this process alone.

    Rank and size come from the arguments, from `init_method` (`tcp://…?rank=0&world_size=1`), or from the environment
    (RANK, WORLD_SIZE). Errors: KilnNotImplementedError for more than one process; KilnValueError where rank or size is
    missing or the group exists; KilnError for backends that need a GPU.
    """
    if is_initialized():
        raise KilnValueError(
            "init_process_group", "trying to initialize the default process group twice!", None,
            "call destroy_process_group() first",
        )  # fmt: skip
    if init_method is not None and store is not None:
        raise KilnValueError(
            "init_process_group", "Cannot specify both init_method and store.", None, ""
        )
    if timeout is not None and not isinstance(timeout, timedelta):
        raise KilnTypeError(
            "init_process_group", "timeout is a datetime.timedelta", describe(timeout), ""
        )
    name = Backend(backend or "gloo")
    kinds = [part.rpartition(":")[2] for part in name.split(",")]
    if "gloo" not in kinds and "fake" not in kinds:
        raise KilnError(
            "init_process_group", f"no backend {name!r} here: there is no device for it", repr(backend),
            "use 'gloo' where cuda.is_available() is False",
        )  # fmt: skip
    parts = urlparse(init_method or "env://")
    query = parse_qs(parts.query)
    rank = int(query.get("rank", [rank])[0])
    world_size = int(query.get("world_size", [world_size])[0])
    if store is None and parts.scheme == "env":
        rank, world_size = _environment("RANK", rank), _environment("WORLD_SIZE", world_size)
    if rank < 0 or world_size < 1:
        raise KilnValueError(
            "init_process_group", "rank and world_size are needed here", f"rank={rank}, world_size={world_size}",
            "pass rank=0, world_size=1",
        )  # fmt: skip
    if world_size > 1:
        raise KilnNotImplementedError(
            "init_process_group", "a group of more than one process is not built yet", f"world_size={world_size}", _SINGLE
        )  # fmt: skip
    if rank:
        raise KilnValueError("init_process_group", "no such rank in a group of one", rank, "rank=0")
    _world[0] = ProcessGroup(name, timeout=timeout or default_pg_timeout)


def destroy_process_group(group: Any = None) -> None:
    """Give a group up; the default one for None."""
    if group is None or group is _world[0]:
        default("destroy_process_group")
        _world[0] = None


def default(op: str) -> ProcessGroup:
    """The default group; an error before `init_process_group`."""
    found = _world[0]
    if found is None:
        raise KilnValueError(
            op,
            "Default process group has not been initialized",
            None,
            "call init_process_group first",
        )
    return found


def member(op: str, group: Any) -> bool:
    """Whether this process is in a group (the default one for None)."""
    default(op)
    return group != GroupMember.NON_GROUP_MEMBER


def get_rank(group: Any = None) -> int:
    """The rank of this process in a group: 0, or -1 where it isn't in it."""
    return 0 if member("get_rank", group) else -1


def get_world_size(group: Any = None) -> int:
    """How many processes a group has: 1, or -1 where this process isn't in it."""
    return 1 if member("get_world_size", group) else -1


def get_node_local_rank(fallback_rank: int | None = None) -> int:
    """The rank of this process among those of its machine: LOCAL_RANK of the environment."""
    text = os.environ.get("LOCAL_RANK")
    if text is None and fallback_rank is None:
        raise KilnError(
            "get_node_local_rank",
            "LOCAL_RANK is not in the environment",
            None,
            "pass fallback_rank=0",
        )
    return int(text) if text is not None else int(fallback_rank or 0)


def get_backend(group: Any = None) -> Backend:
    """The name of a group's backend."""
    found = default("get_backend")
    if not member("get_backend", group):
        raise KilnError("get_backend", "Invalid process group specified", describe(group), "")
    return Backend((group or found).backend)


def get_process_group_ranks(group: Any = None) -> list[int]:
    """The ranks, in the default group, of a group's processes."""
    return list((group or default("get_process_group_ranks")).ranks)


def get_global_rank(group: Any, group_rank: int) -> int:
    """The rank in the default group of a group's rank."""
    _only(group_rank, "get_global_rank")
    return 0


def get_group_rank(group: Any, global_rank: int) -> int:
    """The rank in a group of a rank of the default group."""
    _only(global_rank, "get_group_rank")
    return 0


def _only(rank: Any, op: str) -> None:
    if rank is not None and rank != 0:
        raise KilnValueError(
            op, "no such rank in a group of one process", rank, "0 is the only one"
        )


def new_group(
    ranks: Sequence[int] | None = None, timeout: Any = None, backend: str | None = None, pg_options: Any = None,
    use_local_synchronization: bool = False, group_desc: str | None = None, device_id: Any = None,
) -> Any:  # fmt: skip
    """A group of some of the processes: this one, or `GroupMember.NON_GROUP_MEMBER` for no ranks."""
    world = default("new_group")
    chosen = [0] if ranks is None else list(ranks)
    for r in chosen:
        _only(r, "new_group")
    if not chosen:
        return GroupMember.NON_GROUP_MEMBER
    return ProcessGroup(Backend(backend or world.backend), chosen, timeout)
