"""The part of a dataset that one of several training processes sees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeVar, cast

from ..errors import KilnValueError
from .sampler import Sampler

T = TypeVar("T", covariant=True)


class DistributedSampler(Sampler[T]):
    """Every `num_replicas`-th sample number from `rank` on, of the dataset in order or shuffled.

    The order is that of the seed `seed` + epoch, the same in all processes: call `set_epoch` before each epoch for
    another one. All parts have the same length: some numbers come twice, or with `drop_last` the last are left out.
    """

    def __init__(
        self, dataset: Any, num_replicas: int | None = None, rank: int | None = None,
        shuffle: bool = True, seed: int = 0, drop_last: bool = False,
    ) -> None:  # fmt: skip
        if num_replicas is None or rank is None:
            from .. import distributed

            num_replicas = distributed.get_world_size() if num_replicas is None else num_replicas
            rank = distributed.get_rank() if rank is None else rank
        if not 0 <= rank < num_replicas:
            raise KilnValueError(
                "DistributedSampler", f"Invalid rank {rank}, rank should be in the interval "
                f"[0, {num_replicas - 1}]", rank,
            )  # fmt: skip
        self.dataset, self.num_replicas, self.rank, self.epoch = dataset, num_replicas, rank, 0
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        n = len(dataset)
        self.num_samples = n // num_replicas if drop_last else math.ceil(n / num_replicas)
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[T]:
        from .. import Generator, randperm

        n = len(self.dataset)
        if self.shuffle:
            g = Generator().manual_seed(self.seed + self.epoch)
            order = randperm(n, generator=g).tolist()
        else:
            order = list(range(n))
        if n < self.total_size:
            order *= math.ceil(self.total_size / n)
        return cast(Iterator[T], iter(order[: self.total_size][self.rank :: self.num_replicas]))

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes, for an order of its own."""
        self.epoch = epoch
