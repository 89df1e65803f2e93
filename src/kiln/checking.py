"""Conditions that programs state as calls: `torch._check` and its forms.

In a captured program a condition on sizes is a guard, as any branch is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .dtypes import bool_
from .errors import (
    KilnError,
    KilnIndexError,
    KilnNotImplementedError,
    KilnTypeError,
    KilnValueError,
    describe,
)
from .tensor import Tensor

Message = Callable[[], Any] | None
_EXPECTED = "Expected cond to be True, but got False."


def _said(name: str, message: Message) -> str:
    if message is not None and not callable(message):
        raise KilnTypeError(name, "message must be a callable", describe(message), "lambda: …")
    return _EXPECTED if message is None else str(message())


def _holds(name: str, cond: Any) -> bool:
    if not isinstance(cond, bool):
        raise KilnTypeError(
            name, f"cond must be a bool, but got {type(cond)}", describe(cond), "bool(…)"
        )
    return cond


def _check(cond: bool, message: Message = None, *, _error: type[KilnError] = KilnError) -> None:
    """An error where a condition does not hold, with the text that `message` gives."""
    if not _holds("_check", cond):
        raise _error("_check", _said("_check", message), None, "")


_check_index = partial(_check, _error=KilnIndexError)
_check_value = partial(_check, _error=KilnValueError)
_check_type = partial(_check, _error=KilnTypeError)
_check_not_implemented = partial(_check, _error=KilnNotImplementedError)


def _check_with(error_type: type[Exception], cond: bool, message: Message = None) -> None:
    """An error of a class where a condition does not hold."""
    if not _holds("_check_with", cond):
        raise error_type(_said("_check_with", message))


def _all(name: str, cond: Tensor) -> bool:
    if not isinstance(cond, Tensor):
        raise KilnTypeError(
            name, f"cond must be a tensor, but got {type(cond)}", describe(cond), ""
        )
    if cond.dtype is not bool_:
        raise KilnTypeError(
            name, f"cond tensor must have dtype torch.bool, but got {cond.dtype}", describe(cond), ""
        )  # fmt: skip
    return bool(cond.all().item())


def _check_tensor_all(cond: Tensor, message: Message = None) -> None:
    """An error where an element of a tensor of bools is False."""
    _check(_all("_check_tensor_all", cond), message)


def _check_tensor_all_with(
    error_type: type[Exception], cond: Tensor, message: Message = None
) -> None:
    """An error of a class where an element of a tensor of bools is False."""
    _check_with(error_type, _all("_check_tensor_all_with", cond), message)


def _check_is_size(i: int, message: Message = None, *, max: int | None = None) -> None:
    """An error where a number is no size: negative, or above `max`."""
    _check(i >= 0 and (max is None or i <= max), message)
