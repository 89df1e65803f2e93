"""A variational autoencoder learns where digits lie, and draws new ones.

D. Kingma, M. Welling, Auto-Encoding Variational Bayes (2014), with two latent numbers, so that all of its world can be
seen at once. scikit-learn's 8 x 8 scans; a compiled step of its own, with the noise drawn inside. Expected: a bound on the
negative log-likelihood of at most 25.5 nats for a test digit (26.5 in the small form). The pictures are the digits that
a grid over the latent plane decodes to, and where the test digits lie in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import kiln
import kiln.nn.functional as F
from examples.pictures import image_grid
from kiln import nn
from kiln.data import DataLoader, TensorDataset
from kiln.datasets import load_digits
from kiln.distributions import Normal

LATENT = 2


class VAE(nn.Module):
    """The encoder gives mean and log-variance of the code, the decoder logits of the pixels."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 2 * LATENT),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 64), nn.Unflatten(1, (1, 8, 8)),
        )  # fmt: skip

    def forward(self, x):
        """The negative evidence lower bound, the mean over images f32[n, 1, 8, 8], in nats."""
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        code = mean + (0.5 * log_variance).exp() * kiln.randn_like(mean)
        pixels = F.binary_cross_entropy_with_logits(self.decoder(code), x, reduction="sum")
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (pixels + divergence) / len(x)


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw the latent plane."""
    kiln.manual_seed(0)
    d = load_digits()
    model, epochs = VAE(), 30 if small else 200
    batches = DataLoader(TensorDataset(d.train_images), batch_size=64, shuffle=True, drop_last=True)
    opt = kiln.optim.Adam(model.parameters())
    schedule = kiln.optim.lr_scheduler.OneCycleLR(opt, 5e-3, total_steps=epochs * len(batches))

    @kiln.compile
    def step(x):
        opt.zero_grad()
        loss = model(x)
        loss.backward()
        opt.step()
        return loss

    for _ in range(epochs):
        for (x,) in batches:
            step(x)
            schedule.step()

    side = 16
    with kiln.no_grad():
        bound = kiln.stack([model(d.test_images) for _ in range(20)]).mean()
        at = Normal(0.0, 1.0).icdf(kiln.linspace(0.03, 0.97, side))  # as often as codes lie there
        grid = kiln.stack(kiln.meshgrid(-at, at, indexing="ij")[::-1], dim=-1).reshape(-1, LATENT)
        drawn = model.decoder(grid).sigmoid()
        means = model.encoder(d.test_images)[:, :LATENT]
    return {
        "metric": "negative evidence lower bound of test digits, nats",
        "value": float(bound),
        "expected": 26.5 if small else 25.5,
        "higher": False,
        "pictures": [
            image_grid(drawn, out / "vae.png", columns=side, scale=0.35),
            draw_codes(means.numpy(), d.test_labels.numpy(), out / "vae_codes.png"),
        ],
    }


def draw_codes(codes: np.ndarray, labels: np.ndarray, path: Path) -> Path:
    """Save where each digit lies, in its colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    ax = figure.subplots()
    for digit in range(10):
        ax.scatter(*codes[labels == digit].T, s=12, label=str(digit))
    ax.legend(frameon=False, ncols=2)
    figure.savefig(path, dpi=110)
    return path
