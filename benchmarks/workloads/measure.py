"""Measuring: every kind in a process of its own, one at work at a time, in interleaved rounds.

What comes out is plain data (see `Record`), kept as JSON; ratios are computed from it in `figures`.
"""

from __future__ import annotations

import compileall
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..crew import ROOT, Crew, WorkerGone
from .catalog import Workload

LOSSES = 8  # first steps of training whose losses are compared


@dataclass
class Pace:
    """How long to measure: rounds of blocks of so many seconds, with a pause before each block.

    The pause lets the threads of the kind that worked before fall asleep: OpenMP's spin for a while.
    """

    rounds: int = 7
    block: float = 0.4
    pause: float = 0.25
    beside: int = 3


@dataclass
class Record:
    """One kind on one workload; times in seconds, memory in megabytes.

    `status` is "ok" or says what is missing or went wrong. `medians` and `cpus` have an entry per round
    (the median step by the clock, the mean step in processor time), `beside` the slowdowns beside
    another busy process. `loaded`, `peak` and `steady`: memory before the model is built, the most up to
    the end of the first steps, and the most in later steps.
    """

    status: str = "ok"
    first: float | None = None
    warm: float | None = None
    found: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    loaded: float | None = None
    peak: float | None = None
    steady: float | None = None


def problem(workload: Workload, folder: Path) -> tuple[str, float]:
    """The file with the workload's weights and data, made unless it is there, and a step's FLOPs."""
    import numpy as np

    file = folder / f"{workload.name}.npz"
    if not file.exists():
        subprocess.run(
            [sys.executable, "-m", f"{__package__}.problem", workload.name, str(file)], cwd=ROOT,
            check=True,
        )  # fmt: skip
    with np.load(file) as data:
        return str(file), float(data["flops"])


def crew(kinds: Sequence[str], threads: int, folder: Path, cache: Path) -> Crew:
    """A worker for each kind; Kiln's and torch.compile's kernels go to the folder `cache`.

    Kiln's bytecode is there beforehand, as that of every installed package is.
    """
    kiln = importlib.util.find_spec("kiln")
    assert kiln is not None
    assert kiln.origin is not None
    compileall.compile_dir(str(Path(kiln.origin).parent), quiet=1)
    env = {
        "PYTHONDONTWRITEBYTECODE": "",
        "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads),
        "KILN_CACHE_DIR": str(cache / "kiln"), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }  # fmt: skip
    argv = ["-m", f"{__package__}.worker"]
    return Crew({k: [*argv, k, str(threads)] for k in kinds}, dict.fromkeys(kinds, env), log=folder)


class Session:
    """A crew and the records of the workload that it works on."""

    def __init__(self, crew: Crew, pace: Pace):
        self.crew, self.pace = crew, pace
        self.records: dict[str, Record] = {}

    def ask(self, kind: str, *order: Any) -> Any:
        """The worker's answer; None where it is, or thereby became, unable to go on."""
        if kind not in self.crew.hands or self.records[kind].status != "ok":
            return None
        try:
            answer = self.crew.ask(kind, *order)
        except WorkerGone as e:
            self.crew.dismiss(kind)
            answer = {"failed": str(e)}
        if isinstance(answer, dict) and (trouble := set(answer) & {"missing", "failed"}):
            word = trouble.pop()
            self.records[kind].status = f"{word}: {answer[word]}"
            return None
        return answer

    def start(self, workload: Workload, file: str, seen: dict[str, str]) -> None:
        """Load the workload everywhere and take the first steps; `seen` has the kinds' known ends."""
        kinds = [*self.crew.hands, *seen]
        self.records = {k: Record(seen.get(k, "ok")) for k in kinds}
        steps = LOSSES if workload.family == "training" else 1
        for kind, record in self.records.items():
            if loaded := self.ask(kind, "load", workload.name, file):
                record.loaded = loaded["memory"]
                if first := self.ask(kind, "first", steps):
                    record.first, record.found = first["seconds"], first["found"]
                    record.peak = first["memory"]

    def rounds(self) -> None:
        """Blocks of steps of each kind in turn, there and back; the first round warms up."""
        for i in range(self.pace.rounds + 1):
            for kind in sorted(self.records, reverse=bool(i % 2)):
                if (block := self._block(kind)) and i:
                    self.records[kind].medians.append(block["median"])
                    self.records[kind].cpus.append(block["cpu"])

    def beside(self) -> None:
        """How much longer a step takes on average beside one other busy process."""
        for _ in range(self.pace.beside):
            for kind, record in self.records.items():
                alone = self._block(kind)
                with busy():
                    beside = self._block(kind)
                if alone and beside:
                    record.beside.append(beside["mean"] / alone["mean"])

    def steady(self) -> None:
        """The most memory in steps that follow the first."""
        for kind, record in self.records.items():
            record.steady = self.ask(kind, "steady")

    def _block(self, kind: str) -> dict[str, float] | None:
        if self.records[kind].status != "ok":
            return None
        time.sleep(self.pace.pause)
        return self.ask(kind, "block", self.pace.block)


@contextmanager
def busy() -> Iterator[None]:
    """A process that computes without end, for the length of a `with` block."""
    p = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.1)
        yield
    finally:
        p.kill()
        p.wait()


def model(
    workload: Workload, threads: int, kinds: Sequence[str], pace: Pace, folder: Path, cache: Path
) -> dict[str, Any]:
    """All that is measured of a model: fresh processes, caches empty, then Kiln's once more, filled."""
    file, flops = problem(workload, folder)
    with crew(kinds, threads, folder, cache) as hands:
        session = Session(hands, pace)
        session.start(workload, file, {})
        session.steady()
        session.rounds()
        if threads > 1:
            session.beside()
    records = session.records
    if "kiln" in records and records["kiln"].status == "ok":
        with crew(["kiln"], threads, folder, cache) as hands:
            again = Session(hands, pace)
            again.start(workload, file, {})
            records["kiln"].warm = again.records["kiln"].first
    return result(workload, threads, flops, records)


def kernels(
    workloads: Sequence[Workload], threads: int, kinds: Sequence[str], pace: Pace, folder: Path,
    cache: Path,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """What is measured of single kernels: speed and agreement, in one process per kind for all."""
    gone: dict[str, str] = {}
    with crew(kinds, threads, folder, cache) as hands:
        session = Session(hands, pace)
        for workload in workloads:
            file, flops = problem(workload, folder)
            session.start(workload, file, gone)
            session.rounds()
            for kind in set(session.records) - set(hands.hands) - set(gone):
                gone[kind] = session.records[kind].status
            for record in session.records.values():  # those of a process that did much else before
                record.loaded = record.peak = None
            Path(file).unlink()
            yield result(workload, threads, flops, session.records)


def result(
    workload: Workload, threads: int, flops: float, records: dict[str, Record]
) -> dict[str, Any]:
    """A workload's measurements as plain data."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "workload": workload.name, "threads": threads, "flops": flops, "load": load,
        "when": time.strftime("%Y-%m-%d %H:%M"), "kinds": {k: asdict(r) for k, r in records.items()},
    }  # fmt: skip
