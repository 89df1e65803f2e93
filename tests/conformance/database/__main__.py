"""`python -m tests.conformance.database [PATTERN]`: PyTorch's operator database against Kiln.

Prints what fails as it is found, then passed, failed and missing entries by namespace. The exit code is 1
where an entry fails or is missing, with `--against PAGE` only if the page does not say so. `--document`
writes the page of coverage from the run, or from the JSON of an earlier one (`--read`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # threads do not survive the fork of a process


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.database", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "pattern", nargs="?", default="", help="entries with a name in which it is found"
    )
    parser.add_argument("--dtypes", nargs="+", help="float32, int64, …")
    parser.add_argument("--samples", type=int, default=24, help="in each dtype; 0 for all")
    parser.add_argument(
        "--forms", type=int, default=4, help="samples of methods, in-place forms, …"
    )
    parser.add_argument("--second", type=int, default=2, help="samples of second gradients")
    parser.add_argument("--no-errors", action="store_true", help="leave out calls that must fail")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--seconds", type=float, default=300.0, help="that an entry may take")
    parser.add_argument("--memory", type=int, default=4096, help="MiB that an entry may take")
    parser.add_argument("--verbose", action="store_true", help="the first failure of each aspect")
    parser.add_argument("--list", action="store_true", help="names of entries, and nothing more")
    parser.add_argument("--json", type=Path, help="write all counts there, as they come")
    parser.add_argument("--read", type=Path, help="read this JSON instead of running")
    parser.add_argument("--document", type=Path, help="write the page of coverage there")
    parser.add_argument(
        "--against", type=Path, help="fail only where an entry differs that this page says agrees"
    )
    args = parser.parse_args()
    if args.list:
        from .entries import key, select

        print("\n".join(map(key, select(args.pattern))))
        return 0
    run = json.loads(args.read.read_text()) if args.read else measure(args)
    from .table import by_aspect, by_namespace, page

    if args.document:
        args.document.write_text(page(run))
    found = run["entries"]
    show(["aspect", "agree", "of", "entries", "of"], by_aspect(found))
    show(["namespace", "passed", "failed", "missing", "left out", ""], rows := by_namespace(found))
    if args.against:
        return fallen_behind(found, args.against)
    return int(any(rows[-1][2:4]))


def fallen_behind(found: dict[str, dict[str, Any]], page: Path) -> int:
    """1 where an entry fails or is missing of which the page of coverage does not say so."""
    told = set(re.findall(r"^\| `(.+?)` \|", page.read_text(), re.M))
    worse = [name for name, r in found.items() if r["status"] in ("failed", "missing")]
    worse = [name for name in worse if name not in told]
    for name in worse:
        print(f"{page} says that {name} agrees: {found[name]['why'][:300]}")
    return int(bool(worse))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run what the command line asks for."""
    import torch

    import kiln

    from .checks import DTYPES, Settings
    from .crossing import Target
    from .entries import key, select
    from .table import record
    from .workers import Bounds, run

    torch.set_num_threads(1)
    settings = Settings(
        tuple(args.dtypes or DTYPES), args.samples, args.forms, args.second, not args.no_errors
    )
    entries, bounds = select(args.pattern), Bounds(args.seconds, args.memory)
    found: dict[str, Any] = {}
    whole = {
        "torch": torch.__version__.split("+")[0],
        "kiln": kiln.__version__,
        "settings": asdict(settings),
        "entries": found,
    }
    start = saved = time.monotonic()
    for entry, outcomes, took in run(entries, Target(kiln), settings, bounds, args.jobs):
        r = found[key(entry)] = record(entry, outcomes, took)
        if r["status"] in ("failed", "missing"):
            print(f"{r['status']:8} {key(entry)}: {r['why'][:300]}", flush=True)
        for aspect, message in r["first"].items() if args.verbose else ():
            if f"{aspect}: {message}" != r["why"] and aspect != "name":
                print(f"{'':8} {key(entry)} {aspect}: {message[:400]}", flush=True)
        now = time.monotonic()
        if args.json and (now - saved > 20 or len(found) == len(entries)):
            args.json.write_text(json.dumps(whole | {"seconds": round(now - start, 1)}, indent=1))
            saved = now
    return whole


def show(head: list[str], rows: list[list[Any]]) -> None:
    """Print a table."""
    cells = [[str(c) for c in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        rest = "  ".join(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))
        print(f"{row[0].ljust(widths[0])}  {rest}")
    print()


if __name__ == "__main__":
    sys.exit(main())
