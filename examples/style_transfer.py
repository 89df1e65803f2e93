"""Style transfer: a photograph is painted anew with the strokes of another picture.

What is learned is the picture itself. Its style is what its patches look like, at three scales: patches of both pictures are
projected on random filters, fresh for each step, and what comes out is sorted and compared, which is a sliced Wasserstein
distance (A. Elnekave, Y. Weiss, Generating Natural Images with Direct Patch Distribution Matching, ECCV 2022; after
L. Gatys, A. Ecker, M. Bethge, 2016, who compare features of a trained network). Its content is where it is light and dark.

Data: scikit-learn's photograph of a palace; brush strokes drawn by rule.
Expected: the distance of the styles falls to at most 12 % of what it was.
"""

from __future__ import annotations

import math
from pathlib import Path

import kiln
import kiln.nn.functional as F
from examples.pictures import image_grid
from kiln import Tensor, nn

PALETTE = kiln.tensor([[0.08, 0.12, 0.35], [0.16, 0.30, 0.62], [0.35, 0.58, 0.80], [0.95, 0.80, 0.30], [0.93, 0.92, 0.80]])  # fmt: skip
SCALES, PATCHES, FILTERS = 3, (1, 3, 5), 16
CONTENT = 0.4


def photograph(height: int) -> Tensor:
    """f32[1, 3, height, 1.5 height] in [0, 1]."""
    from sklearn.datasets import load_sample_image

    image = kiln.tensor(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image, size=(height, height * 3 // 2), mode="area")


def strokes(height: int, width: int) -> Tensor:
    """f32[1, 3, height, width]: short strokes that flow around the middle, each over those before."""
    y, x = kiln.meshgrid(kiln.arange(height) + 0.5, kiln.arange(width) + 0.5, indexing="ij")
    canvas = PALETTE[0][:, None, None].expand(3, height, width)
    long, wide = height / 13, height / 43
    for _ in range(400):
        at_y, at_x = float(kiln.rand(())) * height, float(kiln.rand(())) * width
        turn = math.atan2(at_y - height / 2, at_x - width / 2) + math.pi / 2
        along = (x - at_x) * math.cos(turn) + (y - at_y) * math.sin(turn)
        across = (y - at_y) * math.cos(turn) - (x - at_x) * math.sin(turn)
        color = PALETTE[kiln.randint(0, len(PALETTE), ())] + 0.05 * kiln.randn(3)
        inside = (along.abs() < long) & (across.abs() < wide)
        canvas = kiln.where(inside, color[:, None, None], canvas)
    return canvas.clamp(0, 1)[None]


def apart(a: Tensor, b: Tensor) -> Tensor:
    """How differently patches of two pictures f32[1, 3, h, w] are distributed."""
    total = kiln.zeros(())
    for _ in range(SCALES):
        for size in PATCHES:
            filters = kiln.randn(FILTERS, 3, size, size)
            filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
            x, y = (F.conv2d(p, filters)[0].flatten(1).sort(dim=1).values for p in (a, b))
            total = total + (x - y).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total


def light(image: Tensor) -> Tensor:
    """How light places of 8 x 8 pixels are, each 4 from the next, with mean 0 and variance 1."""
    x = F.avg_pool2d(image.mean(1, keepdim=True), 8, 4)
    return (x - x.mean()) / x.std()


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Paint, and draw."""
    kiln.manual_seed(0)
    height, steps = (64, 150) if small else (128, 500)
    content = photograph(height)
    style = strokes(height, height * 3 // 2)
    places = light(content)
    image = nn.Parameter(content.clone())
    optimizer = kiln.optim.Adam([image], lr=0.02)

    @kiln.compile
    def step() -> Tensor:
        optimizer.zero_grad()
        strange, moved = apart(image, style), (light(image) - places).square().mean()
        (strange + CONTENT * moved).backward()
        optimizer.step()
        return kiln.stack([strange, moved]).detach()

    with kiln.no_grad():
        before = apart(content, style)
    for k in range(steps):
        losses = step()
        if (k + 1) % (steps // 5) == 0:
            print(f"step {k + 1}: style {float(losses[0]):.4f}, content {float(losses[1]):.4f}")
    with kiln.no_grad():
        painted = image.clamp(0, 1)
        left = float(apart(painted, style) / before)
    shown = kiln.cat([content, style, painted])
    names = "photograph", "strokes", "painted anew"
    return {
        "metric": "distance of the styles, as part of what it was",
        "value": left,
        "expected": 0.12,
        "higher": False,
        "pictures": [image_grid(shown, out / "style_transfer.png", names, columns=3, scale=3)],
    }
