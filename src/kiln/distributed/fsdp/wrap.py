"""Which parts of a model are sharded by themselves: not built yet."""

from ...refusal import refuse
from . import _HELP, _WHY

refuse(
    __name__, "CustomPolicy ModuleWrapPolicy always_wrap_policy enable_wrap lambda_auto_wrap_policy "
    "size_based_auto_wrap_policy transformer_auto_wrap_policy wrap", _WHY, _HELP,
)  # fmt: skip
