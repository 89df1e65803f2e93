"""What ends a capture before the function does: it begins again, knowing more."""

from __future__ import annotations

from ..graph.node import Node
from ..tensor import Tensor


class Branch(BaseException):
    """A Python branch on a tensor's value that no captured path has decided yet.

    Not an Exception, so that no `except Exception` of the user's takes it for an error of theirs.
    """

    def __init__(self, node: Node, where: str):
        self.node, self.where = node, where


class Reached(BaseException):
    """The function reaches an argument that requires grad by itself too (its optimizer holds it).

    What is done to the one must be done to the other, so the argument is captured as what is reached.
    """

    def __init__(self, t: Tensor):
        self.tensor = t


class Eagerly(BaseException):
    """This call can't be captured, and need not be (`fullgraph=False`): it runs in eager mode."""
