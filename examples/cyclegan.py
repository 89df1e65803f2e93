"""A cycle GAN learns to turn chalk into ink, from pictures that are no pairs.

Two generators translate digits in chalk on a blackboard to digits in ink on paper, and back. All they are told is whether two
discriminators take what they make for real, and that there and back again must end where it began (J.-Y. Zhu, T. Park, P. Isola, A. Efros,
ICCV 2017). The scans in chalk and those in ink are of different digits; that the true translation is known serves the test alone.

Data: `kiln.datasets.load_digits`, coloured by a rule.
Expected: mean absolute error of the translations of test digits, at most 0.04 (small: 0.05; untranslated: 0.54).
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import kiln
from examples.pictures import image_rows
from kiln import Tensor, nn
from kiln.datasets import load_digits

BOARD, CHALK = kiln.tensor([0.10, 0.25, 0.18]), kiln.tensor([0.95, 0.95, 0.90])
PAPER, INK = kiln.tensor([0.96, 0.90, 0.72]), kiln.tensor([0.10, 0.12, 0.55])


def color(scans: Tensor, ground: Tensor, pen: Tensor) -> Tensor:
    """From f32[n, 1, 8, 8] to f32[n, 3, 8, 8]: `ground` where a scan is 0 and `pen` where it is 1."""
    return ground[:, None, None] + scans * (pen - ground)[:, None, None]


def generator(width: int) -> nn.Sequential:
    """Pictures to pictures, both in [0, 1]."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.InstanceNorm2d(width, affine=True), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.InstanceNorm2d(width, affine=True), nn.ReLU(),
        nn.Conv2d(width, 3, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip


def discriminator(width: int) -> nn.Sequential:
    """How real each patch of a picture looks: 1 real, 0 made."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 3, padding=1),
    )  # fmt: skip


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    kiln.manual_seed(0)
    d = load_digits()
    chalk = color(d.train_images[:700], BOARD, CHALK)
    ink = color(d.train_images[700:1400], PAPER, INK)
    width, epochs = (16, 20) if small else (32, 100)
    to_ink, to_chalk = generator(width), generator(width)
    is_ink, is_chalk = discriminator(width), discriminator(width)
    make = kiln.optim.Adam(
        chain(to_ink.parameters(), to_chalk.parameters()), 2e-3, betas=(0.5, 0.999)
    )
    judge = kiln.optim.Adam(
        chain(is_ink.parameters(), is_chalk.parameters()), 1e-3, betas=(0.5, 0.999)
    )

    @kiln.compile
    def step(a: Tensor, b: Tensor) -> Tensor:
        make.zero_grad()
        made_b, made_a = to_ink(a), to_chalk(b)
        fooled = (is_ink(made_b) - 1).square().mean() + (is_chalk(made_a) - 1).square().mean()
        cycle = (to_chalk(made_b) - a).abs().mean() + (to_ink(made_a) - b).abs().mean()
        (fooled + 10 * cycle).backward()
        make.step()
        judge.zero_grad()
        made_a, made_b = made_a.detach(), made_b.detach()
        real = (is_chalk(a) - 1).square().mean() + (is_ink(b) - 1).square().mean()
        (real + is_chalk(made_a).square().mean() + is_ink(made_b).square().mean()).backward()
        judge.step()
        return kiln.stack([fooled.detach(), cycle.detach()])

    for epoch in range(epochs):
        batches = zip(kiln.randperm(700).split(20), kiln.randperm(700).split(20), strict=True)
        losses = kiln.stack([step(chalk[i], ink[j]) for i, j in batches]).mean(0).tolist()
        if (epoch + 1) % (epochs // 10) == 0:
            print(f"epoch {epoch + 1}: generators {losses[0]:.3f}, cycle {losses[1]:.3f}")

    a, b = color(d.test_images, BOARD, CHALK), color(d.test_images, PAPER, INK)
    with kiln.no_grad():
        made_b, made_a = to_ink(a), to_chalk(b)
        back = to_chalk(made_b)
    error = ((made_b - b).abs().mean() + (made_a - a).abs().mean()).item() / 2
    rows = {"chalk": a, "to ink": made_b, "and back": back, "ink": b, "to chalk": made_a}
    return {
        "metric": "mean absolute error", "value": error, "expected": 0.05 if small else 0.04,
        "higher": False, "pictures": [image_rows(rows, out / "cyclegan.png")],
    }  # fmt: skip
