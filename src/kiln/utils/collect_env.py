"""What a report of a problem should say about the machine: `python -m kiln.utils.collect_env`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from .. import __version__


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def get_pretty_env_info() -> str:
    """Versions of Kiln, Python and packages, the system and the processor, a line each."""
    facts = {
        "Kiln": __version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "System": platform.platform(),
        "Processor": platform.processor() or platform.machine(),
        "Cores of this process": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        **{p: _version(p) for p in ("numpy", "llvmlite", "ml_dtypes", "safetensors")},
        "CUDA": "not in this build",
    }  # fmt: skip
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def main() -> None:
    """Print it."""
    print(get_pretty_env_info())


if __name__ == "__main__":
    main()
