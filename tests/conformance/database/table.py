"""Counts of outcomes, for people and as JSON, and the page `docs/coverage.md` that is made from the JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .calls import FAILED, MISSING, Outcome
from .checks import DTYPES, Settings
from .entries import MEANT, key, left_out, namespace

STATUSES = ("passed", "failed", "missing", "left out")
CORE = ("values", "gradients", "second", "process", "name")  # what an entry must pass to be passed


def record(entry: Any, outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """What is kept of an entry: its status, counts for each aspect and the first failure of each."""
    counts: dict[str, Counter] = {}
    first: dict[str, str] = {}
    for o in outcomes:
        counts.setdefault(o.aspect, Counter())[o.kind] += 1
        if o.kind in (FAILED, MISSING):
            first.setdefault(o.aspect, o.message)
    status, why = _status(entry, [o for o in outcomes if o.aspect.split()[0] in CORE])
    return {
        "namespace": namespace(entry),
        "status": status,
        "why": why,
        "seconds": round(seconds, 2),
        "aspects": {a: dict(c) for a, c in counts.items()},
        "first": first,
    }


def _status(entry: Any, core: list[Outcome]) -> tuple[str, str]:
    kinds = Counter(o.kind for o in core)
    if not kinds:
        return "left out", "PyTorch has no samples of it on the CPU"
    if kinds[MISSING] and not kinds["passed"] + kinds["drawn"] + kinds[FAILED]:
        name = next(o.message for o in core if o.kind == MISSING)
        why = left_out(entry, name)
        return ("left out", why) if why else ("missing", name)
    if kinds[FAILED] or kinds[MISSING]:
        worst = next(o for o in core if o.kind in (FAILED, MISSING))
        return "failed", f"{worst.aspect}: {worst.message}"
    return "passed", ""


def records(results: Any) -> dict[str, dict[str, Any]]:
    """The records of what `workers.run` gives, by the entries' names."""
    return {key(entry): record(entry, outcomes, took) for entry, outcomes, took in results}


def by_namespace(found: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """Rows of a table: namespace, passed, failed, missing, left out, passed of all but those left out."""
    rows = []
    for space in [*sorted({r["namespace"] for r in found.values()}), ""]:
        counts = Counter(r["status"] for r in found.values() if space in ("", r["namespace"]))
        counted = counts.total() - counts["left out"]
        share = f"{counts['passed'] / counted:.1%}" if counted else ""
        rows.append([space or "all", *(counts[s] for s in STATUSES), share])
    return rows


def by_aspect(found: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """Rows of a table: aspect, calls that agree, of those made, entries without a failure, of those with any."""
    calls, entries = {}, {}
    for r in found.values():
        for aspect, counts in r["aspects"].items():
            good = counts.get("passed", 0) + counts.get("drawn", 0)
            bad = counts.get(FAILED, 0) + counts.get(MISSING, 0)
            if good + bad == 0 or aspect == "name" or r["status"] == "left out":
                continue
            c, e = calls.setdefault(aspect, Counter()), entries.setdefault(aspect, Counter())
            c.update(good=good, all=good + bad)
            e.update(good=int(not bad), all=1)
    return [[a, c["good"], c["all"], entries[a]["good"], entries[a]["all"]]
            for a, c in sorted(calls.items())]  # fmt: skip


def page(run: dict[str, Any]) -> str:
    """The page of a run that `__main__` has written as JSON."""
    found = dict(sorted(run["entries"].items()))
    passed = Counter(r["status"] for r in found.values())
    counted = len(found) - passed["left out"]
    calls = sum(row[2] for row in by_aspect(found))
    text = [
        "# PyTorch's operators in Kiln\n",
        f"PyTorch {run['torch']} ships a database of its operators, with which it tests itself. Here each of its calls is "
        f"made in PyTorch and in Kiln {run['kiln']}: {calls:,} calls of {len(found)} entries. "
        f"**{passed['passed']} of {counted} entries agree** in values, dtypes, gradients and second gradients, in "
        f"{', '.join(run['settings']['dtypes'])} as far as PyTorch takes them on the CPU, "
        f"{run['settings']['samples'] or 'all'} samples in each.\n",
        f"This page is generated: `python -m tests.conformance.database{_options(run)} --json run.json --document PAGE`.\n",
        "## By namespace\n",
        table(["namespace", *STATUSES, "passed"], by_namespace(found)),
        "## By what is compared\n",
        "Tolerances are 1e-4 in float32 and complex64, 1e-7 in float64 and complex128, 5e-2 in bfloat16, 1e-2 in float16, twentyfold where results come "
        "from iterations or series. Random functions are held to shapes and dtypes. `errors` are the calls that must fail "
        "in the class of PyTorch's error, `error texts` those whose message has Kiln's three lines; `other out=` are outputs of "
        "other dtypes, across or on top of the input, or that require grad, which both take or both refuse.\n",
        table(["", "calls that agree", "of", "entries that agree", "of"], by_aspect(found)),
    ]
    failed = [
        [f"`{name}`", _cell(r["why"]), MEANT.get(name, "")]
        for name, r in found.items()
        if r["status"] == "failed"
    ]
    if failed:
        text += [
            "## What differs\n",
            table(["entry", "the first difference", "why it is left"], failed),
        ]
    if beside := _beside(found):
        text += [
            "## What differs beside results\n",
            "Entries that agree, but not in each error, alias, method or `out=`.\n",
            table(["entry", "in", "the first difference", "why it is left"], beside),
        ]
    missing = [[f"`{n}`", _cell(r["why"])] for n, r in found.items() if r["status"] == "missing"]
    if missing:
        text += ["## What is missing\n", table(["entry", "name"], missing)]
    reasons: dict[str, list[str]] = {}
    for name, r in found.items():
        if r["status"] == "left out":
            reasons.setdefault(r["why"], []).append(f"`{name}`")
    if reasons:
        rows = [[why, ", ".join(names)] for why, names in reasons.items()]
        text += ["## What is left out, and why\n", table(["why", "entries"], rows)]
    return "\n".join(text)


def _options(run: dict[str, Any]) -> str:
    """What the command line says about another run than the default one."""
    settings = run["settings"]
    text = ""
    if (dtypes := tuple(settings["dtypes"])) != DTYPES:
        text += f" --dtypes {' '.join(dtypes)}"
    default = Settings()
    for name in ("samples", "forms", "second"):
        if settings.get(name, getattr(default, name)) != getattr(default, name):
            text += f" --{name} {settings[name]}"
    return text + ("" if settings.get("errors", True) else " --no-errors")


_WHOLE = "Kiln has its whole result before it writes"


def _beside(found: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """Rows for what fails in entries that pass."""
    return [
        [
            f"`{name}`",
            aspect,
            _cell(message),
            _WHOLE if message.startswith("across: nothing") else MEANT.get(name, ""),
        ]
        for name, r in found.items()
        if r["status"] == "passed"
        for aspect, message in r["first"].items()
        if r["aspects"].get(aspect, {}).get(FAILED)
    ]


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(f'{c:,}' if isinstance(c, int) else str(c) for c in row)} |\n" for row in lines)  # fmt: skip


def _cell(text: str) -> str:
    return text.split("  <- ")[0].replace("|", "\\|").replace("\n", " ")[:200]
