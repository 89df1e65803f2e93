"""Regions in which products and convolutions run in bfloat16 or float16: `autocast`.

Which functions take which dtype is in `kiln.ops.precision`. The CPU is the only device: autocast for
another one is off, with PyTorch's warning.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any, Self

from .. import dtypes as dt
from ..device import device
from ..errors import KilnValueError
from ..ops.precision import precision, settle
from ..tensor import Tensor

_HALVES = (dt.bfloat16, dt.float16)


def _checked(device_type: Any) -> str:
    if not isinstance(device_type, str):
        raise KilnValueError(
            "autocast", f"Expected `device_type` of type `str`, got: `{type(device_type)}`", device_type, "'cpu'"
        )  # fmt: skip
    return device(device_type).type


def is_autocast_available(device_type: str) -> bool:
    """Whether PyTorch has autocast for a device type; on this machine only the CPU's can be on."""
    return _checked(device_type) != "meta"


class autocast(ContextDecorator):
    """A region in which products and convolutions run in a lower dtype; also a decorator.

    `dtype` is bfloat16 (the default on CPU) or float16. Casts of float32 parameters are kept to the end of the outermost
    region unless `cache_enabled` is False. Backward belongs outside of the region: gradients have the dtypes of what
    they are gradients of. In `kiln.compile` a region is captured, and one around a call has programs of its own.
    """

    def __init__(self, device_type: str, dtype: dt.dtype | None = None, enabled: bool = True,
                 cache_enabled: bool | None = None):  # fmt: skip
        self.device = _checked(device_type)
        self.fast_dtype = get_autocast_dtype(self.device) if dtype is None else dtype
        self._cache_enabled = precision.cache if cache_enabled is None else cache_enabled
        self._enabled = bool(enabled)
        if enabled and self.device != "cpu":
            kind = "CUDA" if self.device == "cuda" else self.device.upper()
            warnings.warn(
                f"{kind} is not available. Disabling autocast.", UserWarning, stacklevel=2
            )
            self._enabled = False
        elif enabled and self.fast_dtype not in _HALVES:
            warnings.warn(
                "In CPU autocast, but the target dtype is not supported. Disabling autocast.\n"
                "CPU Autocast only supports dtypes of kiln.bfloat16, kiln.float16 currently.", UserWarning, stacklevel=2,
            )  # fmt: skip
            self._enabled = False
        self._before: list[tuple] = []

    def __enter__(self) -> Self:
        p, d = precision, self.device
        self._before.append((p.enabled.get(d, False), get_autocast_dtype(d), p.cache))
        p.enabled[d], p.dtypes[d], p.cache = self._enabled, self.fast_dtype, self._cache_enabled
        p.nesting += 1
        settle()
        return self

    def __exit__(self, *_: object) -> None:
        p, d = precision, self.device
        p.enabled[d], p.dtypes[d], p.cache = self._before.pop()
        if autocast_decrement_nesting() == 0:
            clear_autocast_cache()
        settle()


# ---------------------------------------------------------------- what is set


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Whether this thread is inside autocast, for a device type (without one CUDA's, as in PyTorch)."""
    return precision.enabled.get("cuda" if device_type is None else _checked(device_type), False)


def set_autocast_enabled(device_type: Any, enabled: bool | None = None) -> None:
    """Turn autocast of a device type on or off."""
    name, flag = ("cuda", device_type) if enabled is None else (_checked(device_type), enabled)
    precision.enabled[name] = bool(flag)
    settle()


def get_autocast_dtype(device_type: str) -> dt.dtype:
    """The lower dtype of a device type: bfloat16 on CPU, float16 on others, unless set."""
    return precision.dtypes.get(_checked(device_type), dt.float16)


def set_autocast_dtype(device_type: str, dtype: dt.dtype) -> None:
    """Set the lower dtype of a device type."""
    precision.dtypes[_checked(device_type)] = dtype
    settle()


def is_autocast_cache_enabled() -> bool:
    """Whether casts of parameters are kept."""
    return precision.cache


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Whether to keep casts of parameters."""
    precision.cache = bool(enabled)


def autocast_increment_nesting() -> int:
    """Count one more region; gives how many there are."""
    precision.nesting += 1
    return precision.nesting


def autocast_decrement_nesting() -> int:
    """Count one region less; gives how many there are."""
    precision.nesting -= 1
    return precision.nesting


def clear_autocast_cache() -> None:
    """Forget the casts of parameters."""
    precision.kept.clear()


def is_autocast_cpu_enabled() -> bool:
    """The old form of `is_autocast_enabled("cpu")`."""
    return is_autocast_enabled("cpu")


def set_autocast_cpu_enabled(enabled: bool) -> None:
    """The old form of `set_autocast_enabled("cpu", …)`."""
    set_autocast_enabled("cpu", enabled)


def get_autocast_cpu_dtype() -> dt.dtype:
    """The old form of `get_autocast_dtype("cpu")`."""
    return get_autocast_dtype("cpu")


def set_autocast_cpu_dtype(dtype: dt.dtype) -> None:
    """The old form of `set_autocast_dtype("cpu", …)`."""
    set_autocast_dtype("cpu", dtype)


def get_autocast_gpu_dtype() -> dt.dtype:
    """The old form of `get_autocast_dtype("cuda")`."""
    return get_autocast_dtype("cuda")


def set_autocast_gpu_dtype(dtype: dt.dtype) -> None:
    """The old form of `set_autocast_dtype("cuda", …)`."""
    set_autocast_dtype("cuda", dtype)


# ---------------------------------------------------------------- custom functions


def _each(x: Any, to: dt.dtype) -> Any:
    """Floating tensors, also in containers, cast; float64 stays."""
    if isinstance(x, Tensor):
        return x.to(to) if x.is_floating_point() and x.dtype is not dt.float64 else x
    if isinstance(x, dict):
        return {_each(k, to): _each(v, to) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return type(x)([_each(y, to) for y in x])
    return x


def custom_fwd(
    fwd: Callable | None = None, *, device_type: str, cast_inputs: dt.dtype | None = None
) -> Callable:
    """For the forward of an `autograd.Function`: backward will see autocast as it was here.

    With `cast_inputs`, floating arguments are cast inside of autocast, and the forward runs with it off.
    """
    _checked(device_type)
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def forward(*args: Any, **kwargs: Any) -> Any:
        args[0]._dtype = get_autocast_dtype(device_type)
        if cast_inputs is None:
            args[0]._fwd_used_autocast = is_autocast_enabled(device_type)
            return fwd(*args, **kwargs)
        inside = is_autocast_enabled(device_type)
        args[0]._fwd_used_autocast = False
        if not inside:
            return fwd(*args, **kwargs)
        with autocast(device_type, enabled=False):
            given = [_each(x, cast_inputs) for x in args]
            return fwd(*given, **{k: _each(x, cast_inputs) for k, x in kwargs.items()})

    return forward


def custom_bwd(bwd: Callable | None = None, *, device_type: str) -> Callable:
    """For the backward of an `autograd.Function` whose forward is a `custom_fwd`."""
    _checked(device_type)
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def backward(*args: Any, **kwargs: Any) -> Any:
        ctx = args[0]
        with autocast(device_type, enabled=ctx._fwd_used_autocast, dtype=ctx._dtype):
            return bwd(*args, **kwargs)

    return backward


__all__ = ["autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]
