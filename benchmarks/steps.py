"""Whole training steps: Kiln eager, Kiln compiled and torch eager, at one and two threads.

Each runs in a process of its own, and only one works at a time: rounds of blocks of steps, with a
pause before each block in which the other's OpenMP threads, which spin for a while, fall asleep.
All start from the same weights and see the same batches. A step is zero_grad, forward, cross
entropy, backward and AdamW, in wall-clock time; a block's figure is its median step.

Before that, the losses of all three over 100 steps are compared, with dropout off, as torch draws
other random numbers. Then the quickstart's own training, with its dropout and its shuffled batches
(and once more with the batches in order), is run eager and compiled from several seeds; beside each,
what an eager run does whose first weights are off by two units in the last place: how far rounding
alone can carry the curves apart.
Run: `python -m benchmarks.steps`
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import banner, peer, ratio, table, two_cores, verdict
from .crew import Crew, WorkerGone, serve

KINDS = ("kiln eager", "kiln compiled", "torch eager")
MODELS = {"cnn": "quickstart's CNN, batch 64", "mlp": "MLP 64-32-10, batch 32"}
BATCH = {"cnn": 64, "mlp": 32}
BLOCK_SECONDS = 0.4
LOSSES = 100
PAUSE = 0.25  # seconds, well beyond how long an idle OpenMP thread spins


def network(lib: Any, model: str, dropout: float) -> Any:
    """The network in Kiln or in torch; the CNN is that of `kiln quickstart`."""
    nn = lib.nn
    if model == "mlp":
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(512, 10),
    )  # fmt: skip


def problem(model: str) -> dict[str, Any]:
    """Weights and batches as arrays, the same for all."""
    import numpy as np

    import kiln
    from kiln.datasets import load_digits

    kiln.manual_seed(0)
    digits, n = load_digits(), BATCH[model]
    images, labels = digits.train_images.numpy(), digits.train_labels.numpy()
    if model == "mlp":
        images = images.reshape(-1, 64)
    k = len(labels) // n
    arrays = {
        f"w{i}": p.detach().numpy() for i, p in enumerate(network(kiln, model, 0.3).parameters())
    }
    return {
        "x": np.ascontiguousarray(images[: k * n].reshape(k, n, *images.shape[1:])),
        "y": np.ascontiguousarray(labels[: k * n].reshape(k, n)),
        **arrays,
    }


class Worker:
    """One kind at work in this process: takes `losses` and `block` orders as JSON lines."""

    def __init__(self, kind: str, model: str, threads: int, file: str):
        import importlib

        import numpy as np

        self.kind, self.model = kind, model
        self.lib = importlib.import_module("torch" if kind.startswith("torch") else "kiln")
        self.lib.set_num_threads(threads)
        self.data = np.load(file)
        x, y = (self.lib.from_numpy(self.data[k]) for k in "xy")
        self.batches = [(x[i], y[i]) for i in range(len(x))]

    def prepare(self, dropout: float) -> Callable:
        """A training step from the initial weights."""
        lib = self.lib
        net = network(lib, self.model, dropout)
        with lib.no_grad():
            for i, p in enumerate(net.parameters()):
                p.copy_(lib.from_numpy(self.data[f"w{i}"]))
        opt = lib.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
        cross_entropy = lib.nn.functional.cross_entropy

        def step(x: Any, y: Any) -> Any:
            opt.zero_grad()
            loss = cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            return loss.detach()

        lib.manual_seed(0)
        return lib.compile(step) if self.kind == "kiln compiled" else step

    def losses(self) -> list[float]:
        """The loss of each of the first steps, with dropout off."""
        step, b = self.prepare(0.0), self.batches
        return [step(*b[i % len(b)]).item() for i in range(LOSSES)]

    @functools.cached_property
    def step(self) -> Callable:
        """The step that blocks are made of, with dropout on."""
        return self.prepare(0.3)

    def block(self) -> float:
        """The median step of a block, in seconds."""
        step = self.step
        times: list[float] = []
        b, until, clock = self.batches, time.perf_counter() + BLOCK_SECONDS, time.perf_counter
        for i in range(5):
            step(*b[i])
        while clock() < until or len(times) < 10:
            x, y = b[len(times) % len(b)]
            start = clock()
            step(x, y)
            times.append(clock() - start)
        return statistics.median(times)

    def serve(self) -> None:
        """Answer orders until there are no more."""
        serve({"losses": self.losses, "block": self.block})


def crew(kinds: list[str], model: str, threads: int, file: str) -> Crew:
    """A process for each kind."""
    argv = ["-m", f"{__package__}.steps", "--worker"]
    # eager Kiln multiplies in NumPy's BLAS, whose threads it does not set
    env = {k: {"OPENBLAS_NUM_THREADS": str(threads)} for k in kinds}
    return Crew({k: [*argv, k, model, str(threads), file] for k in kinds}, env)


def apart(a: list[float], b: list[float]) -> float:
    """The largest relative distance of two loss curves."""
    return max(abs(p - q) / max(abs(p), abs(q)) for p, q in zip(a, b, strict=True))


def measure(model: str, threads: int, kinds: list[str], rounds: int) -> tuple[list[str], list[str]]:
    """The rows for speeds and for losses of a model at a number of threads."""
    with tempfile.TemporaryDirectory() as folder:
        import numpy as np

        file = str(Path(folder) / "problem.npz")
        np.savez(file, **problem(model))
        with crew(kinds, model, threads, file) as workers:
            curves = {k: workers.ask(k, "losses") for k in kinds}
            times: dict[str, list[float]] = {k: [] for k in kinds}
            for i in range(rounds + 1):
                for k in kinds:
                    time.sleep(PAUSE)
                    seconds = workers.ask(k, "block")
                    if i:  # the first round warms up
                        times[k].append(seconds)
    eager, compiled, torch = KINDS
    name = f"{MODELS[model]}, {threads} thread{'s' * (threads > 1)}"
    losses = apart(curves[eager], curves[compiled])
    row = [
        name,
        *(f"{statistics.median(times[k]) * 1e6:.0f}" if k in times else "-" for k in KINDS),
    ]
    gain = ratio(times[eager], times[compiled])
    row.append(f"{gain:.2f}" + (f" ({verdict(gain, at_least=3)})" if model == "mlp" else ""))
    agree = [name, f"{losses:.1e} ({verdict(losses, at_most=1e-4)})"]
    if torch in kinds:
        against = ratio(times[torch], times[compiled])
        due = (model, threads) == ("cnn", 2)
        best = min(times[torch]) / min(times[compiled])
        row.append(f"{against:.2f}" + (f" ({verdict(against, at_least=1)})" if due else ""))
        row.append(f"{best:.2f}")
        agree.append(f"{apart(curves[compiled], curves[torch]):.1e}")
    else:
        row += ["-", "-"]
        agree.append("-")
    return row, agree


def quickstart_losses(
    seed: int, shuffle: bool, compiled: bool = False, off: float = 0.0
) -> list[float]:
    """The first losses of `kiln quickstart`; `off` scales the first weights by 1 + off."""
    import kiln
    from kiln.cli import quickstart as q
    from kiln.data import DataLoader, TensorDataset
    from kiln.datasets import load_digits

    digits = load_digits()
    data = TensorDataset(digits.train_images, digits.train_labels)
    loader = DataLoader(data, batch_size=q.BATCH, shuffle=shuffle, drop_last=True)
    model = q.build(seed)
    with kiln.no_grad():
        for p in model.parameters():
            p.mul_(1 + off)
    opt = kiln.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = kiln.optim.lr_scheduler.CosineAnnealingLR(opt, q.EPOCHS)
    step = q.training_step(model, opt)
    run = q.Run()
    steps = q.train(run, kiln.compile(step) if compiled else step, loader, schedule, q.EPOCHS, seed)
    for _, _ in zip(range(LOSSES), steps, strict=False):
        pass
    return run.losses


def quickstart_rows(seeds: int) -> list[list[str]]:
    """How far apart eager and compiled training are from each seed; the quickstart's is 0."""
    rows = []
    for shuffle in (True, False):
        for seed in range(seeds):
            eager = quickstart_losses(seed, shuffle)
            far = apart(eager, quickstart_losses(seed, shuffle, compiled=True))
            control = apart(eager, quickstart_losses(seed, shuffle, off=2e-7))
            name = f"{seed}, {'shuffled' if shuffle else 'in order'}"
            rows.append([name, f"{far:.1e} ({verdict(far, at_most=1e-4)})", f"{control:.1e}"])
    return rows


