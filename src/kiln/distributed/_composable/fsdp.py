"""Modules whose parameters are sharded one by one: not built yet."""

from ...refusal import refuse
from ..fsdp import _HELP, _WHY

refuse(__name__, "fully_shard FSDPModule CPUOffloadPolicy MixedPrecisionPolicy", _WHY, _HELP)
