"""The public suite of the Array API standard, run on `kiln.array_api`.

    python -m tests.conformance.array_api SUITE [--examples 100] [--workers 2] [--only FILE::TEST ...]

SUITE is a copy of github.com/data-apis/array-api-tests with its submodule `array-api`; its requirements (`pip install
-r SUITE/requirements.txt`) must be there. Every test counts: nothing of ours is skipped or expected to fail. Prints
each failure in a line, and `passed/total` last; the exit status is 0 only where all passed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def run(suite: Path, examples: int, workers: int, only: list[str], report: Path) -> str:
    """Run the suite's tests, with their results in JUnit's format in `report`; gives what pytest printed."""
    empty = report.with_name("none.txt")
    empty.touch()  # in place of the suite's own lists
    command = [
        sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}",
        f"--max-examples={examples}", "--disable-deadline", f"--skips-file={empty}", f"--xfails-file={empty}",
        *(["-n", str(workers)] if workers > 1 else []), *(only or ["array_api_tests"]),
    ]  # fmt: skip
    env = os.environ | {
        "ARRAY_API_TESTS_MODULE": "kiln.array_api",
        "ARRAY_API_TESTS_VERSION": "2025.12",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, cwd=suite, env=env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def outcomes(report: Path) -> list[tuple[str, str, str]]:
    """The name of each test, what became of it and why."""
    out = []
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').removeprefix('array_api_tests.')}::{case.get('name')}"
        found = next((c for c in case if c.tag in ("failure", "error", "skipped")), None)
        if found is None:
            out.append((name, "passed", ""))
        else:
            out.append((name, found.tag, (found.get("message") or "").split("\n")[0]))
    return out


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("suite", type=Path)
    p.add_argument(
        "--examples", type=int, default=100, help="of each property (the suite's default)"
    )
    p.add_argument("--workers", type=int, default=1, help="processes, which needs pytest-xdist")
    p.add_argument("--only", nargs="*", default=[], help="files or tests of the suite")
    a = p.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        text = run(a.suite, a.examples, a.workers, a.only, report)
        if not report.exists():
            print(text[-3000:])
            return 2
        found = outcomes(report)
    for name, what, why in found:
        if what != "passed":
            print(f"{what:8} {name}: {why[:160]}")
    counts = Counter(what for _, what, _ in found)
    total = counts.total() - counts["skipped"]
    print(
        f"array-api-tests: {counts['skipped']} skipped by the suite, {counts['passed']}/{total} passed"
    )
    return 0 if total and counts["passed"] == total else 1


if __name__ == "__main__":
    sys.exit(main())
