"""Graphs as text: `print_graph` and `parse_graph` are each other's inverse.

graph(%0: f32[4, 10] 'x', %1: f32[10]) updates {1: 1} {
  %2 = add(%0, %1, 1) : f32[4, 10]
  return %2, %1
}

The body of a loop or a branch stands before the node that has it, as `@0 = graph(…) { … }`.
"""

from __future__ import annotations

import ast
import base64
import math
import re
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnValueError
from ..ops.registry import REGISTRY
from .node import CONST, INPUT, ITEM, LITERAL, Graph, Node, const, input_node, item, literal, make


def _type(n: Node) -> str:
    if n.outputs is not None:
        return "(" + ", ".join(f"{d.abbr}{list(s)}" for s, d in n.outputs) + ")"
    return f"{n.dtype.abbr}{list(n.shape)}"


def _source(n: Node) -> str:
    """The line of a node; for a gradient's that of the forward call."""
    forward = getattr(n.source, "forward", None)
    return str(n.source) if forward is None else f"gradient of {forward}"


def print_graph(g: Graph, sources: bool = True) -> str:
    """The Graph as text, with the user's lines as comments where `sources`."""
    names: dict[Node, str] = {}
    bodies: dict[Graph, str] = {}
    lines: list[str] = []

    def show(x: Any) -> str:
        if isinstance(x, Node):
            return names[x]
        if isinstance(x, tuple):
            return "(" + ", ".join(map(show, x)) + ("," if len(x) == 1 else "") + ")"
        if isinstance(x, dt.dtype):
            return f"dtype.{x.name}"
        if isinstance(x, Graph):
            if x not in bodies:
                bodies[x] = f"@{len(bodies)}"
                text = print_graph(x, sources).replace("\n", "\n  ")
                lines.append(f"  {bodies[x]} = {text}")
            return bodies[x]
        if isinstance(x, complex) or (isinstance(x, float) and not math.isfinite(x)):
            return f"{type(x).__name__}('{x}')"  # their repr is no literal, or loses the sign of a zero
        return repr(x)

    for i, n in enumerate(g.inputs):
        names[n] = f"%{i}"
    heads = [f"{names[n]}: {_type(n)}" + (f" {n.args[1]!r}" if n.args[1] else "") for n in g.inputs]
    for n in g.nodes():
        if n.op is INPUT:
            continue
        names[n] = f"%{len(names)}"
        if n.op is LITERAL:
            data = base64.b64encode(np.ascontiguousarray(n.args[0]).tobytes()).decode()
            text = f"literal('{data}')"
        else:
            text = f"{n.name}({', '.join(map(show, n.args))})"
        lines.append(
            f"  {names[n]} = {text} : {_type(n)}"
            + (f"  # {_source(n)}" if n.source and sources else "")
        )
    updates = f" updates {g.updates}" if g.updates else ""
    return "\n".join(
        [
            f"graph({', '.join(heads)}){updates} {{",
            *lines,
            f"  return {', '.join(names[o] for o in g.outputs)}",
            "}",
        ]
    )


_HEAD = re.compile(r"""(%\d+): (\w+\[[\d, ]*\])(?: ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))?""")
_TYPE = re.compile(r"(\w+)\[([\d, ]*)\]")


def _parse_type(text: str) -> tuple[dt.dtype, tuple[int, ...]]:
    m = _TYPE.fullmatch(text.strip())
    if m is None or m[1] not in dt.BY_ABBR:
        raise ValueError(f"not a type: {text}")
    return dt.BY_ABBR[m[1]], tuple(int(s) for s in m[2].split(",") if s.strip())


