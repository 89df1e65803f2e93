"""Why an op takes more than twice PyTorch's time, beside its ratio in the table of `benchmarks.ops`.

What is said first is measured with the ratio (`op_facts`): where the time goes. What such a call does there
that PyTorch's does not stands here, by name.
"""

from __future__ import annotations

import re
from typing import Any

_CAUSES = {
    r"fft\.|stft|istft": "NumPy's pocketfft, a row after the other; PyTorch calls MKL",
    r"linalg\.householder|ormqr|orgqr|householder": "by blocks of reflections, written in ops",
    r"linalg\.(ldl|lu|lstsq)|lu|geqrf|cholesky|triangular_solve|linalg\.solve_triangular": (
        "LAPACK in NumPy's library, on one thread below 1,024 rows"
    ),
    r"linalg\.solve": "a general solver, as NumPy offers no other",
    r"linalg\.|pinverse|logdet|det$": "LAPACK through NumPy, copied into and out of its order",
    r"conj$|resolve_|real$|imag$": "PyTorch sets a flag",
    r"rsqrt": "its gradient raises to a power, by the general function",
    r"masked_scatter|masked_select|nonzero|index_put|put|take": "NumPy's fancy indexing in one thread",
    r".*ctc": "in NumPy: no kernel yet",
    r".*max_pool|.*max_unpool": "each input looks through its windows; PyTorch scatters by the places it kept",
    r"rand|multinomial|normal|bernoulli|poisson": (
        "two words of a counter-based stream an element, and a 64-bit remainder without bias"
    ),
    r"sgn|angle|sign|ceil|floor|round|trunc": "its gradient's zeros are written; PyTorch maps zeroed pages",
    r"linspace|logspace": "in float64, from both ends, then cast",
    r"block_diag|.*pad|rot90|flip|unique_consecutive": "several passes of NumPy's",
}


def _cause(name: str) -> str:
    short = name.removeprefix("nn.functional.")
    for pattern, text in _CAUSES.items():
        if re.match(pattern, name) or re.match(pattern, short):
            return text
    return ""


def reason(name: str, row: dict[str, Any]) -> str:
    """What was measured of a row's slow sides, and what is known of such calls; empty where none is slow."""
    measured = [
        f"{way}: {row[key]}"
        for way, key in (("forward", "why"), ("backward", "why backward"))
        if row.get(key)
    ]
    explained = any("Python at any size" in m or "is a copy" in m for m in measured)
    cause = "" if explained and len(measured) == 1 else _cause(name)
    return "; ".join([*measured, *([cause] if cause and measured else [])])
