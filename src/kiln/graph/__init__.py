"""What a program is: immutable nodes, the legality spec, the printer and its parser."""

from .node import Graph, Node, const, input_node, literal, make

__all__ = ["Graph", "Node", "const", "input_node", "literal", "make"]
