"""The steps between GPUs of data parallel training, as functions with gradients: refused, as there are none here.

Layers that synchronize among GPUs import them, and call them only where there are several.
"""

from __future__ import annotations

from typing import Any

from ...autograd import Function
from .scatter_gather import refuse


class Broadcast(Function):
    """Refused: copies of tensors on each of several GPUs."""

    @staticmethod
    def forward(ctx: Any, target_gpus: Any, *inputs: Any) -> Any:
        return refuse("Broadcast", inputs)


class ReduceAddCoalesced(Function):
    """Refused: sums of tensors of several GPUs."""

    @staticmethod
    def forward(ctx: Any, destination: Any, num_inputs: int, *grads: Any) -> Any:
        return refuse("ReduceAddCoalesced", grads)


class Gather(Function):
    """Refused: tensors of several GPUs joined on one device."""

    @staticmethod
    def forward(ctx: Any, target_device: Any, dim: int, *inputs: Any) -> Any:
        return refuse("Gather", inputs)


class Scatter(Function):
    """Refused: parts of a tensor on several GPUs."""

    @staticmethod
    def forward(ctx: Any, target_gpus: Any, chunk_sizes: Any, dim: int, input: Any) -> Any:
        return refuse("Scatter", input)
