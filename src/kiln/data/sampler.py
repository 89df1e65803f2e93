"""Samplers: in which order samples are taken."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ..errors import KilnTypeError, KilnValueError, describe
from ..ops.creation import as_tensor
from ..tensor import Tensor
from ._utils.randomness import draw_seed

T = TypeVar("T", covariant=True)


class Sampler(Generic[T]):
    """Gives sample numbers (or lists of them): subclasses define `__iter__`."""

    def __init__(self, data_source: Any = None) -> None:
        pass

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError


class SequentialSampler(Sampler[int]):
    """0, 1, 2, …"""

    def __init__(self, data_source: Any) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


def _is_bool(name: str, value: Any, what: str) -> None:
    if not isinstance(value, bool):
        raise KilnTypeError(
            name, f"{what} should be a boolean value, but got {what}={value}", describe(value)
        )


def _count(name: str, n: Any) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n <= 0:
        raise KilnValueError(
            name,
            f"num_samples should be a positive integer value, but got num_samples={n}",
            describe(n),
        )


class RandomSampler(Sampler[int]):
    """A permutation anew for each iteration, or `num_samples` draws with replacement."""

    def __init__(
        self,
        data_source: Any,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Any = None,
    ) -> None:
        _is_bool("RandomSampler", replacement, "replacement")
        self.data_source, self.replacement = data_source, replacement
        self._num_samples, self.generator = num_samples, generator
        _count("RandomSampler", self.num_samples)

    @property
    def num_samples(self) -> int:
        """How many numbers one iteration gives."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        from .. import Generator, randint, randperm

        # Which numbers are drawn of which generator is PyTorch's way: a seeded program has its order.
        n, total, generator = len(self.data_source), self.num_samples, self.generator
        if generator is None:
            generator = Generator().manual_seed(draw_seed(None))
        if self.replacement:
            for start in range(0, total, 32):
                size = min(32, total - start)
                yield from randint(n, (size,), dtype="int64", generator=generator).tolist()
            return
        for _ in range(total // n):
            yield from randperm(n, generator=generator).tolist()
        yield from randperm(n, generator=generator).tolist()[: total % n]

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given numbers in random order."""

    def __init__(self, indices: Sequence[int], generator: Any = None) -> None:
        self.indices, self.generator = indices, generator

    def __iter__(self) -> Iterator[int]:
        from .. import randperm

        for i in randperm(len(self.indices), generator=self.generator).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Draws of numbers with probabilities in proportion to weights."""

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: Any = None,
    ) -> None:
        _count("WeightedRandomSampler", num_samples)
        _is_bool("WeightedRandomSampler", replacement, "replacement")
        self.weights: Tensor = as_tensor(weights, dtype="float64")
        if self.weights.ndim != 1:
            raise KilnValueError(
                "WeightedRandomSampler", "weights should be a 1d sequence but given weights have shape "
                f"{tuple(self.weights.shape)}", describe(self.weights),
            )  # fmt: skip
        self.num_samples, self.replacement, self.generator = num_samples, replacement, generator

    def __iter__(self) -> Iterator[int]:
        from .. import multinomial

        drawn = multinomial(
            self.weights, self.num_samples, self.replacement, generator=self.generator
        )
        yield from drawn.tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Lists of `batch_size` numbers of another sampler; `drop_last` leaves out a short last one."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise KilnValueError(
                "BatchSampler", f"batch_size should be a positive integer value, but got batch_size={batch_size}",
                describe(batch_size),
            )  # fmt: skip
        if not isinstance(drop_last, bool):
            raise KilnValueError(
                "BatchSampler", f"drop_last should be a boolean value, but got drop_last={drop_last}",
                describe(drop_last),
            )  # fmt: skip
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        it = iter(self.sampler)
        while batch := list(itertools.islice(it, self.batch_size)):
            if self.drop_last and len(batch) < self.batch_size:
                return
            yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
