"""A deep convolutional generative adversarial network writes digits.

A. Radford, L. Metz, S. Chintala, Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks
(2016): transposed convolutions make 8 x 8 digits of noise and convolutions judge them, both with batch normalisation, the
true and the made ones in batches of their own; trained on scikit-learn's scans by one compiled step. What is made should be
clear and varied. A perceptron trained on the true digits tells how much so, as the inception score does: e to the mean
divergence of its answers from their mean, 1 at worst and 10 at best; digits it has not seen have about 9.
Expected: a score of at least 7.8 (6.5 in the small form). The pictures are digits it made, and the losses of both.
"""

from __future__ import annotations

from pathlib import Path

import kiln
import kiln.nn.functional as F
from examples.pictures import curves, image_grid
from kiln import nn
from kiln.datasets import Digits, load_digits

NOISE = 32


def generator(width: int) -> nn.Sequential:
    """Noise f32[n, 32, 1, 1] to digits f32[n, 1, 8, 8] in [-1, 1]."""
    return nn.Sequential(
        nn.ConvTranspose2d(NOISE, 2 * width, 2, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def discriminator(width: int) -> nn.Sequential:
    """Digits to logits f32[n, 1, 1, 1] that they are true."""
    return nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 2),
    )  # fmt: skip


def start(module: nn.Module) -> None:
    """The paper's initial weights."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw what it makes."""
    kiln.manual_seed(0)
    d = load_digits()
    width, n, steps = 32, 64, 1200 if small else 6000
    make, judge = generator(width).apply(start), discriminator(width).apply(start)
    opt_g = kiln.optim.Adam(make.parameters(), 1e-3, betas=(0.5, 0.999))
    opt_d = kiln.optim.Adam(judge.parameters(), 1e-3, betas=(0.5, 0.999))

    @kiln.compile
    def step(true):
        made = make(kiln.randn(n, NOISE, 1, 1))
        opt_d.zero_grad()
        loss_d = F.softplus(-judge(true)).mean() + F.softplus(judge(made.detach())).mean()
        loss_d.backward()
        opt_d.step()
        opt_g.zero_grad()
        loss_g = F.softplus(-judge(made)).mean()
        loss_g.backward()
        opt_g.step()
        return kiln.stack([loss_g.detach(), loss_d.detach()])

    losses = []
    for _ in range(steps):
        losses.append(step(2 * d.train_images[kiln.randint(0, len(d.train_images), (n,))] - 1))

    make.eval()
    with kiln.no_grad():
        digits = (make(kiln.randn(1000, NOISE, 1, 1)) + 1) / 2
    every = steps // 40
    loss_g, loss_d = kiln.stack(losses).view(-1, every, 2).mean(1).T.tolist()
    return {
        "metric": "inception score by a perceptron",
        "value": inception_score(classifier(d), digits),
        "expected": 6.5 if small else 7.8,
        "higher": True,
        "pictures": [
            image_grid(digits[:96], out / "dcgan.png", columns=16, scale=0.5),
            curves(
                {"generator": loss_g, "discriminator": loss_d}, out / "dcgan_curves.png",
                xlabel=f"{every} steps", ylabel="loss",
            ),
        ],
    }  # fmt: skip


def classifier(d: Digits) -> nn.Module:
    """A perceptron that tells true digits, 96 % of those it has not seen."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    trainer = kiln.Trainer(model, loss="cross_entropy", optimizer=kiln.optim.Adam(model.parameters(), 3e-3), seed=0)  # fmt: skip
    trainer.fit((d.train_images, d.train_labels), epochs=40, batch_size=64, verbose=False)
    return model.eval()


@kiln.no_grad()
def inception_score(model: nn.Module, images: kiln.Tensor) -> float:
    """e to the mean divergence of the answers to single images from the mean answer."""
    answers = model(images).log_softmax(-1)
    mean = answers.exp().mean(0)
    return float((answers.exp() * (answers - mean.log())).sum(-1).mean().exp())
