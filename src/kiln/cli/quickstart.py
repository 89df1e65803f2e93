"""Train a small convolutional network on 1,797 scanned digits, and see what it learnt.

The same training step runs twice, from the same weights on the same batches: eager, one operation
after the other, for a while; then compiled whole into one native call, to the end. You get the test
accuracy, both speeds, a checkpoint, curves for TensorBoard and a picture.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import KilnError
from ..extras import need

NAME = "quickstart"
SUMMARY = "train a small network on real digits, eager and compiled, and look at the result"
TARGET = 0.97
EAGER_STEPS = 100
EPOCHS = 15
BATCH = 64


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The options of `kiln quickstart`."""
    p.add_argument(
        "--out", type=Path, default=Path("kiln-quickstart"), metavar="DIR",
        help="folder for the checkpoint, the curves and the picture (default: ./kiln-quickstart)",
    )  # fmt: skip
    p.add_argument(
        "--epochs",
        type=_positive,
        default=EPOCHS,
        metavar="N",
        help="passes over the data (default: %(default)s)",
    )
    p.add_argument(
        "--seed", type=int, default=0, help="of the weights and of the batches (default: 0)"
    )
    p.add_argument(
        "--backend", choices=("cpu", "reference"), default="cpu",
        help="where the compiled step runs: LLVM kernels, or NumPy, which defines their results",
    )  # fmt: skip


def _positive(text: str) -> int:
    n = int(text)
    if n < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return n


@dataclass
class Run:
    """What one training left behind: losses and seconds by step, accuracies by epoch."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    @property
    def step_time(self) -> float:
        """A typical step, in seconds."""
        return statistics.median(self.seconds)

    @property
    def start_cost(self) -> float:
        """How many seconds the first steps took beyond typical ones: capture and compilation."""
        return sum(max(0.0, s - self.step_time) for s in self.seconds[:3])


def build(seed: int) -> Any:
    """The network: two convolutions and a linear layer, with 10,026 weights."""
    import kiln
    from kiln import nn

    kiln.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, 10),
    )  # fmt: skip


def training_step(model: Any, optimizer: Any) -> Callable:
    """One step, as one writes it for PyTorch."""
    import kiln.nn.functional as F

    def step(images: Any, labels: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def train(
    run: Run, step: Callable, loader: Any, schedule: Any, epochs: int, seed: int
) -> Iterator[int]:
    """Take steps and note losses and times; yields after each step whether an epoch has ended."""
    import kiln

    kiln.manual_seed(seed)
    for _ in range(epochs):
        for i, (images, labels) in enumerate(loader, 1):
            start = time.perf_counter()
            loss = step(images, labels)
            run.seconds.append(time.perf_counter() - start)
            run.losses.append(loss.item())
            if i == len(loader):
                schedule.step()
            yield i == len(loader)


def predict(model: Any, images: Any) -> Any:
    """The most likely digit for each image."""
    import kiln

    model.eval()
    with kiln.no_grad():
        digits = model(images).argmax(1)
    model.train()
    return digits


def run(args: argparse.Namespace) -> int:
    """Everything, in order; gives the exit status."""
    from rich.console import Console

    console = Console(highlight=False)
    need("matplotlib", "demo", "quickstart")
    out = writable_folder(args.out)
    import kiln
    from kiln.data import DataLoader, TensorDataset
    from kiln.datasets import load_digits

    digits = load_digits()
    loader = DataLoader(
        TensorDataset(digits.train_images, digits.train_labels),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
    )
    total = len(loader) * args.epochs
    console.print(
        f"[bold]Kiln {kiln.__version__}[/]: {len(digits.train_labels):,} digits to learn from, "
        f"{len(digits.test_labels)} to be tested on"
    )

    def prepare() -> tuple[Any, Any, Any]:
        model = build(args.seed)
        optimizer = kiln.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
        return model, optimizer, kiln.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)

    def test(model: Any) -> float:
        return (predict(model, digits.test_images) == digits.test_labels).float().mean().item()

    eager, compiled = Run(), Run()
    with progress_bar(console) as bar:
        model, optimizer, schedule = prepare()
        shown = bar.add_task("eager", total=min(EAGER_STEPS, total), note="")
        for _ in train(
            eager, training_step(model, optimizer), loader, schedule, args.epochs, args.seed
        ):
            bar.update(shown, advance=1, note=f"loss {eager.losses[-1]:.3f}")
            if len(eager.losses) == EAGER_STEPS:
                break

        model, optimizer, schedule = prepare()
        step = kiln.compile(training_step(model, optimizer), backend=args.backend)
        shown = bar.add_task("compiled", total=total, note="compiling")
        for epoch_ended in train(compiled, step, loader, schedule, args.epochs, args.seed):
            if epoch_ended:
                compiled.accuracies.append(test(model))
            accuracy = (
                f", test accuracy {compiled.accuracies[-1]:.1%}" if compiled.accuracies else ""
            )
            bar.update(shown, advance=1, note=f"loss {compiled.losses[-1]:.3f}{accuracy}")

    accuracy = compiled.accuracies[-1]
    report(console, eager, compiled, accuracy)
    checkpoint, curves, picture = out / "digits.kiln", out / "board", out / "digits.png"
    guesses = predict(model, digits.test_images)
    round_trip(checkpoint, model, optimizer, args.seed, digits.test_images, guesses)
    write_curves(curves, eager, compiled)
    draw(picture, eager, compiled, digits.test_images, digits.test_labels, guesses)
    tell(console, checkpoint, curves, picture)
    if accuracy < TARGET:
        raise KilnError(
            "quickstart", f"test accuracy is below {TARGET:.0%}: the network did not learn as it should",
            f"{accuracy:.1%} after {args.epochs} epochs, last loss {compiled.losses[-1]:.3f}",
            f"train longer (--epochs {EPOCHS}), or compare with --backend reference and report what differs",
        )  # fmt: skip
    return 0


def writable_folder(path: Path) -> Path:
    """The folder, made where it is not there; an error before any work where it can't be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise KilnError(
            "quickstart", f"can't write results here: {e.strerror}", str(path.absolute()),
            "choose another folder: kiln quickstart --out DIR",
        ) from None  # fmt: skip
    return path


