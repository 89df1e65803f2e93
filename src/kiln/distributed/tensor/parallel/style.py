"""How a module's weights are spread over processes: not built yet."""

from ....refusal import refuse
from ...group import _SINGLE

refuse(
    __name__, "ColwiseParallel ParallelStyle PrepareModuleInput PrepareModuleInputOutput PrepareModuleOutput "
    "RowwiseParallel SequenceParallel", "tensor parallelism is not built yet", _SINGLE,
)  # fmt: skip
