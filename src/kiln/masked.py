"""Reductions and normalisations under masks: PyTorch's `torch.masked`, from the op registry."""

from __future__ import annotations

from typing import Any

from .ops import masked as _functions  # noqa: F401  (fills the registry)
from .ops.registry import room as _room
from .refusal import refuse as _refuse

globals().update(_room("masked"))
__all__ = sorted(_room("masked"))
_refuse(
    __name__, "MaskedTensor masked_tensor as_masked_tensor is_masked_tensor", "tensors that carry a mask",
    "pass mask= to the functions here, as kiln.masked.sum(x, mask=m)",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Only for type checkers: every function is in the module's globals."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
