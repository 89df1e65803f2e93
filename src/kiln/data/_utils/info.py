"""What code that runs in a worker can know about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime.blocks import allocator


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker of a DataLoader: its number, the number of workers, its seed, and its copy of the dataset."""

    id: int
    num_workers: int
    seed: int
    dataset: Any
    rng: Any = None
    worker_method: str | None = "multiprocessing"


_worker_info: WorkerInfo | None = None

pool: Any = None
"""Where this worker's batches lie; None in the loader's process."""


def get_worker_info() -> WorkerInfo | None:
    """What worker this process is; None in the process of the loader."""
    return _worker_info


def room(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory for an array of a batch; in a worker such from which it is sent without a copy."""
    nbytes = math.prod(shape) * dtype.itemsize
    memory = None if pool is None else pool.take(nbytes)
    return allocator(nbytes)(shape, dtype) if memory is None else memory.view(dtype).reshape(shape)
