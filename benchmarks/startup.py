"""What it costs to start: importing, installing, and the first compiled step of a process.

Everything is measured in fresh processes, in turn. Import times are taken inside the process, around
the import statement (the interpreter's own start, the same for both, would make the ratio look
better); the first step is the quickstart's, from call to result, with an empty and with a filled
cache of compiled kernels. Python's bytecode caches are filled beforehand, in a folder of their own, so
that neither an environment that forbids to write them nor a source just edited counts as import
time. The installed size is what pip puts into an empty folder for the core
without extras (needs the package index; --no-install skips it). Run: `python -m benchmarks.startup`
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .common import ROOT, banner, fresh, ratio, table, verdict

IMPORT = """
import json, sys, time
before = set(sys.modules)
start = time.perf_counter()
__import__(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "packages": sorted({m.partition(".")[0] for m in set(sys.modules) - before})}))
"""

STEP = """
import json, time
import kiln
from kiln.backends.cpu.cache import stats
from kiln.cli.quickstart import BATCH, build, training_step
model = build(0)
step = kiln.compile(training_step(model, kiln.optim.AdamW(model.parameters(), lr=3e-3)))
x, y = kiln.rand(BATCH, 1, 8, 8), kiln.randint(0, 10, (BATCH,))
times = []
for _ in range(20):
    start = time.perf_counter()
    step(x, y).item()
    times.append(time.perf_counter() - start)
print(json.dumps({"first": times[0], "later": sorted(times)[10], "compiles": stats.compiles, "hits": stats.hits}))
"""

# Kiln's own dependencies that nobody pays for before using them, and packages of extras and peers.
LAZY = {"llvmlite", "rich", "platformdirs", "safetensors"}
OUTSIDE = {
    "sklearn",
    "scipy",
    "matplotlib",
    "tensorboard",
    "torch",
    "tensorflow",
    "jax",
    "PIL",
    "hypothesis",
    "pytest",
}
SIZE_LIMIT = 300


def imports(rounds: int, bytecode: dict[str, str]) -> None:
    """Import times, and what comes with `import kiln`."""
    times: dict[str, list[float]] = {"numpy": [], "kiln": []}
    packages: set[str] = set()
    for i in range(rounds + 1):
        for name, seconds in times.items():
            seen = fresh(IMPORT, name, **bytecode)
            packages |= set(seen["packages"]) if name == "kiln" else set()
            if i:  # the first round fills the bytecode caches
                seconds.append(seen["seconds"])
    r = ratio(times["kiln"], times["numpy"])
    shown = [f"{statistics.median(t) * 1e3:.0f} ms" for t in times.values()]
    table(["import numpy", "import kiln", "kiln / numpy", "target"],
          [[*shown, f"{r:.2f}", verdict(r, at_most=2.5)]])  # fmt: skip
    foreign = sorted(p for p in packages - set(sys.stdlib_module_names) if not p.startswith("_"))
    print(f"import kiln brings: {', '.join(foreign)}")
    print(f"of extras and peers: {', '.join(sorted(packages & OUTSIDE)) or 'nothing'}")
    print(f"of what should wait: {', '.join(sorted(packages & LAZY)) or 'nothing'}\n")


def size() -> None:
    """Megabytes of an installation of the core, by package."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--target", folder, str(ROOT)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            print(f"installed size: skipped, pip failed: {done.stdout.strip().splitlines()[-1]}\n")
            return
        sizes: dict[str, float] = {}
        for file in Path(folder).rglob("*"):
            if file.is_file():
                name = file.relative_to(folder).parts[0].split("-")[0].removesuffix(".libs")
                sizes[name] = sizes.get(name, 0) + file.stat().st_size / 1e6
    total = sum(sizes.values())
    largest = sorted(sizes.items(), key=lambda s: -s[1])[:4]
    table(["installed core", "largest", "target"],
          [[f"{total:.0f} MB", ", ".join(f"{n} {s:.0f}" for n, s in largest),
            verdict(total, at_most=SIZE_LIMIT)]])  # fmt: skip


def first_steps(rounds: int, bytecode: dict[str, str]) -> None:
    """The first compiled step of a process, with an empty and a filled cache."""
    cold, warm = [], []
    for i in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            runs = [fresh(STEP, KILN_CACHE_DIR=folder, **bytecode) for _ in range(2)]
        if i:  # the first round fills the bytecode caches
            cold.append(runs[0])
            warm.append(runs[1])
    r = ratio([w["first"] for w in warm], [c["first"] for c in cold])
    compiles = max(w["compiles"] for w in warm)
    rows = [
        [
            name,
            f"{statistics.median(s['first'] for s in runs) * 1e3:.0f} ms",
            f"{statistics.median(s['later'] for s in runs) * 1e3:.2f} ms",
            str(max(s["compiles"] for s in runs)),
            str(max(s["hits"] for s in runs)),
        ]
        for name, runs in (("empty", cold), ("filled", warm))
    ]
    table(["cache", "first step", "later steps", "LLVM compiles", "loaded"], rows)
    print(
        f"filled / empty: {r:.2f} ({verdict(r, at_most=0.3)}), compiles {verdict(compiles, at_most=0)}"
    )


def main() -> None:
    """Print a table for each."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    cli.add_argument("--rounds", type=int, default=15, help="imports of each (default: 15)")
    cli.add_argument("--no-install", action="store_true", help="leave the installed size out")
    options = cli.parse_args()
    banner()
    with tempfile.TemporaryDirectory() as folder:
        bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        imports(options.rounds, bytecode)
        first_steps(max(1, options.rounds // 3), bytecode)
    if not options.no_install:
        print()
        size()


if __name__ == "__main__":
    main()
