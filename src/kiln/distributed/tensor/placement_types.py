"""The names of `torch.distributed.tensor.placement_types`."""

from ...refusal import refuse
from ..group import _SINGLE
from . import Partial as Partial
from . import Placement as Placement
from . import Replicate as Replicate
from . import Shard as Shard

refuse(
    __name__,
    "DTensorSpec _StridedShard",
    "tensors over several processes are not built yet",
    _SINGLE,
)
