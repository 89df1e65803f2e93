"""The accelerator of this machine: there is none that Kiln computes on, and these functions say so.

What programs ask before they choose a device is answered; what needs a device raises, as PyTorch's
builds for the CPU do. `cuda`, `xpu` and `mps` answer in the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

from .errors import KilnAssertionError, KilnError

_HELP = "compute on the CPU where is_available() is False"


def nothing(
    kind: str, name: str, error: type[KilnError] = KilnAssertionError
) -> Callable[..., Any]:
    """A function that says that there is no such device."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        what = f"not compiled with {kind.upper()} enabled: this build of Kiln has no {kind} device"
        raise error(f"{kind}.{name}", what, None, _HELP)

    fail.__name__ = fail.__qualname__ = name
    fail.__doc__ = f"Raises {error.__name__}: there is no {kind} device."
    return fail


def constant(name: str, value: Callable[[], Any], what: str) -> Callable[..., Any]:
    """A function that has one answer as long as there is no device."""

    def answer(*args: Any, **kwargs: Any) -> Any:
        return value()

    answer.__name__ = answer.__qualname__ = name
    answer.__doc__ = what
    return answer


class guard:
    """A `with` block on a device by number: an error where there is none, nothing for None and -1."""

    _kind = "accelerator"

    def __init__(self, device: Any):
        self.idx = getattr(device, "index", device)

    def __enter__(self) -> Self:
        if self.idx is not None and self.idx != -1:
            nothing(self._kind, type(self).__name__, KilnError)()
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def is_available() -> bool:
    """Whether there is an accelerator: False."""
    return False


def device_count() -> int:
    """How many there are: 0."""
    return 0


def current_accelerator(check_available: bool = False) -> None:
    """The device of the accelerator, None as there is none."""


class device_index(guard):
    """A `with` block on the accelerator of a number: an error, or nothing for None."""


for _name in [
    "current_device_index",
    "current_device_idx",
    "current_stream",
    "empty_cache",
    "empty_host_cache",
    "get_device_capability",
    "get_memory_info",
    "max_memory_allocated",
    "max_memory_reserved",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "reset_accumulated_memory_stats",
    "reset_peak_memory_stats",
    "set_device_index",
    "set_stream",
    "synchronize",
]:
    globals()[_name] = nothing("accelerator", _name, KilnError)
set_device_index: Callable[..., Any] = globals()["set_device_index"]


def set_device_idx(device: Any) -> None:
    """The older name of `set_device_index`."""
    warnings.warn("use set_device_index", FutureWarning, stacklevel=2)
    set_device_index(device)
