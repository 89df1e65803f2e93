"""A graph network tells from two labels whom each member of a karate club followed when it split.

Two graph convolutions over the friendships (T. Kipf, M. Welling, Semi-Supervised Classification with Graph Convolutional
Networks, ICLR 2017). All that is told is the side of the instructor and that of the administrator; members have no features.

Data: `kiln.datasets.load_karate_club`, Zachary's 34 members and 78 friendships.
Expected: accuracy over the 32 others, at least 0.93 (two may be wrong; the mean of 10 beginnings, 3 in the small form).
The picture: members lie as far apart as friendships lie between them.
"""

from __future__ import annotations

from pathlib import Path

import kiln
import kiln.nn.functional as F
from kiln import Tensor, nn
from kiln.datasets import load_karate_club
from kiln.datasets.karate import KarateClub

KNOWN = [0, 33]


class GCN(nn.Module):
    """Each layer mixes a node's features with its neighbours', by `mixing` f32[n, n]."""

    def __init__(self, mixing: Tensor, hidden: int = 16) -> None:
        super().__init__()
        self.mixing: Tensor
        self.register_buffer("mixing", mixing)
        self.first = nn.Linear(len(mixing), hidden, bias=False)
        self.second = nn.Linear(hidden, 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.mixing @ self.second(F.relu(self.mixing @ self.first(features)))


def mixing_of(adjacency: Tensor) -> Tensor:
    """D^-1/2 (A + I) D^-1/2: neighbours and oneself, weighted by how many friends either has."""
    linked = adjacency + kiln.eye(len(adjacency))
    scale = linked.sum(1).rsqrt()
    return scale[:, None] * linked * scale


def train(club: KarateClub, seed: int, steps: int) -> Tensor:
    """Logits f32[34, 2] after training on the labels of `KNOWN`."""
    kiln.manual_seed(seed)
    model = GCN(mixing_of(club.adjacency()))
    features = kiln.eye(len(club.labels))
    optimizer = kiln.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)

    @kiln.compile
    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(features)[KNOWN], club.labels[KNOWN])
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(steps):
        step()
    with kiln.no_grad():
        return model(features)


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    club = load_karate_club()
    runs = [train(club, seed, 100) for seed in range(3 if small else 10)]
    others = kiln.ones(len(club.labels), dtype=kiln.bool)
    others[KNOWN] = False
    right = [(x.argmax(1) == club.labels)[others].float().mean().item() for x in runs]
    print("accuracies", ", ".join(f"{r:.3f}" for r in right))
    return {
        "metric": "accuracy", "value": sum(right) / len(right), "expected": 0.93,
        "higher": True, "pictures": [draw(out / "gcn_karate.png", club, runs[0].softmax(1)[:, 1])],
    }  # fmt: skip


def layout(adjacency: Tensor, steps: int = 300) -> Tensor:
    """Places f32[n, 2], each two as far apart as there are friendships between them (T. Kamada, S. Kawai, 1989)."""
    n = len(adjacency)
    away, reach, known = kiln.full((n, n), float(n)), kiln.eye(n), kiln.eye(n) > 0
    for k in range(1, n):
        reach = ((reach @ adjacency + reach) > 0).float()
        away[(reach > 0) & ~known] = float(k)
        known = reach > 0
    at = nn.Parameter(kiln.randn(n, 2))
    optimizer = kiln.optim.Adam([at], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        apart = (at[:, None] - at).square().sum(-1).add(1e-6).sqrt()
        (apart / away - 1).square().triu(1).sum().backward()
        optimizer.step()
    return at.detach()


def draw(path: Path, club: KarateClub, side: Tensor) -> Path:
    """The club: colours are what the network says, rims the truth."""
    import matplotlib.pyplot as plt

    at = layout(club.adjacency()).numpy()
    figure, axes = plt.subplots(figsize=(6, 5))
    for a, b in club.edges.T.tolist():
        axes.plot(at[[a, b], 0], at[[a, b], 1], color="0.8", linewidth=0.6, zorder=1)
    rims = ["tab:blue" if label == 0 else "tab:red" for label in club.labels.tolist()]
    axes.scatter(*at.T, c=side.numpy(), cmap="coolwarm", vmin=0, vmax=1, s=260, edgecolors=rims, linewidths=2, zorder=2)  # fmt: skip
    for i, (x, y) in enumerate(at):
        axes.text(x, y, str(i), ha="center", va="center", fontsize=7)
    axes.set_title("fill: the network's guess, rim: the truth; 0 and 33 were told")
    axes.axis("off")
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    return path
