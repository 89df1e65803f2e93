"""An autoencoder squeezes digits into eight numbers and takes noise out of them.

It sees scikit-learn's 8 x 8 scans with noise added and is to give them without it, through a bottleneck of 8 of the 64
numbers. Expected: a mean squared error of at most 0.017 on the 360 test digits (0.027 in the small form; the noisy scans
themselves have 0.04, the mean digit 0.07). The picture shows test digits, the same with noise, and what comes out.
"""

from __future__ import annotations

from pathlib import Path

import kiln
from examples.pictures import image_rows
from kiln import nn
from kiln.datasets import load_digits
from kiln.train import OneCycle


class Noise(nn.Module):
    """Adds noise, fresh for each step, while it trains."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x):
        """The shape and dtype of x."""
        return x + self.std * kiln.randn_like(x) if self.training else x


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw before and after."""
    kiln.manual_seed(0)
    d = load_digits()
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 8)
    )
    decoder = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64),
        nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)),
    )  # fmt: skip
    model = nn.Sequential(Noise(0.2), encoder, decoder)
    trainer = kiln.Trainer(model, loss="mse", optimizer="adam", callbacks=[OneCycle(0.005)], seed=0)
    noisy = d.test_images + 0.2 * kiln.randn_like(d.test_images)
    trainer.fit(
        (d.train_images, d.train_images),
        val=(noisy, d.test_images),
        epochs=20 if small else 150,
        batch_size=32,
        verbose=False,
    )
    cleaned = trainer.predict(noisy)
    rows = {"test digits": d.test_images, "with noise": noisy, "cleaned": cleaned}
    return {
        "metric": "mean squared error of test digits",
        "value": trainer.evaluate((noisy, d.test_images))["loss"],
        "expected": 0.027 if small else 0.017,
        "higher": False,
        "pictures": [image_rows(rows, out / "autoencoder.png")],
    }