def main() -> None:
    """Print a table of speeds and two of losses."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    cli.add_argument("--rounds", type=int, default=7, help="blocks of each kind (default: 7)")
    cli.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    cli.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    cli.add_argument("--seeds", type=int, default=5, help="of the quickstart's losses (default: 5)")
    cli.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = cli.parse_args()
    if options.worker:
        kind, model, threads, file = options.worker
        Worker(kind, model, int(threads), file).serve()
        return
    from kiln.extras import KilnImportError

    kinds = list(KINDS) if peer("torch") is not None else list(KINDS[:2])
    banner()
    before = two_cores()
    try:
        rows = [
            measure(m, t, kinds, options.rounds) for m in options.models for t in options.threads
        ]
    except KilnImportError as e:
        raise SystemExit(str(e)) from None
    except WorkerGone as e:
        raise SystemExit(f"benchmarks.steps: {e}, see above") from None
    print(
        f"two processes at once: the work of {before:.2f} cores before, {two_cores():.2f} after\n"
    )
    table(
        ["training step", *(f"{k} µs" for k in KINDS), "kiln eager / compiled", "torch / compiled", "of best blocks"],
        [r for r, _ in rows],
    )  # fmt: skip
    table([f"losses over {LOSSES} steps, no dropout", "kiln eager and compiled", "kiln compiled and torch"],
          [a for _, a in rows])  # fmt: skip
    table(["quickstart's losses, seed", "eager and compiled", "eager and eager, weights off by 2e-7"],
          quickstart_rows(options.seeds))  # fmt: skip


if __name__ == "__main__":
    main()
