"""The functional API: what layers do, as plain functions. PyTorch's `torch.nn.functional`.

Every name comes from the op registry: the functions registered under `nn.functional`, and those of
`kiln` itself that belong here too.
"""

from __future__ import annotations

from typing import Any

from ..ops import fractional as _fractional  # noqa: F401  (these and all others fill the registry)
from ..ops import native as _native  # noqa: F401
from ..ops import precision as _precision
from ..ops.registry import room as _room

_precision.install()
globals().update(_room("nn.functional"))
__all__ = sorted(_room("nn.functional"))


def __getattr__(name: str) -> Any:
    """Only for type checkers: every function is in the module's globals."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
