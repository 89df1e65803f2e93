"""State of models that are spread over processes: not built yet."""

from ...refusal import refuse
from . import _WHY

refuse(
    __name__, "StateDictOptions _init_optim_state get_model_state_dict get_optimizer_state_dict get_state_dict "
    "set_model_state_dict set_optimizer_state_dict set_state_dict", _WHY,
    "in one process use model.state_dict() and optimizer.state_dict()",
)  # fmt: skip
