"""A generative adversarial network learns a ring of eight clouds of points.

I. Goodfellow et al., Generative Adversarial Nets (2014): two perceptrons, one that makes points of noise, one that tells
them from true ones; both steps are one compiled program. The points are drawn by rule, eight Gaussians on a circle, the
usual trial of whether a generator forgets part of what it saw. Expected: the part of 4,000 made points
that lie within four standard deviations of a cloud's middle, times the part of the clouds that have at least 40 % of their
share of them, at least 0.80 (0.50 in the small form). The picture shows true and made points.
"""

from __future__ import annotations

import math
from pathlib import Path

import kiln
import kiln.nn.functional as F
from kiln import nn

NOISE, STD = 16, 0.06
ANGLES = kiln.arange(8) * (math.pi / 4)
MIDDLES = kiln.stack([ANGLES.cos(), ANGLES.sin()], dim=1)


def true_points(n: int):
    """Points f32[n, 2], each of one of the eight clouds."""
    return MIDDLES[kiln.randint(0, 8, (n,))] + STD * kiln.randn(n, 2)


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2),
        nn.Linear(128, outputs),
    )  # fmt: skip


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw the points."""
    kiln.manual_seed(0)
    generator, critic = perceptron(NOISE, 2), perceptron(2, 1)
    opt_g = kiln.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    opt_c = kiln.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9))
    steps, n = 2500 if small else 8000, 256
    averaged = kiln.optim.swa_utils.AveragedModel(
        generator, multi_avg_fn=kiln.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )

    @kiln.compile
    def step():
        true, made = true_points(n), generator(kiln.randn(n, NOISE))
        opt_c.zero_grad()
        blur = 0.05 * kiln.randn(n, 2)  # of both, or the critic knows the true ones too soon
        loss_c = (
            F.softplus(-critic(true + blur)).mean()
            + F.softplus(critic(made.detach() + blur)).mean()
        )
        loss_c.backward()
        opt_c.step()
        opt_g.zero_grad()
        loss_g = F.softplus(-critic(made + blur)).mean()
        loss_g.backward()
        opt_g.step()
        return loss_c, loss_g

    for _ in range(steps):
        step()
        averaged.update_parameters(generator)

    with kiln.no_grad():
        made = averaged.module(kiln.randn(4000, NOISE))
    distance, cloud = kiln.cdist(made, MIDDLES).min(dim=1)
    near = distance < 4 * STD
    share = kiln.bincount(cloud[near], minlength=8) / (len(made) / 8)
    draw(true_points(1500).numpy(), made[:1500].numpy(), out / "gan.png")
    return {
        "metric": "points near a cloud x clouds that have their share",
        "value": float(near.float().mean() * share.clamp(max=1).gt(0.4).float().mean()),
        "expected": 0.5 if small else 0.8,
        "higher": True,
        "pictures": [out / "gan.png"],
    }


def draw(true, made, path: Path) -> None:
    """Save true and made points side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    for ax, points, title in zip(
        figure.subplots(1, 2), (true, made), ("true", "made"), strict=True
    ):
        ax.scatter(*points.T, s=3, alpha=0.5)
        ax.set(title=title, xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
    figure.savefig(path, dpi=110)
