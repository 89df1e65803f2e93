"""Keras's names of dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnValueError, describe
from ..ops.creation import as_tensor
from ..tensor import Tensor


def to_dtype(given: Any) -> dt.dtype:
    """The dtype that "float32", "int32", …, a dtype of Kiln or NumPy, or None (float32) stands for."""
    if given is None:
        return dt.float32
    if isinstance(given, dt.dtype):
        return given
    if isinstance(given, dict):  # a dtype policy in a config of Keras's
        given = given["config"]["name"]
    name = str(np.dtype(given)) if not isinstance(given, str) else given
    found = getattr(dt, {"bool": "bool_"}.get(name, name), None)
    if not isinstance(found, dt.dtype):
        raise KilnValueError(
            "dtype", "no such dtype", describe(given), "float32, float64, bfloat16, int32, …; bfloat16 beside float32 is kiln.Trainer(precision='bfloat16')"
        )  # fmt: skip
    return found


def name_of(dtype: Any) -> str:
    """A dtype's name as Keras writes it."""
    return str(to_dtype(dtype)).rpartition(".")[2]


def array(x: Any, dtype: Any = None) -> Any:
    """An array or number as a tensor, float64 as float32 unless `dtype` says otherwise."""
    if isinstance(x, Tensor):
        return x if dtype is None else x.to(to_dtype(dtype))
    if dtype is None and np.asarray(x).dtype == np.float64:
        dtype = dt.float32
    return as_tensor(x, None if dtype is None else to_dtype(dtype))


__all__ = ["array", "name_of", "to_dtype"]