def progress_bar(console: Any) -> Any:
    """A live bar: name, bar, steps, time, and a note."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description:>9}"), BarColumn(28), MofNCompleteColumn(), TextColumn("steps"),
        TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=console,
    )  # fmt: skip


def report(console: Any, eager: Run, compiled: Run, accuracy: float) -> None:
    """Accuracy, both speeds, what compiling cost, and how far the two runs are apart."""
    n = min(len(eager.losses), len(compiled.losses))
    pairs = zip(eager.losses[:n], compiled.losses[:n], strict=True)
    apart = max(abs(a - b) / max(abs(a), 1e-6) for a, b in pairs)
    mark = "green" if accuracy >= TARGET else "red"
    console.print(f"test accuracy  [bold {mark}]{accuracy:.1%}[/] (at least {TARGET:.0%} is due)")
    console.print(f"eager          {1 / eager.step_time:,.0f} steps/s of {BATCH} images")
    faster = eager.step_time / compiled.step_time
    console.print(
        f"compiled       {1 / compiled.step_time:,.0f} steps/s, {faster:.1f} times as many"
    )
    console.print(
        f"compiling      {compiled.start_cost:.2f} s, once; the next run finds the kernels in the cache"
    )
    console.print(
        f"losses         of the first {n} steps, eager and compiled, agree within {apart:.0e}"
    )


def round_trip(
    path: Path, model: Any, optimizer: Any, seed: int, images: Any, guesses: Any
) -> None:
    """Save the training, load it into a new network, and check that it predicts the same."""
    import kiln

    kiln.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    again = build(seed + 1)
    again.load_state_dict(kiln.load(path)["model"])
    if not kiln.equal(predict(again, images), guesses):
        raise KilnError(
            "quickstart", "the network that was loaded back predicts other digits than the one saved",
            str(path), "please report this",
        )  # fmt: skip


def write_curves(folder: Path, eager: Run, compiled: Run) -> None:
    """The curves as TensorBoard's event files, one folder for each run."""
    from kiln.board import SummaryWriter

    for name, run in (("eager", eager), ("compiled", compiled)):
        with SummaryWriter(folder / name) as board:
            for i, loss in enumerate(run.losses, 1):
                board.add_scalar("loss/train", loss, i)
            per_epoch = len(run.losses) // max(len(run.accuracies), 1)
            for i, accuracy in enumerate(run.accuracies, 1):
                board.add_scalar("accuracy/test", accuracy, i * per_epoch)


