"""An op under its public names: as a function, a method, operators and in-place forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..tensor import Tensor
from .derive import dunder, inplace_function
from .registry import FUNCTIONS, METHODS, Op, named


def _result(op: Op) -> Callable:
    """What names an op's results: it gives way to the class when there are any."""

    def result(*outs: Any) -> tuple:
        room = f"{op.namespace}_" if op.namespace not in ("", "F") else ""
        op.result = named(room + op.name.removesuffix("_dim"), op.result_names)
        return op.result(*outs)

    return result


def bind_names(op: Op) -> None:
    """Put the op's function under its public names and its forms on Tensor."""
    if op.result_names:
        op.result = _result(op)
    if op.private:
        return
    for n in (op.name, *op.aliases):
        if op.namespace == "F":
            FUNCTIONS[f"nn.functional.{n}"] = op.fn
        else:
            FUNCTIONS[f"{op.namespace}.{n}".lstrip(".")] = op.fn
        if op.method and op.namespace == "":
            METHODS[n] = op.fn
            setattr(Tensor, n, op.fn)
        if op.inplace:
            fn = inplace_function(op)
            if op.namespace == "":
                METHODS[n + "_"] = fn
                setattr(Tensor, n + "_", fn)
                FUNCTIONS[n + "_"] = fn
            else:
                FUNCTIONS[f"nn.functional.{n}_"] = fn
    for n in op.dunders:
        if n.startswith("__r") and n not in ("__rshift__",):
            setattr(Tensor, n, dunder(op, n, True))
        elif n.startswith("__i") and n not in ("__invert__",):
            setattr(Tensor, n, inplace_function(op))
        elif len(op.tensor_slots) == 1:
            setattr(Tensor, n, op.fn)
        else:
            setattr(Tensor, n, dunder(op, n, False))
