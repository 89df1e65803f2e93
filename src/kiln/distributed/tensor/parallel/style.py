"""How a module's weights are spread over the processes of a mesh: over one, they are all here."""

from __future__ import annotations

from typing import Any


class ParallelStyle:
    """A way to spread a module; over one process the module computes what it computes anyway."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.args, self.options = args, options

    def __repr__(self) -> str:
        parts = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.options.items())]
        return f"{type(self).__name__}({', '.join(parts)})"


def _style(name: str, what: str) -> Any:
    return type(name, (ParallelStyle,), {"__doc__": what, "__module__": __name__})


ColwiseParallel = _style("ColwiseParallel", "Each process has some of the results of a layer.")
RowwiseParallel = _style("RowwiseParallel", "Each process has some of the inputs of a layer.")
SequenceParallel = _style("SequenceParallel", "Each process has a stretch of the sequence.")
PrepareModuleInput = _style("PrepareModuleInput", "How a module's inputs are spread.")
PrepareModuleOutput = _style("PrepareModuleOutput", "How a module's outputs are spread.")
PrepareModuleInputOutput = _style(
    "PrepareModuleInputOutput", "How a module's inputs and outputs are spread."
)