def draw(path: Path, eager: Run, compiled: Run, images: Any, labels: Any, guesses: Any) -> None:
    """The picture: loss curves, accuracy, and test digits with what the network took them for."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(12, 8.5), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(figure)
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.35))
    left, right = above.subplots(1, 2)
    steps = range(1, len(compiled.losses) + 1)
    left.plot(steps, compiled.losses, color="#d95f02", lw=1.2, label="compiled")
    left.plot(range(1, len(eager.losses) + 1), eager.losses, "k--", lw=1, label="eager, same steps")
    left.set(title="training loss", xlabel="step", yscale="log")
    left.legend(frameon=False)
    right.plot(range(1, len(compiled.accuracies) + 1), compiled.accuracies, "o-", color="#1b9e77")
    right.axhline(TARGET, color="0.6", lw=0.8, ls=":")
    right.set(title=f"test accuracy: {compiled.accuracies[-1]:.1%}", xlabel="epoch")
    right.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)

    wrong = (guesses != labels).tolist()
    shown = sorted(range(len(wrong)), key=lambda i: not wrong[i])[:48]
    below.suptitle(
        f"test digits and what the network reads; the {sum(wrong)} mistakes come first, in red"
    )
    pictures, truth, read = images.numpy()[:, 0], labels.tolist(), guesses.tolist()
    # one picture of all: axes of its own for each digit would take three times as long
    (_, h, w), gap, beside = pictures.shape, 5, 4
    sheet = np.zeros((4 * (h + gap), 12 * (w + beside)), pictures.dtype)
    axes = below.subplots()
    for n, i in enumerate(shown):
        y, x = n // 12 * (h + gap) + gap, n % 12 * (w + beside) + beside // 2
        sheet[y : y + h, x : x + w] = pictures[i]
        axes.text(
            x + (w - 1) / 2, y - 1.5, f"{read[i]}, is {truth[i]}" if wrong[i] else str(read[i]),
            fontsize=11, ha="center", color="#c1121f" if wrong[i] else "#1b7f4d",
        )  # fmt: skip
    axes.imshow(sheet, cmap="gray_r", interpolation="nearest")
    axes.set_axis_off()
    figure.savefig(path, dpi=110)


def tell(console: Any, checkpoint: Path, curves: Path, picture: Path) -> None:
    """Where everything is, and what to try next."""
    console.print(
        f"checkpoint     {checkpoint} (saved, loaded back, predicts the same)", soft_wrap=True
    )
    console.print(f"picture        {picture}", soft_wrap=True)
    console.print(f"curves         {curves}; see them with: kiln board {curves}", soft_wrap=True)
    console.print("\ntry next", soft_wrap=True)
    console.print("  kiln quickstart                  again: kernels now come from the disk cache")
    console.print("  KILN_DEBUG=2 kiln quickstart     kernel times; 1 to 6 show ever more")
    console.print(f"  {Path(__file__)}", soft_wrap=True)
    console.print(
        "                                   this program, plain Python to read and change"
    )
