"""Which examples there are, how one is run, and the page that shows what they reached."""

from __future__ import annotations

import html
import importlib
import inspect
import re
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
table { border-collapse: collapse; margin-bottom: 2rem } th { text-align: left }
th, td { padding: .15rem 1rem .15rem 0 } td.number { text-align: right; font-variant-numeric: tabular-nums }
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
    def bound(self) -> str:
        """What the value is to keep to, in writing."""
        return f"{'≥' if self.higher else '≤'} {self.expected:.4g}"

    @property
    def reached(self) -> bool:
        """Whether the value is what the example says that it should be; NaN is not."""
        return self.value >= self.expected if self.higher else self.value <= self.expected

    @property
    def verdict(self) -> str:
        """`reached` or `missed`."""
        return "reached" if self.reached else "missed"

    def __str__(self) -> str:
        form = " (small form)" if self.small else ""
        return (
            f"{self.metric}: {self.value:.4g} (expected {self.bound}: {self.verdict}), "
            f"{self.seconds:.1f} s{form}"
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
    """`index.html` in `out`: a table of what was reached, and each example's text, figures, pictures and source."""
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    reached, seconds = sum(r.reached for r in results), sum(r.seconds for r in results)
    rows, sections = "\n".join(map(_row, results)), "\n".join(_section(r, out) for r in results)
    page.write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Kiln: examples</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n'
        f"<h1>What Kiln's examples learn</h1>\n<p>{reached} of {len(results)} reached what is expected of them, "
        f"in {seconds:.0f} s. Each picture was made by the run whose figures stand beside it.</p>\n"
        f"<table><tr><th>example<th>metric<th>value<th>expected<th>seconds</tr>\n{rows}\n</table>\n"
        f"{sections}\n</html>\n",
        encoding="utf-8",
    )
    return page


def _page_of(name: str) -> str:
    return inspect.getdoc(importlib.import_module(f"{__package__}.{name}")) or ""


def _row(r: Result) -> str:
    return (
        f'<tr><td><a href="#{r.name}">{r.name}</a><td>{html.escape(r.metric)}'
        f'<td class="number {r.verdict}">{r.value:.4g}<td class="number">{r.bound}'
        f'<td class="number">{r.seconds:.1f}</tr>'
    )


def _section(r: Result, out: Path) -> str:
    first, _, rest = _page_of(r.name).partition("\n")
    pictures = "".join(
        f'<img src="{_link(p, out)}" alt="{r.name}: {html.escape(p.stem)}">' for p in r.pictures
    )
    text = "".join(f"<p>{_prose(part)}</p>" for part in rest.strip().split("\n\n"))
    return (
        f'<section id="{r.name}"><div><h2>{r.name}</h2><p><b>{_prose(first)}</b></p>{text}'
        f'<p class="{r.verdict}">{html.escape(str(r))}</p>'
        f'<p><a href="{_link(HERE / (r.name + ".py"), out)}">{r.name}.py</a></p></div>'
        f"<div>{pictures}</div></section>"
    )


def _prose(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _link(path: Path, out: Path) -> str:
    return html.escape(Path(relpath(path, out)).as_posix())
