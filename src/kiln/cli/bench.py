"""Run the benchmark workloads on Kiln and on every peer that is installed, side by side.

Every framework runs in a process of its own, in interleaved rounds, from equal weights on equal data. You
get ratios with their spread, first steps, memory, sizes and import times: as tables here, and as a
report with charts in the output folder. Runs into one folder add up.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

from ..errors import KilnError

NAME = "bench"
SUMMARY = "measure Kiln beside PyTorch, JAX, TensorFlow and ONNX Runtime on the same work"


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The options of `kiln bench`."""
    p.add_argument(
        "--only", type=_pattern, default="", metavar="REGEX",
        help="workloads whose name matches, such as 'resnet|gpt' (default: all)",
    )  # fmt: skip
    p.add_argument(
        "--peers", type=_names, default=[], metavar="LIST",
        help="peers by name, such as torch,jax; kiln for none (default: all that are installed)",
    )  # fmt: skip
    p.add_argument(
        "--threads", type=_numbers, default=[1, 2], metavar="LIST",
        help="numbers of threads (default: 1,2)",
    )  # fmt: skip
    p.add_argument("--rounds", type=_positive, metavar="N", help="interleaved blocks of each")
    p.add_argument("--quick", action="store_true", help="few and short blocks: to see that it runs")
    p.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: processor time at 1 thread, for machines that do other work too (default: wall)",
    )  # fmt: skip
    p.add_argument(
        "--out", type=Path, default=Path("kiln-bench"), metavar="DIR",
        help="folder for the report, its charts and results.json (default: ./kiln-bench)",
    )  # fmt: skip
    p.add_argument("--list", action="store_true", help="print the workloads' names and stop")


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as e:
        raise argparse.ArgumentTypeError(f"not a regular expression: {e}") from None
    return text


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _positive(text: str) -> int:
    n = int(text)
    if n < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return n


def _numbers(text: str) -> list[int]:
    return [_positive(n) for n in text.split(",")]


def run(args: argparse.Namespace) -> int:
    """Measure and report."""
    if args.list:
        for w in _package("catalog").WORKLOADS.values():
            print(f"{w.name:36} {w.title}")
        return 0
    bench = _package("bench")
    return bench.run(
        args.only, args.peers, args.threads, args.rounds, args.quick, args.clock, args.out
    )


def _package(module: str) -> ModuleType:
    """A module of the benchmarks: part of the wheel, a folder of their own in a checkout."""
    for parent in ("kiln.", ""):
        try:
            return importlib.import_module(f"{parent}benchmarks.workloads.{module}")
        except ModuleNotFoundError as e:
            if e.name not in ("kiln.benchmarks", "benchmarks"):
                raise
        root = str(Path(__file__).parents[3])
        if root not in sys.path:
            sys.path.append(root)
    raise KilnError(
        "bench", "the benchmarks are not installed", f"no folder benchmarks in {root}",
        "install Kiln's wheel, or run from a checkout of its sources",
    )  # fmt: skip
