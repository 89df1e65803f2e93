"""What several examples draw: images in a grid or in named rows, curves, a page of text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def image_grid(
    images: Any, path: Path, titles: Sequence[str] = (), columns: int = 10, scale: float = 1.0
) -> Path:
    """Save images `(n, 1 or 3, h, w)` in [0, 1], row by row, each with its title if there are some."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    images = np.asarray(images)
    rows = -(-len(images) // columns)
    high = scale * images.shape[2] / images.shape[3] + (0.25 if titles else 0)
    gaps = ConstrainedLayoutEngine(w_pad=0.02 * scale, h_pad=0.02 * scale)
    figure = Figure(figsize=(columns * scale, rows * high), layout=gaps)
    for i, ax in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        ax.axis("off")
        if i < len(images):
            ax.imshow(images[i].transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            if titles:
                ax.set_title(titles[i], fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def image_rows(rows: Mapping[str, Any], path: Path, columns: int = 10) -> Path:
    """Save the first `columns` of each row's images `(n, 1 or 3, h, w)` in [0, 1], its name before it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * 0.9, len(rows) * 0.95), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for ax, image in zip(line, np.asarray(images), strict=False):
            ax.imshow(image.transpose(1, 2, 0).clip(0, 1), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    figure.savefig(path, dpi=110)
    return path


def curves(
    values: Mapping[str, Sequence[float]], path: Path, xlabel: str = "epoch", ylabel: str = ""
) -> Path:
    """Save curves by name, in one panel."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    ax = figure.subplots()
    for name, y in values.items():
        ax.plot(range(1, len(y) + 1), y, lw=1.4, label=name)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # no half epochs
    ax.legend(frameon=False)
    figure.savefig(path, dpi=110)
    return path


def text_page(text: str, path: Path, width: int = 90) -> Path:
    """Save a text as a picture, its long lines wrapped."""
    from matplotlib.figure import Figure

    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]]
    figure = Figure(figsize=(width * 0.085, 0.17 * len(lines) + 0.3))
    page = "\n".join(lines).replace("$", r"\$")  # or two dollars would make a formula
    figure.text(0.02, 0.5, page, family="monospace", fontsize=9, va="center", linespacing=1.3)
    figure.savefig(path, dpi=110)
    return path
