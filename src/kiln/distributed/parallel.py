"""Data-parallel training over a process group: of one process, the module itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import KilnError, KilnValueError, describe
from ..nn.modules.module import Module
from .group import default


class DistributedDataParallel(Module):
    """A module whose gradients are averaged over the processes of a group: over one, they are as they are.

    `module.` stands before the names of its state dict. Errors: KilnValueError before `init_process_group` and for
    `device_ids` of a module on the CPU; KilnError where no parameter requires a gradient. Source:
    torch.nn.parallel.DistributedDataParallel.
    """

    def __init__(
        self, module: Module, device_ids: Any = None, output_device: Any = None, dim: int = 0, broadcast_buffers: bool = True,
        init_sync: bool = True, process_group: Any = None, bucket_cap_mb: float | None = None,
        find_unused_parameters: bool = False, check_reduction: bool = False, gradient_as_bucket_view: bool = False,
        static_graph: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.process_group = process_group or default("DistributedDataParallel")
        if device_ids or output_device is not None:
            raise KilnValueError(
                "DistributedDataParallel", "device_ids and output_device are for GPUs, and the module is on the CPU",
                f"device_ids={describe(device_ids)}, output_device={describe(output_device)}", "leave them out",
            )  # fmt: skip
        if not any(p.requires_grad for p in module.parameters()):
            raise KilnError(
                "DistributedDataParallel", "not needed: no parameter of the module requires a gradient", None, "use the module itself"
            )  # fmt: skip
        self.module = module
        self.dim, self.device, self.device_ids, self.output_device = (
            dim,
            next(module.parameters()).device,
            None,
            None,
        )
        self.broadcast_buffers, self.find_unused_parameters = (
            broadcast_buffers,
            find_unused_parameters,
        )
        self.static_graph, self.require_backward_grad_sync = static_graph, True

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The module's result."""
        return self.module(*inputs, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients are not averaged inside: of one process they never need to be."""
        before, self.require_backward_grad_sync = self.require_backward_grad_sync, False
        try:
            yield
        finally:
            self.require_backward_grad_sync = before

    @contextmanager
    def join(self, divide_by_initial_world_size: bool = True, enable: bool = True, throw_on_early_termination: bool = False) -> Iterator[None]:  # fmt: skip
        """Processes may have different numbers of batches inside: there is one."""
        yield

    def register_comm_hook(self, state: Any, hook: Callable) -> None:
        """How gradients are averaged: of one process there is nothing to average."""

    def _set_static_graph(self) -> None:
        self.static_graph = True
