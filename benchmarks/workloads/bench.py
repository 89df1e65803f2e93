"""Runs the chosen workloads and keeps what was measured: what `kiln bench` does.

Results are collected in `results.json` in the output folder, by workload and threads: a run replaces
those that it measures and leaves the others, so the whole can be measured in pieces.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..common import describe
from ..crew import ROOT
from . import figures, machine, measure, report
from .catalog import Workload, choose
from .framework import KINDS
from .measure import Pace

PACES = {  # family -> pace, in full and in --quick
    "model": (Pace(), Pace(rounds=2, block=0.05, pause=0.05, beside=1)),
    "kernel": (Pace(rounds=5, block=0.1, pause=0.1), Pace(rounds=2, block=0.02, pause=0.02)),
}
RESULTS = "results.json"


def kinds(names: Sequence[str]) -> list[str]:
    """The kinds to measure: Kiln and the peers named (all if none) that can run; says who can't."""
    if unknown := [n for n in names if n not in KINDS]:
        raise SystemExit(f"no such peer: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    found = []
    for name, kind in KINDS.items():
        if name != "kiln" and names and name not in names:
            continue
        if why := kind.lacking():
            print(f"{kind.title}: skipped, {why} (pip install 'kiln-dl[bench]' brings all peers)")
        else:
            found.append(name)
    return found


def run(
    only: str, peers: Sequence[str], threads: Sequence[int], rounds: int | None, quick: bool, clock: str,
    out: Path,
) -> int:  # fmt: skip
    """Measure, print each workload as it is done, then the report; gives the exit status."""
    chosen, members = choose(only), kinds(peers)
    paces = {family: pace[quick] for family, pace in PACES.items()}
    for pace in paces.values():
        pace.rounds = rounds or pace.rounds
    once = [1] if quick else []
    data = _known(out)
    data["clock"] = clock
    if chosen:
        from kiln.profiler.limits import peaks

        known = data["machine"].get("peaks", {})
        data["machine"] = _machine() | {"peaks": known | {str(n): peaks(n, *once) for n in threads}}
        for name in dict.fromkeys(KINDS[k].package for k in members):
            if name not in data["packages"]:
                data["packages"][name] = machine.package(name, *once)
    for result in measured(chosen, threads, members, paces):
        data["runs"][f"{result['workload']}/{result['threads']}"] = result
        line = figures.line(result, data["machine"].get("peaks", {}), clock)
        print(f"{line.name}, {line.threads}: {_words(line)}", flush=True)
        _keep(data, out)
    print("\n" + report.write(data, out))
    print(f"{out / 'report.html'}, {out / 'report.md'}, {out / RESULTS}")
    return 0


def measured(
    chosen: Iterable[Workload],
    threads: Sequence[int],
    members: Sequence[str],
    paces: dict[str, Pace],
) -> Iterator[dict[str, Any]]:
    """The results of all workloads at all numbers of threads."""
    chosen = list(chosen)
    for n in threads:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for workload in (w for w in chosen if w.family != "kernel"):
                able = [k for k in members if KINDS[k].trains or workload.family != "training"]
                cache = folder / f"cache-{workload.name}"
                yield measure.model(workload, n, able, paces["model"], folder, cache)
            singles = [w for w in chosen if w.family == "kernel"]
            if singles:
                yield from measure.kernels(
                    singles, n, members, paces["kernel"], folder, folder / "cache-kernels"
                )


def _words(line: figures.Line) -> str:
    own = (
        report.duration(line.seconds["kiln"]) if "kiln" in line.seconds else line.status.get("kiln")
    )
    peers = ", ".join(f"{k} {r}" for k, r in line.ratios.items())
    return f"Kiln {own}; peer / Kiln: {peers or '-'}; results {line.agreement}"


def _known(out: Path) -> dict[str, Any]:
    """What the folder holds from earlier runs."""
    file = out / RESULTS
    if file.exists():
        return json.loads(file.read_text())
    return {"machine": {}, "packages": {}, "clock": "wall", "runs": {}}


def _keep(data: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    part = out / f"{RESULTS}.{os.getpid()}"
    part.write_text(json.dumps(data, indent=1))
    part.replace(out / RESULTS)


def _machine() -> dict[str, Any]:
    name, software = describe()
    return {
        "date": str(datetime.date.today()), "commit": _commit(), "name": name, "software": software,
    }  # fmt: skip


def _commit() -> str:
    """The checkout's commit, with a + where files differ from it; the version where there is none."""
    if not (ROOT / ".git").exists():
        return f"none, version {importlib.metadata.version('kiln-dl')}"
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
