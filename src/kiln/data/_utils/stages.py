"""The stages of a `Pipeline`: each goes over what comes from the stage before it, and says where it is.

Note [Places in a pipeline]: a stage's state is its own place and that of the stage before it, so a pipeline goes on without running
again what it has run. What a stage holds back (a shuffle's buffer, buckets that are not full) is part of its state.
Random choices follow from a seed, the pass and a count, so their state is the count. A prefetching stage is ahead of what
it has given out; now and then it notes the state before it, and its own state is the latest note before what was
given last, and how many items came since then.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import KilnTypeError, KilnValueError, describe
from ...io import load, save
from .info import get_worker_info

NOTES = 16
"""A prefetching stage notes the state before it once for so many items."""


@dataclass(frozen=True)
class Pass:
    """One pass over a pipeline: its number, with those of passes inside of it, and the seed that it drew."""

    epoch: tuple[int, ...]
    seed: int
    part: tuple[int, int]  # of how many parts of the source this process takes which

    def random(self, seed: int | None, *more: int) -> np.random.Generator:
        """Numbers that follow from a stage's seed (or this pass's), the pass, and what tells stages and items apart."""
        entropy = [self.seed if seed is None else seed, *self.epoch, *more]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def part_of_worker() -> tuple[int, int]:
    """The part of the source that this process takes: all of it, or a worker's own."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


class Stage:
    """What goes over the items of the stage before, `up`."""

    def __init__(self, up: Stage | None = None) -> None:
        self.up = up

    def __iter__(self) -> Stage:
        return self

    def __next__(self) -> Any:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Where it is, as plain data."""
        return {} if self.up is None else {"up": self.up.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state, right after it was made."""
        if self.up is not None:
            self.up.load(state["up"])

    def close(self) -> None:
        """End what runs in the background."""
        if self.up is not None:
            self.up.close()


