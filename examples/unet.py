"""A U-Net tells which pixels are disc, square or triangle.

O. Ronneberger, P. Fischer, T. Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation (2015): a path down that
sees ever more of the picture in ever less detail, and one up that puts the detail back from the way down. Most pixels are
background and a disc has more of them than a triangle, so the loss weighs a class by how rare it is: without that, the
network finds the shapes soon, but calls all of them discs for long.

Data: `kiln.datasets.Scenes`, rendered as they are asked for.
Expected: mean intersection over union of the four classes on new scenes, at least 0.88 (0.75 in the small form). The
pictures are scenes with what is true and what it says (disc yellow, square blue, triangle red), and the losses.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import kiln
import kiln.nn.functional as F
from examples.pictures import curves, image_rows
from kiln import Tensor, nn
from kiln.datasets import Scenes
from kiln.metrics import IoU
from kiln.train import OneCycle

CLASSES = len(Scenes.classes)
COLORS = kiln.tensor([[0.85, 0.85, 0.85], [0.95, 0.75, 0.1], [0.1, 0.35, 0.8], [0.8, 0.15, 0.15]])


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each with its norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Pictures f32[n, 3, h, w] to logits f32[n, 4, h, w]; h and w are multiples of 2**levels."""

    def __init__(self, width: int, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(levels + 1)]
        pairs = list(pairwise(widths))
        self.first = double(3, width)
        self.down = nn.ModuleList(double(a, b) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(double(2 * a, a) for a, _ in reversed(pairs))
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x):
        """Down, then up beside what was seen on the way."""
        seen = [self.first(x)]
        for down in self.down:
            seen.append(down(F.max_pool2d(seen[-1], 2)))
        x = seen.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(kiln.cat([seen.pop(), up(x)], 1))
        return self.head(x)


def scenes(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures f32[count, 3, size, size] and the class of each pixel, i64[count, size, size]."""
    made = Scenes(count, size, objects=(1, 3), radius=(0.15, 0.3), seed=seed)
    samples = [made[i] for i in range(count)]
    return kiln.stack([p for p, _ in samples]), kiln.stack([t["semantic"] for _, t in samples])


def colored(classes: Tensor) -> Tensor:
    """i64[n, h, w] to f32[n, 3, h, w]."""
    return COLORS[classes].permute(0, 3, 1, 2)


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw what it says of new scenes."""
    kiln.manual_seed(0)
    size, (count, epochs) = 48, (1000, 20) if small else (2000, 30)
    x, y = scenes(count, size, seed=0)
    weight = kiln.bincount(y.flatten(), minlength=CLASSES).float() ** -0.8
    model = UNet(width=8)
    trainer = kiln.Trainer(
        model,
        loss=nn.CrossEntropyLoss(weight / weight[0]),
        optimizer="adamw",
        callbacks=[OneCycle(5e-3)],
        seed=0,
    )
    trainer.fit((x, y), epochs=epochs, batch_size=16, verbose=False)

    model.eval()
    pictures, truth = scenes(200, size, seed=1)
    with kiln.no_grad():
        said = kiln.cat([model(p) for p in pictures.split(25)]).argmax(1)
    each = IoU(task="multiclass", num_classes=CLASSES, average=None)
    each.update(said, truth)
    iou = each.compute()
    print({n: round(v, 3) for n, v in zip(Scenes.classes, iou.tolist(), strict=True)})
    return {
        "metric": "mean IoU", "value": float(iou.mean()), "expected": 0.75 if small else 0.88,
        "higher": True, "pictures": [
            image_rows(
                {"scene": pictures, "true": colored(truth), "said": colored(said)}, out / "unet.png"
            ),
            curves({"seen": trainer.history["loss"]}, out / "unet_curves.png", ylabel="loss"),
        ],
    }  # fmt: skip
