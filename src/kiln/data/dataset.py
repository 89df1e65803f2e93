"""Datasets: things with samples by number, or one after another.

https://docs.pytorch.org/docs/stable/data.html
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ..errors import KilnIndexError, KilnTypeError, KilnValueError, describe
from ..tensor import Tensor

T = TypeVar("T", covariant=True)


class Dataset(Generic[T]):
    """Samples by number: subclasses define `__getitem__` and, for most uses, `__len__`."""

    def __getitem__(self, index: Any) -> T:
        raise NotImplementedError("Subclasses of Dataset should implement __getitem__.")

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T], Iterable[T]):
    """Samples one after another: subclasses define `__iter__`."""

    def __add__(self, other: Dataset) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """The rows of tensors of equal first size: sample i is `(a[i], b[i], …)`."""

    def __init__(self, *tensors: Tensor) -> None:
        for t in tensors:
            if not isinstance(t, Tensor):
                raise KilnTypeError(
                    "TensorDataset", "expected tensors", describe(t), "kiln.as_tensor(…)"
                )
        if len({t.shape[0] for t in tensors}) > 1:
            raise KilnValueError(
                "TensorDataset", "Size mismatch between tensors", describe(tensors),
                "the tensors need the same number of rows",
            )  # fmt: skip
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].shape[0]


class StackDataset(Dataset[Any]):
    """Several datasets side by side: a tuple or a dict of their samples."""

    def __init__(self, *args: Dataset, **kwargs: Dataset) -> None:
        if bool(args) == bool(kwargs):
            raise KilnValueError("StackDataset", "give datasets by position or by name", None)
        self.datasets: Any = args or kwargs
        lengths = {len(d) for d in (args or kwargs.values())}  # type: ignore[arg-type]
        if len(lengths) > 1:
            raise KilnValueError("StackDataset", "Size mismatch between datasets", sorted(lengths))
        self._length = lengths.pop()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {k: d[index] for k, d in self.datasets.items()}
        return tuple(d[index] for d in self.datasets)

    def __len__(self) -> int:
        return self._length


class ConcatDataset(Dataset[Any]):
    """Datasets one behind the other."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise KilnValueError("ConcatDataset", "datasets should not be an empty iterable", "[]")
        for d in self.datasets:
            if isinstance(d, IterableDataset):
                raise KilnTypeError(
                    "ConcatDataset", "ConcatDataset does not support IterableDataset", type(d).__name__,
                    "use ChainDataset",
                )  # fmt: skip
        self.cumulative_sizes = list(itertools.accumulate(len(d) for d in self.datasets))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        n = len(self)
        if index < 0:
            if -index > n:
                raise KilnValueError(
                    "ConcatDataset",
                    "absolute value of index should not exceed dataset length",
                    f"{index}, {n}",
                )
            index += n
        which = bisect.bisect_right(self.cumulative_sizes, index)
        if which == len(self.datasets):
            raise KilnIndexError("ConcatDataset", "index out of range", f"{index}, {n} samples")
        return self.datasets[which][index - (self.cumulative_sizes[which - 1] if which else 0)]


class ChainDataset(IterableDataset[Any]):
    """Iterable datasets one after the other."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        self.datasets = datasets

    def __iter__(self) -> Iterator[Any]:
        for d in self.datasets:
            if not isinstance(d, IterableDataset):
                raise KilnTypeError(
                    "ChainDataset", "ChainDataset only supports IterableDataset", type(d).__name__
                )
            yield from d

    def __len__(self) -> int:
        return sum(len(d) for d in self.datasets)  # type: ignore[arg-type]


class Subset(Dataset[T]):
    """The samples of a dataset at the given numbers."""

    def __init__(self, dataset: Dataset[T], indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: Any) -> T:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(
    dataset: Dataset[T], lengths: Sequence[float], generator: Any = None
) -> list[Subset[T]]:
    """Disjoint random subsets of the given lengths, or of the given fractions if these sum to 1."""
    n = len(dataset)  # type: ignore[arg-type]
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        sizes = []
        for i, share in enumerate(lengths):
            if not 0 <= share <= 1:
                raise KilnValueError(
                    "random_split", f"Fraction at index {i} is not between 0 and 1", share
                )
            sizes.append(math.floor(n * share))
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
        lengths = sizes
    if sum(lengths) != n:
        raise KilnValueError(
            "random_split", "Sum of input lengths does not equal the length of the input dataset!",
            f"sum {sum(lengths)}, {n} samples", "give lengths that add up, or fractions that sum to 1",
        )  # fmt: skip
    from .. import randperm

    order = randperm(n, generator=generator).tolist()
    ends = itertools.accumulate(int(size) for size in lengths)
    return [
        Subset(dataset, order[end - int(size) : end])
        for end, size in zip(ends, lengths, strict=True)
    ]
