"""What `KILN_DEBUG` tells goes to the standard error stream; before the first of it, what its levels are."""

from __future__ import annotations

import sys
from functools import cache

from .config import config

LEVELS = "1 programs as they are compiled, 2 kernels' times at each call, 3 fused loops, 4 Graphs after each pass, 5 LLVM IR, 6 machine code"


def tell(text: str) -> None:
    """Write a message."""
    _begin()
    print(f"[kiln] {text}", file=sys.stderr)


@cache
def _begin() -> None:
    print(f"[kiln] KILN_DEBUG={config.debug} (docs/debugging.md). {LEVELS}", file=sys.stderr)
