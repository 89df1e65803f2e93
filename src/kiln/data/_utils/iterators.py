"""One pass over a dataset, in this process or with workers."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import warnings
from collections import deque
from typing import Any

from ...errors import KilnAssertionError, KilnError, KilnNotImplementedError, KilnWarning
from ...random import get_stream
from . import randomness
from .fetch import IterableFetcher, MapFetcher
from .position import Position


class _BaseDataLoaderIter:
    """What gives the batches of an epoch."""

    def __init__(self, loader: Any):
        self._dataset, self._iterable = loader.dataset, loader._iterable
        self._num_workers = loader.num_workers
        self._index_sampler = loader._index_sampler
        self._loader_options = (
            loader._auto_collation, loader.collate_fn, loader.drop_last,
        )  # fmt: skip
        self._persistent_workers = loader.persistent_workers
        self._base_seed = 0
        if loader.pin_memory:
            warnings.warn(
                "'pin_memory' argument is set as true but no accelerator is found, then device pinned memory "
                "won't be used.", KilnWarning, stacklevel=4,
            )  # fmt: skip
        self._position = Position(loader)
        self._begin_epoch(loader, first=True)

    def _begin_epoch(self, loader: Any, first: bool) -> None:
        """Begin an epoch, or go on where the loader was told to."""
        state, loader._resume = loader._resume or {}, None
        begin = state.get("begin")
        loader._position = position = self._position
        self._num_yielded = state.get("yielded", 0)
        self._length_called = loader._IterableDataset_len_called
        if begin is None:
            position.set_generators(state)
            position.start()
            seed = state.get("base_seed")
            self._enter(loader, first and seed is None, state)
            self._base_seed = self._base_seed if seed is None else seed
            position.begin["drew_seed"] = first and seed is None
        else:
            with position.as_it_began(begin):
                position.start()
                if position.sampler is not None:
                    position.sampler.load_state_dict(state["sampler"])
                self._enter(loader, begin["drew_seed"], state)
                if position.sampler is None:
                    for _ in range(state["drawn"]):
                        next(self._sampler_iter, None)
                elif state["drained"]:
                    self._sampler_iter = iter(())  # it is at its next epoch already
            position.begin = begin
            position.drawn, position.turn = state["drawn"], state["turn"]
            position.drained, position.before = state["drained"], None
            position.yielded = self._num_yielded
            self._base_seed = state["base_seed"]
        position.base_seed = self._base_seed
        position.again = self._again = deque(state.get("pending", ()))
        self._worker_states = state.get("workers") or [{} for _ in range(self._num_workers)]
        position.workers = [
            {k: pickle.dumps(v) for k, v in kept.items()} for kept in self._worker_states
        ]

    def _enter(self, loader: Any, draws_seed: bool, state: dict[str, Any]) -> None:
        # This order, and this draw, are PyTorch's: a seeded program sees the same numbers.
        self._sampler_iter = iter(self._index_sampler)
        if draws_seed:
            self._base_seed = randomness.draw_seed(loader.generator)

    def _next_index(self) -> Any:
        """What the sampler gives next, or had given for a batch that was lost with the last process."""
        position = self._position
        index = self._again.popleft() if self._again else self._draw()
        if position.sampler is not None and not self._again:
            # A sampler may forget where it is with the last that it gives, so it is asked before it gives.
            position.before = (
                None if position.drained else pickle.dumps(position.sampler.state_dict())
            )
            if not position.drained:
                with contextlib.suppress(StopIteration):
                    self._again.append(self._draw())
        return index

    def _draw(self) -> Any:
        try:
            index = next(self._sampler_iter)
        except StopIteration:
            self._position.drained = True
            raise
        self._position.drawn += 1
        return index

    def _next_data(self) -> Any:
        raise NotImplementedError

    def __iter__(self) -> _BaseDataLoaderIter:
        return self

    def __next__(self) -> Any:
        try:
            data = self._next_data()
        except StopIteration:
            self._position.finished = True
            raise
        self._num_yielded += 1
        self._position.yielded = self._num_yielded
        if (
            self._iterable
            and self._length_called is not None
            and self._num_yielded > self._length_called
        ):
            what = (
                f"Length of IterableDataset {self._dataset} was reported to be {self._length_called} (when "
                f"accessing len(dataloader)), but {self._num_yielded} samples have been fetched. "
            )
            if self._num_workers:
                what += "Each worker has a copy of the dataset: have each give its own part (get_worker_info)."
            warnings.warn(what, KilnWarning, stacklevel=2)
        return data

    def __len__(self) -> int:
        return len(self._index_sampler)

    def __getstate__(self) -> Any:
        raise KilnNotImplementedError(
            "DataLoader", f"{type(self).__name__} cannot be pickled", None, "pickle the loader, and its state_dict()"
        )  # fmt: skip


class _SingleProcessDataLoaderIter(_BaseDataLoaderIter):
    """Batches made where they are asked for."""

    def __init__(self, loader: Any):
        super().__init__(loader)
        if loader.timeout:
            raise KilnAssertionError(
                "DataLoader", "a timeout needs workers", f"timeout={loader.timeout}", "num_workers=1, or timeout=0"
            )  # fmt: skip

    def _enter(self, loader: Any, draws_seed: bool, state: dict[str, Any]) -> None:
        super()._enter(loader, draws_seed, state)
        kind = IterableFetcher if self._iterable else MapFetcher
        self._fetcher = kind(self._dataset, *self._loader_options)
        if "fetch" in state:
            self._fetcher.load(state["fetch"])
        self._position.fetcher = self._fetcher

    def _next_data(self) -> Any:
        return self._fetcher.fetch(self._next_index())


class _Task:
    """A batch that was asked for: of which worker, and its answer once that has been read."""

    __slots__ = ("answer", "worker")

    def __init__(self, worker: int):
        self.worker, self.answer = worker, None


class _MultiProcessingDataLoaderIter(_BaseDataLoaderIter):
    """Batches that worker processes make ahead.

    Tasks go to the workers in turn and are given out in their order, so what comes next is read from
    the one worker that makes it; the others wait with theirs.
    """

    def __init__(self, loader: Any):
        from ... import multiprocessing
        from .crew import Worker
        from .worker import Setup

        self._workers: list[Any] = []
        self._pid = os.getpid()
        self._failed: KilnError | None = None
        super().__init__(loader)
        self._prefetch_factor, self._in_order = loader.prefetch_factor, loader.in_order
        self._timeout = loader.timeout
        if self._prefetch_factor <= 0:
            raise KilnAssertionError(
                "DataLoader", "prefetch_factor must be greater than 0 to load anything", self._prefetch_factor
            )  # fmt: skip
        context = loader.multiprocessing_context or multiprocessing
        auto_collation, collate_fn, drop_last = self._loader_options
        try:
            for i in range(self._num_workers):
                setup = Setup(
                    self._dataset, self._iterable, auto_collation, collate_fn, drop_last, get_stream(), self._base_seed,
                    loader.worker_init_fn, i, self._num_workers, self._worker_states[i],
                )  # fmt: skip
                self._workers.append(Worker(context, setup))
        except BaseException:
            self._shutdown_workers()
            raise
        self._prime()

    def _enter(self, loader: Any, draws_seed: bool, state: dict[str, Any]) -> None:
        super()._enter(loader, draws_seed, state)
        if draws_seed:  # PyTorch asks twice, and there are samplers that draw where they are asked
            self._sampler_iter = iter(self._index_sampler)

    def _reset(self, loader: Any) -> None:
        """Begin another epoch with the same workers."""
        if self._failed is not None:
            raise self._failed
        self._begin_epoch(loader, first=False)
        for w, state in zip(self._workers, self._worker_states, strict=True):
            self._guarded(w.begin, state)
        for w in self._workers:
            while (answer := self._guarded(w.answer)).kind != "epoch":
                pass
            kept = self._position.workers[w.id]
            if not kept and answer.rng is not None:
                kept["rng"] = kept["start"] = answer.rng
        self._prime()

    def _prime(self) -> None:
        self._tasks: dict[int, _Task] = {}
        self._send_idx = self._rcvd_idx = 0
        self._workers_status = [True] * self._num_workers
        self._workers_num_tasks = [0] * self._num_workers
        self._turn = self._position.turn
        first: dict[int, list] = {}
        for _ in range(self._prefetch_factor * self._num_workers):
            task = self._assign()
            if task is None:
                break
            worker, number, index = task
            first.setdefault(worker, []).append((number, index))
        for worker, tasks in first.items():
            self._guarded(self._workers[worker].ask, tasks)

    def _assign(self) -> tuple[int, int, Any] | None:
        """The next task: its worker, its number, and what the sampler gave; None where there is none."""
        try:
            index = self._next_index()
        except StopIteration:
            return None
        active = sum(self._workers_status)
        for _ in range(self._num_workers):
            worker = self._turn
            self._turn = (worker + 1) % self._num_workers
            if self._workers_status[worker] and (
                self._in_order
                or self._workers_num_tasks[worker]
                < self._prefetch_factor * self._num_workers // active
            ):
                break
        else:
            self._again.appendleft(index)
            return None
        number = self._send_idx
        self._tasks[number] = _Task(worker)
        self._position.pending[number] = index
        self._workers_num_tasks[worker] += 1
        self._send_idx += 1
        return worker, number, index

    def _try_put_index(self) -> None:
        task = self._assign()
        if task is not None:
            worker, number, index = task
            self._guarded(self._workers[worker].ask, [(number, index)])

    def _next_data(self) -> Any:
        if self._failed is not None:
            raise self._failed
        while True:
            while self._rcvd_idx < self._send_idx:
                task = self._tasks.get(self._rcvd_idx)
                if task is not None:
                    if task.answer is not None or self._workers_status[task.worker]:
                        break
                    self._forget(self._rcvd_idx)
                self._rcvd_idx += 1
            else:
                if not self._persistent_workers:
                    self._shutdown_workers()
                raise StopIteration
            if task.answer is not None:
                self._rcvd_idx += 1
                return self._give(self._rcvd_idx - 1, task.answer)
            answer = self._receive(task.worker)
            if answer.kind == "stop":
                worker = self._tasks[answer.number].worker
                self._workers_status[worker] = False
                if not self._persistent_workers:
                    self._workers[worker].dismiss()
                self._try_put_index()
            elif answer.number == self._rcvd_idx:
                self._rcvd_idx += 1
                return self._give(answer.number, answer)
            elif self._in_order:
                self._tasks[answer.number].answer = answer
            else:
                return self._give(answer.number, answer)

    def _receive(self, worker: int) -> Any:
        timeout = self._timeout or None
        if not self._in_order:
            worker = self._first_ready(timeout)
        answer = None if worker < 0 else self._guarded(self._workers[worker].answer, timeout)
        if answer is None:
            raise KilnError(
                "DataLoader", f"DataLoader timed out after {self._timeout} seconds", None,
                "raise timeout, or look at what a sample takes that long for",
            )  # fmt: skip
        return answer

    def _first_ready(self, timeout: float | None) -> int:
        """A worker that has sent something; -1 after `timeout` seconds."""
        from multiprocessing.connection import wait

        busy = {t.worker for t in self._tasks.values() if self._workers_status[t.worker]}
        for worker in busy:
            if self._workers[worker].has_answer():
                return worker
        ready = wait([self._workers[w].channel for w in busy], timeout)
        return next((w for w in busy if self._workers[w].channel in ready), -1)

    def _give(self, number: int, answer: Any) -> Any:
        """A batch, or the error that came in its place."""
        worker = self._forget(number)
        self._position.note(worker, answer.state, answer.rng)
        self._position.turn = (worker + 1) % self._num_workers
        self._try_put_index()
        if answer.kind == "error":
            answer.what.reraise()
        try:
            return answer.what.open()
        except Exception as e:
            raise KilnError(
                "DataLoader", f"what worker {worker} sent can't be read: {type(e).__name__}: {e}", None,
                "return objects that can be pickled and made again",
            ) from e  # fmt: skip

    def _forget(self, number: int) -> int:
        worker = self._tasks.pop(number).worker
        self._position.pending.pop(number, None)
        self._workers_num_tasks[worker] -= 1
        return worker

    def _guarded(self, call: Any, *args: Any) -> Any:
        """Call a method of a worker; where that has died, end the others."""
        try:
            return call(*args)
        except KilnError as e:
            self._failed = e
            self._shutdown_workers()
            raise

    def _shutdown_workers(self) -> None:
        """End all workers and free what they had."""
        if self._workers and self._pid == os.getpid():
            from .crew import end

            workers, self._workers = self._workers, []
            end(workers)

    def __del__(self) -> None:
        if sys is not None and not sys.is_finalizing() and hasattr(self, "_workers"):
            self._shutdown_workers()
