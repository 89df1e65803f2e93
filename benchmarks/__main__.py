"""What can be measured here, one command each: `python -m benchmarks`."""

from __future__ import annotations

import runpy
import sys

COMMANDS = {
    "workloads": "whole workloads and single kernels on Kiln and all peers, with a report (kiln bench)",
    "eager": "a + b, with grad, and Linear forward + backward on small tensors, against torch",
    "ops": "large calls of every op in eager mode, forward and backward, against torch",
    "steps": "training steps: Kiln eager, Kiln compiled and torch eager, at 1 and 2 threads",
    "programs": "programs written for torch, unmodified, whole and 30 kinds by the step, under kiln run --torch and under torch",
    "loading": "batches a second of a DataLoader, with and without workers, against torch",
    "training": "what Trainer costs a step over a compiled loop, at steps of about 1 ms",
    "matmul": "compiled fp32 matmul in its four forms on one thread, against torch.mm",
    "startup": "import time and what it imports, installed size, first step from a cold and a warm cache",
    "kernels": "the bare matmul kernels over sizes, against torch.mm",
}


def main() -> None:
    """Run the benchmark named, or print the list."""
    if len(sys.argv) > 1:
        name = sys.argv.pop(1)
        if name not in COMMANDS:
            raise SystemExit(f"no benchmark {name!r}: there are {', '.join(COMMANDS)}")
        runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)
        return
    for name, what in COMMANDS.items():
        print(f"python -m benchmarks {name:9} {what}")
    print(
        "\nEach takes about a minute, workloads an hour. Peers that are not installed are skipped:"
    )
    print("pip install -e '.[demo,bench]' brings all. Results as measured: docs/benchmarks.md")


if __name__ == "__main__":
    main()
