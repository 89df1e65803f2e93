"""Gradient rules of small calls as scripts: the references that a rule comes to, one after the other on arrays.

A rule is written in ops on tensors, and on small arrays most of its time is dispatch. So what it calls is
written down when the same call (an op, its attributes, shapes and dtypes) comes up again, as a Python
function that calls the same references on arrays: the same bits in a fraction of the time.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import no_grad
from ..autograd.tape import OpNode
from ..graph.node import CONST, INPUT, ITEM, LITERAL, Graph, Leaf, Node, input_node
from ..ops.registry import code_of
from ..tensor import Tensor

LARGE = 1 << 12
"""Elements of a result from where on an op's routine may be quicker than its reference."""
_PATIENCE = 3  # calls alike before one is worth a script
_MOST = 256  # scripts of one op
_FLOATS = (dt.float32.np, dt.float64.np)
_PLAIN = (int, float, bool, str, type(None), dt.dtype)


def run(node: OpNode, gs: list) -> list | None:
    """The gradients, an array or None for each edge, by a script; None where the rules are to run one by one."""
    plan = node.plan
    outs = () if node.outs is None else node.outs[0]
    values: list[Any] = [*gs, *node.args, *outs]
    arrays: list[np.ndarray] = []
    key: list[Any] = [len(gs)]
    for x in values:
        c = x.__class__
        if c is not np.ndarray and isinstance(x, Tensor):
            x = x._a
            c = x.__class__
        if c is np.ndarray:
            arrays.append(x)
            key.append((x.shape, x.dtype.num, x.flags.c_contiguous))
        elif c in _PLAIN:
            key.append((c, x) if c is not float else (c, repr(x)))
        elif (k := _several(x, arrays)) is not None:
            key.append(k)
        else:
            return None
    for e in node.edges:
        key.append(e[2] if e is not None else None)
    known = plan.scripts
    full = tuple(key)
    script = known.get(full, 0)
    if script.__class__ is int:
        if script < _PATIENCE:
            if len(known) >= _MOST:
                known.clear()
            known[full] = script + 1
            return None
        script = known[full] = _written(node, values, len(gs))
    if script is None:
        return None
    try:
        return script(*arrays)
    except Exception:
        return None  # the rules tell what is wrong


def _several(x: Any, arrays: list[np.ndarray]) -> Any:
    """What of a sequence a script is for; its tensors' arrays are added to `arrays`. None for anything else."""
    if x.__class__ is not tuple and x.__class__ is not list:
        return None
    key: list[Any] = [x.__class__]
    for y in x:
        c = y.__class__
        if c is int:
            key.append(y)
        elif c in _PLAIN:
            key.append((c, repr(y)))
        elif isinstance(y, Tensor):
            a = y._a
            if a.__class__ is not np.ndarray:
                return None
            arrays.append(a)
            key.append((a.shape, a.dtype.num, a.flags.c_contiguous))
        elif isinstance(y, tuple) and (k := _several(tuple(y), arrays)) is not None:
            key.append(k)
        else:
            return None
    return tuple(key)


def _written(node: OpNode, values: list, n: int) -> Callable | None:
    """The script of a node's rules for arrays like these; None where they read values."""
    from ..compile.capture import Capture

    if not node.op.reference.__module__.startswith("kiln."):
        return None
    if node.op.family == "factorization" and any(
        getattr(getattr(x, "_a", x), "dtype", _FLOATS[0]).kind == "c" for x in values
    ):
        return None  # whether the loss depends on the phases of complex vectors is to be seen each time
    m = n + len(node.args)
    capture = Capture(constants=True)
    inputs: list[Node] = []
    row: set[Node] = set()

    def symbolic(x: Any) -> Any:
        if x.__class__ is list or x.__class__ is tuple:
            return type(x)(map(symbolic, x))
        x = x._a if isinstance(x, Tensor) else x
        if x.__class__ is not np.ndarray:
            return x
        inputs.append(input_node(len(inputs), x.shape, dt.OF_NUMPY[x.dtype]))
        if x.flags.c_contiguous:
            row.add(inputs[-1])
        return capture.tensor(inputs[-1])

    try:
        with capture.active(), no_grad():
            given = [symbolic(x) for x in values]
            found = node.differentiate(given[:n], given[n:m], lambda: given[m:])
            results = [None if r is None else capture.value(r) for r in found]
    except Exception:
        return None
    return write(inputs, results, row)


