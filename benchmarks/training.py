"""What a Trainer costs a step over the compiled loop that one would write by hand, at steps of about 1 ms.

The same network on the same batches, in one process and taking turns: a loop over the loader with a compiled step that
adds up its loss; `Trainer.fit`; with a metric, a line of progress and validation's machinery; and with a checkpoint of
everything every 100 steps, written on another thread. Times are of the training thread's processor, medians over rounds and over networks made anew.
Run: `python -m benchmarks.training`
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from .common import banner, table, verdict

WIDTH, BATCH, STEPS = 640, 64, 200


def forms(folder: str) -> dict[str, Callable[[], None]]:
    """Name and one epoch of each form."""
    import kiln
    import kiln.nn.functional as F
    from kiln import nn
    from kiln.data import DataLoader, TensorDataset
    from kiln.train import Callback, EarlyStopping, ModelCheckpoint, Trainer

    x, y = kiln.randn(BATCH * STEPS, 64), kiln.randint(0, 10, (BATCH * STEPS,))
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)

    def model() -> nn.Module:
        kiln.manual_seed(0)
        return nn.Sequential(
            nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
        )  # fmt: skip

    own = model()
    optimizer = kiln.optim.Adam(own.parameters())

    @kiln.compile
    def step(x: kiln.Tensor, y: kiln.Tensor) -> kiln.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(own(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def bare() -> None:
        total = 0.0
        for batch in loader:
            total += step(*batch).item()

    def fit(*callbacks: Callback, verbose: int = 0, **options: Any) -> Callable[[], None]:
        trainer = Trainer(model(), **options)

        def epoch() -> None:
            trainer.fit(loader, verbose=verbose, callbacks=callbacks)

        return epoch

    return {
        "a compiled loop": bare,
        "Trainer": fit(),
        "with a metric, a callback and lines": fit(
            EarlyStopping("loss", patience=99), verbose=2, metrics=["accuracy"]
        ),
        "saving all every 100 steps": fit(ModelCheckpoint(folder, save_freq=100, keep=1)),
    }


def main() -> None:
    """Measure and print the table."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--instances", type=int, default=4)
    args = cli.parse_args()
    import kiln

    kiln.set_num_threads(1)  # so that all of a step's work is on the thread whose time is taken
    banner()
    seconds: dict[str, list[float]] = {}
    for _ in range(
        args.instances
    ):  # memory lies elsewhere each time, which is worth percents by itself
        with tempfile.TemporaryDirectory() as folder:
            cases = forms(folder)
            for i in range(args.rounds + 1):
                for name, epoch in cases.items():
                    start = time.thread_time()
                    epoch()
                    if i:
                        taken = (time.thread_time() - start) / STEPS
                        seconds.setdefault(name, []).append(taken)
    base, *_ = seconds.values()
    rows = []
    for name, taken in seconds.items():
        more = statistics.median(taken) / statistics.median(base) - 1
        bound = verdict(1 + more, at_most=1.05) if name == "Trainer" else ""
        rows.append([name, f"{statistics.median(taken) * 1e6:.0f} µs", f"{more:+.1%}", bound])
    table(["form", "a step", "over the loop", "bound"], rows)


if __name__ == "__main__":
    main()
