"""Batches as Python's own values."""

from __future__ import annotations

from typing import Any

import kiln


def plain(x: Any) -> Any:
    """Lists in place of tensors and tuples, inside dicts too."""
    if isinstance(x, kiln.Tensor):
        return x.tolist()
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    return [plain(v) for v in x] if isinstance(x, list | tuple) else x
