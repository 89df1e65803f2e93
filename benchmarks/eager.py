"""The cost of one eager operation on small float32 tensors, against torch.

Both run in this process on one thread, in turn: a block of calls of Kiln, a block of torch's, and so
on. Times are medians over the rounds, the ratio is the median of the rounds' ratios. The garbage
collector stays on, as it is for users. Run: `python -m benchmarks.eager`
"""

from __future__ import annotations

import argparse
import statistics
import timeit
from typing import Any

from .common import banner, peer, ratio, table, verdict

# name -> (statement, calls in a block, target)
CASES = {
    "a + b": ("a + b", 20_000, 0.8),
    "a + b with grad": ("p + b", 20_000, 0.8),
    "Linear(10, 10) + relu + sum, forward + backward": (
        "w.grad = bias.grad = None; relu(linear(x)).sum().backward()",
        500,
        1.0,
    ),
}


def names(lib: Any, seed: Any) -> dict[str, Any]:
    """What the statements use: the same values in both libraries."""
    linear = lib.nn.Linear(10, 10)
    a, b, x, w, bias = (lib.from_numpy(v.copy()) for v in seed)
    with lib.no_grad():
        linear.weight.copy_(w)
        linear.bias.copy_(bias)
    return {
        "a": a, "b": b, "x": x, "p": a.clone().requires_grad_(), "linear": linear, "relu": lib.relu,
        "w": linear.weight, "bias": linear.bias,
    }  # fmt: skip


def main() -> None:
    """Print one row per case."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.eager", description=__doc__)
    cli.add_argument("--rounds", type=int, default=41, help="blocks of each library (default: 41)")
    rounds = cli.parse_args().rounds
    torch = peer("torch")
    import numpy as np

    import kiln

    banner()
    rng = np.random.default_rng(0)
    seed = [rng.standard_normal(s, np.float32) for s in (10, 10, (4, 10), (10, 10), 10)]
    libs = [kiln] if torch is None else [kiln, torch]
    if torch is not None:
        torch.set_num_threads(1)
    rows = []
    for case, (statement, calls, target) in CASES.items():
        # timeit turns the collector off; the set-up turns it on again
        timers = [
            timeit.Timer(statement, "import gc; gc.enable()", globals=names(lib, seed))
            for lib in libs
        ]
        times: list[list[float]] = [[] for _ in libs]
        for i in range(rounds + 1):
            for timer, seconds in zip(timers, times, strict=True):
                t = timer.timeit(calls) / calls
                if i:  # the first round warms up
                    seconds.append(t)
        micros = [f"{statistics.median(t) * 1e6:.2f}" for t in times]
        if torch is None:
            rows.append([case, *micros, "-", "-", f"<= {target:g}"])
        else:
            r = ratio(*times)
            rows.append([case, *micros, f"{r:.2f}", verdict(r, at_most=target)])
    table(["10-element float32, 1 thread", "kiln µs", "torch µs", "kiln / torch", "target"], rows)


if __name__ == "__main__":
    main()
