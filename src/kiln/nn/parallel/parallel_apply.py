"""Modules that run on several GPUs at once: refused, as there are none."""

from __future__ import annotations

from typing import Any

from .scatter_gather import refuse


def parallel_apply(modules: Any, inputs: Any, kwargs_tup: Any = None, devices: Any = None) -> Any:
    """Refused: modules that run on several GPUs at once; call one after the other, each uses all cores."""
    return refuse("parallel_apply", devices)
