"""Special functions that NumPy lacks, for references: one scalar at a time, exact to float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def _lift(fn: Any) -> Any:
    f = np.frompyfunc(fn, 1, 1)

    def lifted(x: np.ndarray) -> np.ndarray:
        return np.asarray(f(x.astype(np.float64)), dtype=np.float64).astype(x.dtype)

    return lifted


_LARGEST = 2.556348e305  # beyond it log gamma is no float64, which `math.lgamma` refuses


def _log_gamma(x: float) -> float:
    if math.isinf(x) or x > _LARGEST or (x <= 0 and x == math.floor(x)):
        return math.inf
    return math.lgamma(x)


erf, erfc, lgamma = _lift(math.erf), _lift(math.erfc), _lift(_log_gamma)
