"""Losses that are a function of each element, reduced: one op, and so one node of the tape, as in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..shape import Size
from ..tensor import Tensor
from .dispatch import LARGE
from .reduction import sum_op
from .registry import Op, Sample, op
from .statistics import mean_op

_F32, _F64 = dt.float32.np, dt.float64.np
_MEAN: Op = mean_op.op  # type: ignore[attr-defined]
_SUM: Op = sum_op.op  # type: ignore[attr-defined]


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The loss itself, its mean or its sum."""
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def reduced_loss(function: Any, quick: Callable[..., np.ndarray] | None = None) -> Callable:
    """The mean or sum of what an elementwise op of (input, target, …) gives, as an op whose nodes have the name of that one's.

    The function takes that op's arguments and a reduction; its result for "none" is the elementwise op's.
    `quick(g, input, target, …)` may give the gradient of the input on plain arrays that are not large.
    """
    each: Op = function.op
    names = tuple(p.name for p in each.params)
    (rule,) = each.rules

    def reference(*args: Any) -> Any:
        x, y, *rest, how = args
        d = x.dtype
        # elements as that op computes them, routines or not
        run = each.eager
        if (
            x.size < getattr(run, "least", 0) and (d is _F32 or d is _F64) and y.dtype is d
            and x.shape == y.shape and not any(a.__class__ is np.ndarray for a in rest)
        ):  # fmt: skip
            run = each.reference
        r = np.asarray(run(x, y, *rest))
        total = _MEAN if how == "mean" else _SUM
        small = r.size < LARGE and (r.dtype is _F32 or r.dtype is _F64)
        return (total.reference if small else total.eager)(r, None, False)

    def scaled(g: Any, input: Any, reduction: str) -> Any:
        return g / max(math.prod(input.shape), 1) if reduction == "mean" else g

    def gradient(g: Tensor, *args: Any) -> tuple:
        *given, reduction, needs = args
        g = scaled(g, given[0], reduction)
        return rule.fn(*[g if s < 0 else given[s] for s in rule.slots[:-1]], needs)

    def of_input(g: np.ndarray, *args: Any) -> np.ndarray:
        if args[0].size >= LARGE:
            raise NotImplementedError  # several passes of NumPy's: the rule's ops have kernels
        return quick(scaled(g, args[0], args[-1]), *args[:-1])  # type: ignore[misc]

    def samples() -> Any:
        for s in each.samples():  # type: ignore[misc]
            for reduction in ("mean", "sum"):
                given = (*s.args, *(s.kwargs[n] for n in names[len(s.args) :]))
                yield Sample((*given, reduction), {}, s.error, s.grad and not s.fixed)

    for fn in (reference, of_input):
        fn.names = (*("g",)[fn is reference :], *names, "reduction")  # type: ignore[attr-defined]
    gradient.names = ("g", *names, "reduction", "needs")  # type: ignore[attr-defined]
    reference.__annotations__ = {**each.annotations, "reduction": "str"}
    reference.__doc__ = f"`{each.name}`, reduced."
    whole = op(
        name=each.name + "_reduced", private=True, node=each.node, check=False,
        infer=lambda *args: (Size(()), each.infer(*args[:-1])[1]),  # type: ignore[misc]
        body=lambda *args: reduced(function(*args[:-1]), args[-1]), samples=samples,
        grad={("input", "target"): gradient},
        quick=None if quick is None else {"input": of_input},
    )(reference)  # fmt: skip
    return lambda *args: function(*args[:-1]) if args[-1] == "none" else whole(*args)
