"""From what a sampler gave to a batch: the same in the loader's process and in workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import KilnIndexError, KilnTypeError, KilnValueError, describe
from ...tensor import Tensor, wrap
from ..dataset import Dataset, Subset, TensorDataset
from . import collate, info


class MapFetcher:
    """Batches of a dataset of numbered samples."""

    def __init__(self, dataset: Any, auto_collation: bool, collate_fn: Callable, drop_last: bool):
        self.dataset, self.auto_collation, self.collate_fn = dataset, auto_collation, collate_fn
        quick = auto_collation and collate_fn is collate.default_collate
        self._rows = _rows(dataset) if quick else None
        self.draws = self._rows is None  # whether a sample may depend on random numbers

    def fetch(self, index: Any) -> Any:
        """The batch of a list of sample numbers; without automatic batching one sample."""
        if self._rows is not None:
            return self._rows(index)
        dataset = self.dataset
        if not self.auto_collation:
            return self.collate_fn(dataset[index])
        many = getattr(dataset, "__getitems__", None)
        return self.collate_fn(many(index) if many else [dataset[i] for i in index])

    def state(self) -> Any:
        """The dataset's own state, where it has one."""
        return self.dataset.state_dict() if hasattr(self.dataset, "state_dict") else None

    def load(self, state: Any) -> None:
        """Go on from such a state."""
        if state is not None:
            _load(self.dataset, state)


class IterableFetcher:
    """Batches of a dataset that gives one sample after the other."""

    draws = True

    def __init__(self, dataset: Any, auto_collation: bool, collate_fn: Callable, drop_last: bool):
        self.dataset, self.auto_collation, self.collate_fn = dataset, auto_collation, collate_fn
        self.drop_last = drop_last
        self.samples = iter(dataset)
        self.fetched, self.ended = 0, False

    def fetch(self, index: Any) -> Any:
        """The next batch of as many samples as `index` has places; StopIteration at the end."""
        if self.ended:
            raise StopIteration
        if not self.auto_collation:
            sample = self._next()
            if self.ended:
                raise StopIteration
            return self.collate_fn(sample)
        batch = []
        for _ in index:
            sample = self._next()
            if self.ended:
                break
            batch.append(sample)
        if not batch or (self.drop_last and len(batch) < len(index)):
            raise StopIteration
        return self.collate_fn(batch)

    def _next(self) -> Any:
        try:
            sample = next(self.samples)
        except StopIteration:
            self.ended = True
            return None
        self.fetched += 1
        return sample

    def state(self) -> dict[str, Any]:
        """How far it is: the iterator's own state, or the dataset's, where they have one."""
        state: dict[str, Any] = {"fetched": self.fetched, "ended": self.ended}
        if hasattr(self.samples, "state_dict"):
            state["iterator"] = self.samples.state_dict()
        elif hasattr(self.dataset, "state_dict"):
            state["dataset"] = self.dataset.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Go on from such a state; samples are passed over where nobody knows a better way."""
        if "iterator" in state:
            _load(self.samples, state["iterator"])
        elif "dataset" in state:
            _load(self.dataset, state["dataset"])
            self.samples = iter(self.dataset)
        else:
            for _ in range(state["fetched"]):
                next(self.samples, None)
        self.fetched, self.ended = state["fetched"], state["ended"]


Fetcher = MapFetcher | IterableFetcher


def replays(state: Any) -> bool:
    """Whether samples are passed over to come to a fetcher's state: random numbers are drawn again then."""
    return (
        isinstance(state, dict) and "fetched" in state and not {"iterator", "dataset"} & set(state)
    )


def _load(what: Any, state: Any) -> None:
    if not hasattr(what, "load_state_dict"):
        raise KilnValueError(
            "DataLoader", "there is a state for something that can't take it", type(what).__name__,
            "give it a load_state_dict(state) beside its state_dict()",
        )  # fmt: skip
    what.load_state_dict(state)


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
        return [wrap(_taken(t._a, at)) for t in tensors]

    return take


def _taken(a: np.ndarray, at: np.ndarray) -> np.ndarray:
    out = info.room((at.size, *a.shape[1:]), a.dtype)
    return a.take(
        at, 0, out, "wrap"
    )  # what is negative counts from the end, and nothing is buffered
