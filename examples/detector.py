"""A one-stage detector finds discs, squares and triangles: their middles are peaks of a heat map.

For each cell of 4 x 4 pixels the network says how likely the middle of a disc, square or triangle lies in it, where in
the cell, and how wide and high the box is (X. Zhou, D. Wang, P. Krähenbühl, Objects as Points, 2019). A peak among its neighbours is
an object; there are no anchors, and no boxes to suppress.

Data: `kiln.datasets.Scenes`, rendered as they are asked for.
Expected: mean average precision at an intersection over union of 0.5 on new scenes, at least 0.82 (small: 0.45).
"""

from __future__ import annotations

from pathlib import Path

import kiln
import kiln.nn.functional as F
from kiln import Tensor, nn
from kiln.datasets import Scenes
from kiln.train import OneCycle
from kiln.vision.ops import box_iou

SIZE, STRIDE, CLASSES = 64, 4, 3
CELLS = SIZE // STRIDE


def network(width: int) -> nn.Sequential:
    """From pictures f32[n, 3, 64, 64] to f32[n, 7, 16, 16]: three logits, then where and how large."""

    def layer(inputs: int, outputs: int, stride: int = 1, spread: int = 1) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride, spread, spread, bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU(),
        ]  # fmt: skip

    return nn.Sequential(
        *layer(3, width), *layer(width, width, 2), *layer(width, 2 * width), *layer(2 * width, 2 * width, 2),
        *layer(2 * width, 2 * width), *layer(2 * width, 2 * width, spread=2), *layer(2 * width, 2 * width, spread=2),
        nn.Conv2d(2 * width, CLASSES + 4, 1),
    )  # fmt: skip


def target_of(target: dict[str, Tensor]) -> Tensor:
    """f32[8, 16, 16]: heat of three classes, place in the cell and log size / 16 of the box, and 1 where a middle lies."""
    out = kiln.zeros(CLASSES + 5, CELLS, CELLS)
    at = kiln.arange(CELLS) + 0.5
    for box, label in zip(target["boxes"] / STRIDE, target["labels"].tolist(), strict=True):
        middle, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        x, y = (int(v) for v in middle.tolist())
        spread = 2 * (size.mean() / 6) ** 2
        heat = (-((at[x] - at) ** 2 + (at[y] - at[:, None]) ** 2) / spread).exp()
        out[label - 1] = kiln.maximum(out[label - 1], heat)  # 1 in the middle's cell
        out[CLASSES:, y, x] = kiln.cat(
            [middle - kiln.tensor([x, y]), (size / 4).log(), kiln.ones(1)]
        )
    return out


def loss(out: Tensor, target: Tensor) -> Tensor:
    """Focal loss of the heat, less near a middle; L1 of place and size where there is one."""
    heat, wanted = out[:, :CLASSES], target[:, :CLASSES]
    p = heat.sigmoid()
    here = (wanted == 1).float()
    hit = here * (1 - p) ** 2 * F.logsigmoid(heat)
    miss = (1 - wanted) ** 4 * p**2 * F.logsigmoid(-heat)
    objects = target[:, -1:]
    apart = (objects * (out[:, CLASSES:] - target[:, CLASSES:-1])).abs()
    return (apart.sum() - hit.sum() - miss.sum()) / objects.sum().clamp(min=1)


def detect(out: Tensor, most: int = 20) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each picture boxes f32[k, 4], labels i64[k] from 1 and scores f32[k], the best first."""
    heat = out[:, :CLASSES].sigmoid()
    peaks = heat * (heat == F.max_pool2d(heat, 3, 1, 1))
    found = []
    for scores, places in zip(peaks.flatten(1), out[:, CLASSES:].flatten(2), strict=True):
        score, index = scores.topk(most)
        cell = index % CELLS**2
        corner = kiln.stack([cell % CELLS, cell // CELLS], 1).float()
        place = places[:, cell].T
        middle, size = corner + place[:, :2], 4 * place[:, 2:].exp()
        boxes = STRIDE * kiln.cat([middle - size / 2, middle + size / 2], 1)
        found.append((boxes, index // CELLS**2 + 1, score))
    return found


def average_precision(found: list, truth: list[dict[str, Tensor]], label: int) -> float:
    """The area under precision over recall of one class; a box is found once, by the best that overlaps it by half."""
    claims: list[tuple[float, bool]] = []
    total = 0
    for (boxes, labels, scores), target in zip(found, truth, strict=True):
        wanted = target["boxes"][target["labels"] == label]
        total += len(wanted)
        free = set(range(len(wanted)))
        mine = labels == label
        overlaps = box_iou(boxes[mine], wanted).tolist()
        for row, score in zip(overlaps, scores[mine].tolist(), strict=True):
            best = max(free, key=row.__getitem__, default=None)
            right = best is not None and row[best] >= 0.5
            claims.append((score, right))
            if right:
                free.discard(best)
    claims.sort(reverse=True)
    hits = kiln.tensor([float(right) for _, right in claims])
    precision = hits.cumsum(0) / kiln.arange(1, len(claims) + 1)
    highest = precision.flip(0).cummax(0).values.flip(0)  # the best at this recall or a higher one
    return ((highest * hits).sum() / total).item()


def main(small: bool = False, out: Path = Path(".")) -> dict:
    """Train, and draw."""
    kiln.manual_seed(0)
    count, epochs, width = (300, 20, 12) if small else (2000, 20, 24)
    train, test = Scenes(count, SIZE, seed=0), Scenes(count // 4, SIZE, seed=1)
    samples = [train[i] for i in range(count)]
    x, y = kiln.stack([p for p, _ in samples]), kiln.stack([target_of(t) for _, t in samples])
    model = network(width)
    nn.init.constant_(model[-1].bias[:CLASSES], -2.0)  # objects are rare
    trainer = kiln.Trainer(model, loss, "adamw", seed=0, callbacks=[OneCycle(1e-2)])
    trainer.fit((x, y), epochs=epochs, batch_size=10, verbose=False)
    model.eval()
    pictures = kiln.stack([test[i][0] for i in range(len(test))])
    truth = [test[i][1] for i in range(len(test))]
    with kiln.no_grad():
        found = detect(kiln.cat([model(p) for p in pictures.split(25)]))
    ap = [average_precision(found, truth, label) for label in (1, 2, 3)]
    print("average precision:", dict(zip(Scenes.classes[1:], ap, strict=True)))
    return {
        "metric": "mAP at 0.5", "value": sum(ap) / 3, "expected": 0.45 if small else 0.82,
        "higher": True, "pictures": [draw(out / "detector.png", pictures, found)],
    }  # fmt: skip


def draw(path: Path, pictures: Tensor, found: list) -> Path:
    """Ten scenes with the boxes whose score is at least 0.35, a colour for each class."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colors = ("tomato", "white", "gold")
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    grid = figure.subplots(2, 5).flat
    for a, picture, (boxes, labels, scores) in zip(grid, pictures, found, strict=False):
        a.imshow(picture.permute(1, 2, 0).numpy(), extent=(0, SIZE, SIZE, 0))
        for box, label, score in zip(boxes.numpy(), labels.tolist(), scores.tolist(), strict=True):
            if score >= 0.35:
                a.plot(box[[0, 2, 2, 0, 0]], box[[1, 1, 3, 3, 1]], color=colors[label - 1])
        a.axis("off")
    handles = [Line2D([], [], color=c, label=name) for c, name in zip(colors, Scenes.classes[1:], strict=True)]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, facecolor="0.5")
    figure.savefig(path)
    return path
