"""Programs as Graphs of Python calls that can be looked at and changed: `torch.fx`.

`symbolic_trace` runs a module on proxies and gives a `GraphModule`, whose Graph can be changed and run again.
`kiln.compile` needs none of this: it captures ops (`kiln.graph`), where this captures calls.
"""

from ._symbolic_trace import Tracer, symbolic_trace, wrap
from .graph import Graph, PythonCode
from .graph_module import GraphModule
from .interpreter import Interpreter, Transformer
from .node import Node, has_side_effect, map_arg
from .proxy import Attribute, Proxy, TraceError
from .subgraph_rewriter import replace_pattern

__all__ = [
    "Attribute", "Graph", "GraphModule", "Interpreter", "Node", "Proxy", "PythonCode", "TraceError", "Tracer", "Transformer",
    "has_side_effect", "map_arg", "replace_pattern", "symbolic_trace", "wrap",
]  # fmt: skip
