"""Passes over modules that are Graphs. Source: torch.fx.passes.infra.pass_base."""

from __future__ import annotations

import abc
from collections import namedtuple

from ...graph_module import GraphModule

PassResult = namedtuple("PassResult", "graph_module modified")  # noqa: PYI024


class PassBase(abc.ABC):
    """A pass: subclasses define `call`, and what is checked before (`requires`) and after it (`ensures`)."""

    def __call__(self, graph_module: GraphModule) -> PassResult | None:
        self.requires(graph_module)
        result = self.call(graph_module)
        self.ensures(graph_module)
        return result

    @abc.abstractmethod
    def call(self, graph_module: GraphModule) -> PassResult | None:
        """Change the module; gives it, and whether anything was changed."""

    def requires(self, graph_module: GraphModule) -> None:  # noqa: B027
        """Check what must hold before."""

    def ensures(self, graph_module: GraphModule) -> None:  # noqa: B027
        """Check what must hold after."""
