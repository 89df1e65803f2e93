"""Elementwise functions of few elements: kernels whose number of elements is an argument, called as builtin functions.

A function written in ops is traced and becomes one expression, whatever its length: what small arrays cost is calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from ... import dtypes as dt
from ...autograd.modes import no_grad
from ...compile import loopnest as ln
from ...compile import maps, pipeline
from ...compile.capture import Capture
from ...compile.regions import Region, Unfusable, ln_dtype
from ...graph.node import Graph, input_node
from ...runtime.calls import direct
from . import jit
from .exprs import emit_expr
from .ir import Module, Val
from .isa import Isa, make_isa
from .lower import lowers
from .rows import ELEMENT, Row

_ANY = 64  # elements that stand for any number of them


def function(name: str, fn: Callable, d: np.dtype, arrays: int, numbers: int, isa: str | None) -> Callable | None:  # fmt: skip
    """An elementwise function of arrays of a dtype and numbers, as `call(out, n, *arrays)` that gives `out`; None where it has no kernel.

    `name` says which function it is, attributes and all. The arrays are C-contiguous and have n elements each, save the
    last ones: so many `numbers`, which are 0-d.
    """
    expr = _expression(name, fn, dt.OF_NUMPY[d], arrays, numbers)
    if expr is None:
        return None
    target, arrays = make_isa(isa), arrays + numbers
    digest = hashlib.sha256(f"{name} {arrays} {numbers}".encode()).hexdigest()[:16]
    symbol = f"few_{digest}_{d}_{target.name}"
    text = _text(symbol, expr, d, arrays, numbers, target)
    kinds = ("ptr", "i64", *["ptr"] * arrays)
    return direct(kinds, result=0, count=1)(jit.build([text], target)(symbol))


def _expression(name: str, fn: Callable, d: dt.dtype, arrays: int, numbers: int) -> ln.Expr | None:
    """What a function comes to for an element, of leaves named by their numbers."""
    capture = Capture(constants=True)
    shapes = [(_ANY,)] * arrays + [()] * numbers
    inputs = [input_node(i, shape, d) for i, shape in enumerate(shapes)]
    try:
        with capture.active(), no_grad():
            value = capture.value(fn(*[capture.tensor(n) for n in inputs]))
    except Exception:
        return None  # it reads values, or its arguments are wrong: the reference tells
    (out,) = pipeline.optimize(Graph(inputs, [value]), lowers, name).outputs
    if out.shape != (_ANY,) or out.dtype is not d:
        return None
    region, here = Region((_ANY,), lambda n: False), maps.identity((_ANY,), [(0,)])
    for i, n in enumerate(inputs):
        region.leaves[n] = here if n.shape else (), ln.leaf(str(i), str(ln_dtype(d)))
    try:
        return region.expr(out, here)
    except Unfusable:
        return None


def _text(symbol: str, expr: ln.Expr, d: np.dtype, arrays: int, numbers: int, isa: Isa) -> str:
    """The module of the kernel, whose arguments are the result, the number of elements and all arrays, the last of them numbers."""
    element, size = ELEMENT[d]
    module, names = Module(), [f"x{i}" for i in range(arrays)]
    b = module.function(symbol, [("ptr", "out"), ("i64", "n"), *(("ptr", x) for x in names)])
    out, n, *given = b.params
    row = Row(b, isa, element, size, n, (b.i64(0), b.i64(0)), b.i64(0))

    def value(made: Module) -> None:
        f = made.function(f"{symbol}_value", [(row.type, x) for x in names], row.type, internal=True)  # fmt: skip
        v = emit_expr(f, isa, expr, lambda leaf: f.params[int(leaf.attr)])
        f.ret(v if v.ty == row.type else f.splat(v, row.lanes))  # the same for all elements

    module.helper(f"{symbol}_value", value)

    first = arrays - numbers
    same = [b.splat(b.load(element, x, size), row.lanes) for x in given[first:]]

    def body(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        values = [*[row.load(x, at, mask, row.constant(0.5)) for x in given[:first]], *same]
        row.store(b.call(f"{symbol}_value", row.type, values), out, at, mask)
        return []

    row.sweep([], body)
    b.ret()
    return module.text()
