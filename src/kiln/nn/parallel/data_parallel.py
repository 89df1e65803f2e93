"""Data-parallel modules as they are without GPUs: the modules themselves."""

from __future__ import annotations

from typing import Any

from ..modules.module import Module


class DataParallel(Module):
    """The module itself: without GPUs there is nothing to divide a batch among, as in PyTorch.

    `module.` stands before the names of its state dict. Source: torch.nn.DataParallel.
    """

    def __init__(
        self, module: Any, device_ids: Any = None, output_device: Any = None, dim: int = 0
    ) -> None:
        super().__init__()
        self.module = module
        self.device_ids: list[int] = []

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


def data_parallel(
    module: Any, inputs: Any, device_ids: Any = None, output_device: Any = None, dim: int = 0,
    module_kwargs: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """`module(*inputs, **module_kwargs)`: without GPUs there is nothing to divide a batch among."""
    args = inputs if isinstance(inputs, tuple) else () if inputs is None else (inputs,)
    return module(*args, **(module_kwargs or {}))
