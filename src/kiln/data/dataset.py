"""Datasets: things with samples by number, or one after another.

https://docs.pytorch.org/docs/stable/data.html
"""

from __future__ import annotations

import bisect
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ..errors import (
    KilnAssertionError,
    KilnIndexError,
    KilnNotImplementedError,
    KilnTypeError,
    KilnValueError,
    KilnWarning,
    describe,
)
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
            raise KilnAssertionError(
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
            what = "not both by position and by name" if args else "at least one"
            raise KilnValueError("StackDataset", f"give datasets: {what}", None)
        self.datasets: Any = args or kwargs
        lengths = [len(d) for d in (args or kwargs.values())]  # type: ignore[arg-type]
        if len(set(lengths)) > 1:
            raise KilnValueError(
                "StackDataset", "Size mismatch between datasets", lengths,
                "the datasets need the same number of samples",
            )  # fmt: skip
        self._length = lengths[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {k: d[index] for k, d in self.datasets.items()}
        return tuple(d[index] for d in self.datasets)

    def __getitems__(self, indices: list) -> list:
        """Samples at several numbers, from datasets that give them at once where they do."""
        if isinstance(self.datasets, dict):
            columns = [_samples(d, indices) for d in self.datasets.values()]
            return [
                dict(zip(self.datasets, row, strict=True)) for row in zip(*columns, strict=True)
            ]
        return list(zip(*(_samples(d, indices) for d in self.datasets), strict=True))

    def __len__(self) -> int:
        return self._length


def _samples(dataset: Dataset, indices: list) -> list:
    many = getattr(dataset, "__getitems__", None)
    if not callable(many):
        return [dataset[i] for i in indices]
    found: Any = many(indices)
    if len(found) != len(indices):
        raise KilnValueError(
            "StackDataset", f"Nested dataset's output size mismatch. Expected {len(indices)}, got {len(found)}",
            type(dataset).__name__, "__getitems__ gives one sample for each number",
        )  # fmt: skip
    return found


class ConcatDataset(Dataset[Any]):
    """Datasets one behind the other."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise KilnAssertionError(
                "ConcatDataset", "datasets should not be an empty iterable", "[]"
            )
        for d in self.datasets:
            if isinstance(d, IterableDataset):
                raise KilnAssertionError(
                    "ConcatDataset", "ConcatDataset does not support IterableDataset", type(d).__name__,
                    "use ChainDataset",
                )  # fmt: skip
        self.cumulative_sizes = self.cumsum(self.datasets)

    @staticmethod
    def cumsum(sequence: Iterable[Any]) -> list[int]:
        """Where each of the datasets ends."""
        return list(itertools.accumulate(map(len, sequence)))

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

    def _parts(self) -> Iterator[Any]:
        for d in self.datasets:
            if not isinstance(d, IterableDataset):
                raise KilnAssertionError(
                    "ChainDataset", "ChainDataset only supports IterableDataset", type(d).__name__,
                    "use ConcatDataset",
                )  # fmt: skip
            yield d

    def __iter__(self) -> Iterator[Any]:
        for d in self._parts():
            yield from d

    def __len__(self) -> int:
        return sum(map(len, self._parts()))


class Subset(Dataset[T]):
    """The samples of a dataset at the given numbers.

    A subclass with a `__getitem__` of its own needs a `__getitems__` of its own, which loaders call.
    """

    def __init__(self, dataset: Dataset[T], indices: Sequence[int]) -> None:
        kind = type(self)
        if kind.__getitem__ is not Subset.__getitem__ and kind.__getitems__ is Subset.__getitems__:
            raise KilnNotImplementedError(
                "Subset", f"{kind.__name__} overrides __getitem__ but not __getitems__", None,
                "def __getitems__(self, indices): return [self[i] for i in indices]",
            )  # fmt: skip
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: Any) -> T:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: list[int]) -> list[T]:
        """Samples at several numbers, from a dataset that gives them at once where it does."""
        chosen = [self.indices[i] for i in indices]
        many = getattr(self.dataset, "__getitems__", None)
        return many(chosen) if callable(many) else [self.dataset[i] for i in chosen]  # type: ignore[return-value]

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
        for i, size in enumerate(sizes):
            if size == 0:
                warnings.warn(
                    f"Length of split at index {i} is 0. This might result in an empty dataset.",
                    KilnWarning, stacklevel=2,
                )  # fmt: skip
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
