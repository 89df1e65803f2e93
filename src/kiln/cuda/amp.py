"""The old names of mixed precision on CUDA devices, of which there are none: `kiln.amp` has the new ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from .. import amp
from .. import dtypes as dt
from ..naming import name


def _old(what: str) -> None:
    warnings.warn(
        f"`{name}.cuda.amp.{what}(args...)` is deprecated. Please use `{name}.amp.{what}('cuda', args...)` instead.",
        FutureWarning, stacklevel=3,
    )  # fmt: skip


def amp_definitely_not_available() -> bool:
    """Whether there is no device for it: always."""
    return True


class autocast(amp.autocast):
    """`kiln.amp.autocast("cuda", …)` by its old name: off, with a warning."""

    def __init__(self, enabled: bool = True, dtype: dt.dtype = dt.float16, cache_enabled: bool = True):  # fmt: skip
        _old("autocast")
        super().__init__("cuda", dtype, enabled, cache_enabled)


class GradScaler(amp.GradScaler):
    """`kiln.amp.GradScaler("cuda", …)` by its old name: off, with a warning."""

    def __init__(self, init_scale: float = 2.0**16, growth_factor: float = 2.0, backoff_factor: float = 0.5,
                 growth_interval: int = 2000, enabled: bool = True):  # fmt: skip
        _old("GradScaler")
        super().__init__(
            "cuda", init_scale, growth_factor, backoff_factor, growth_interval, enabled
        )


def custom_fwd(fwd: Callable | None = None, *, cast_inputs: dt.dtype | None = None) -> Callable:
    """`kiln.amp.custom_fwd` for CUDA devices by its old name."""
    _old("custom_fwd")
    return amp.custom_fwd(fwd, device_type="cuda", cast_inputs=cast_inputs)


def custom_bwd(bwd: Callable) -> Callable:
    """`kiln.amp.custom_bwd` for CUDA devices by its old name."""
    _old("custom_bwd")
    return amp.custom_bwd(bwd, device_type="cuda")


__all__ = ["GradScaler", "amp_definitely_not_available", "autocast", "custom_bwd", "custom_fwd"]
