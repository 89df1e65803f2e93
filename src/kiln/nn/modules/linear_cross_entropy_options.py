"""How PyTorch may divide the work of `linear_cross_entropy`."""

from __future__ import annotations

from dataclasses import dataclass

from ... import dtypes as dt
from ...errors import KilnValueError

_POLICIES = ("accurate", "balanced", "compact", "auto")
_METHODS = ("auto", "aspect_ratio")
_SUMS = (None, dt.float16, dt.bfloat16, dt.float32, dt.float64)


@dataclass(slots=True, frozen=True)
class LinearCrossEntropyOptions:
    """PyTorch's options for chunks of `linear_cross_entropy`; they are checked, and change nothing here.

    A compiled function lays out memory by itself. ValueError: a value that PyTorch does not know.
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: str = "auto"
    acc_dtype: dt.dtype | None = None

    def __post_init__(self) -> None:
        size, method = self.batch_chunk_size, self.chunking_method
        if size is not None and size <= 0:
            _refuse(f"batch_chunk_size must be positive int or None, got {size}", size)
        if self.acc_policy not in _POLICIES:
            _refuse(f"invalid acc_policy: {self.acc_policy!r}", self.acc_policy)
        head, _, ratio = (method or "auto").partition(":")
        if head not in _METHODS or (ratio and (head == "auto" or not ratio.isdigit())):
            _refuse(f"invalid chunking_method: {method!r}", method)
        if self.acc_dtype not in _SUMS:
            _refuse("acc_dtype must be a floating dtype or None", self.acc_dtype)


def _refuse(what: str, received: object) -> None:
    raise KilnValueError("LinearCrossEntropyOptions", what, received)


__all__ = ["LinearCrossEntropyOptions"]
