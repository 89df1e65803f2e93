"""Write the API reference: a Markdown page for each public function, from the registry of ops.

Each page has signature, description, an example that was run to write it, dtypes, gradient, other
forms and errors. With the record of `python -m tests.conformance.database --json FILE` it also says
how far the function agrees with PyTorch's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NAME = "docs"
SUMMARY = "write the API reference, a page for each function"


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The options of `kiln docs`."""
    p.add_argument("--out", type=Path, default=Path("kiln-docs"), metavar="DIR", help="folder (default: ./kiln-docs)")  # fmt: skip
    p.add_argument("--coverage", type=Path, metavar="FILE", help="record of a comparison with PyTorch's operator database")  # fmt: skip
    p.add_argument("--only", default="", metavar="PREFIX", help="functions whose name begins so, such as linalg.")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the pages."""
    from ..ops.pages import index, pages

    entries = json.loads(args.coverage.read_text())["entries"] if args.coverage else {}
    args.out.mkdir(parents=True, exist_ok=True)
    written = []
    for page in pages():
        if page.name.startswith(args.only):
            text = page.text(agreement(entries, page.name))
            (args.out / f"kiln.{page.name}.md").write_text(text)
            written.append(page)
    (args.out / "index.md").write_text(index(written))
    print(
        f"{len(written)} pages in {args.out}, {sum(1 for p in written if p.example)} with an example"
    )
    return 0


def agreement(entries: dict[str, Any], name: str) -> str:
    """What a run of PyTorch's operator database says of a function: calls that agree, by aspect."""
    found = [r for key, r in entries.items() if key == name or key.startswith(name + " ")]
    if not entries:
        return ""
    if not found:
        return "not in PyTorch's operator database"
    parts = []
    for aspect in dict.fromkeys(a for r in found for a in r["aspects"]):
        counts = [r["aspects"].get(aspect, {}) for r in found]
        good = sum(c.get("passed", 0) + c.get("drawn", 0) for c in counts)
        bad = sum(c.get("failed", 0) + c.get("missing", 0) for c in counts)
        if good + bad and aspect != "name":
            parts.append(f"{aspect} {good} of {good + bad}")
    return ", ".join(parts)