def write(
    inputs: Sequence[Node], results: Sequence[Node | None], row: set[Node]
) -> Callable | None:
    """A function of the inputs' arrays that gives the results' as a list; None where it can't be one.

    `row` are the nodes that surely lie in row-major order.
    """
    lines: list[str] = []
    names: dict[Node, str] = {}
    scope: dict[str, Any] = {"__name__": "kiln.backends.scripts", "asarray": np.asarray}
    fixed: dict[Node, Any] = {}  # what depends on no input

    def keep(x: Any) -> str:
        name = f"c{len(scope)}"
        scope[name] = x
        return name

    def text(x: Any) -> str:
        if isinstance(x, Node):
            return names.get(x) or names.setdefault(x, keep(fixed[x]))
        if isinstance(x, tuple) and any(isinstance(y, Node) for y in x):
            return f"[{', '.join(map(text, x))}]"
        return keep(x)

    for i, n in enumerate(inputs):
        names[n] = f"x{i}"
    for n in Graph(inputs, [r for r in results if r is not None]).nodes():
        if n.op is INPUT and n in names:
            continue
        if n.graphs or (isinstance(n.op, Leaf) and n.op not in (CONST, LITERAL, ITEM)):
            return None
        if n.op is CONST or n.op is LITERAL:
            fixed[n] = np.asarray(n.args[0], n.dtype.np)
            continue
        if all(x in fixed for x in n.inputs):
            if n.outputs is not None:
                return None
            fixed[n] = Graph([], [n]).evaluator()([])[0]
            continue
        name = names[n] = f"v{len(names)}"
        if n.op is ITEM:
            lines.append(f"{name} = asarray({text(n.args[0])}[{n.args[1]}])")
            continue
        call = _quick(n, fixed, row, keep, text)
        if call is None:
            op: Any = n.op
            if n.outputs is None and (op.lies == "rows" or (
                op.family == "elementwise" and all(x in row or x in fixed for x in n.inputs)
            )):  # fmt: skip
                row.add(n)
            small = n.outputs is None and all(x.numel() < LARGE for x in (n, *n.inputs))
            if small and (least := getattr(op.eager, "least", None)) is not None:
                small = n.numel() < least
            call = f"{keep(op.run if small else op.eager)}({', '.join(map(text, n.args))})"
        single = n.outputs is None and not n.shape
        lines.append(f"{name} = asarray({call})" if single else f"{name} = {call}")

    def result(n: Node | None) -> str:
        if n is None:
            return "None"
        return f"{text(n)}.copy()" if n in fixed else text(n)

    given = ", ".join(map(result, results))
    params = ", ".join(f"x{i}" for i in range(len(inputs)))
    source = "\n    ".join([f"def script({params}):", *lines, f"return [{given}]"])
    return types.FunctionType(code_of(source, "<kiln script>"), scope, "script")


def _quick(n: Node, fixed: dict, row: set, keep: Callable, text: Callable) -> str | None:
    """The call of an op's ufunc where it is all that the reference does."""
    op: Any = n.op
    k = len(op.tensor_slots)
    if (
        op.ufunc is None or n.dtype.np not in _FLOATS or n.args[k:] != op.defaults or n.numel() >= LARGE
        or op.tensor_slots != tuple(range(k)) or any(not isinstance(a, Node) for a in n.args[:k])
    ):  # fmt: skip
        return None
    parts = []
    for a in n.args[:k]:
        if a in fixed and not a.shape and a.dtype.category <= n.dtype.category:
            parts.append(keep(fixed[a].astype(n.dtype.np)))
        elif a.dtype is n.dtype and (a in row or a in fixed):
            parts.append(text(a))
        else:
            return None
    row.add(n)
    return f"{keep(op.ufunc)}({', '.join(parts)})"
