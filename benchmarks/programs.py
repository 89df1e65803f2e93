"""Programs written for PyTorch, unmodified, under `kiln run --torch` and under PyTorch.

Two tables. The programs of tests/compat/programs, which the tests hold to the same losses, run as processes of
their own, the libraries taking turns; the first run of each is not counted, so Kiln's compiled kernels are on disk.
"whole" is a process from its start to its end, imports and all; "step" the median time between two lines that
it prints, one for each step. Then typical programs of realistic sizes (`kinds`), in a process for each
library, blocks of steps in turn: ratios of wall-clock time, and of processor time, which other work on the
machine disturbs less; the time to the first loss; and whether the first losses are the same.

A round is a run, or a block, of each library, whichever was second in the round before going first; what a
machine does to both of them, a clock that falls or a neighbour that comes, is the same for both. A figure is the
median over the rounds of their ratios, and behind it are the quartiles: half of the rounds lie between them. A
program counts as slower where these are both below 1, and as undecided where 1 lies between them.
Run: `python -m benchmarks.programs [name …]`
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time

from .common import banner, peer, ratios, table, verdict
from .crew import ROOT, Crew

FOLDER = ROOT / "tests" / "compat" / "programs"
NAMES = ("classify", "autoencode", "sequences", "attend", "residual", "policy", "seeded")
COMMANDS = {"kiln": ("-m", "kiln.run", "--torch"), "torch": ()}
Gain = tuple[float, float, float]
"""How many times faster, and the quartiles of the rounds."""
BUSY = 1.0  # load from where on a second thread may have no core of its own
PAUSE = 0.2  # seconds, beyond how long an idle OpenMP thread spins


def environment(threads: int) -> dict[str, str]:
    """What a program's process is given beside this one's environment."""
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KILN_NUM_THREADS")
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**dict.fromkeys(pools, str(threads)), "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}


def run(library: str, name: str, threads: int) -> tuple[float, float]:
    """Seconds of a program as a whole, and of one of its steps."""
    env = {**os.environ, **environment(threads)}
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


def whole(names: list[str], rounds: int, threads: int, libraries: list[str]) -> None:
    """The table of whole programs, and whether the bounds are met."""
    rows: list[list[str]] = []
    gains: dict[str, list[Gain]] = {"whole": [], "step": []}
    for name in names:
        runs: dict[str, list[tuple[float, float]]] = {lib: [] for lib in libraries}
        for i in range(rounds + 1):
            for lib in turn(libraries, i):
                runs[lib].append(run(lib, name, threads))
        row = [name]
        for k, (what, unit) in enumerate((("whole", 1.0), ("step", 1e3))):
            times = {lib: [r[k] for r in runs[lib][1:]] for lib in libraries}
            row += [f"{statistics.median(t) * unit:.2f}" for t in times.values()]
            if "torch" in times:
                gains[what].append(ratios(times["torch"], times["kiln"]))
                row.append(shown(gains[what][-1]))
        rows.append(row)
    head = ["program"]
    for what in ("whole, s", "step, ms"):
        head += [f"{lib}: {what}" for lib in libraries] + ["times faster"] * ("torch" in libraries)
    table(head, rows)
    for what, values in gains.items():
        judge(what, values)


def turn(libraries: list[str], i: int) -> list[str]:
    """The libraries in the order of a round."""
    return libraries[:: -1 if i % 2 else 1]


def shown(gain: Gain) -> str:
    """A gain and its quartiles."""
    return f"{gain[0]:.2f} ({gain[1]:.2f}-{gain[2]:.2f})"


def judge(what: str, gains: list[Gain]) -> None:
    """Say whether the slowest and the middle of some gains are within issue 5's bounds, and how many are surely slower."""
    if gains:
        slowest, middle = min(g[0] for g in gains), statistics.median(g[0] for g in gains)
        slower = sum(g[2] < 1 for g in gains)
        undecided = sum(g[1] < 1 <= g[2] for g in gains)
        print(f"{what}: slowest {slowest:.2f} ({verdict(slowest, at_least=1.0)}), median {middle:.2f} "
              f"({verdict(middle, at_least=1.3)}); {slower} slower, {undecided} undecided of {len(gains)}")  # fmt: skip


def steps(
    names: list[str], rounds: int, threads: int, libraries: list[str], seconds: float
) -> None:
    """The table of typical programs' steps."""
    members = {lib: (*COMMANDS[lib], "-m", "benchmarks.kinds") for lib in libraries}
    rows: list[list[str]] = []
    gains: dict[str, list[Gain]] = {"wall": [], "cpu": []}
    with Crew(members, {lib: environment(threads) for lib in libraries}) as crew:
        known = crew.ask(libraries[0], "kinds")
        for name in names or known:
            begun = {lib: crew.ask(lib, "start", name, threads) for lib in libraries}
            found: dict[str, dict[str, list[float]]] = {
                lib: {"wall": [], "cpu": []} for lib in libraries
            }
            for i in range(rounds):
                for lib in turn(libraries, i):
                    time.sleep(PAUSE)
                    for what, t in crew.ask(lib, "block", name, seconds).items():
                        found[lib][what].append(t)
            middle = {lib: statistics.median(found[lib]["wall"]) * 1e3 for lib in libraries}
            row = [name, *[f"{t:.2f}" for t in middle.values()]]
            if "torch" in found:
                for what, values in gains.items():
                    values.append(ratios(found["torch"][what], found["kiln"][what]))
                    row.append(shown(values[-1]))
            row += [f"{begun[lib]['first']:.2f}" for lib in libraries]
            if "torch" in found:
                a, b = begun["kiln"]["loss"], begun["torch"]["loss"]
                row.append("yes" if abs(a - b) <= 1e-3 * max(abs(b), 1e-3) else f"{a:.5g}, {b:.5g}")
            rows.append(row)
    both = "torch" in libraries
    table(
        ["step of", *[f"{lib}, ms" for lib in libraries], *["times faster", "by processor time"] * both,
         *[f"{lib}: first loss, s" for lib in libraries], *["same loss"] * both], rows,
    )  # fmt: skip
    for what, values in gains.items():
        judge(f"steps by {what} time", values)


def main() -> None:
    """Measure and print the tables, and whether the bounds are met."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.programs", description=__doc__)
    cli.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES) + ", or a kind")
    cli.add_argument(
        "--rounds", type=int, default=8, help="of blocks; programs have half as many (default: 8)"
    )
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument(
        "--seconds", type=float, default=0.2, help="of a block of steps (default: 0.2)"
    )
    args = cli.parse_args()
    banner()
    if args.threads > 1 and hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY:
        print(f"Other work is running: figures at {args.threads} threads say little now, as PyTorch's wait for each other "
              "by spinning. --threads 1, or come back.\n")  # fmt: skip
    libraries = ["kiln", *(["torch"] if peer("torch") else [])]
    programs: list[str] = [n for n in args.names if n in NAMES] if args.names else list(NAMES)
    kinds = [n for n in args.names if n not in NAMES]
    if programs:
        whole(programs, max(1, args.rounds // 2), args.threads, libraries)
    if kinds or not args.names:
        steps(kinds, args.rounds, args.threads, libraries, args.seconds)


if __name__ == "__main__":
    main()
