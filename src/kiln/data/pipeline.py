"""`Pipeline`: samples on their way from a source to a training step, through stages that stream."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import KilnTypeError, KilnValueError, describe
from ..ops.creation import from_numpy
from ..tensor import Tensor
from ._utils import stages
from ._utils.collate import default_collate
from ._utils.randomness import draw_seed
from .dataset import IterableDataset

VERSION = 1


class Pipeline(IterableDataset[Any]):
    """Samples of a source, streamed through stages; each method gives a new pipeline with one stage more.

    `source` is a dataset, a list, any iterable, or a function that gives an iterator. Nothing but what a stage says that it holds is
    kept in memory. Each iteration is a pass with a random order of its own.

    >>> data = Pipeline(lines).map(encode).shuffle(1000).batch_by_length(32, [16, 32, 64]).prefetch(2)
    >>> for batch in data: step(batch)

    `state_dict()` is the place in the present pass, as plain data that `kiln.save` writes; after `load_state_dict` the next iteration goes
    on right there: held-back samples are part of it, and nothing but a source without a state of its own is run again.
    In a worker of a `DataLoader(pipeline, batch_size=None, num_workers=n)` it takes every n-th sample of its source, so that each
    sample comes once.
    """

    def __init__(self, source: Any) -> None:
        stages.check_source(source)
        self._source = source
        self._stages: tuple[Callable[..., stages.Stage], ...] = ()
        self._sizes: tuple[Callable[[int], int] | None, ...] = ()
        self._part = (0, 1)
        self._draws = False  # whether a stage has no seed of its own
        self._epoch = 0
        self._latest: PipelineIterator | None = None
        self._resume: dict[str, Any] | None = None

    def _then(
        self, make: Callable[..., stages.Stage], size: Callable[[int], Any] | None, draws: bool = False
    ) -> Pipeline:  # fmt: skip
        """This pipeline with a stage more: `make(make_up, now)`, how many items come of how many, whether it needs a seed."""
        out = Pipeline(self._source)
        out._part, out._draws = self._part, self._draws or draws
        out._stages, out._sizes = (*self._stages, make), (*self._sizes, size)
        return out

    # ---- stages

    def map(self, f: Callable[..., Any], seed: int | bool | None = False) -> Pipeline:
        """`f(sample)` of each. With a seed `f(sample, random)`, where `random` is a NumPy generator for that sample alone, so that an
        augmentation is the same however far stages run ahead; `seed=None` draws one for each pass."""
        if seed is False:
            return self._then(lambda up, now: stages.Mapped(up(now), f), _same)
        k = len(self._stages)
        return self._then(
            lambda up, now: stages.Mapped(up(now), f, lambda i: now.random(seed, k, i, now.part[0])),
            _same, seed is None,
        )  # fmt: skip

    def filter(self, f: Callable[[Any], Any]) -> Pipeline:
        """The samples of which `f` holds."""
        return self._then(lambda up, now: stages.Filtered(up(now), f), None)

    def flat_map(self, f: Callable[[Any], Any]) -> Pipeline:
        """All that `f(sample)` gives, sample after sample."""
        return self._then(lambda up, now: stages.Flattened(up(now), f), None)

    def shuffle(self, buffer_size: int, seed: int | None = None) -> Pipeline:
        """In random order, as far as a buffer of so many samples allows: each comes from among the `buffer_size` next.

        With a seed each pass has an order that follows from it and from the pass's number; without one it follows from Kiln's
        stream of random numbers.
        """
        size, k = stages.positive("shuffle", "buffer_size", buffer_size), len(self._stages)
        return self._then(
            lambda up, now: stages.Shuffled(up(now), size, now.random(seed, k, now.part[0])),
            _same, seed is None,
        )  # fmt: skip

    def cache(self, path: Any = None) -> Pipeline:
        """What comes so far, kept when it has come once in whole: in memory, or in a file, which later programs find again.

        Samples that are kept are given out again as they are: change none in place.
        """
        store = stages.Store(path)

        def make(up: Callable, now: stages.Pass) -> stages.Stage:
            if store.is_full(now.part):
                return stages.Kept(store, now.part)
            return stages.Keeping(up, store, now)

        return self._then(make, _same)

    def batch(
        self, batch_size: int, drop_last: bool = False, collate_fn: Callable[[list], Any] | None = None
    ) -> Pipeline:  # fmt: skip
        """Batches of so many samples, put together as a `DataLoader` does."""
        n = stages.positive("batch", "batch_size", batch_size)
        count = (lambda size: size // n) if drop_last else (lambda size: math.ceil(size / n))
        f = collate_fn or default_collate
        return self._then(lambda up, now: stages.Batched(up(now), n, drop_last, f), count)

    def batch_by_length(
        self, batch_size: int | Sequence[int], boundaries: Sequence[int], length: Callable[[Any], int] | None = None,
        pad_value: float = 0, pad_to_boundary: bool = False, drop_last: bool = False,
        collate_fn: Callable[[list], Any] | None = None,
    ) -> Pipeline:  # fmt: skip
        """Batches of samples of like lengths, so that little is padded: each bucket holds lengths up to one of the boundaries,
        a last one all that are longer.

        `batch_size` may be one for each bucket (one more than there are boundaries). `length(sample)` is by default the first
        dimension of the sample, or of its first part. Tensors, arrays and lists of numbers that are as long as their
        samples, or differ in length, are padded with `pad_value` to the longest of the batch; with `pad_to_boundary` to the boundary, so that a compiled
        step meets as many shapes as there are boundaries (and longer samples are a ValueError). `collate_fn` pads itself.
        """
        edges = [int(b) for b in boundaries]
        if not edges or edges != sorted(set(edges)) or edges[0] < 1:
            raise KilnValueError(
                "batch_by_length", "boundaries are lengths that grow", describe(boundaries), "[16, 32, 64]"
            )  # fmt: skip
        sizes = [batch_size] * (len(edges) + 1) if isinstance(batch_size, int) else list(batch_size)
        if len(sizes) != len(edges) + 1:
            raise KilnValueError(
                "batch_by_length", f"{len(edges)} boundaries make {len(edges) + 1} buckets", describe(batch_size),
                "one batch size, or one for each bucket",
            )  # fmt: skip
        for n in sizes:
            stages.positive("batch_by_length", "batch_size", n)

        def collate(items: list, boundary: int | None) -> Any:
            if collate_fn is not None:
                return collate_fn(items)
            lengths = [f(x) for x in items]
            target = boundary if pad_to_boundary else max(lengths)
            if target is None:
                raise KilnValueError(
                    "batch_by_length", "a sample is longer than the last boundary", f"{max(lengths)} long",
                    "a larger boundary, filter(…), or pad_to_boundary=False",
                )  # fmt: skip
            return default_collate(_padded(items, lengths, target, pad_value))

        f = length or _length
        return self._then(
            lambda up, now: stages.Bucketed(up(now), edges, sizes, f, drop_last, collate), None
        )  # fmt: skip

    def prefetch(self, buffer_size: int = 2) -> Pipeline:
        """The same, made ahead by a thread, up to so many: while a compiled step runs, which leaves the interpreter free,
        the next batches are made. An exception comes where its item would have come."""
        n = stages.positive("prefetch", "buffer_size", buffer_size)
        return self._then(lambda up, now: stages.Prefetched(up(now), n), _same)

    def repeat(self, times: int | None = None) -> Pipeline:
        """Several times over, or for good; each time is shuffled anew."""
        if times is not None:
            stages.positive("repeat", "times", times)
        size = (lambda n: n * times) if times is not None else None
        return self._then(lambda up, now: stages.Repeated(up, times, now), size)

    def take(self, count: int) -> Pipeline:
        """The first `count`."""
        n = stages.positive("take", "count", count)
        return self._then(lambda up, now: stages.Limited(up(now), 0, n), lambda size: min(size, n))

    def skip(self, count: int) -> Pipeline:
        """All but the first `count`."""
        n = stages.positive("skip", "count", count)
        return self._then(
            lambda up, now: stages.Limited(up(now), n, None), lambda size: max(size - n, 0)
        )

    def shard(self, num_shards: int, index: int) -> Pipeline:
        """Every `num_shards`-th sample of the source, from number `index` on: a process's part where several train together."""
        if not 0 <= index < num_shards:
            raise KilnValueError("shard", "0 <= index < num_shards", f"{index}, {num_shards}", "")
        out = self._then(lambda up, now: up(now), _same)
        first, step = self._part
        out._part = (first + step * index, step * num_shards)
        return out

    # ---- passes

    def set_epoch(self, epoch: int) -> None:
        """Number the next pass: with seeds, its order follows from that."""
        self._epoch = epoch

    def __iter__(self) -> PipelineIterator:
        if self._latest is not None:
            self._latest.close()
        state, self._resume = self._resume, None
        self._latest = PipelineIterator(self, state)
        self._epoch = self._latest.epoch + 1
        return self._latest

    def _build(self, count: int, now: stages.Pass) -> stages.Stage:
        """The first `count` stages for a pass."""
        if count:
            return self._stages[count - 1](lambda then: self._build(count - 1, then), now)
        source = self._source
        numbered = hasattr(source, "__getitem__") and hasattr(source, "__len__")
        if numbered and not isinstance(source, IterableDataset | dict):
            return stages.Numbered(source, now.part)
        return stages.Streamed(source, now.part)

    def __len__(self) -> int:
        if not hasattr(self._source, "__len__") or None in self._sizes:
            raise KilnTypeError(
                "Pipeline", "how many items come is known when they have come", describe(self._source),
                "count them: sum(1 for _ in pipeline)",
            )  # fmt: skip
        first, step = self._part
        n = max(0, -(-(len(self._source) - first) // step))
        for size in self._sizes:
            n = size(n)  # type: ignore[misc]
        return n

    def state_dict(self) -> dict[str, Any]:
        """The place in the pass of the latest iteration; before a pass and after its end, the beginning of the next one."""
        if self._resume is not None:
            return self._resume
        if self._latest is not None and not self._latest.ended:
            return self._latest.state_dict()
        return {"version": VERSION, "epoch": self._epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next iteration go on from such a place; TypeError and ValueError for what is none of this pipeline."""
        _check(state_dict, self)
        self._resume = state_dict
        self._epoch = state_dict["epoch"]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latest": None}


class PipelineIterator(Iterator[Any]):
    """One pass over a pipeline."""

    def __init__(self, pipeline: Pipeline, state: dict[str, Any] | None) -> None:
        self._pipeline = copy.copy(
            pipeline
        )  # which does not refer to its iterations, so these end with the last reference
        self._process = os.getpid()
        self.ended = False
        self._begin(state or {"epoch": pipeline._epoch})

    def _begin(self, state: dict[str, Any]) -> None:
        pipeline = self._pipeline
        self.epoch: int = state["epoch"]
        self._seed = state["seed"] if "seed" in state else draw_seed(None) if pipeline._draws else 0
        (outer, step), (worker, workers) = pipeline._part, stages.part_of_worker()
        part = outer + step * worker, step * workers
        now = stages.Pass((self.epoch,), self._seed, part)
        self._last = pipeline._build(len(pipeline._stages), now)
        if "stages" in state:
            self._last.load(state["stages"])

    def __next__(self) -> Any:
        try:
            return next(self._last)
        except StopIteration:
            self.ended = True
            raise

    def close(self) -> None:
        """End what runs in the background, which a forked child has not."""
        if self._process == os.getpid():
            self._last.close()

    def state_dict(self) -> dict[str, Any]:
        """The place, as plain data."""
        return {
            "version": VERSION, "epoch": self.epoch, "seed": self._seed, "length": len(self._pipeline._stages),
            "stages": self._last.state(),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a place."""
        _check(state_dict, self._pipeline)
        self.close()
        self.ended = False
        self._begin(state_dict)


def _check(state: Any, pipeline: Pipeline) -> None:
    if not isinstance(state, dict) or "epoch" not in state:
        raise KilnTypeError(
            "load_state_dict", "not a state of a Pipeline", describe(state), "pass what state_dict() gave"
        )  # fmt: skip
    if state.get("version") != VERSION or state.get("length", len(pipeline._stages)) != len(
        pipeline._stages
    ):
        raise KilnValueError(
            "load_state_dict", "the state is of another pipeline",
            f"version {state.get('version')} with {state.get('length')} stages; {VERSION} with {len(pipeline._stages)} here",
            "make the pipeline as it was",
        )  # fmt: skip


def _same(n: int) -> int:
    return n


def _length(sample: Any) -> int:
    """The first dimension of a sample, or of its first part."""
    if isinstance(sample, tuple):
        return _length(sample[0])
    if isinstance(sample, dict):
        return _length(next(iter(sample.values())))
    return len(sample)


def _padded(items: list, lengths: list[int], target: int, value: float) -> list:
    """Samples, or parts of samples of these lengths, padded to the target (or to the longest part that is longer)."""
    first = items[0]
    if isinstance(first, dict):
        columns = [_padded([x[k] for x in items], lengths, target, value) for k in first]
        return [dict(zip(first, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(first, tuple):
        columns = [_padded(list(c), lengths, target, value) for c in zip(*items, strict=True)]
        return list(zip(*columns, strict=True))
    if isinstance(first, list) and all(isinstance(v, int | float) for v in first):
        items = [np.asarray(x, np.int64 if _whole(x) else np.float32) for x in items]
    arrays = [x.detach().numpy() if isinstance(x, Tensor) else x for x in items]
    if not isinstance(arrays[0], np.ndarray) or arrays[0].ndim == 0:
        return items
    found = [len(a) for a in arrays]
    if found != lengths and len(set(found)) == 1:
        return items
    n = max(target, *found)
    out = []
    for a in arrays:
        room = np.full((n, *a.shape[1:]), value, a.dtype)
        room[: len(a)] = a
        out.append(from_numpy(room))
    return out


def _whole(values: list) -> bool:
    return all(isinstance(v, int) for v in values)
