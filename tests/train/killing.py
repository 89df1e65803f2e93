"""Training that is killed at random instants while it saves every step, and goes on each time.

    python -m tests.train.killing --kills 50

Every resume must work, and the weights at the end must have the bits of a training that nobody killed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def train(folder: str | None, epochs: int) -> str:
    """Train with all that has state, from the newest checkpoint if there is one; gives the bits' digest."""
    import numpy as np

    import kiln
    from kiln import nn
    from kiln.data import DataLoader, Dataset
    from kiln.optim.lr_scheduler import CosineAnnealingLR
    from kiln.train import EarlyStopping, LambdaCallback, ModelCheckpoint, Schedule, Trainer

    r = np.random.default_rng(0)
    x = r.normal(size=(300, 16)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)

    class Noisy(Dataset):
        """Augments with numbers of all three streams."""

        def __getitem__(self, i):
            noise = np.random.normal() + random.gauss(0, 1) + kiln.randn(1).item()
            return x[i] + np.float32(0.01 * noise), y[i]

        def __len__(self):
            return len(x)

    anew = folder is None or not os.path.isdir(folder)
    kiln.manual_seed(0 if anew else os.getpid())  # what is resumed comes from no seed
    model = nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2)
    )
    trainer = Trainer(model, optimizer="adamw", metrics=["accuracy"], accumulate=2, seed=1)
    callbacks = [
        Schedule(lambda o: CosineAnnealingLR(o, 100), "step"),
        EarlyStopping(patience=10**6, restore_best_weights=True),
    ]
    if folder is not None:
        callbacks += [
            ModelCheckpoint(folder, save_freq=1),
            LambdaCallback(on_train_batch_end=lambda batch, logs: print("step", flush=True)),
        ]
        print("ready", flush=True)
    loader = DataLoader(Noisy(), batch_size=32, shuffle=True)
    history = trainer.fit(
        loader, val=(x[:64], y[:64]), epochs=epochs, verbose=0, callbacks=callbacks, resume=folder
    )
    digest = hashlib.sha256(repr(sorted(history.history.items())).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def child(*args: str) -> subprocess.Popen:
    """This program in a process of its own."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.killing", *args], stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT
    )  # fmt: skip


def finished(*args: str) -> str:
    """The digest that a run tells which nobody kills."""
    p = child(*args)
    out, _ = p.communicate(timeout=600)
    if p.returncode:
        raise RuntimeError(f"a training ended with {p.returncode}")
    return out.split()[-1]


def kill(p: subprocess.Popen, dice: random.Random, pace: list[float]) -> bool:
    """Kill it some steps on, at any instant of a step, or before its first; whether it was still there."""
    assert p.stdout is not None
    if p.stdout.readline().strip() != "ready":
        raise RuntimeError("a training did not begin")
    began = time.perf_counter()
    steps = dice.randrange(20)
    for i in range(steps):
        if not p.stdout.readline().startswith("step"):
            break
        now = time.perf_counter()
        pace[min(i, 1)], began = now - began, now  # the first takes as long as starting does
    time.sleep(dice.uniform(0, 2) * pace[min(steps, 1)])
    p.send_signal(signal.SIGKILL)
    p.communicate()
    return p.returncode == -signal.SIGKILL


def torture(kills: int, epochs: int, seed: int = 0, tell: Callable = print) -> tuple[int, int]:
    """Kill trainings until there were so many kills; gives (kills, trainings), raises where bits differ."""
    wanted = finished("--epochs", str(epochs))
    dice, pace, done, trainings = random.Random(seed), [0.5, 0.01], 0, 0
    while done < kills:
        with tempfile.TemporaryDirectory(prefix="kiln-kill-") as place:
            folder = Path(place) / "checkpoints"
            args = ("--epochs", str(epochs), "--folder", str(folder))
            while done < kills and kill(child(*args), dice, pace):
                done += 1
                newest = max((f.name for f in folder.glob("epoch*")), default="before the first")
                tell(f"kill {done}: {newest}")
            got = finished(*args)
        trainings += 1
        if got != wanted:
            raise AssertionError(f"after {done} kills the bits differ: {got} is not {wanted}")
    return done, trainings


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--kills", type=int)
    p.add_argument("--epochs", type=int, default=40)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--folder")
    a = p.parse_args()
    if a.kills is None:
        print(train(a.folder, a.epochs))
        return
    done, trainings = torture(a.kills, a.epochs, a.seed)
    print(f"{done} kills in {trainings} trainings: every one went on, to the same bits")


if __name__ == "__main__":
    main()
