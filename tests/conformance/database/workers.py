"""Entries in processes of their own, bounded in time and memory: a hang or a crash is one entry's failure."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from .calls import FAILED, Outcome
from .checks import Settings, examine
from .crossing import Target

# Processes are forks of this one, which has PyTorch and Kiln loaded: a new one costs some milliseconds.
FORKS = multiprocessing.get_context("fork")


@dataclass
class Bounds:
    """What one entry may take: seconds, and MiB on top of what a process has when it begins."""

    seconds: float = 300.0
    memory: int = 4096


@dataclass
class _Job:
    entry: Any
    process: Any
    start: float
    outcomes: list[Outcome] = field(default_factory=list)


def run(
    entries: list[Any], target: Target, settings: Settings, bounds: Bounds, jobs: int
) -> Iterator[tuple[Any, list[Outcome], float]]:
    """Each entry with its outcomes and the seconds that it took, as they are done, `jobs` at a time."""
    waiting, running = list(reversed(entries)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            entry = waiting.pop()
            inside, outside = FORKS.Pipe(duplex=False)
            process = FORKS.Process(
                target=_work, args=(entry, target, settings, bounds, outside), daemon=True
            )
            with warnings.catch_warnings():  # of threads, which the pools of both sides survive
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            outside.close()
            running[inside] = _Job(entry, process, time.monotonic())
        for connection in wait(list(running), timeout=0.5):
            job = running[connection]
            try:
                job.outcomes.append(connection.recv())
            except EOFError:
                job.process.join()
                if job.process.exitcode:
                    job.outcomes.append(Outcome("process", FAILED, _ended(job.process.exitcode)))
                yield _done(running, connection)
        for connection, job in list(running.items()):
            if time.monotonic() - job.start > bounds.seconds:
                job.process.kill()
                job.process.join()
                last = job.outcomes[-1].aspect if job.outcomes else "the start"
                text = f"no end after {bounds.seconds:g} s, the last answer was in {last}"
                job.outcomes.append(Outcome("process", FAILED, text))
                yield _done(running, connection)


def _done(running: dict[Any, _Job], connection: Any) -> tuple[Any, list[Outcome], float]:
    job = running.pop(connection)
    connection.close()
    return job.entry, job.outcomes, time.monotonic() - job.start


def _ended(code: int) -> str:
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _work(
    entry: Any, target: Target, settings: Settings, bounds: Bounds, connection: Connection
) -> None:
    """The life of a process: examine an entry and send each outcome."""
    torch.set_num_threads(1)  # others may have been lost in the fork
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    if os.path.exists("/proc/self/statm"):  # elsewhere such limits have no effect
        with open("/proc/self/statm") as f:
            limit = int(f.read().split()[0]) * resource.getpagesize() + bounds.memory * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        for outcome in examine(entry, target, settings):
            connection.send(outcome)
    except MemoryError:
        text = f"more than {bounds.memory} MiB of memory"
        connection.send(Outcome("process", FAILED, text))
    except BaseException as e:
        lines = traceback.format_exc().splitlines()
        connection.send(
            Outcome("process", FAILED, f"{type(e).__name__}: {e} ({lines[-3].strip()})")
        )
    connection.close()
