"""Models whose layers lie in several processes: not built yet."""

from ..refusal import refuse
from .group import _SINGLE

refuse(
    __name__, "Pipe PipelineStage Schedule1F1B ScheduleGPipe ScheduleInterleaved1F1B SplitPoint pipe_split pipeline",
    "pipelines over several processes are not built yet", _SINGLE,
)  # fmt: skip
