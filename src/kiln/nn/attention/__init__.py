"""Attention: the choice of a kernel that PyTorch offers, and attention with masks and scores given as functions.

https://docs.pytorch.org/docs/stable/nn.attention.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from ...errors import KilnAssertionError, KilnValueError, describe


class SDPBackend(IntEnum):
    """PyTorch's kernels for scaled dot-product attention."""

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


_allowed: list[SDPBackend] = [b for b in SDPBackend if b is not SDPBackend.ERROR]


@contextmanager
def sdpa_kernel(
    backends: SDPBackend | list[SDPBackend], set_priority: bool = False
) -> Iterator[None]:
    """Say which kernels attention may use; Kiln has one, which never lays out its scores, and uses it always.

    AssertionError: something other than an SDPBackend or a list of them.
    """
    given = backends if isinstance(backends, list | tuple) else [backends]
    if not all(isinstance(b, SDPBackend) for b in given):
        raise KilnAssertionError(
            "sdpa_kernel", "Backend must be an instance of SDPBackend or a list of SDPBackend instances",
            describe(backends), "SDPBackend.MATH, …",
        )  # fmt: skip
    before = list(_allowed)
    _allowed[:] = dict.fromkeys(given)
    try:
        yield
    finally:
        _allowed[:] = before


def _cur_sdpa_kernel_backends() -> list[SDPBackend]:
    return list(_allowed)


def list_flash_attention_impls() -> list[str]:
    """The kernels for GPUs that are registered: none."""
    return []


def current_flash_attention_impl() -> str | None:
    """The kernel for GPUs that is active: none."""
    return None


def activate_flash_attention_impl(impl: str) -> None:
    """Refused: there is no such kernel."""
    raise KilnValueError(
        "activate_flash_attention_impl", f"Unknown flash attention impl '{impl}'. Available implementations: []",
        impl, "attention on CPUs has its own kernel",
    )  # fmt: skip


__all__ = [
    "SDPBackend", "activate_flash_attention_impl", "current_flash_attention_impl",
    "list_flash_attention_impls", "sdpa_kernel",
]  # fmt: skip
