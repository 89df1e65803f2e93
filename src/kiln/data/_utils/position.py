"""Where a loader is in its epoch: what `state_dict` tells, and `load_state_dict` goes on from.

Note [Resuming]: the order of an epoch follows from the states of random number streams as it began, so
these are kept, and the sampler runs again from them up to the place (a sampler with `state_dict` and
`load_state_dict` is asked instead). Batches that were asked of workers but not given out yet are
listed as what the sampler gave for them. Each worker tells with every batch how far its copy of the dataset and its
streams are, so a resumed worker goes on from the last batch that was given out, however many it had made ahead.
The global streams of the loader's process belong to the program: what it had drawn it saves and restores itself
(`kiln.get_rng_state`).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ... import random as kiln_random
from ...errors import KilnTypeError, KilnValueError, describe
from ...naming import home
from . import randomness

VERSION = 1
_CHECKED = "num_workers", "batch_size", "iterable"


class Position:
    """How far an iteration is."""

    def __init__(self, loader: Any):
        self.generators = _generators(loader)
        self.sampler = _stateful_sampler(loader)
        self.facts = facts(loader)
        self.others = not _draws_of_kiln_alone(loader)
        self.begin: Any = None
        self.base_seed: int | None = None
        self.drawn = self.yielded = self.turn = 0
        self.pending: dict[int, Any] = {}
        self.again: Iterable[Any] = ()
        self.before: bytes | None = None  # the sampler's state before it gave the last of `again`
        self.fetcher: Any = None
        self.workers: list[dict[str, bytes]] = []
        self.keeps_workers = loader.persistent_workers
        self.drained = self.finished = False

    def start(self) -> None:
        """Note that an epoch begins."""
        self.begin = {"streams": randomness.states(self.others), **self._generator_states()}
        self.drawn = self.yielded = self.turn = 0
        self.pending.clear()
        self.drained = self.finished = False
        self.before = None

    def _generator_states(self) -> dict[str, Any]:
        return {"generators": [g.get_state() for g in self.generators]}

    def set_generators(self, state: dict[str, Any]) -> None:
        """Have the generators go on from a state, if it tells of them."""
        saved = state.get("generators")
        if saved is None:
            return
        if len(saved) != len(self.generators):
            raise KilnValueError(
                "load_state_dict", "the state is of a loader with other generators",
                f"{len(saved)} in the state, {len(self.generators)} here", "give the same generator arguments",
            )  # fmt: skip
        for g, state in zip(self.generators, saved, strict=True):
            g.set_state(state)

    def note(self, worker: int, state: bytes | None, rng: bytes | None) -> None:
        """Note how far a worker was after a batch that is given out now."""
        if state is not None:
            self.workers[worker]["fetch"] = state
        if rng is not None:
            self.workers[worker]["rng"] = rng

    def state_dict(self) -> dict[str, Any]:
        """The position as plain data."""
        out: dict[str, Any] = {"version": VERSION, **self.facts, "yielded": self.yielded}
        if self.finished or self.begin is None:
            out["yielded"] = 0
            out.update(self._generator_states())
            if self.keeps_workers and self.begin is not None:
                out["base_seed"] = self.base_seed
                out["workers"] = [_told(w, "rng") for w in self.workers]
            return out
        streams = self.begin["streams"]
        told = randomness.plain(streams) if isinstance(streams, tuple) else streams
        out["begin"] = {**self.begin, "streams": told}
        out["base_seed"] = self.base_seed
        out["drawn"], out["drained"], out["turn"] = self.drawn, self.drained, self.turn
        out["pending"] = [*self.pending.values(), *self.again]
        if self.sampler is not None:
            if self.before is None or self.drained:
                out["sampler"] = self.sampler.state_dict()
            else:
                out["sampler"] = pickle.loads(self.before)
                del out["pending"][-1]
        if self.fetcher is not None:
            out["fetch"] = self.fetcher.state()
        out["workers"] = [_told(w, *w) for w in self.workers]
        return out

    @contextmanager
    def as_it_began(self, begin: dict[str, Any]) -> Iterator[None]:
        """Random numbers as they were when an epoch began; the global streams are as before afterwards."""
        now = randomness.states()
        try:
            self.set_generators(begin)
            randomness.restore(begin["streams"])
            yield
        finally:
            randomness.restore(now)


def check(state: Any, loader: Any) -> None:
    """Raise where a state isn't one that this loader can go on from."""
    if not isinstance(state, dict) or "version" not in state:
        raise KilnTypeError(
            "load_state_dict", "not a state of a DataLoader", describe(state), "pass what state_dict() gave"
        )  # fmt: skip
    if state["version"] != VERSION:
        raise KilnValueError(
            "load_state_dict", "a state of another version", state["version"], f"{VERSION} is known here"
        )  # fmt: skip
    now = facts(loader)
    for name in _CHECKED:
        if state[name] != now[name]:
            raise KilnValueError(
                "load_state_dict", f"the state is of a loader with another {name}",
                f"{state[name]} in the state, {now[name]} here", f"make the loader with {name}={state[name]}",
            )  # fmt: skip


def facts(loader: Any) -> dict[str, Any]:
    """What must be the same where a state is loaded."""
    return {
        "num_workers": loader.num_workers,
        "batch_size": loader.batch_size,
        "iterable": loader._iterable,
    }


def _told(worker: dict[str, bytes], *names: str) -> dict[str, Any]:
    """What a worker has told, as plain data."""
    out = {n: pickle.loads(worker[n]) for n in names if n in worker}
    return {n: randomness.plain(v) if isinstance(v, tuple) else v for n, v in out.items()}


def _draws_of_kiln_alone(loader: Any) -> bool:
    """Whether the order depends on no other stream than Kiln's."""
    inner = getattr(loader.batch_sampler, "sampler", loader.sampler)
    samplers = (s for s in (loader.batch_sampler, loader.sampler, inner) if s is not None)
    return not loader._iterable and all(home(type(s)).startswith("kiln.data.") for s in samplers)


def _generators(loader: Any) -> list[Any]:
    """The generators that decide the order, beside the default one."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    owners = loader, loader.sampler, loader.batch_sampler, inner
    found = {id(g): g for o in owners if (g := getattr(o, "generator", None)) is not None}
    found.pop(id(kiln_random.default_generator), None)
    return [g for g in found.values() if hasattr(g, "get_state")]


def _stateful_sampler(loader: Any) -> Any:
    inner = getattr(loader.batch_sampler, "sampler", None)
    for s in (loader.batch_sampler, loader.sampler, inner):
        if hasattr(s, "state_dict") and hasattr(s, "load_state_dict"):
            return s
    return None
