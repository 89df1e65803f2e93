"""The loader's side of a worker process: starting it, asking it for batches, hearing of its end."""

from __future__ import annotations

import pickle
import signal
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from ...errors import KilnError
from .channel import Channel, Waiter
from .slots import Mappings
from .worker import Setup, serve

_PATIENCE = 5.0
"""Seconds that workers have to finish what they are at before they are ended."""


class Answer(NamedTuple):
    """What a worker sent, see `worker`; a batch is a Delivery."""

    kind: str
    number: int
    what: Any
    state: bytes | None
    rng: bytes | None


class Worker:
    """A worker process and all that belongs to it."""

    def __init__(self, context: Any, setup: Setup):
        self.id = setup.worker_id
        self.channel, theirs = Channel.pair()
        self._mappings = Mappings()
        self._inbox: deque[Answer] = deque()
        self._waiter: Any = None
        self.process = context.Process(target=serve, args=(theirs, setup), daemon=True)
        try:
            self.process.start()
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()
        self.pid = self.process.pid
        self._waiter = Waiter(self.channel, self.process.sentinel)

    def ask(self, tasks: list[tuple[int, Any]]) -> None:
        """Give the worker tasks: numbers, and what the sampler gave for them."""
        self._send(("tasks", tasks, self._mappings.released()))

    def begin(self, state: Any) -> None:
        """Have it begin an epoch, with what it has at hand; all that it was asked for before is dropped."""
        self._inbox.clear()
        self._send(("epoch", state, self._mappings.released()))

    def answer(self, timeout: float | None = None) -> Answer | None:
        """What it sends next; None after `timeout` seconds. RuntimeError where it has ended."""
        if not self._inbox and not self._read(timeout):
            return None
        return self._inbox.popleft()

    def has_answer(self) -> bool:
        """Whether there is an answer that has been read already."""
        return bool(self._inbox)

    def _send(self, message: Any) -> None:
        body = pickle.dumps(message)
        try:
            while not self._waiter.writable():
                self._read(None)  # it can't read either while it waits to be read
            self.channel.send(body)
        except ConnectionError:
            raise self._ended() from None

    def _read(self, timeout: float | None) -> bool:
        ready = self._waiter.readable(timeout)
        if ready is False:
            return False
        if ready is None and self._waiter.readable(0) is not True:
            raise self._ended()
        try:
            body, files = self.channel.receive()
        except EOFError:
            raise self._ended() from None
        except OSError as e:
            raise KilnError(
                "DataLoader", f"a batch of worker {self.id} can't be received: {e}"
            ) from e
        answer = Answer(*pickle.loads(body))
        if answer.kind == "batch":
            answer = answer._replace(what=self._mappings.receive(answer.what, files))
        self._inbox.append(answer)
        return True

    def _ended(self) -> KilnError:
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        if code is not None and code < 0:
            what = (
                f"DataLoader worker (pid {self.pid}) is killed by signal: {signal.strsignal(-code)}"
            )
            help = {
                signal.SIGKILL: "the system may have run out of memory: use fewer workers, or smaller batches",
                signal.SIGSEGV: "a library that the dataset uses crashed; try num_workers=0",
            }.get(signal.Signals(-code), "")
        else:
            what = f"DataLoader worker (pid(s) {self.pid}) exited unexpectedly"
            help = "look for os._exit or sys.exit in the dataset; num_workers=0 shows where"
        return KilnError("DataLoader", what, f"worker {self.id}, exit code {code}", help)

    def dismiss(self) -> None:
        """Tell the worker that nothing more is wanted; it ends when it has done what it is at."""
        self.channel.close()


def end(workers: Iterable[Worker]) -> None:
    """End workers, gently as long as they follow, and free what belongs to them."""
    workers = [w for w in workers if w._waiter is not None]
    for w in workers:
        w.dismiss()
    deadline = time.monotonic() + _PATIENCE
    for w in workers:
        w.process.join(max(0.0, deadline - time.monotonic()))
    for stop in ("terminate", "kill"):
        late = [w for w in workers if w.process.is_alive()]
        for w in late:
            getattr(w.process, stop)()
        for w in late:
            w.process.join(1.0)
    for w in workers:
        w._waiter.close()
        w._waiter = None
        if not w.process.is_alive():
            w.process.close()
