"""The report: sections of text, tables and pictures, as Markdown and as HTML."""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import charts, figures
from .catalog import WORKLOADS
from .figures import OURS, Line
from .framework import KINDS

FAMILIES = {"training": "Training steps", "inference": "Inference", "kernel": "Single kernels"}
METHOD = (
    "Every framework runs in a process of its own, on as many cores as threads, from the same weights on the"
    " same data; only one works at a time, in interleaved rounds of blocks of steps. Times are medians over"
    " the rounds; ratios are a peer's step over Kiln's in the same round, above 1 where Kiln is faster:"
    " median (least..most). The first losses of training, or elements of the result, are compared."
)


@dataclass
class Section:
    """A heading, a paragraph, a table, and a picture's file name."""

    title: str
    text: str = ""
    head: Sequence[str] = ()
    rows: list[list[str]] = field(default_factory=list)
    picture: str = ""


def sections(data: dict[str, Any], pictures: dict[str, str]) -> list[Section]:
    """The whole report; `pictures` maps a chart's name to its file."""
    runs = sorted(data["runs"].values(), key=_place)
    peaks = data["machine"].get("peaks", {})
    lines = [figures.line(run, peaks, data["clock"]) for run in runs]
    made = [_head(data), _claims(figures.claims(lines, runs, data["packages"]))]
    for threads in sorted({ln.threads for ln in lines}):
        for family, title in FAMILIES.items():
            chosen = [ln for ln in lines if (ln.threads, ln.family) == (threads, family)]
            if chosen:
                at = f"{threads} thread{'s' * (threads > 1)}"
                picture = pictures.get(f"{family}-{threads}", "")
                made.append(_speeds(f"{title}, {at}", chosen, picture))
    models = [run for run in runs if WORKLOADS[run["workload"]].family != "kernel"]
    made += [
        _first(models, pictures.get("first", "")), _memory(models, pictures.get("memory", "")),
        _beside(models), _machine(data["machine"]), _packages(data["packages"]),
        _troubles(lines),
    ]  # fmt: skip
    return [s for s in made if s.rows or s.text]


def _place(run: dict[str, Any]) -> tuple[int, int]:
    return run["threads"], list(WORKLOADS).index(run["workload"])


def _head(data: dict[str, Any]) -> Section:
    m = data["machine"]
    loads = [run["load"] for run in data["runs"].values() if run["load"] is not None]
    load = f" Load while measuring: {min(loads):.1f} to {max(loads):.1f}." if loads else ""
    clock = " At 1 thread, processor time was taken." if data["clock"] == "cpu" else ""
    text = (
        f"{m['date']}, commit {m['commit']}. {m['name']}. {m['software']}.{load}\n\n{METHOD}{clock}"
    )
    return Section("Kiln beside its peers", text)


def _claims(claims: Sequence[figures.Claim]) -> Section:
    rows = []
    for c in claims:
        value = (
            "-" if c.measured is None else f"{c.measured:.2f}" + (f" ({c.note})" if c.note else "")
        )
        bound = f"{'at least' if c.at_least else 'at most'} {c.bound:.3g}"
        rows.append([c.text, value, bound, c.verdict])
    return Section("What is to be shown", head=("what", "measured", "goal", ""), rows=rows)


def _kinds(lines: Sequence[Line]) -> list[str]:
    return [k for k in KINDS if any(k in ln.status for ln in lines)]


def _speeds(title: str, lines: Sequence[Line], picture: str) -> Section:
    peers = [k for k in _kinds(lines) if k != OURS]
    head = ["workload", "Kiln", *(KINDS[k].title for k in peers), "best peer", "against it", "of peak", "results"]  # fmt: skip
    rows = []
    for ln in lines:
        cells = [_cell(ln, k) for k in peers]
        best = KINDS[ln.best].title if ln.best else "-"
        share = "-" if ln.share is None else f"{ln.share:.0%}"
        rows.append([
            WORKLOADS[ln.name].title, _own(ln), *cells, best, str(ln.ahead or "-"), share, ln.agreement,
        ])  # fmt: skip
    return Section(title, head=head, rows=rows, picture=picture)


def _own(ln: Line) -> str:
    if OURS in ln.seconds:
        return duration(ln.seconds[OURS])
    status = ln.status.get(OURS, "-")
    return status if status.startswith("missing") else status.partition(":")[0]


def _cell(ln: Line, kind: str) -> str:
    if kind in ln.ratios:
        return str(ln.ratios[kind])
    if kind in ln.seconds:
        return duration(ln.seconds[kind])
    return ln.status.get(kind, "-").partition(":")[0]


