"""A deep stacking network: modules whose upper weights are solved for, each seeing what the one below said.

A module is one hidden layer. Its upper weights U follow from the lower ones W in closed form, U = (H^T H + a I)^-1 H^T T (ridge
regression on the hidden values H), so learning moves W alone, through the solution. The next module sees the input and the
predictions of all modules below (L. Deng, D. Yu, Deep Convex Net, Interspeech 2011; L. Deng, D. Yu, J. Platt, Scalable Stacking and
Learning for Building Deep Architectures, ICASSP 2012). The picture shows each module's error as it is trained.

Data: `kiln.datasets.load_digits`.
Expected: accuracy on 360 test digits, at least 0.965 (small: 0.95).
"""

from __future__ import annotations

from pathlib import Path

import kiln
import kiln.nn.functional as F
from kiln import Tensor, nn
from kiln.datasets import load_digits


class StackingModule(nn.Module):
    """One hidden layer: predictions are sigmoid(x W) U."""

    def __init__(self, inputs: int, hidden: int, classes: int, ridge: float = 0.5) -> None:
        super().__init__()
        self.lower = nn.Linear(inputs, hidden)
        self.upper: Tensor
        self.register_buffer("upper", kiln.zeros(hidden, classes))
        self.register_buffer("ridge", ridge * kiln.eye(hidden))

    def hidden(self, x: Tensor) -> Tensor:
        return self.lower(x).sigmoid()

    def solve(self, x: Tensor, target: Tensor) -> Tensor:
        """The best upper weights for what the lower ones are now; gradients pass through."""
        h = self.hidden(x)
        return kiln.linalg.solve(h.T @ h + self.ridge, h.T @ target)

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(x) @ self.upper


def train(module: StackingModule, x: Tensor, target: Tensor, steps: int) -> list[float]:
    """Move the lower weights down the error that remains after the upper ones are solved for."""
    optimizer = kiln.optim.Adam(module.lower.parameters(), lr=0.02)

    @kiln.compile
    def step() -> Tensor:
        optimizer.zero_grad()
        error = F.mse_loss(module.hidden(x) @ module.solve(x, target), target)
        error.backward()
        optimizer.step()
        return error

    errors = kiln.stack([step() for _ in range(steps)]).tolist()
    with kiln.no_grad():
        module.upper.copy_(module.solve(x, target))
    return errors


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    kiln.manual_seed(0)
    d = load_digits()
    train_x, test_x = d.train_images.flatten(1), d.test_images.flatten(1)
    target = F.one_hot(d.train_labels, 10).float()
    modules, hidden, steps = (3, 60, 25) if small else (4, 100, 60)
    seen, tested = train_x, test_x
    curves, value = [], 0.0
    for k in range(modules):
        module = StackingModule(seen.shape[1], hidden, 10)
        curves.append(train(module, seen, target, steps))
        with kiln.no_grad():
            said, heard = module(seen), module(tested)
        value = (heard.argmax(1) == d.test_labels).float().mean().item()
        print(f"module {k + 1}: error {curves[-1][-1]:.4f}, test accuracy {value:.3f}")
        seen, tested = kiln.cat([seen, said], 1), kiln.cat([tested, heard], 1)
    return {
        "metric": "test accuracy", "value": value, "expected": 0.95 if small else 0.965,
        "higher": True, "pictures": [draw(out / "deep_stacking.png", curves)],
    }  # fmt: skip


def draw(path: Path, curves: list[list[float]]) -> Path:
    """Each module's error on the training set."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    start = 0
    for k, curve in enumerate(curves, 1):
        axes.plot(range(start, start + len(curve)), curve, label=f"module {k}")
        start += len(curve)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("mean squared error")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path
