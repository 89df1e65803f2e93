"""Programs written for PyTorch, unmodified, under `kiln run --torch` and under PyTorch.

The programs are those of tests/compat/programs, which the tests hold to the same losses. Every run is a process
of its own and the libraries take turns; the first run of each is not counted, so Kiln's compiled kernels
are on disk. "whole" is a process from its start to its end, imports and all; "step" the median
time between two lines that it prints, one for each step. Run: `python -m benchmarks.programs`
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time

from .common import banner, peer, ratio, table, verdict
from .crew import ROOT

FOLDER = ROOT / "tests" / "compat" / "programs"
NAMES = ("classify", "autoencode", "sequences", "attend", "residual", "policy", "seeded")
COMMANDS = {"kiln": ("-m", "kiln.run", "--torch"), "torch": ()}


def run(library: str, name: str, threads: int) -> tuple[float, float]:
    """Seconds of a program as a whole, and of one of its steps."""
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KILN_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(pools, str(threads)), "PYTHONUNBUFFERED": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), env.get("PYTHONPATH", "")])
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *COMMANDS[library], str(FOLDER / "everything.py"), name], env=env, text=True,
        stdout=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        at = [time.perf_counter() for _ in program.stdout]
    whole = time.perf_counter() - begin
    if program.returncode or len(at) < 3:
        raise SystemExit(f"{name} failed under {library}: exit status {program.returncode}")
    return whole, statistics.median(b - a for a, b in itertools.pairwise(at))


def main() -> None:
    """Measure and print the table, and whether the bounds are met."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.programs", description=__doc__)
    cli.add_argument("names", nargs="*", default=NAMES, metavar="name", help=", ".join(NAMES))
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--threads", type=int, default=2)
    args = cli.parse_args()
    banner()
    libraries = ["kiln", *(["torch"] if peer("torch") else [])]
    rows: list[list[str]] = []
    gains: dict[str, list[float]] = {"whole": [], "step": []}
    for name in args.names:
        runs: dict[str, list[tuple[float, float]]] = {lib: [] for lib in libraries}
        for _ in range(args.rounds + 1):
            for lib in libraries:
                runs[lib].append(run(lib, name, args.threads))
        row = [name]
        for k, (what, unit) in enumerate((("whole", 1.0), ("step", 1e3))):
            times = {lib: [r[k] for r in runs[lib][1:]] for lib in libraries}
            row += [f"{min(t) * unit:.2f}" for t in times.values()]
            if "torch" in times:
                gains[what].append(ratio(times["torch"], times["kiln"]))
                row.append(f"{gains[what][-1]:.2f}")
        rows.append(row)
    head = ["program"]
    for what in ("whole, s", "step, ms"):
        head += [f"{lib}: {what}" for lib in libraries] + ["times faster"] * ("torch" in libraries)
    table(head, rows)
    for what, values in gains.items():
        if values:
            slowest, middle = min(values), statistics.median(values)
            print(f"{what}: slowest {slowest:.2f} ({verdict(slowest, at_least=1.0)}), "
                  f"median {middle:.2f} ({verdict(middle, at_least=1.3)})")  # fmt: skip


if __name__ == "__main__":
    main()
