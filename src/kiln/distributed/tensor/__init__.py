"""Tensors spread over processes: not built yet; placements can be named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...refusal import refuse
from ..device_mesh import DeviceMesh, init_device_mesh
from ..group import _SINGLE

DTensor: Any
distribute_tensor: Any
distribute_module: Any
refuse(
    __name__, "DTensor distribute_tensor distribute_module empty full ones rand randn zeros",
    "tensors over several processes are not built yet", _SINGLE,
)  # fmt: skip


class Placement:
    """How a tensor lies on the processes of a mesh."""

    def is_shard(self, dim: int | None = None) -> bool:
        """Whether each holds a part, along a dimension."""
        return isinstance(self, Shard) and dim in (None, self.dim)

    def is_replicate(self) -> bool:
        """Whether each holds all of it."""
        return isinstance(self, Replicate)

    def is_partial(self, reduce_op: str | None = None) -> bool:
        """Whether each holds a summand."""
        return isinstance(self, Partial)


@dataclass(frozen=True)
class Shard(Placement):
    """Each process holds a part along a dimension."""

    dim: int


@dataclass(frozen=True)
class Replicate(Placement):
    """Each process holds all of it."""


@dataclass(frozen=True)
class Partial(Placement):
    """Each process holds a summand."""

    reduce_op: str = "sum"


__all__ = [
    "DTensor", "DeviceMesh", "Partial", "Placement", "Replicate", "Shard", "distribute_module", "distribute_tensor",
    "init_device_mesh",
]  # fmt: skip
