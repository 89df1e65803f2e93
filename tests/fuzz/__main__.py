"""`python -m tests.fuzz --count 20000 --seed 0`: random programs, compiled against eager mode.

With `--torch` eager mode is held to PyTorch's as well, steps that are refused included.

Batches of programs run in processes of their own, so that a crash is a finding like others, from a kernel
cache that is empty at first. What was compiled is called again on 1 and 3 threads; every tenth program
runs on the reference backend as well, and again in a new process that finds its kernels on disk: the same
bits each time. A finding is reproduced by `python -m tests.fuzz --one SEED`. The exit code is 1 where
something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEEP = 10  # each so manieth program is checked in every way
# refused: in every way; torch died: its own process, in its own code, before anything was compared
FINE = ("same", "ill-conditioned", "refused", "torch died")
DEATHS = ("crashed", "torch died")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--count", type=int, default=1000, help="how many programs")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed")
    parser.add_argument(
        "--isa", default="", help="avx512, avx2, sse2 or neon; the best one by default"
    )
    parser.add_argument("--batch", type=int, default=200, help="programs a process")
    parser.add_argument("--one", type=int, help="run this seed here and tell everything about it")
    parser.add_argument("--torch", action="store_true", help="hold eager mode to PyTorch's, too")
    parser.add_argument(
        "--wide", action="store_true", help="programs of any public op, see tests/fuzz/programs.py"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seeds", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.isa:
        os.environ["KILN_CPU_ISA"] = args.isa
    if args.one is not None:
        return _one(args.one, args.torch, args.wide)
    if args.worker:
        return _work([int(s) for s in args.seeds.split(",")], args.torch, args.wide)
    return _all(args)


def _one(seed: int, torch: bool, wide: bool) -> int:
    from . import checks
    from .checks import describe
    from .programs import program

    p = program(seed, wide)
    if torch:
        from . import peer

        verdict = peer.check(p, deep=True)
    else:
        verdict = checks.check(p, deep=True)
    print(p.kind, *describe(p), verdict, sep="\n")
    return int(verdict.status == "differs")


def _work(seeds: list[int], torch: bool, wide: bool) -> int:
    """Check programs, a line of JSON for each."""
    import gc
    import warnings

    from . import checks
    from .programs import program

    check = checks.check
    if torch:
        from . import peer

        check = peer.check
        peer.load()
    gc.collect()
    gc.freeze()  # a capture looks for the functions that it runs, none of which PyTorch holds
    warnings.simplefilter("ignore")
    for seed in seeds:

        def stage(status: str, seed: int = seed) -> None:
            print(json.dumps({"seed": seed, "status": status}), flush=True)

        stage("crashed")
        if torch:
            peer.stage = stage
        try:
            v = check(program(seed, wide), deep=seed % DEEP == 0)
            line = {"seed": seed, **vars(v)}
        except Exception:
            line = {"seed": seed, "status": "failed", "detail": traceback.format_exc()[-600:]}
        print(json.dumps(line), flush=True)
    return 0


def _batch(seeds: list[int], cache: str, *flags: str) -> dict[int, dict[str, Any]]:
    """What a process says of the programs; one that dies leaves the rest to another."""
    found: dict[int, dict[str, Any]] = {}
    while left := [s for s in seeds if s not in found]:
        argv = [
            sys.executable,
            "-m",
            __package__ or "tests.fuzz",
            "--worker",
            "--seeds",
            ",".join(map(str, left)),
            *flags,
        ]
        env = {**os.environ, "KILN_CACHE_DIR": cache}
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        lines = [
            json.loads(text) for text in done.stdout.splitlines() if text.startswith('{"seed"')
        ]
        found |= {line["seed"]: line for line in lines}
        if not lines:
            raise SystemExit(done.stderr)
        if lines[-1]["status"] in DEATHS:
            lines[-1]["detail"] = f"exit code {done.returncode}: {done.stderr[-300:]}"
    return found


def _both(
    seeds: list[int], cache: str, torch: list[str], wide: list[str]
) -> dict[int, dict[str, Any]]:
    """What is said of the programs, every tenth again from the disk."""
    cold = _batch(seeds, cache, *torch, *wide)
    # with steps left out it was another program
    again = [s for s in seeds if s % DEEP == 0 and not cold[s].get("gaps")]
    for seed, line in (_batch(again, cache, *wide) if again else {}).items():
        digest = cold[seed].get("digest")
        if digest and digest != line.get("digest"):
            detail = f"other bits from a warm cache; {cold[seed].get('detail')}"
            cold[seed] |= {"status": "differs", "detail": detail}
    return cold


def _all(args: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    gaps: Counter[str] = Counter()
    torch, wide = ["--torch"] * args.torch, ["--wide"] * args.wide
    start, end = time.monotonic(), args.seed + args.count
    batches = [
        list(range(first, min(first + args.batch, end)))
        for first in range(args.seed, end, args.batch)
    ]
    with (
        tempfile.TemporaryDirectory(prefix="kiln-fuzz.") as cache,
        ThreadPoolExecutor(args.jobs) as jobs,
    ):
        for found in jobs.map(lambda seeds: _both(seeds, cache, torch, wide), batches):
            for seed, line in found.items():
                counts[line["status"]] += 1
                gaps.update(line.get("gaps", []))
                if line["status"] not in FINE:
                    print(f"seed {seed}: {line['status']}: {line.get('detail')}", flush=True)
            total = sum(counts.values())
            each = (time.monotonic() - start) / total
            lacking = f"; PyTorch: {dict(gaps)}" if gaps else ""
            print(f"{total} programs, {each:.2f} s each: {dict(counts)}{lacking}", flush=True)
    return int(any(status not in FINE for status in counts))


if __name__ == "__main__":
    sys.exit(main())
