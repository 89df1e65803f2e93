"""DataLoader: batches from a dataset.

https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.DataLoader
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from ..errors import KilnTypeError, KilnValueError, KilnWarning, describe
from ._utils import position
from ._utils.collate import default_collate, default_convert
from ._utils.info import get_worker_info
from ._utils.iterators import (
    _BaseDataLoaderIter,
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)
from .dataset import Dataset, IterableDataset
from .sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler

_collate_fn_t = Callable[[list], Any]  # PyTorch's names of these, which libraries annotate with
_worker_init_fn_t = Callable[[int], None]

T = TypeVar("T", covariant=True)

_FIXED = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")


class _DatasetKind:
    """The two kinds of datasets."""

    Map, Iterable = 0, 1


class _InfiniteConstantSampler(Sampler[None]):
    """Nothing to choose: an iterable dataset decides."""

    def __iter__(self) -> Iterator[None]:
        while True:
            yield None


class DataLoader(Generic[T]):
    """Batches of a dataset, anew at each iteration.

    `batch_size=None` gives single samples; `sampler` or `batch_sampler` decide the order in place
    of `shuffle`; `collate_fn` makes a batch of a list of samples. `generator` draws the order and the workers' seeds.

    With `num_workers` processes make batches ahead, `prefetch_factor` each; worker i has the seed base seed + i, is set
    up by `worker_init_fn(i)`, and stays for the next epoch with `persistent_workers`. Batches come in the order of
    the sampler, or with `in_order=False` as they are ready. They lie in shared memory, which is used again when
    nothing refers to it any more. An exception in a worker is raised here, in its class and with its traceback; a
    worker that dies is a RuntimeError, as is one that takes longer than `timeout` seconds (0: no limit). Workers are
    made by `multiprocessing_context`, a start method or a context; `pin_memory` has no effect without an accelerator.

    `state_dict()` is the place in the present epoch; after `load_state_dict` the next iteration goes on there,
    exactly: in the same order, with the same random numbers in workers. A dataset or iterator with `state_dict` and
    `load_state_dict` is asked for its own place, any other iterable dataset is passed over up to there.
    """

    __initialized = False

    def __init__(
        self, dataset: Dataset[T], batch_size: int | None = 1, shuffle: bool | None = None,
        sampler: Sampler | Iterable | None = None, batch_sampler: Sampler[Sequence] | Iterable[Sequence] | None = None,
        num_workers: int = 0, collate_fn: _collate_fn_t | None = None, pin_memory: bool = False,
        drop_last: bool = False, timeout: float = 0, worker_init_fn: _worker_init_fn_t | None = None,
        multiprocessing_context: Any = None, generator: Any = None, *, prefetch_factor: int | None = None,
        persistent_workers: bool = False, pin_memory_device: str = "", in_order: bool = True,
    ) -> None:  # fmt: skip
        self._check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        self.dataset, self.num_workers = dataset, num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory, self.pin_memory_device = pin_memory, pin_memory_device
        self.timeout, self.worker_init_fn, self.in_order = timeout, worker_init_fn, in_order
        self.multiprocessing_context = multiprocessing_context
        self._iterable = isinstance(dataset, IterableDataset)
        self._dataset_kind = _DatasetKind.Iterable if self._iterable else _DatasetKind.Map
        if self._iterable:
            given = {"shuffle": shuffle or None, "sampler": sampler, "batch_sampler": batch_sampler}
            for name, value in given.items():
                if value is not None:
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
                sampler = _InfiniteConstantSampler()
            elif shuffle:
                sampler = RandomSampler(dataset, generator=generator)
            else:
                sampler = SequentialSampler(dataset)
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size, self.drop_last = batch_size, drop_last
        self.sampler, self.batch_sampler = sampler, batch_sampler
        self.generator = generator
        self.collate_fn = collate_fn or (
            default_collate if self._auto_collation else default_convert
        )
        self.persistent_workers = persistent_workers
        self._IterableDataset_len_called: int | None = None
        self._iterator: Any = None
        self._position: position.Position | None = None
        self._resume: dict[str, Any] | None = None
        self.__initialized = True
        self.check_worker_number_rationality()

    @staticmethod
    def _check_workers(n: int, timeout: float, prefetch: int | None, persistent: bool) -> None:
        if n < 0:
            raise KilnValueError(
                "DataLoader", "num_workers option should be non-negative; use num_workers=0 to disable "
                "multiprocessing.", n,
            )  # fmt: skip
        if timeout < 0:
            raise KilnValueError("DataLoader", "timeout option should be non-negative", timeout)
        if n == 0 and prefetch is not None:
            raise KilnValueError(
                "DataLoader", "prefetch_factor option could only be specified in multiprocessing.",
                prefetch, "let num_workers > 0, or leave prefetch_factor out",
            )  # fmt: skip
        if prefetch is not None and prefetch < 0:
            raise KilnValueError(
                "DataLoader", "prefetch_factor option should be non-negative", prefetch
            )
        if persistent and n == 0:
            raise KilnValueError(
                "DataLoader", "persistent_workers option needs num_workers > 0", persistent
            )

    @property
    def multiprocessing_context(self) -> Any:
        """What makes the worker processes; None for the default start method."""
        return self.__multiprocessing_context

    @multiprocessing_context.setter
    def multiprocessing_context(self, context: Any) -> None:
        if context is not None:
            from multiprocessing.context import BaseContext

            from .. import multiprocessing

            if self.num_workers == 0:
                raise KilnValueError(
                    "DataLoader", "multiprocessing_context can only be used with multi-process loading "
                    "(num_workers > 0)", f"num_workers={self.num_workers}",
                )  # fmt: skip
            if isinstance(context, str):
                methods = multiprocessing.get_all_start_methods()
                if context not in methods:
                    raise KilnValueError(
                        "DataLoader", "multiprocessing_context option should specify a valid start method in "
                        f"{methods}", f"multiprocessing_context={context!r}",
                    )  # fmt: skip
                context = multiprocessing.get_context(context)
            if not isinstance(context, BaseContext):
                raise KilnTypeError(
                    "DataLoader", "multiprocessing_context option should be a valid context object or a string "
                    "specifying the start method", describe(context),
                )  # fmt: skip
        self.__multiprocessing_context = context

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__initialized and name in _FIXED:
            raise KilnValueError(
                type(self).__name__, f"{name} attribute should not be set after {type(self).__name__} is "
                "initialized", describe(value), "make another loader",
            )  # fmt: skip
        super().__setattr__(name, value)

    @property
    def _auto_collation(self) -> bool:
        return self.batch_sampler is not None

    @property
    def _index_sampler(self) -> Any:
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def __iter__(self) -> _BaseDataLoaderIter:
        if not self.persistent_workers:
            return self._get_iterator()
        if self._iterator is None:
            self._iterator = self._get_iterator()
        else:
            self._iterator._reset(self)
        return self._iterator

    def _get_iterator(self) -> _BaseDataLoaderIter:
        if self.num_workers == 0:
            return _SingleProcessDataLoaderIter(self)
        self.check_worker_number_rationality()
        return _MultiProcessingDataLoaderIter(self)

    def __len__(self) -> int:
        if not self._iterable:
            return len(self._index_sampler)
        n = self._IterableDataset_len_called = len(self.dataset)  # type: ignore[arg-type]
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else math.ceil(n / self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch: plain data, which `kiln.save` writes.

        It counts the batches that the latest iterator has given out; before an epoch and after its end
        it is the beginning of the next one.
        """
        if self._resume is not None:
            return self._resume
        return (self._position or position.Position(self)).state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next iteration go on from such a place.

        Raises ValueError where the loader has another batch size, number of workers or kind of dataset.
        """
        position.check(state_dict, self)
        self._resume = state_dict

    def check_worker_number_rationality(self) -> None:
        """Warn where there are more workers than CPUs that this process may use."""
        affine = hasattr(os, "sched_getaffinity")
        cpus = len(os.sched_getaffinity(0)) if affine else os.cpu_count()
        if self.num_workers and (cpus is None or self.num_workers > cpus):
            warnings.warn(
                f"This DataLoader will create {self.num_workers} worker processes in total. Our suggested max "
                f"number of worker in current system is {cpus}, which is smaller than what this DataLoader is "
                "going to create: excessive worker creation might get DataLoader running slow or even freeze.",
                KilnWarning, stacklevel=3,
            )  # fmt: skip


__all__ = ["DataLoader", "default_collate", "default_convert", "get_worker_info"]
