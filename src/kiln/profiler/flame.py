"""A profile as a flame picture: what was called in what, each as wide as it took long, as one SVG file."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from html import escape
from typing import Any

_WIDTH, _ROW = 1200, 18


class _Frame:
    """Calls of one name in one place, together."""

    def __init__(self, name: str):
        self.name, self.us, self.count = name, 0.0, 0
        self.below: dict[str, _Frame] = {}

    def add(self, e: Any) -> None:
        f = self.below.setdefault(e.name, _Frame(e.name))
        f.us += e.cpu_time_total
        f.count += 1
        for c in e.cpu_children:
            f.add(c)

    def depth(self) -> int:
        return 1 + max((f.depth() for f in self.below.values()), default=0)


def write_flame(path: str, events: Iterable[Any]) -> None:
    """Write events as an SVG: the outermost on top, equal calls as one; a frame's title tells its time and number."""
    root = _Frame("all")
    for e in events:
        if e.cpu_parent is None and e.cpu_time_total > 0:
            root.add(e)
    root.us = sum(f.us for f in root.below.values())
    height = _ROW * (root.depth() + 1)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
    ]
    _draw(root, 0.0, 0, _WIDTH / root.us if root.us else 0.0, root.us, out)
    with open(path, "w") as f:
        f.write("\n".join([*out, "</svg>", ""]))


def _draw(f: _Frame, x: float, row: int, scale: float, total: float, out: list[str]) -> None:
    width = f.us * scale
    if width < 0.3:
        return
    hue = zlib.crc32(f.name.encode()) % 60  # the same name, the same colour, in each picture
    share = 100 * f.us / total if total else 0.0
    times = "" if row == 0 else f" in {f.count} call{'s' if f.count > 1 else ''}"
    title = escape(f"{f.name}: {f.us:,.1f} us{times}, {share:.1f} %")
    letters = int((width - 6) / 6.9)
    text = f.name if len(f.name) <= letters else f.name[: letters - 1] + "…" if letters > 3 else ""
    out.append(
        f'<g><title>{title}</title><rect x="{x:.2f}" y="{row * _ROW}" width="{width:.2f}" height="{_ROW - 1}" rx="2" '
        f'fill="hsl({hue}, 80%, 70%)"/><text x="{x + 3:.2f}" y="{row * _ROW + 12}">{escape(text)}</text></g>'
    )
    for below in sorted(f.below.values(), key=lambda b: -b.us):
        _draw(below, x, row + 1, scale, total, out)
        x += below.us * scale
