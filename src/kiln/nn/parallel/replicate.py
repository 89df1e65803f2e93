"""Copies of a module on several GPUs: refused, as there are none."""

from __future__ import annotations

from typing import Any

from .scatter_gather import refuse


def replicate(network: Any, devices: Any, detach: bool = False) -> Any:
    """Refused: copies of a module on several GPUs; one module uses all cores."""
    return refuse("replicate", devices)
