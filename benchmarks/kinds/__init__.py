"""Typical programs written for PyTorch, of the sizes that tutorials and papers' code have, a training step each.

`KINDS` maps a name to a function that makes a step: it trains once and gives the loss. They say `import torch`
and nothing of Kiln, so a process runs them under either library: `python -m benchmarks.kinds` takes orders.
"""

from __future__ import annotations

from collections.abc import Callable

KINDS: dict[str, Callable[[], Callable[[], float]]] = {}


def kind(make: Callable[[], Callable[[], float]]) -> Callable[[], Callable[[], float]]:
    """Register what makes a step under its name."""
    KINDS[make.__name__.replace("_", " ")] = make
    return make
