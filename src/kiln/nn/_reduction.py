"""The reductions of losses as PyTorch numbers them, and its two old flags."""

from __future__ import annotations

import warnings

from ..errors import KilnValueError

_NUMBERS = {"none": 0, "mean": 1, "elementwise_mean": 1, "sum": 2}


def get_enum(reduction: str) -> int:
    """The number of a reduction: none 0, mean 1, sum 2."""
    if reduction not in _NUMBERS:
        raise KilnValueError("reduction", f"{reduction} is not a valid value for reduction", reduction, "none, mean or sum")  # fmt: skip
    return _NUMBERS[reduction]


def legacy_get_string(
    size_average: bool | None, reduce: bool | None, emit_warning: bool = True
) -> str:
    """The reduction that the two old flags mean."""
    out = "none" if reduce is False else "sum" if size_average is False else "mean"
    if emit_warning:
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{out}' instead.", stacklevel=2
        )  # fmt: skip
    return out


def legacy_get_enum(
    size_average: bool | None, reduce: bool | None, emit_warning: bool = True
) -> int:
    """The number of the reduction that the two old flags mean."""
    return get_enum(legacy_get_string(size_average, reduce, emit_warning))
