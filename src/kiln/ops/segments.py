"""Reductions of the segments of a dimension."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import KilnError, describe
from ..shape import norm_dim
from ..tensor import Tensor
from .creation import arange
from .registry import Sample, composition
from .samples import draw, rng
from .scatter import scatter_reduce
from .selection import where_op

_NAMES = {"amax": "max", "amin": "min"}
_EMPTY = {"sum": 0.0, "mean": float("nan"), "prod": 1.0, "max": float("-inf"), "min": float("inf")}
_HOW = {"sum": "sum", "mean": "mean", "prod": "prod", "max": "amax", "min": "amin"}


def _samples() -> Iterator[Sample]:
    x = draw(rng(), (5, 2), 0.5, 2)
    for how in _EMPTY:
        yield Sample((x, how), {"lengths": np.array([2, 1, 2]), "unsafe": True})
        yield Sample(
            (x, how), {"lengths": np.array([1, 0, 4]), "initial": 1.25, "unsafe": True}, grad=False
        )
    yield Sample((x, "max"), {"offsets": np.array([0, 2, 5]), "unsafe": True})
    yield Sample(
        (draw(rng(), (2, 4)), "sum"),
        {"lengths": np.array([[1, 3], [2, 2]]), "axis": 1, "unsafe": True},
    )
    yield Sample((x, "max"), {"lengths": np.array([2, 1])}, error=RuntimeError)
    yield Sample((x, "amin"), {"lengths": np.array([2, 3]), "unsafe": True})
    yield Sample((x, "most"), {"lengths": np.array([2, 3])}, error=RuntimeError)
    yield Sample((x, "max"), error=RuntimeError)


@composition(method=False, aliases=("_segment_reduce",), samples=_samples)
def segment_reduce(data: Tensor, reduce: str, *, lengths: Tensor | None = None, indices: Tensor | None = None,
                   offsets: Tensor | None = None, axis: int = 0, unsafe: bool = False, initial: Any = None) -> Tensor:  # fmt: skip
    """Sum, mean, prod, max or min of each segment of a dimension, told by lengths or offsets.

    `initial` takes part in each segment. A segment without elements gives it, or without it 0, NaN, 1, -inf
    or inf. Unless `unsafe`, lengths are checked to be positive and to cover the dimension.
    """
    name, reduce = "segment_reduce", _NAMES.get(reduce, reduce)
    if reduce not in _EMPTY:
        raise KilnError(
            name, f"unsupported reduction given: {reduce}", reduce, "sum, mean, prod, max or min"
        )
    if indices is not None:
        raise KilnError(
            name,
            "indices based reduction is not supported yet",
            describe(indices),
            "use lengths or offsets",
        )
    d = norm_dim(axis, data.ndim, name)
    if offsets is not None:
        lengths = offsets.narrow(d, 1, offsets.shape[d] - 1) - offsets.narrow(
            d, 0, offsets.shape[d] - 1
        )
    if lengths is None:
        raise KilnError(name, "either lengths or offsets must be given", describe(data), "")
    if lengths.ndim != d + 1 or lengths.shape[:d] != data.shape[:d]:
        raise KilnError(
            name, "lengths must have the shape of data up to axis", describe((data, lengths)), ""
        )
    n = data.shape[d]
    ends = lengths.cumsum(d)
    if not unsafe and (
        bool((lengths < 0).any()) or bool((ends.narrow(d, ends.shape[d] - 1, 1) != n).any())
    ):
        raise KilnError(name, "lengths must be non-negative and add up to the size of the dimension", describe(lengths),
                        "unsafe=True leaves the check out")  # fmt: skip
    # the segment of each element: how many segments end at or before it; elements behind the last one are dropped
    at = (ends.unsqueeze(-1) <= arange(n)).sum(d)
    count = lengths.shape[d]
    rest = data.shape[d + 1 :]
    shape = (*data.shape[:d], count + 1, *rest)
    at = at.reshape(*at.shape, *(1,) * len(rest)).expand(data.shape)
    extreme = initial is not None and reduce in ("max", "min")
    start = _EMPTY[reduce] if initial is None or extreme else initial
    own = initial is not None and reduce in ("sum", "prod")
    out = (
        scatter_reduce(data.new_full(shape, start), d, at, data, _HOW[reduce], include_self=own)
        .narrow(d, 0, count)
        .contiguous()
    )
    if extreme:  # of equal ones the gradient is the data's
        out = where_op(out < initial if reduce == "max" else out > initial, initial, out)
    if initial is not None and reduce == "mean":
        size = lengths.reshape(*lengths.shape, *(1,) * len(rest)).to(data.dtype)
        out = where_op(size == 0, out, out + initial / size)
    return out
