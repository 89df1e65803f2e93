"""First steps of the benchmark's workloads on smaller batches: `python -m tests.benchmarks.steps NAME … [--again]`.

A line of JSON for each: digests of losses (or outputs) and weights after two steps on 1, 2 and 3 threads,
how far they are from the reference backend's, and how many kernels were compiled. `--again` runs on two
threads only.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy as np
from benchmarks.workloads.catalog import WORKLOADS, Workload
from benchmarks.workloads.problem import weights

import kiln
from kiln.backends.cpu import cache

SAMPLES = {
    "mlp": 8,
    "mlp-small": 8,
    "mnist-cnn": 4,
    "cifar-cnn": 4,
    "resnet18": 2,
    "lstm": 2,
    "gru": 2,
    "gpt": 1,
}
"""Samples of a batch; the others take theirs whole."""


def steps(workload: Workload, backend: str = "cpu") -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Losses or outputs of two steps, and the weights after them."""
    net = workload.net(kiln)
    values = weights(net)
    with kiln.no_grad():
        for name, p in net.named_parameters():
            p.copy_(kiln.from_numpy(values[name]))
    step = kiln.compile(workload.step(kiln, net), backend=backend)
    rng, found = np.random.default_rng(2), []
    for _ in range(2 if workload.family == "training" else 1):
        batch: Any = workload.inputs(rng)
        if n := SAMPLES.get(workload.name):
            x, y = batch
            batch = x[:n], y[: n * (len(y) // len(x))]
        out = step(*(kiln.from_numpy(np.ascontiguousarray(a)) for a in batch))
        found.append(np.array(out.detach().numpy()))
    return found, [np.array(p.detach().numpy()) for p in net.parameters()]


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest distance, relative to the largest number; infinite where there is NaN."""
    d = float(np.abs(a - b).max() / (np.abs(b).max() + 1e-30))
    return d if np.isfinite(d) else np.inf


def digest(arrays: list[np.ndarray]) -> str:
    """A name for the bits of arrays."""
    h = hashlib.sha256()
    for a in arrays:
        h.update(a.tobytes())
    return h.hexdigest()


def main(names: list[str], again: bool) -> None:
    """Print what was found."""
    for name in names:
        workload, line = WORKLOADS[name], {"name": name, "digests": []}
        cache.stats.reset()
        for threads in (2,) if again else (1, 2, 3):
            kiln.set_num_threads(threads)
            found, after = steps(workload)
            line["digests"].append(digest([*found, *after]))
        line["compiles"] = cache.stats.compiles
        if not again:
            found2, after2 = steps(workload, "reference")
            line["results"] = max(map(apart, found, found2))
            line["weights"] = max(map(apart, after, after2))
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main([a for a in sys.argv[1:] if not a.startswith("-")], "--again" in sys.argv)
