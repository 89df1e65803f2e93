"""Meshes of devices: of one process, one device."""

from __future__ import annotations

import math
from typing import Any

from ..device import as_device
from ..errors import KilnNotImplementedError
from ..ops.creation import tensor
from .group import _SINGLE, get_rank, init_process_group, is_initialized


class DeviceMesh:
    """An n-dimensional arrangement of the processes of a group, of which there is one."""

    def __init__(
        self,
        device_type: str,
        mesh: Any,
        *,
        mesh_dim_names: tuple[str, ...] | None = None,
        **options: Any,
    ):
        as_device(device_type)
        self.device_type = device_type
        self.mesh = tensor(mesh).int() if not hasattr(mesh, "shape") else mesh
        self.mesh_dim_names = mesh_dim_names
        if self.mesh.numel() != 1:
            raise KilnNotImplementedError(
                "DeviceMesh",
                "a mesh of more than one process is not built yet",
                list(self.mesh.shape),
                _SINGLE,
            )
        if not is_initialized():
            init_process_group("gloo", rank=0, world_size=1, store=object())

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return self.mesh.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """How many processes there are in each dimension: one."""
        return tuple(self.mesh.shape)

    def size(self, mesh_dim: int | None = None) -> int:
        """How many processes there are, in all or in a dimension: one."""
        return 1

    def get_rank(self) -> int:
        """The rank of this process."""
        return get_rank()

    def get_local_rank(self, mesh_dim: int | str | None = None) -> int:
        """The rank of this process in a dimension."""
        return 0

    def get_coordinate(self) -> list[int]:
        """Where this process is."""
        return [0] * self.ndim

    def get_group(self, mesh_dim: int | str | None = None) -> Any:
        """The group of the processes in a dimension."""
        from .group import default

        return default("DeviceMesh")

    def __getitem__(self, names: str | tuple[str, ...]) -> DeviceMesh:
        names = (names,) if isinstance(names, str) else names
        for n in names:
            if n not in (self.mesh_dim_names or ()):
                raise KeyError(f"Invalid mesh_dim_name {n!r}, there are {self.mesh_dim_names}")
        return DeviceMesh(
            self.device_type, self.mesh.reshape((1,) * len(names)), mesh_dim_names=names
        )

    def __repr__(self) -> str:
        return f"DeviceMesh({self.device_type!r}, {self.mesh.tolist()})"


def init_device_mesh(
    device_type: str,
    mesh_shape: tuple[int, ...],
    *,
    mesh_dim_names: tuple[str, ...] | None = None,
    **options: Any,
) -> DeviceMesh:
    """A mesh of this shape, which has one process in each dimension."""
    if math.prod(mesh_shape) != 1:
        raise KilnNotImplementedError(
            "init_device_mesh",
            "a mesh of more than one process is not built yet",
            mesh_shape,
            _SINGLE,
        )
    return DeviceMesh(device_type, tensor(0).reshape(mesh_shape), mesh_dim_names=mesh_dim_names)
