"""Parts of a Graph found by a pattern, and replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import KilnNotImplementedError
from ._symbolic_trace import symbolic_trace
from .graph import Graph
from .graph_module import GraphModule, _copy_attr
from .node import Node


@dataclass
class Match:
    """Where a pattern was found: the node of its result, and the Graph's nodes by the pattern's."""

    anchor: Node
    nodes_map: dict[Node, Node]


@dataclass
class ReplacedPatterns(Match):
    """A match, and the nodes that stand in its place."""

    replacements: list[Node]


def _graph_of(x: Any) -> tuple[Graph, Any]:
    if isinstance(x, Graph):
        return x, None
    found = x if isinstance(x, GraphModule) else symbolic_trace(x)
    return found.graph, found


def _same(p: Any, g: Any, found: dict[Node, Node]) -> bool:
    if isinstance(p, Node):
        if not isinstance(g, Node):
            return False
        if p in found:
            return found[p] is g
        if p.op == "placeholder":
            found[p] = g
            return True
        if (
            p.op != g.op
            or p.target != g.target
            or len(p.args) != len(g.args)
            or p.kwargs.keys() != g.kwargs.keys()
        ):
            return False
        found[p] = g
        return _same(p.args, g.args, found) and _same(p.kwargs, g.kwargs, found)
    if isinstance(p, tuple | list):
        return (
            isinstance(g, tuple | list)
            and len(p) == len(g)
            and all(_same(a, b, found) for a, b in zip(p, g, strict=True))
        )
    if isinstance(p, dict):
        return (
            isinstance(g, dict)
            and p.keys() == g.keys()
            and all(_same(p[k], g[k], found) for k in p)
        )
    return type(p) is type(g) and p == g


def _found(pattern: Graph, anchor: Node) -> dict[Node, Node] | None:
    """The Graph's nodes by the pattern's, where the pattern's result is `anchor`; inner ones are read by nobody else."""
    result = pattern.output_node().args[0]
    found: dict[Node, Node] = {}
    if not isinstance(result, Node) or not _same(result, anchor, found):
        return None
    inner = {g for p, g in found.items() if p.op != "placeholder"}
    if any(u not in inner for g in inner if g is not anchor for u in g.users):
        return None
    return found


def replace_pattern(
    gm: GraphModule, pattern: Callable | GraphModule, replacement: Callable | GraphModule
) -> list[Match]:
    """Replace, in place, each part of a Graph that does what `pattern` does by what `replacement` does.

    Both are functions or modules of the same arguments. Gives the matches. Source: torch.fx.replace_pattern.
    """
    return [
        Match(m.anchor, m.nodes_map) for m in replace_pattern_with_filters(gm, pattern, replacement)
    ]


def replace_pattern_with_filters(
    gm: GraphModule, pattern: Any, replacement: Any = None, match_filters: list[Callable] | None = None,
    ignore_literals: bool = False, replacement_callback: Callable | None = None, node_name_match: str = "",
) -> list[ReplacedPatterns]:  # fmt: skip
    """`replace_pattern` where all filters, functions of (match, Graph, pattern's Graph), say so."""
    if ignore_literals or replacement_callback is not None or node_name_match:
        raise KilnNotImplementedError(
            "replace_pattern_with_filters", "patterns with literals, callbacks or names are not built", None, "match_filters="
        )  # fmt: skip
    old, _ = _graph_of(pattern)
    new, module = _graph_of(replacement)
    inputs = [n for n in old.nodes if n.op == "placeholder"]
    matches: list[ReplacedPatterns] = []
    for anchor in list(gm.graph.nodes):
        if anchor._erased or anchor.op in ("placeholder", "output"):
            continue
        found = _found(old, anchor)
        if found is None or not all(
            f(Match(anchor, found), gm.graph, old) for f in match_filters or ()
        ):
            continue
        given = dict(
            zip(
                [n for n in new.nodes if n.op == "placeholder"],
                [found[i] for i in inputs],
                strict=True,
            )
        )
        with gm.graph.inserting_before(anchor):
            for n in new.nodes:
                if module is not None and n.op in ("call_module", "get_attr"):
                    _copy_attr(module, gm, str(n.target))
            result = gm.graph.graph_copy(new, given)
        made = [given[n] for n in new.nodes if n in given and n.op != "placeholder"]
        anchor.replace_all_uses_with(result)
        for p in reversed(list(old.nodes)):
            if p in found and p.op != "placeholder":
                gm.graph.erase_node(found[p])
        matches.append(ReplacedPatterns(anchor, found, made))
    gm.recompile()
    return matches