def parse_graph(text: str) -> Graph:
    """The Graph that `print_graph` printed; KilnValueError where the text is not one."""
    nodes: dict[str, Node] = {}
    bodies: dict[str, Graph] = {}

    def value(e: ast.expr) -> Any:
        if isinstance(e, ast.Name) and e.id.startswith("v__"):
            return nodes["%" + e.id[3:]]
        if isinstance(e, ast.Name) and e.id.startswith("g__"):
            return bodies["@" + e.id[3:]]
        if isinstance(e, ast.Tuple):
            return tuple(map(value, e.elts))
        if isinstance(e, ast.Attribute) and isinstance(e.value, ast.Name) and e.value.id == "dtype":
            return dt.BY_NAME[e.attr]
        if (
            isinstance(e, ast.Call)
            and isinstance(e.func, ast.Name)
            and e.func.id in ("float", "complex")
        ):
            return {"float": float, "complex": complex}[e.func.id](ast.literal_eval(e.args[0]))
        return ast.literal_eval(e)

    line = ""
    try:
        lines = [x.strip() for x in text.strip().splitlines()] or [""]
        line = lines[0]
        m = re.fullmatch(r"graph\((.*)\)( updates (\{.*?\}))? \{", line)
        if m is None:
            raise ValueError("not a graph header")
        inputs = []
        heads = list(_HEAD.finditer(m[1]))
        if ", ".join(h[0] for h in heads) != m[1]:
            raise ValueError("not a list of inputs")
        for i, h in enumerate(heads):
            d, shape = _parse_type(h[2])
            nodes[h[1]] = input_node(i, shape, d, ast.literal_eval(h[3]) if h[3] else "")
            inputs.append(nodes[h[1]])
        updates = ast.literal_eval(m[3]) if m[3] else {}
        outputs: list[Node] | None = None
        if lines[-1] != "}":
            line = lines[-1]
            raise ValueError("it does not end with }")
        rest = iter(lines[1:-1])
        for line in rest:
            if outputs is not None:
                raise ValueError("it goes on after return")
            start = re.match(r"(@\d+) = graph\(", line)
            if start is not None:
                block, depth = [line.removeprefix(f"{start[1]} = ")], 1
                while depth:
                    block.append(next(rest, ""))
                    if not block[-1]:
                        raise ValueError("a body does not end")
                    depth += block[-1].endswith(" {") - (block[-1] == "}")
                bodies[start[1]] = parse_graph("\n".join(block))
                continue
            if line.startswith("return"):
                outputs = [nodes[n.strip()] for n in line[6:].split(",") if n.strip()]
                continue
            body = re.fullmatch(r"(%\d+) = (\w+)\((.*)\) : (.*?)(?:  # (.*))?", line)
            if body is None:
                raise ValueError("not a node")
            target, name, args_text, type_text, source = body.groups()
            args_text = re.sub(r"@(\d+)", r"g__\1", re.sub(r"%(\d+)", r"v__\1", args_text))
            call = ast.parse(f"f({args_text})", mode="eval").body
            assert isinstance(call, ast.Call)
            args = [value(a) for a in call.args]
            if name == CONST.name:
                n = const(args[0], args[1])
            elif name == LITERAL.name:
                d, shape = _parse_type(type_text)
                n = literal(np.frombuffer(base64.b64decode(args[0]), d.np).reshape(shape).copy())
            elif name == ITEM.name:
                n = item(args[0], args[1])
            else:
                n = make(REGISTRY[name], args, source or "")
            if _type(n) != type_text:
                raise ValueError(f"has type {_type(n)}, not {type_text}")
            nodes[target] = n
        if outputs is None:
            raise ValueError("it returns nothing")
        line = lines[0]
        if any(
            k not in range(len(outputs)) or i not in range(len(inputs)) for k, i in updates.items()
        ):
            raise ValueError("updates name outputs or inputs that are not there")
        return Graph(inputs, outputs, updates)
    except (
        KilnError,
        ValueError,
        LookupError,
        SyntaxError,
        TypeError,
        AttributeError,
        AssertionError,
    ) as e:
        why = e.what if isinstance(e, KilnError) else e
        raise KilnValueError(
            "graph", f"not the text of a Graph: {why}", line, "use print_graph's output"
        ) from None
