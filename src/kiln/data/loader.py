"""DataLoader: batches from a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import (
    KilnIndexError,
    KilnNotImplementedError,
    KilnTypeError,
    KilnValueError,
    describe,
)
from ..ops.creation import as_tensor, from_numpy, tensor
from ..ops.joining import stack
from ..tensor import Tensor, wrap
from .dataset import Dataset, IterableDataset, Subset, TensorDataset
from .sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler


def default_collate(batch: Sequence[Any]) -> Any:
    """A batch from samples: tensors, arrays and numbers are stacked, containers entry by entry."""
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch))
    if isinstance(first, np.ndarray):
        if first.dtype.kind in "OSU":
            raise _refuse(first.dtype)
        return stack([from_numpy(np.ascontiguousarray(x).reshape(x.shape)) for x in batch])
    if isinstance(first, np.generic):
        if first.dtype.kind in "OSU":
            raise _refuse(first.dtype)
        return from_numpy(np.array(batch, first.dtype))
    if isinstance(first, bool | int):
        return tensor(list(batch))
    if isinstance(first, float):
        return tensor(list(batch), dtype="float64")
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        entries = {k: default_collate([x[k] for x in batch]) for k in first}
        return _rebuild(first, entries, entries)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(xs) for xs in zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(x) != len(first) for x in batch):
            raise KilnTypeError(
                "default_collate", "each element in list of batch should be of equal size",
                str([len(x) for x in batch][:8]), "pad the samples, or pass collate_fn",
            )  # fmt: skip
        parts = [default_collate(xs) for xs in zip(*batch, strict=True)]
        return parts if isinstance(first, tuple) else _rebuild(first, parts, parts)
    raise _refuse(type(first))


def _rebuild(first: Any, entries: Any, fallback: Any) -> Any:
    """A container of the samples' own type where it can be made, else a plain one."""
    if type(first) in (dict, list):
        return fallback
    try:
        return type(first)(entries)
    except TypeError:
        return fallback


def _refuse(what: Any) -> KilnTypeError:
    return KilnTypeError(
        "default_collate", "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or "
        f"lists; found {what}", None, "pass collate_fn",
    )  # fmt: skip


def default_convert(data: Any) -> Any:
    """Arrays and NumPy numbers as tensors, inside containers too; anything else as it is."""
    if isinstance(data, np.ndarray | np.generic) and data.dtype.kind not in "OSU":
        return as_tensor(data)
    if isinstance(data, Tensor | str | bytes):
        return data
    if isinstance(data, Mapping):
        entries = {k: default_convert(v) for k, v in data.items()}
        return _rebuild(data, entries, entries)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(default_convert, data))
    if isinstance(data, Sequence):
        parts = [default_convert(x) for x in data]
        return parts if isinstance(data, tuple) else _rebuild(data, parts, parts)
    return data


class _Endless(Sampler[None]):
    """Nothing to choose: an iterable dataset decides."""

    def __iter__(self) -> Iterator[None]:
        while True:
            yield None


