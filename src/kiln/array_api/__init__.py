"""The Python Array API standard, revision 2025.12: the strict namespace, with its linalg and fft extensions.

    import kiln.array_api as xp           # or xp = x.__array_namespace__() of any tensor x

Functions take tensors and give Arrays: tensors that follow the standard where PyTorch does otherwise. Dtypes
promote by themselves, not by shapes, and only within a kind; a function raises a TypeError for dtypes that the
standard does not define it for. Gradients and `kiln.compile` go through it as through the rest of Kiln.

https://data-apis.org/array-api/2025.12/
"""

from __future__ import annotations

from typing import Any

from . import fft as fft
from . import linalg as linalg
from ._array import Array as Array
from ._creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    tril,
    triu,
    zeros,
    zeros_like,
)
from ._dtypes import astype, can_cast, finfo, iinfo, isdtype, result_type
from ._elementwise import ELEMENTWISE as _ELEMENTWISE
from ._elementwise import clip
from ._info import STANDARD as _STANDARD
from ._info import __array_namespace_info__
from ._manipulation import (
    broadcast_arrays,
    broadcast_shapes,
    broadcast_to,
    concat,
    diff,
    expand_dims,
    flip,
    matrix_transpose,
    moveaxis,
    permute_dims,
    repeat,
    reshape,
    roll,
    squeeze,
    stack,
    take,
    take_along_axis,
    tile,
    unstack,
)
from ._reductions import (
    all,
    any,
    argmax,
    argmin,
    argsort,
    count_nonzero,
    cumulative_prod,
    cumulative_sum,
    isin,
    max,
    mean,
    min,
    nonzero,
    prod,
    searchsorted,
    sort,
    std,
    sum,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
    var,
    where,
)
from .linalg import matmul, tensordot, vecdot

__array_api_version__ = "2025.12"
VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")
"""The revisions that a program may ask for; each is a part of the newest."""

e, inf, nan, pi, newaxis = 2.718281828459045, float("inf"), float("nan"), 3.141592653589793, None
globals().update({d.name: d for d in _STANDARD})  # bool, int8, …
globals().update(_ELEMENTWISE)  # abs, acos, add, …

__all__ = [
    "__array_api_version__", "__array_namespace_info__", "all", "any", "arange", "argmax", "argmin", "argsort", "asarray", "astype",
    "broadcast_arrays", "broadcast_shapes", "broadcast_to", "can_cast", "clip", "concat", "count_nonzero", "cumulative_prod",
    "cumulative_sum", "diff", "e", "empty", "empty_like", "expand_dims", "eye", "fft", "finfo", "flip", "from_dlpack", "full",
    "full_like", "iinfo", "inf", "isdtype", "isin", "linalg", "linspace", "matmul", "matrix_transpose", "max", "mean", "meshgrid",
    "min", "moveaxis", "nan", "newaxis", "nonzero", "ones", "ones_like", "permute_dims", "pi", "prod", "repeat", "reshape",
    "result_type", "roll", "searchsorted", "sort", "squeeze", "stack", "std", "sum", "take", "take_along_axis", "tensordot",
    "tile", "tril", "triu", "unique_all", "unique_counts", "unique_inverse", "unique_values", "unstack", "var", "vecdot", "where",
    "zeros", "zeros_like", *[d.name for d in _STANDARD], *_ELEMENTWISE,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Only for type checkers: every function is in the module's globals."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
