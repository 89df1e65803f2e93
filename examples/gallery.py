"""Which examples there are, how one is run, and the page that shows what they reached."""

from __future__ import annotations

import html
import importlib
import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
section { border-top: 1px solid #ddd; padding: 1rem 0; display: grid; grid-template-columns: 24rem 1fr; gap: 2rem }
h2 { margin: 0 } img { max-width: 100%; display: block; margin-bottom: 1rem }
.reached { color: #17692d } .missed { color: #b3261e; font-weight: bold }
@media (max-width: 60rem) { section { grid-template-columns: 1fr } }
"""


@dataclass(frozen=True)
class Result:
    """What an example reached, and how long it took."""

    name: str
    metric: str
    value: float
    expected: float
    higher: bool
    pictures: tuple[Path, ...]
    seconds: float
    small: bool

    @property
    def reached(self) -> bool:
        """Whether the value is what the example says that it should be; NaN is not."""
        return self.value >= self.expected if self.higher else self.value <= self.expected

    def __str__(self) -> str:
        sign, verdict = "≥" if self.higher else "≤", "reached" if self.reached else "missed"
        return (
            f"{self.metric} {self.value:.4g} (expected {sign} {self.expected:.4g}: {verdict}), "
            f"{self.seconds:.1f} s"
        )


def names() -> list[str]:
    """The modules of this folder that have a `main` of their own, but for the command itself."""
    return sorted(
        p.stem
        for p in HERE.glob("*.py")
        if not p.stem.startswith("_") and "\ndef main(" in p.read_text(encoding="utf-8")
    )


def title(name: str) -> str:
    """The first sentence of the example's docstring."""
    return _page_of(name).splitlines()[0]


def run(name: str, small: bool = False, out: Path = Path("gallery"), **options: Any) -> Result:
    """Train an example; its pictures go to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    main = importlib.import_module(f"{__package__}.{name}").main
    start = time.perf_counter()
    found = main(small=small, out=out, **options)
    seconds = time.perf_counter() - start
    return Result(
        name, found["metric"], float(found["value"]), float(found["expected"]), found["higher"],
        tuple(Path(p) for p in found["pictures"]), seconds, small,
    )  # fmt: skip


def write_page(results: Sequence[Result], out: Path) -> Path:
    """`index.html` in `out`: for each example its picture, metric, expected value, time and source."""
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    body = "\n".join(_section(r, out) for r in results)
    page.write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Kiln: examples</title>\n'
        f"<style>{STYLE}</style>\n<h1>What Kiln's examples learn</h1>\n"
        f"<p>Each picture was made by the run whose figures stand beside it.</p>\n{body}\n</html>\n",
        encoding="utf-8",
    )
    return page


def _page_of(name: str) -> str:
    return inspect.getdoc(importlib.import_module(f"{__package__}.{name}")) or ""


def _section(r: Result, out: Path) -> str:
    first, _, rest = _page_of(r.name).partition("\n")
    pictures = "".join(
        f'<img src="{_link(p, out)}" alt="{r.name}: {html.escape(p.stem)}">' for p in r.pictures
    )
    return (
        f'<section id="{r.name}"><div><h2>{r.name}</h2><p><b>{html.escape(first)}</b></p>'
        f"<p>{html.escape(rest.strip())}</p>"
        f'<p class="{"reached" if r.reached else "missed"}">{html.escape(str(r))}'
        f"{' (small form)' if r.small else ''}</p>"
        f'<p><a href="{_link(HERE / (r.name + ".py"), out)}">{r.name}.py</a></p></div>'
        f"<div>{pictures}</div></section>"
    )


def _link(path: Path, out: Path) -> str:
    return html.escape(Path(relpath(path, out)).as_posix())
