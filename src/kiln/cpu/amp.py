"""The old names of mixed precision on the CPU: `kiln.amp` has the new ones."""

from __future__ import annotations

import warnings

from .. import amp
from .. import dtypes as dt
from ..naming import name


class autocast(amp.autocast):
    """`kiln.amp.autocast("cpu", …)` by its old name."""

    def __init__(self, enabled: bool = True, dtype: dt.dtype = dt.bfloat16, cache_enabled: bool = True):  # fmt: skip
        warnings.warn(
            f"`{name}.cpu.amp.autocast(args...)` is deprecated. Please use `{name}.amp.autocast('cpu', args...)` instead.",
            FutureWarning, stacklevel=2,
        )  # fmt: skip
        super().__init__("cpu", dtype, enabled, cache_enabled)


__all__ = ["autocast"]
