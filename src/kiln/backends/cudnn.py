"""NVIDIA's cuDNN: not in this build. Its settings can be made and read, and nothing follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

enabled = True
deterministic = False
benchmark = False
benchmark_limit: int | None = None
allow_tf32 = True
fp32_precision = "none"

_NAMES = (
    "enabled",
    "benchmark",
    "benchmark_limit",
    "deterministic",
    "allow_tf32",
    "fp32_precision",
)


def is_available() -> bool:
    """Whether cuDNN is there: False."""
    return False


def version() -> None:
    """Its version: None."""


def is_acceptable(tensor: Any) -> bool:
    """Whether cuDNN takes a tensor: False."""
    return False


def set_flags(
    _enabled: bool | None = None, _benchmark: bool | None = None, _benchmark_limit: int | None = None,
    _deterministic: bool | None = None, _allow_tf32: bool | None = None, _fp32_precision: str | None = None,
) -> tuple:  # fmt: skip
    """Set what is not None; gives what was set before."""
    names = globals()
    before = tuple(names[n] for n in _NAMES)
    values = (_enabled, _benchmark, _benchmark_limit, _deterministic, _allow_tf32, _fp32_precision)
    names.update({n: v for n, v in zip(_NAMES, values, strict=True) if v is not None})
    return before


@contextmanager
def flags(
    enabled: bool = False, benchmark: bool = False, benchmark_limit: int | None = 10,
    deterministic: bool = False, allow_tf32: bool = True, fp32_precision: str = "none",
) -> Iterator[None]:  # fmt: skip
    """Settings for the length of a `with` block."""
    before = set_flags(
        enabled, benchmark, benchmark_limit, deterministic, allow_tf32, fp32_precision
    )
    try:
        yield
    finally:
        globals().update(zip(_NAMES, before, strict=True))
