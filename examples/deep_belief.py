"""A deep belief network learns digits without labels, layer by layer, and then from 200 labels.

Stacked restricted Boltzmann machines, each trained by contrastive divergence on what the one below makes of the scans (G. Hinton,
S. Osindero, Y.-W. Teh, A Fast Learning Algorithm for Deep Belief Nets, Neural Computation 18, 2006); their weights begin a
network that is fine-tuned. The same network without that beginning is printed beside it. The picture shows the first layer's
filters and what the machines make of a scan on the way up and down.

Data: `kiln.datasets.load_digits`: 1,437 scans without labels, 200 of them with.
Expected: accuracy on 360 test digits, at least 0.90.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import kiln
import kiln.nn.functional as F
from kiln import Tensor, nn
from kiln.datasets import load_digits

LABELLED = 200


class RBM(nn.Module):
    """Units v and h in [0, 1] with the energy -v W h - b v - c h."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * kiln.randn(hidden, visible))
        self.b = nn.Parameter(kiln.zeros(visible))
        self.c = nn.Parameter(kiln.zeros(hidden))

    def up(self, v: Tensor) -> Tensor:
        """P(h = 1 | v)."""
        return F.linear(v, self.weight, self.c).sigmoid()

    def down(self, h: Tensor) -> Tensor:
        """P(v = 1 | h)."""
        return F.linear(h, self.weight.T, self.b).sigmoid()

    def free_energy(self, v: Tensor) -> Tensor:
        """-log of the sum over h of exp(-energy): its gradient is what learning needs."""
        return -(v @ self.b) - F.softplus(F.linear(v, self.weight, self.c)).sum(1)


def contrastive_divergence(rbm: RBM, data: Tensor, epochs: int, lr: float = 0.05) -> None:
    """Lower the energy of data and raise that of what the machine makes of it in one step (CD-1)."""
    optimizer = kiln.optim.SGD(rbm.parameters(), lr=lr, momentum=0.8, weight_decay=1e-4)

    @kiln.compile
    def step(v: Tensor) -> Tensor:
        with kiln.no_grad():
            dreamt = rbm.down(rbm.up(v).bernoulli())
        optimizer.zero_grad()
        loss = (rbm.free_energy(v) - rbm.free_energy(dreamt)).mean()
        loss.backward()
        optimizer.step()
        return (v - dreamt).square().mean()

    errors = [
        kiln.stack(
            [step(data[i]) for i in kiln.randperm(len(data))[: len(data) // 32 * 32].split(32)]
        )
        for _ in range(epochs)
    ]
    print(f"{rbm.weight.shape[1]} -> {rbm.weight.shape[0]}: what is read back differs by "
          f"{errors[0].mean().item():.4f} at first, by {errors[-1].mean().item():.4f} at last")  # fmt: skip


def fine_tune(rbms: list[RBM], x: Tensor, y: Tensor, epochs: int) -> nn.Sequential:
    """A network of sigmoid layers that begins where the machines are."""
    layers: list[nn.Module] = []
    for rbm in rbms:
        linear = nn.Linear(rbm.weight.shape[1], rbm.weight.shape[0])
        linear.load_state_dict({"weight": rbm.weight.detach(), "bias": rbm.c.detach()})
        layers += [linear, nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(rbms[-1].weight.shape[0], 10))
    trainer = kiln.Trainer(
        model, "cross_entropy", kiln.optim.Adam(model.parameters(), lr=3e-3), seed=0
    )
    trainer.fit((x, y), epochs=epochs, batch_size=20, verbose=False)
    return model


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    kiln.manual_seed(0)
    d = load_digits()
    x, test = d.train_images.flatten(1), d.test_images.flatten(1)
    widths = (64, 128, 96) if small else (64, 256, 128)
    rbms = [RBM(v, h) for v, h in pairwise(widths)]
    plain = [RBM(v, h) for v, h in pairwise(widths)]
    seen = x
    for rbm in rbms:
        contrastive_divergence(rbm, seen, epochs=20 if small else 60)
        with kiln.no_grad():
            seen = rbm.up(seen)

    epochs = 20 if small else 40

    def accuracy(machines: list[RBM]) -> float:
        model = fine_tune(machines, x[:LABELLED], d.train_labels[:LABELLED], epochs).eval()
        with kiln.no_grad():
            return (model(test).argmax(1) == d.test_labels).float().mean().item()

    value = accuracy(rbms)
    print(f"accuracy {value:.3f}; from random weights {accuracy(plain):.3f}")
    return {
        "metric": f"test accuracy from {LABELLED} labels", "value": value, "expected": 0.90,
        "higher": True, "pictures": [draw(out / "deep_belief.png", rbms, test[:8])],
    }  # fmt: skip


def draw(path: Path, rbms: list[RBM], scans: Tensor) -> Path:
    """Filters of the first layer; scans and what all layers read back of them."""
    import matplotlib.pyplot as plt

    with kiln.no_grad():
        back = scans
        for rbm in rbms:
            back = rbm.up(back)
        for rbm in reversed(rbms):
            back = rbm.down(back)
        filters = rbms[0].weight[:32]
    figure, axes = plt.subplots(6, 8, figsize=(7, 5.4))
    rows = kiln.cat([filters, scans, back]).reshape(-1, 8, 8).numpy()
    for i, (a, image) in enumerate(zip(axes.flat, rows, strict=True)):
        a.imshow(image, cmap="coolwarm" if i < 32 else "gray")
        a.set_xticks([])
        a.set_yticks([])
    for row, name in ((0, "filters"), (4, "scans"), (5, "read back")):
        axes[row, 0].set_ylabel(name)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path