def duration(seconds: float) -> str:
    """A time with three digits and its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _per_kind(
    title: str, text: str, runs: Sequence[dict[str, Any]], cell: Any, picture: str = ""
) -> Section:
    kinds = [k for k in KINDS if any(k in run["kinds"] for run in runs)]
    rows = []
    for run in runs:
        cells = [cell(run["kinds"][k]) if k in run["kinds"] else "-" for k in kinds]
        if any(c != "-" for c in cells):
            rows.append([WORKLOADS[run["workload"]].title, str(run["threads"]), *cells])
    head = ["workload", "threads", *(KINDS[k].title for k in kinds)]
    return Section(title, text if rows else "", head, rows, picture if rows else "")


def _first(runs: Sequence[dict[str, Any]], picture: str) -> Section:
    def cell(r: dict[str, Any]) -> str:
        cold = "-" if r["first"] is None else duration(r["first"])
        return cold + (f" (warm {duration(r['warm'])})" if r["warm"] is not None else "")

    text = (
        "From the call to the result, nothing cached: capture or tracing, compilation, and the step itself."
        " For Kiln also in a second process, which finds the first one's kernels on the disk."
    )
    return _per_kind("The first step", text, runs, cell, picture)


def _memory(runs: Sequence[dict[str, Any]], picture: str) -> Section:
    def cell(r: dict[str, Any]) -> str:
        if r["peak"] is None:
            return "-"
        own = f"{r['steady'] - r['loaded']:.0f}" if r["steady"] and r["loaded"] else "?"
        return f"{r['peak']:.0f} / {own}"

    text = (
        "Megabytes: the most that the process held, libraries and compilation included / the most in later"
        " steps above what it held when the library was imported."
    )
    return _per_kind("Peak memory", text, runs, cell, picture)


def _beside(runs: Sequence[dict[str, Any]]) -> Section:
    def cell(r: dict[str, Any]) -> str:
        if not r["beside"]:
            return "-"
        b = r["beside"]
        return f"{statistics.median(b):.2f} ({min(b):.2f}..{max(b):.2f})"

    text = "How many times as long a step takes on average while one other process computes without end."
    return _per_kind("Beside one other busy process", text, runs, cell)


def _machine(m: dict[str, Any]) -> Section:
    rows = [
        [threads, f"{p['flops'] / 1e9:.0f} GFLOP/s", f"{p['1M'] / 1e9:.0f} GB/s", f"{p['16M'] / 1e9:.0f} GB/s"]
        for threads, p in m.get("peaks", {}).items()
    ]  # fmt: skip
    text = (
        "Multiply-adds on registers in a kernel of Kiln's; NumPy's copy of 1M floats (in the cache) and of"
        " 16M, bytes read and written. Shares of the peak count the work of a step once, from its shapes;"
        " Winograd's algorithm does less than that, so its share can pass 100 %."
    )
    head = ("threads", "fp32 multiply-add", "copy 1M", "copy 16M")
    return Section("The machine's peaks", text if rows else "", head, rows)


def _packages(packages: dict[str, Any]) -> Section:
    rows = [
        [name, p["version"], f"{p['alone']:.0f} MB", f"{p['with']:.0f} MB", f"{p['import']:.2f} s"]
        for name, p in packages.items()
    ]
    head = ("package", "version", "installed", "with all it needs", "import")
    return Section("Installing and importing", head=head, rows=rows)


def _troubles(lines: Sequence[Line]) -> Section:
    where: dict[tuple[str, str], list[str]] = {}
    for ln in lines:
        for k, status in ln.status.items():
            if status != "ok":
                where.setdefault((KINDS[k].title, status), []).append(ln.name)
    rows = [[kind, why, ", ".join(dict.fromkeys(names))] for (kind, why), names in where.items()]
    return Section("What did not run", head=("framework", "why", "workloads"), rows=rows)


def markdown(made: Sequence[Section], level: str = "##") -> str:
    """The sections as Markdown; the first one's title is the page's."""
    parts = []
    for i, s in enumerate(made):
        parts.append(f"{level[:-1] if not i else level} {s.title}")
        if s.text:
            parts.append(s.text)
        if s.picture:
            parts.append(f"![{s.title}]({s.picture})")
        if s.rows:
            cells = [list(s.head), ["---"] * len(s.head), *s.rows]
            parts.append("\n".join("| " + " | ".join(map(_escape, r)) + " |" for r in cells))
    return "\n\n".join(parts) + "\n"


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76em; margin: 2em auto; padding: 0 1em; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2em }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px }
th, td { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
th { background: #f5f3ef } td.met { color: #1a7f37 } td.bad { color: #c0392b; font-weight: 600 }
img { max-width: 100% }
"""


def page(made: Sequence[Section]) -> str:
    """The sections as one HTML page."""
    body = []
    for i, s in enumerate(made):
        tag = "h2" if i else "h1"
        body.append(f"<{tag}>{html.escape(s.title)}</{tag}>")
        body += [f"<p>{html.escape(p)}</p>" for p in s.text.split("\n\n") if p]
        if s.picture:
            body.append(f'<img src="{html.escape(s.picture)}" alt="{html.escape(s.title)}">')
        if s.rows:
            head = "".join(f"<th>{html.escape(c)}</th>" for c in s.head)
            rows = "".join("<tr>" + "".join(map(_td, r)) + "</tr>\n" for r in s.rows)
            body.append(f'<div class="wide"><table><tr>{head}</tr>\n{rows}</table></div>')
    title = html.escape(made[0].title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _td(cell: str) -> str:
    kind = (
        "bad"
        if cell.startswith(("MISSED", "failed", "missing"))
        else "met"
        if cell == "met"
        else ""
    )
    return (
        f'<td class="{kind}">{html.escape(cell)}</td>' if kind else f"<td>{html.escape(cell)}</td>"
    )


def write(data: dict[str, Any], folder: Path) -> str:
    """Write report.md, report.html and the charts into the folder; gives the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    made = sections(data, charts.draw(data, folder))
    text = markdown(made)
    (folder / "report.md").write_text(text)
    (folder / "report.html").write_text(page(made))
    return text
