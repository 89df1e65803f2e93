"""The one page of passes: every pass by name, in order, with what holds before and after.

    captured Graph
      prune       scans lose outputs and inputs that nobody reads
      simplify    x*1, x+0, casts and reshapes that cancel, constants folded   (KILN_NO_SIMPLIFY=1 skips)
      decompose   composites become primitives where the backend has no form of its own
      simplify    again: bodies bring their own constants
      hoist       what all steps of a scan compute alike is computed before it
    Graph of ops that the backend lowers

Each pass runs in the bodies of loops and branches too, innermost first. Graphs are hash-consed, so
common subexpressions are one node throughout, and only nodes that an output needs are ever visited,
so dead code falls away by construction. The legality spec is checked after each pass.
"""

from __future__ import annotations

from collections.abc import Callable

from ..config import config
from ..graph import Graph, Node, spec
from ..ladder import tell
from .passes import bodies, decompose, simplify

Pass = tuple[str, Callable[[Graph], Graph]]


def passes(lowers: Callable[[Node], bool] | None) -> list[Pass]:
    """The passes, in order, for a backend that takes the nodes that `lowers` names; none for one that takes all."""
    if lowers is None:
        return []
    tidy: list[Pass] = [] if config.no_simplify else [("simplify", simplify.simplify)]
    return [
        ("prune", bodies.prune),
        *tidy,
        ("decompose", lambda g: decompose.decompose(g, lowers)),
        *tidy,
        ("hoist", bodies.hoist),
    ]


def optimize(graph: Graph, lowers: Callable[[Node], bool] | None, name: str = "") -> Graph:
    """The Graph after every pass, checked before and between them."""
    spec.check(graph, "capture")
    _show("capture", graph, name)
    for title, run in passes(lowers):
        before, graph = graph, run(bodies.inside(graph, run))
        spec.check(graph, title)
        _show(title, graph, name, before)
    return graph


def _show(title: str, graph: Graph, name: str, before: Graph | None = None) -> None:
    if config.debug >= 4:
        text = str(graph)
        same = before is not None and text == str(before)
        tell(f"{name} after {title}: as before" if same else f"{name} after {title}:\n{text}")
