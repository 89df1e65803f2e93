"""What the packages weigh."""

from __future__ import annotations

import importlib.metadata
import re
import statistics
from pathlib import Path
from typing import Any

from ..common import fresh
from ..startup import IMPORT


def package(name: str, rounds: int = 3) -> dict[str, Any]:
    """Version, megabytes as installed here (alone and with all it needs), and import time in seconds."""
    names = importlib.metadata.packages_distributions().get(name) or ["kiln-dl"]
    own, needed = names[0], _needed(names[0])
    times = [fresh(IMPORT, name, TF_CPP_MIN_LOG_LEVEL="3")["seconds"] for _ in range(rounds + 1)][
        1:
    ]
    return {
        "version": _version(own), "alone": _size(own), "with": sum(_size(d) for d in needed),
        "import": statistics.median(times),
    }  # fmt: skip


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        import kiln

        return kiln.__version__


def _needed(distribution: str) -> set[str]:
    """The distribution and all that it requires without extras, as far as it is installed here."""
    found: set[str] = set()
    todo = [distribution]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            if name != "kiln-dl":
                continue
            requires = ["numpy", "llvmlite", "ml_dtypes", "safetensors", "rich", "platformdirs"]
        found.add(name)
        plain = (r for r in requires if "extra ==" not in r)
        todo += [m[0] for r in plain if (m := re.match(r"[\w.-]+", r))]
    return found


def _size(distribution: str) -> float:
    """Megabytes of a distribution's files; Kiln's by its folder, as it may be installed editable."""
    if re.sub(r"[-_.]+", "-", distribution) == "kiln-dl":
        import kiln

        files = [f for f in Path(kiln.__file__ or "").parent.rglob("*") if f.is_file()]
        files = [f for f in files if "__pycache__" not in f.parts]
    else:
        listed = importlib.metadata.files(distribution) or []
        files = [p for f in listed if (p := Path(str(f.locate()))).is_file()]
    return sum(f.stat().st_size for f in files) / 1e6
