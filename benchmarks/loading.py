"""Batches a second from a DataLoader, without workers and with two, against torch's.

Three datasets: rows of a TensorDataset, images that a dataset makes of bytes (3 x 224 x 224 floats), and samples with names and
small arrays in a dict. Every measurement is one epoch in its order, shuffled, from the loader's start to
its end, so starting and ending the workers is in it; both libraries take turns, each in a process of its own for
a round. Run: `python -m benchmarks.loading`
"""

from __future__ import annotations

import argparse

from .common import banner, fresh, peer, ratio, table, verdict

CODE = """
import importlib, json, sys, time
lib = importlib.import_module(sys.argv[1])
import numpy as np
data = importlib.import_module("torch.utils.data" if sys.argv[1] == "torch" else "kiln.data")
lib.set_num_threads(1)

class Images(data.Dataset):
    def __init__(self, n):
        self.n, self.bytes = n, lib.randint(0, 256, (8, 3, 224, 224), dtype=lib.uint8)
    def __len__(self):
        return self.n
    def __getitem__(self, i):
        return self.bytes[i % 8].float().div_(255), i % 10

class Records(data.Dataset):
    def __len__(self):
        return 6400
    def __getitem__(self, i):
        return {"name": f"sample {i}", "x": np.full(64, i, np.float32), "weight": 0.5, "label": i % 10}

CASES = {
    "rows": (data.TensorDataset(lib.randn(64000, 128), lib.arange(64000)), 64),
    "images": (Images(640), 32),
    "records": (Records(), 64),
}
out = {}
for name, (dataset, size) in CASES.items():
    for workers in (0, 2):
        loader = data.DataLoader(dataset, size, shuffle=True, num_workers=workers)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            for batch in loader:
                pass
            times.append(time.perf_counter() - start)
        out[f"{name}, {workers} workers"] = min(times) / len(loader)
print(json.dumps(out))
"""


def main() -> None:
    """Measure and print the table."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    cli.add_argument("--rounds", type=int, default=3)
    rounds = cli.parse_args().rounds
    banner()
    libraries = ["kiln", *(["torch"] if peer("torch") else [])]
    runs: dict[str, list[dict[str, float]]] = {lib: [] for lib in libraries}
    for _ in range(rounds):
        for lib in libraries:
            runs[lib].append(fresh(CODE, lib))
    rows = []
    for case in runs["kiln"][0]:
        times = {lib: [run[case] for run in runs[lib]] for lib in libraries}
        row = [case, *(f"{1 / min(times[lib]):,.0f}" for lib in libraries)]
        if "torch" in times:
            value = ratio(times["kiln"], times["torch"])
            row += [f"{value:.2f}", verdict(value, at_most=1.0)]
        rows.append(row)
    head = ["", *(f"{lib}: batches/s" for lib in libraries)]
    table(head + ["time, of torch's", "bound"] * ("torch" in runs), rows)


if __name__ == "__main__":
    main()