class DataLoader:
    """Batches of a dataset, anew at each iteration.

    `batch_size=None` gives single samples; `sampler` or `batch_sampler` decide the order in place
    of `shuffle`; `collate_fn` makes a batch of a list of samples. Loading runs in this process.
    """

    def __init__(
        self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = None,
        sampler: Iterable | None = None, batch_sampler: Iterable[Sequence] | None = None,
        num_workers: int = 0, collate_fn: Callable[[list], Any] | None = None, pin_memory: bool = False,
        drop_last: bool = False, timeout: float = 0, worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None, generator: Any = None, *, prefetch_factor: int | None = None,
        persistent_workers: bool = False, pin_memory_device: str = "", in_order: bool = True,
    ) -> None:  # fmt: skip
        self.dataset, self.generator = dataset, generator
        self._check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        self.num_workers, self.timeout, self.pin_memory = num_workers, timeout, pin_memory
        self.worker_init_fn = worker_init_fn
        self._iterable = isinstance(dataset, IterableDataset)
        if self._iterable:
            for name, value in (
                ("shuffle", shuffle),
                ("sampler", sampler),
                ("batch_sampler", batch_sampler),
            ):
                if value not in (None, False):
                    raise KilnValueError(
                        "DataLoader", f"DataLoader with IterableDataset: expected unspecified {name} option, "
                        f"but got {name}={value}", None, "an iterable dataset decides its own order",
                    )  # fmt: skip
        if sampler is not None and shuffle:
            raise KilnValueError(
                "DataLoader", "sampler option is mutually exclusive with shuffle", None
            )
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise KilnValueError(
                    "DataLoader", "batch_sampler option is mutually exclusive with batch_size, shuffle, "
                    "sampler, and drop_last", None,
                )  # fmt: skip
            batch_size, drop_last = None, False
        elif batch_size is None and drop_last:
            raise KilnValueError(
                "DataLoader", "batch_size=None option disables auto-batching and is mutually exclusive with "
                "drop_last", None,
            )  # fmt: skip
        if sampler is None:
            if self._iterable:
                sampler = _Endless()
            else:
                sampler = (
                    RandomSampler(dataset, generator=generator)
                    if shuffle
                    else SequentialSampler(dataset)
                )
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size, self.drop_last = batch_size, drop_last
        self.sampler, self.batch_sampler = sampler, batch_sampler
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate
        self.collate_fn = collate_fn

    @staticmethod
    def _check_workers(n: int, timeout: float, prefetch: int | None, persistent: bool) -> None:
        if n < 0:
            raise KilnValueError("DataLoader", "num_workers option should be non-negative", n)
        if timeout < 0:
            raise KilnValueError("DataLoader", "timeout option should be non-negative", timeout)
        if n > 0:
            raise KilnNotImplementedError(
                "DataLoader", "loading in worker processes comes with a later version of Kiln",
                f"num_workers={n}", "use num_workers=0",
            )  # fmt: skip
        if prefetch is not None:
            raise KilnValueError(
                "DataLoader", "prefetch_factor option could only be specified in multiprocessing",
                prefetch, "leave it out",
            )  # fmt: skip
        if persistent:
            raise KilnValueError(
                "DataLoader", "persistent_workers option needs num_workers > 0", persistent
            )

    def __iter__(self) -> Iterator[Any]:
        if self._iterable:
            return self._from_iterable()
        if self.batch_sampler is None:
            return (self.collate_fn(self.dataset[i]) for i in self.sampler)
        return self._batches()

    def _from_iterable(self) -> Iterator[Any]:
        it = iter(self.dataset)
        if self.batch_sampler is None:
            yield from map(self.collate_fn, it)
            return
        for numbers in self.batch_sampler:
            batch = [x for _, x in zip(numbers, it, strict=False)]
            if not batch or (len(batch) < len(numbers) and self.drop_last):
                return
            yield self.collate_fn(batch)
            if len(batch) < len(numbers):
                return

    def _batches(self) -> Iterator[Any]:
        assert self.batch_sampler is not None
        rows = _rows(self.dataset) if self.collate_fn is default_collate else None
        fetch = getattr(self.dataset, "__getitems__", None)
        for numbers in self.batch_sampler:
            if rows is not None:
                yield rows(numbers)
            elif fetch is not None:
                yield self.collate_fn(fetch(numbers))
            else:
                yield self.collate_fn([self.dataset[i] for i in numbers])

    def __len__(self) -> int:
        if self._iterable:
            n = len(self.dataset)
            if self.batch_size is None:
                return n
            return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]


def _rows(dataset: Dataset) -> Callable[[Sequence[int]], list[Tensor]] | None:
    """A function from numbers to the batch that samples of a TensorDataset would collate to."""
    chosen: np.ndarray | None = None
    if type(dataset) is Subset:
        chosen = np.asarray(dataset.indices)
        dataset = dataset.dataset
        if chosen.dtype.kind not in "iu":
            return None
    if type(dataset) is not TensorDataset:
        return None
    tensors = dataset.tensors
    if any(
        t.requires_grad or type(t) is not Tensor or not isinstance(t._a, np.ndarray)
        for t in tensors
    ):
        return None
    n = len(dataset)

    def take(numbers: Sequence[int]) -> list[Tensor]:
        at = np.asarray(numbers)
        if chosen is not None:
            at = chosen[at]
        if at.dtype.kind not in "iu" or at.ndim != 1:
            raise KilnTypeError("DataLoader", "sample numbers are integers", describe(numbers))
        if at.size and (at.max() >= n or at.min() < -n):
            raise KilnIndexError("DataLoader", "a sample number is out of range", f"{n} samples")
        return [wrap(t._a[at]) for t in tensors]

    return take


__all__ = ["DataLoader", "default_collate", "default_convert"]
