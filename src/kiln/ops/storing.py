"""Results in memory that is there already: what may be written where, and counting that it was."""

from __future__ import annotations

import warnings
from threading import get_ident
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import mode
from ..errors import KilnError, KilnTypeError, describe
from ..sharing import overlap, root_of, watched, written
from ..tensor import CAPTURING, Tensor, _fresh


def bump(x: Tensor) -> None:
    """Count a change of a tensor's memory."""
    if x._ver is None:
        x._ver = [1, 0]
    else:
        x._ver[0] += 1
    if watched:
        written(x._a)


_STEPWISE = ("elementwise", "indexing", "movement", "scan", "sort")
"""Families that write a result as they go on reading, so that it may not lie across an input."""


def keep_apart(op: Any, out: Any, x: Any, whole: bool = False, grown: bool = False) -> None:
    """Refuse to write to memory that an input lies in: in part or, if `whole`, at all.

    Memory that `grown` means to resize is in the way of all that shares it.
    """
    if not isinstance(out, Tensor) or out._a.__class__ is not np.ndarray:
        return
    if not isinstance(x, Tensor) or x._a.__class__ is not np.ndarray or not x._a.size:
        return
    found = overlap(out._a, x._a)
    if grown and whole and root_of(out._a) is root_of(x._a):
        found = "partial"
    if found and (whole or found == "partial"):
        raise KilnError(
            op.name, "some elements of the input tensor and the written-to tensor refer to a single "
            "memory location", f"{describe(x)}, {describe(out)}", "clone() the input first",
        )  # fmt: skip


def check_result(name: str, x: Tensor, value: Any) -> None:
    """Whether a result fits into x: equal shapes, and a dtype that may be stored."""
    if tuple(value.shape) != tuple(x._a.shape):
        raise KilnError(
            name, f"output with shape {list(x._a.shape)} doesn't match the broadcast shape {list(value.shape)}",
            describe(x), "an in-place result can't be larger than its tensor; use the out-of-place form",
        )  # fmt: skip
    source = value.dtype if isinstance(value.dtype, dt.dtype) else dt.OF_NUMPY[value.dtype]
    if not dt.can_cast(source, x.dtype):
        raise KilnError(
            name, f"result type {source.name} can't be cast to the desired output type {x.dtype.name}",
            describe(x), "convert the tensor first, or use the out-of-place form",
        )  # fmt: skip


def store(op: Any, x: Tensor, value: np.ndarray) -> None:
    """Write a result into a tensor's memory; nothing is written where it does not fit."""
    check_result(op.name, x, value)
    if not x._a.flags.writeable:
        open_memory(op.name, x, x._a)
    if watched:
        written(x._a)
    np.copyto(x._a, value, casting="unsafe")


def open_memory(name: str, x: Tensor, a: np.ndarray) -> None:
    """Make an array writable that is not only because it is part of what `expand` gave; else an error.

    Each of its elements has to have a place of its own.
    """
    if a.size and any(n > 1 and not s for n, s in zip(a.shape, a.strides, strict=True)):
        _shared(name, x)
    try:
        a.flags.writeable = True
    except ValueError:
        _shared(name, x)


def _shared(name: str, x: Tensor) -> None:
    raise KilnError(
        name, "this tensor can't be written to: its elements share memory (expand) or it is read-only",
        describe(x), "clone() it first",
    )  # fmt: skip


def store_out(op: Any, result: Any, out: Any, inputs: tuple = (), cast: bool = False) -> Any:
    """Place results in `out=` tensors, resizing empty ones, and return them; None leaves them as they are.

    `op.out` says of which dtype these may be ("cast": any that the result's can be cast to, as also in
    elementwise ops; otherwise the result's), whether, "apart", none of the inputs may lie there, and whether one
    may lie "across" it, which it may not, "beside" it, where PyTorch copies or reads it as it writes.
    `cast` is for functions that are looser than their op.
    """
    if out is None:
        return result
    if isinstance(result, tuple):
        if not isinstance(out, list | tuple) or len(out) != len(result):
            raise KilnTypeError(
                op.name, f"out= takes a tuple of {len(result)} tensors", describe(out), ""
            )
        for r, o in zip(result, out, strict=True):
            store_out(op, r, o, inputs, cast)
        return out
    if not isinstance(out, Tensor):
        raise KilnTypeError(op.name, "out= takes a Tensor", describe(out), "")
    kind = str(op.out)
    cast = cast or "cast" in kind or (op.out is True and op.family == "elementwise")
    if not cast and out.dtype is not result.dtype:
        raise KilnError(op.name, f"expected out= of dtype {result.dtype.name}, which is the result's",
                        describe(out), "give out= that dtype")  # fmt: skip
    if op.family == "movement" and not dt.can_cast(result.dtype, out.dtype):
        raise KilnTypeError(op.name, f"{result.dtype.name} can't be cast to the output's {out.dtype.name}",
                            describe(out), "give out= a dtype that can hold the result's")  # fmt: skip
    stepwise = "cast" in kind or "beside" in kind or op.family in _STEPWISE
    if "apart" in kind or (stepwise and "across" not in kind):
        for x in inputs:
            for t in x if x.__class__ in (list, tuple) else (x,):
                keep_apart(op, out, t, "apart" in kind, out._a.shape != result._a.shape)
    if mode.grad and (_fresh(out)._rg or _fresh(result)._rg):
        raise KilnError(
            op.name, "functions with out=... arguments don't support automatic differentiation, "
            "but one of the arguments requires grad", describe(out), "use no_grad, or drop out=",
        )  # fmt: skip
    if out._a.shape != result._a.shape:
        if out.numel() > 1 and 0 in out._a.strides:
            _shared(op.name, out)
        if out.numel() != 0:
            warnings.warn(
                f"an output with shape {list(out._a.shape)} was resized to {list(result._a.shape)}; "
                "give out= the right shape or an empty tensor", UserWarning, stacklevel=3,
            )  # fmt: skip
        out._a = np.empty(result._a.shape, out._a.dtype)
    if CAPTURING and (ctx := CAPTURING.get(get_ident())):
        check_result(op.name, out, result)
        ctx.write(out, result)
    else:
        store(op, out, result._a)
    bump(out)
    return out
