"""What runs in a worker process.

The loader sends `("tasks", [(number, index), …], released)`, and `("epoch", state, released)` where a worker stays
for another epoch. The worker answers `(kind, number, what, state, rng)`: a packed batch ("batch"), an ExceptionWrapper
("error"), the end of its iterable dataset ("stop"), or that it begins an epoch anew ("epoch"). `state` and
`rng` say how far the dataset and the streams of random numbers are after that, pickled, None where nothing has changed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import KilnError, describe
from . import info, randomness
from .channel import Channel, Waiter
from .failure import ExceptionWrapper
from .fetch import Fetcher, IterableFetcher, MapFetcher
from .info import WorkerInfo, get_worker_info
from .slots import Pool

CHECK_INTERVAL = 5.0
"""Seconds after which an idle worker looks whether the loader's process is still there."""


@dataclass
class Setup:
    """What a worker is given as it starts; `state` is where it goes on, see `Position`."""

    dataset: Any
    iterable: bool
    auto_collation: bool
    collate_fn: Callable
    drop_last: bool
    stream: str
    base_seed: int
    init_fn: Callable[[int], Any] | None
    worker_id: int
    num_workers: int
    state: Any = None

    def fetcher(self) -> Fetcher:
        """What makes batches of the dataset."""
        kind = IterableFetcher if self.iterable else MapFetcher
        return kind(self.dataset, self.auto_collation, self.collate_fn, self.drop_last)


def serve(channel: Channel, setup: Setup) -> None:
    """Make batches until the loader has gone; the target of worker processes."""
    # Where these come the loader is told by other means, or isn't there any more.
    with contextlib.suppress(KeyboardInterrupt, EOFError, ConnectionError):
        _Worker(channel, setup).run()


class _Worker:
    def __init__(self, channel: Channel, setup: Setup):
        from ... import set_num_threads

        set_num_threads(1)
        self.channel, self.setup, self.parent = channel, setup, os.getppid()
        self.tasks: deque[tuple[int, Any]] = deque()
        self.pool = info.pool = Pool()
        self.where = f"in DataLoader worker process {setup.worker_id}"
        self.watcher = randomness.Watcher()
        self.ended, self.failure = False, None
        seed = randomness.seed_worker(setup.stream, setup.base_seed, setup.worker_id)
        info._worker_info = WorkerInfo(
            id=setup.worker_id, num_workers=setup.num_workers, seed=seed, dataset=setup.dataset
        )
        try:
            if setup.init_fn is not None:
                setup.init_fn(setup.worker_id)
        except Exception as e:
            self.failure = ExceptionWrapper(e, self.where)
        else:
            self.begin(setup.state)

    def begin(self, state: Any) -> None:
        """Begin an epoch, or go on in one."""
        self.tasks.clear()
        self.ended, self.failure = False, None
        state = state or {}
        try:
            if "start" in state:
                randomness.restore(state["start"])
            self.fetcher = self.setup.fetcher()
            if "fetch" in state:
                self.fetcher.load(state["fetch"])
            if "rng" in state:
                randomness.restore(state["rng"])
        except Exception as e:
            self.failure = ExceptionWrapper(e, self.where)

    def run(self) -> None:
        """Take tasks and send what comes of them."""
        waiter = Waiter(self.channel)
        while True:
            while not self.tasks or waiter.readable(0):
                if not waiter.readable(CHECK_INTERVAL):
                    if os.getppid() != self.parent:
                        return
                    continue
                self.receive()
            number, index = self.tasks.popleft()
            if not self.ended:
                self.send(number, *self.make(index))

    def receive(self) -> None:
        """Read a message of the loader's."""
        body, _ = self.channel.receive()
        kind, what, released = pickle.loads(body)
        self.pool.released(released)
        if kind == "tasks":
            self.tasks.extend(what)
            return
        self.begin(what)
        self.watcher = randomness.Watcher()
        self.send(-1, "epoch", None)

    def make(self, index: Any) -> tuple[str, Any]:
        """What comes of a task: its kind, and the batch or error."""
        self.pool.begin()
        if self.failure is not None:
            return "error", self.failure
        try:
            return "batch", self.fetcher.fetch(index)
        except StopIteration as e:
            if not self.setup.iterable:
                return "error", ExceptionWrapper(e, self.where)
            self.ended = True
            return "stop", None
        except Exception as e:
            return "error", ExceptionWrapper(e, self.where)

    def send(self, number: int, kind: str, what: Any) -> None:
        """Send what came of a task, and how far the worker is."""
        files: list[int] = []
        state = rng = None
        try:
            if kind == "batch":
                what, files = self.pool.pack(what)
            if hasattr(self, "fetcher"):
                state = pickle.dumps(self.fetcher.state())
                if self.fetcher.draws and self.watcher.changed():
                    rng = pickle.dumps(randomness.states())
        except Exception as e:
            kind, files = "error", []
            what = ExceptionWrapper(self.unsendable(what, e), self.where)
        self.channel.send(pickle.dumps((kind, number, what, state, rng)), files)
        if kind == "batch":
            self.pool.sent()

    @staticmethod
    def unsendable(data: Any, error: Exception) -> Exception:
        """The error for a batch that can't be sent."""
        if isinstance(error, KilnError):
            return error
        out = KilnError(
            "DataLoader", f"what a worker returned can't be sent: {type(error).__name__}: {error}", describe(data),
            "return tensors, arrays, numbers, strings, and containers and classes that can be pickled",
        )  # fmt: skip
        return out.with_traceback(error.__traceback__)


__all__ = ["Setup", "WorkerInfo", "get_worker_info", "serve"]
