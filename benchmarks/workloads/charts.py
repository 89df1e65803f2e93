"""The report's bar charts, as SVG; without matplotlib there are none."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import figures
from .catalog import WORKLOADS
from .figures import OURS, PLAIN, Line
from .framework import KINDS

COLORS = {
    "kiln": "#c8553d", "torch": "#5b6c8f", "torch-tuned": "#8fa0c4", "torch-compile": "#b9c5de",
    "jax": "#4f9d8a", "tf": "#d9a441", "tf-xla": "#ecd08f", "ort": "#7a6c5d",
}  # fmt: skip
BAR = 0.22  # inches


def draw(data: dict[str, Any], folder: Path) -> dict[str, str]:
    """Draw every chart that there is data for; gives their file names."""
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    peaks, clock = data["machine"].get("peaks", {}), data["clock"]
    order = list(WORKLOADS)
    runs = sorted(data["runs"].values(), key=lambda r: (r["threads"], order.index(r["workload"])))
    lines = [figures.line(run, peaks, clock) for run in runs]
    models = [run for run in runs if WORKLOADS[run["workload"]].family != "kernel"]
    made = {}
    for threads in sorted({ln.threads for ln in lines}):
        here = [ln for ln in lines if ln.threads == threads]
        at = f"{threads} thread{'s' * (threads > 1)}"
        for family in ("training", "inference"):
            speeds = _speeds([ln for ln in here if ln.family == family])
            title = f"{family.capitalize()}, {at}: speed, PyTorch eager = 1 (longer is faster)"
            made[f"{family}-{threads}"] = _bars(
                speeds, title, folder / f"{family}-{threads}.svg", at=1
            )
        ahead = {
            ln.name: {OURS: ln.ahead.median} for ln in here if ln.family == "kernel" and ln.ahead
        }
        title = f"Single kernels, {at}: Kiln's speed, the best peer's = 1"
        made[f"kernel-{threads}"] = _bars(ahead, title, folder / f"kernels-{threads}.svg", at=1)
    few = [run for run in models if run["threads"] == min(r["threads"] for r in models)]
    first = {r["workload"]: _field(r, "first") for r in few}
    made["first"] = _bars(first, "Seconds to the result of the first step, nothing cached (shorter is better)",
                          folder / "first.svg", log=True)  # fmt: skip
    memory = {r["workload"]: _field(r, "peak") for r in few}
    made["memory"] = _bars(memory, "Peak memory of the process, MB (shorter is better)",
                           folder / "memory.svg")  # fmt: skip
    return {name: file for name, file in made.items() if file}


def _speeds(lines: Sequence[Line]) -> dict[str, dict[str, float]]:
    """Each kind's speed over PyTorch eager's, by workload."""
    return {
        ln.name: {k: ln.seconds[PLAIN] / s for k, s in ln.seconds.items()}
        for ln in lines
        if PLAIN in ln.seconds
    }


def _field(run: dict[str, Any], name: str) -> dict[str, float]:
    return {k: r[name] for k, r in run["kinds"].items() if r[name] is not None}


def _bars(
    groups: dict[str, dict[str, float]], title: str, file: Path, at: float | None = None,
    log: bool = False,
) -> str:  # fmt: skip
    """Groups of horizontal bars, one colour for each kind; gives the file's name, "" without data."""
    groups = {name: values for name, values in groups.items() if values}
    if not groups:
        return ""
    from matplotlib.figure import Figure

    kinds = [k for k in KINDS if any(k in v for v in groups.values())]
    height = 1.2 + sum(BAR * len(v) + 0.15 for v in groups.values())
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    y, places = 0.0, []
    for values in groups.values():
        own = [k for k in kinds if k in values]
        places.append(y + BAR * (len(own) - 1) / 2)
        for k in own:
            axes.barh(y, values[k], BAR * 0.9, color=COLORS[k])
            axes.annotate(f"{values[k]:.3g}", (values[k], y), (3, 0), textcoords="offset points",
                          va="center", fontsize=7, color="#444")  # fmt: skip
            y += BAR
        y += 0.15
    axes.set_yticks(places, list(groups))
    axes.invert_yaxis()
    axes.margins(y=0.01, x=0.08)
    if log:
        axes.set_xscale("log")
    if at is not None:
        axes.axvline(at, color="#333", linewidth=0.8, linestyle=":")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if len(kinds) > 1:
        handles = [_patch(COLORS[k], KINDS[k].title) for k in kinds]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8
        )
    figure.savefig(file, metadata={"Date": None})
    return file.name


def _patch(color: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=color, label=label)
