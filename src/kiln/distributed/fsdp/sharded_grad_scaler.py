"""Scaling of losses of sharded models: not built yet."""

from ...refusal import refuse
from . import _HELP, _WHY

refuse(__name__, "ShardedGradScaler", _WHY, _HELP)
