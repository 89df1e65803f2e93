"""The CPU backend: Graphs to native programs, with kernels generated as LLVM IR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...graph import Graph, Node


def lowers(node: Node) -> bool:
    """Whether the backend takes a node as it is, without its body."""
    from .lower import lowers as f

    return f(node)


def compile(graph: Graph, name: str) -> Any:
    """A native Program."""
    from .program import CpuProgram

    return CpuProgram(graph, name)
