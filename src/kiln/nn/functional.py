"""The functional API: what layers do, as plain functions. PyTorch's `torch.nn.functional`.

Every name comes from the op registry: the functions registered under `nn.functional`, and those of
`kiln` itself that belong here too.
"""

from __future__ import annotations

from typing import Any

from .. import ops as _ops  # noqa: F401  (fills the registry)
from ..ops.registry import FUNCTIONS as _FUNCTIONS

_PREFIX = "nn.functional."
for _name, _fn in _FUNCTIONS.items():
    if _name.startswith(_PREFIX):
        globals()[_name.removeprefix(_PREFIX)] = _fn

__all__ = sorted(n.removeprefix(_PREFIX) for n in _FUNCTIONS if n.startswith(_PREFIX))


def __getattr__(name: str) -> Any:
    """Only for type checkers: every function is in the module's globals."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
