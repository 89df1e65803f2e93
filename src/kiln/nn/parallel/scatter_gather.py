"""Tensors divided among GPUs and put together again: refused, as there are none."""

from __future__ import annotations

from typing import Any

from ...errors import KilnNotImplementedError, describe

_USE = "every kernel already runs on all cores; processes: kiln.nn.parallel.DistributedDataParallel"


def refuse(name: str, received: Any) -> Any:
    raise KilnNotImplementedError(
        name, f"{name} moves tensors among GPUs, and there are none here", describe(received), _USE
    )


def scatter(inputs: Any, target_gpus: Any, dim: int = 0) -> Any:
    """Refused: parts of a batch on several GPUs; `tensor.chunk` divides one."""
    return refuse("scatter", target_gpus)


def gather(outputs: Any, target_device: Any, dim: int = 0) -> Any:
    """Refused: results of several GPUs on one; `kiln.cat` joins tensors."""
    return refuse("gather", target_device)