class Numbered(Stage):
    """The samples of a dataset that gives them by number."""

    def __init__(self, source: Any, part: tuple[int, int]) -> None:
        super().__init__()
        self.source, (self.at, self.step) = source, part

    def __next__(self) -> Any:
        if self.at >= len(self.source):
            raise StopIteration
        item = self.source[self.at]
        self.at += self.step
        return item

    def state(self) -> dict[str, Any]:
        return {"at": self.at}

    def load(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Streamed(Stage):
    """What an iterable gives; asked for its state where it has one, passed over otherwise."""

    def __init__(self, source: Any, part: tuple[int, int]) -> None:
        super().__init__()
        self.source, (self.first, self.step) = source, part
        self.items: Iterator[Any] = self._begin()
        self.count = 0

    def _begin(self) -> Iterator[Any]:
        return iter(self.source() if not hasattr(self.source, "__iter__") else self.source)

    def __next__(self) -> Any:
        for _ in range(self.first if self.count == 0 else self.step - 1):
            next(self.items, None)
        item = next(self.items)
        self.count += 1
        return item

    def state(self) -> dict[str, Any]:
        out: dict[str, Any] = {"count": self.count}
        for where, owner in (("iterator", self.items), ("source", self.source)):
            if hasattr(owner, "state_dict") and hasattr(owner, "load_state_dict"):
                return {**out, where: owner.state_dict()}  # type: ignore[attr-defined]
        return out

    def load(self, state: dict[str, Any]) -> None:
        self.count = 0
        if "iterator" in state:
            self.items.load_state_dict(state["iterator"])  # type: ignore[attr-defined]
        elif "source" in state:
            self.source.load_state_dict(state["source"])
            self.items = self._begin()
        else:
            for _ in range(state["count"]):
                next(self, None)
        self.count = state["count"]


class Mapped(Stage):
    """A function of each item, and of random numbers of its own where it has a `random`."""

    def __init__(self, up: Stage, f: Callable, random: Callable | None = None) -> None:
        super().__init__(up)
        self.f, self.random, self.count = f, random, 0

    def __next__(self) -> Any:
        item = next(self.up)  # type: ignore[call-overload]
        if self.random is None:
            return self.f(item)
        self.count += 1
        return self.f(item, self.random(self.count))

    def state(self) -> dict[str, Any]:
        return super().state() if self.random is None else {**super().state(), "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.count = state.get("count", 0)


class Filtered(Stage):
    """The items of which a function holds."""

    def __init__(self, up: Stage, f: Callable) -> None:
        super().__init__(up)
        self.f = f

    def __next__(self) -> Any:
        return next(item for item in self.up if self.f(item))  # type: ignore[union-attr]


class Flattened(Stage):
    """What a function makes of each item, one after the other."""

    def __init__(self, up: Stage, f: Callable) -> None:
        super().__init__(up)
        self.f = f
        self.item: Any = None
        self.made: Iterator[Any] | None = None
        self.given = 0

    def __next__(self) -> Any:
        while True:
            if self.made is None:
                self.item, self.given = next(self.up), 0  # type: ignore[call-overload]
                self.made = iter(self.f(self.item))
            for item in self.made:
                self.given += 1
                return item
            self.made = None

    def state(self) -> dict[str, Any]:
        inside = {} if self.made is None else {"item": self.item, "given": self.given}
        return {**super().state(), **inside}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        if "given" in state:
            self.item, self.given = state["item"], state["given"]
            self.made = itertools.islice(iter(self.f(self.item)), self.given, None)


class Shuffled(Stage):
    """Items in the order in which they are drawn from a buffer, which is filled again from the stage before."""

    def __init__(self, up: Stage, size: int, random: np.random.Generator) -> None:
        super().__init__(up)
        self.size, self.random, self.drawn = size, random, 0
        self.held: list[Any] = []
        self.ended = False

    def __next__(self) -> Any:
        while not self.ended and len(self.held) < self.size:
            try:
                self.held.append(next(self.up))  # type: ignore[call-overload]
            except StopIteration:
                self.ended = True
        if not self.held:
            raise StopIteration
        self.drawn += 1
        at = int(self.random.random() * len(self.held))
        self.held[at], self.held[-1] = self.held[-1], self.held[at]
        return self.held.pop()

    def state(self) -> dict[str, Any]:
        own = {"held": list(self.held), "drawn": self.drawn, "ended": self.ended}
        return {**super().state(), **own}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.held, self.drawn, self.ended = list(state["held"]), state["drawn"], state["ended"]
        self.random.bit_generator.advance(self.drawn)  # type: ignore[attr-defined]


class Store:
    """Items of a whole pass, kept for later ones: in memory, or in a file that is there when it is complete."""

    def __init__(self, path: Any = None) -> None:
        self.path = None if path is None else Path(path)
        self.items: list[Any] | None = None
        self.filled: list[Any] | None = (
            None  # the number and the seed of the pass that filled it, where that is known
        )

    def file(self, part: tuple[int, int]) -> Path:
        """Where the items of a part are."""
        assert self.path is not None
        if part == (0, 1):
            return self.path
        return self.path.with_name(f"{self.path.name}.{part[0]}of{part[1]}")

    def is_full(self, part: tuple[int, int]) -> bool:
        """Whether the items are there."""
        return self.items is not None if self.path is None else self.file(part).exists()


class Kept(Stage):
    """The items of a store that is full."""

    def __init__(self, store: Store, part: tuple[int, int]) -> None:
        super().__init__()
        self.count, self.filled, self.ended = 0, store.filled, False
        self.items = store.items
        self.file = None if self.items is not None else open(store.file(part), "rb")  # noqa: SIM115

    def __next__(self) -> Any:
        if self.items is not None:
            if self.count >= len(self.items):
                self.ended = True
                raise StopIteration
            item = self.items[self.count]
        else:
            size = self._size()
            assert self.file is not None
            item = load(io.BytesIO(self.file.read(size)))["item"]
        self.count += 1
        return item

    def _size(self) -> int:
        assert self.file is not None
        head = self.file.read(8)
        if len(head) < 8:
            self.ended = True
            raise StopIteration
        return struct.unpack("<Q", head)[0]

    def state(self) -> dict[str, Any]:
        return {"kept": self.count, "pass": self.filled, "ended": self.ended}

    def load(self, state: dict[str, Any]) -> None:
        self.count, self.ended = state["kept"], state["ended"]
        if self.file is not None:
            for _ in range(self.count):
                self.file.seek(self._size(), 1)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    __del__ = close


class Keeping(Stage):
    """The stages before, whose items fill a store when all of them have come.

    Going on somewhere in a pass they run again from its beginning, as what they gave must be in the store for later passes.
    """

    def __init__(self, make: Callable[[Pass], Stage], store: Store, now: Pass) -> None:
        super().__init__(make(now))
        self.make, self.store, self.now = make, store, now
        self.count, self.ended = 0, False
        self.items: list[Any] = []
        self.draft: Any = None
        if store.path is not None:
            target = store.file(now.part)
            target.parent.mkdir(parents=True, exist_ok=True)
            fd, self.name = tempfile.mkstemp(
                prefix=f".{target.name}.", suffix=".part", dir=target.parent
            )
            self.draft = os.fdopen(fd, "wb")

    def __next__(self) -> Any:
        try:
            item = next(self.up)  # type: ignore[call-overload]
        except StopIteration:
            self._fill()
            raise
        if self.draft is None:
            self.items.append(item)
        else:
            out = io.BytesIO()
            save({"item": item}, out)
            content = out.getvalue()
            self.draft.write(struct.pack("<Q", len(content)) + content)
        self.count += 1
        return item

    def _fill(self) -> None:
        self.ended = True
        self.store.filled = self._pass()
        if self.draft is None:
            self.store.items = self.items
        elif not self.draft.closed:
            self.draft.close()
            os.replace(self.name, self.store.file(self.now.part))

    def _pass(self) -> list[Any]:
        return [list(self.now.epoch), self.now.seed]

    def state(self) -> dict[str, Any]:
        return {"kept": self.count, "pass": self._pass(), "ended": self.ended}

    def load(self, state: dict[str, Any]) -> None:
        if state["pass"] is not None:
            epoch, seed = state["pass"]
            self.now = replace(self.now, epoch=tuple(epoch), seed=seed)
            self.up = self.make(self.now)
        for _ in range(state["kept"] + state["ended"]):  # who has seen the end does not ask again
            next(self, None)

    def close(self) -> None:
        super().close()
        if self.draft is not None and not self.draft.closed:
            self.draft.close()
            Path(self.name).unlink(missing_ok=True)

    def __del__(self) -> None:
        if getattr(self, "draft", None) is not None:
            self.close()


class Batched(Stage):
    """Batches of so many items."""

    def __init__(self, up: Stage, size: int, drop_last: bool, collate: Callable) -> None:
        super().__init__(up)
        self.size, self.drop_last, self.collate = size, drop_last, collate

    def __next__(self) -> Any:
        items = list(itertools.islice(self.up, self.size))  # type: ignore[arg-type]
        if not items or (self.drop_last and len(items) < self.size):
            raise StopIteration
        return self.collate(items)


class Bucketed(Stage):
    """Batches of items of like lengths."""

    def __init__(
        self, up: Stage, boundaries: list[int], sizes: list[int], length: Callable, drop_last: bool, collate: Callable
    ) -> None:  # fmt: skip
        super().__init__(up)
        self.boundaries, self.sizes, self.length = boundaries, sizes, length
        self.drop_last, self.collate = drop_last, collate
        self.held: list[list[Any]] = [[] for _ in sizes]

    def __next__(self) -> Any:
        for item in self.up:  # type: ignore[union-attr]
            k = int(np.searchsorted(self.boundaries, self.length(item)))
            self.held[k].append(item)
            if len(self.held[k]) == self.sizes[k]:
                return self._give(k)
        for k, items in enumerate(self.held):
            if items and not self.drop_last:
                return self._give(k)
        raise StopIteration

    def _give(self, k: int) -> Any:
        items, self.held[k] = self.held[k], []
        return self.collate(items, self.boundaries[k] if k < len(self.boundaries) else None)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "held": [list(items) for items in self.held]}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.held = [list(items) for items in state["held"]]


class Limited(Stage):
    """So many items, after so many that are left out."""

    def __init__(self, up: Stage, skip: int, count: int | None) -> None:
        super().__init__(up)
        self.skip, self.left = skip, count

    def __next__(self) -> Any:
        if self.left == 0:
            raise StopIteration
        while self.skip:
            next(self.up)  # type: ignore[call-overload]
            self.skip -= 1
        item = next(self.up)  # type: ignore[call-overload]
        if self.left is not None:
            self.left -= 1
        return item

    def state(self) -> dict[str, Any]:
        return {**super().state(), "skip": self.skip, "left": self.left}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.skip, self.left = state["skip"], state["left"]


class Repeated(Stage):
    """The stages before, several times, or for good."""

    def __init__(self, make: Callable[[Pass], Stage], times: int | None, now: Pass) -> None:
        self.make, self.times, self.now, self.turn = make, times, now, 0
        super().__init__(self._begin())
        self.gave = False

    def _begin(self) -> Stage:
        return self.make(replace(self.now, epoch=(*self.now.epoch, self.turn)))

    def __next__(self) -> Any:
        while self.times is None or self.turn < self.times:
            for item in self.up:  # type: ignore[union-attr]
                self.gave = True
                return item
            if not self.gave and self.times is None:
                break  # nothing at all, for good
            self.up.close()  # type: ignore[union-attr]
            self.turn, self.gave = self.turn + 1, False
            self.up = self._begin()
        raise StopIteration

    def state(self) -> dict[str, Any]:
        return {**super().state(), "turn": self.turn, "gave": self.gave}

    def load(self, state: dict[str, Any]) -> None:
        self.turn, self.gave = state["turn"], state["gave"]
        self.up = self._begin()
        super().load(state)


class _Ahead:
    """What the thread of a prefetching stage and the stage share."""

    def __init__(self, up: Stage, size: int) -> None:
        self.up, self.size = up, size
        self.ready: deque[tuple[Any, dict[str, Any] | None]] = deque()
        self.change = threading.Condition()
        self.stopped = self.ended = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Make items until there are no more, or nobody wants any."""
        try:
            for k in itertools.count(1):
                item = next(self.up)
                note = self.up.state() if k % NOTES == 0 else None
                with self.change:
                    self.ready.append((item, note))
                    self.change.notify()
                    while len(self.ready) >= self.size and not self.stopped:
                        self.change.wait()
                    if self.stopped:
                        return
        except StopIteration:
            pass
        except BaseException as e:
            self.failure = e
        finally:
            with self.change:
                self.ended = True
                self.change.notify()

    def stop(self) -> None:
        """Have the thread end."""
        with self.change:
            self.stopped = True
            self.change.notify()


class Prefetched(Stage):
    """Items that a thread makes ahead."""

    def __init__(self, up: Stage, size: int) -> None:
        super().__init__(up)
        self.ahead = _Ahead(up, size)
        self.thread: threading.Thread | None = None
        self.noted, self.since = up.state(), 0

    def __next__(self) -> Any:
        ahead = self.ahead
        if self.thread is None:
            self.thread = threading.Thread(target=ahead.run, name="kiln-prefetch", daemon=True)
            weakref.finalize(self, ahead.stop)
            self.thread.start()
        with ahead.change:
            while not ahead.ready and not ahead.ended:
                ahead.change.wait()
            if not ahead.ready:
                failure, ahead.failure = ahead.failure, None
                if failure is not None:
                    raise failure
                raise StopIteration
            item, note = ahead.ready.popleft()
            ahead.change.notify()
        if note is None:
            self.since += 1
        else:
            self.noted, self.since = note, 0
        return item

    def state(self) -> dict[str, Any]:
        return {"up": self.noted, "since": self.since}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.noted, self.since = state["up"], state["since"]
        for _ in range(self.since):
            next(self.up, None)  # type: ignore[call-overload]

    def close(self) -> None:
        self.ahead.stop()
        if self.thread is not None:
            self.thread.join()
        super().close()


def check_source(source: Any) -> None:
    """Raise TypeError for what can't be gone over again."""
    if isinstance(source, Iterator):
        raise KilnTypeError(
            "Pipeline", "an iterator can be gone over once only", describe(source),
            "pass what gives it: a dataset, a list, or a function that begins it anew",
        )  # fmt: skip
    numbered = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if not (numbered or hasattr(source, "__iter__") or callable(source)):
        raise KilnTypeError(
            "Pipeline", "not a source of samples", describe(source),
            "a dataset, an iterable, or a function that gives an iterator",
        )  # fmt: skip


def positive(op: str, name: str, n: Any) -> int:
    """A whole number of at least 1; ValueError otherwise."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise KilnValueError(
            op, f"{name} is a whole number of at least 1", describe(n), f"{name}=32"
        )
    return n
