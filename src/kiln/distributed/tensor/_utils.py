"""Where parts of a spread tensor lie: not built yet."""

from ...refusal import refuse
from ..group import _SINGLE

refuse(
    __name__, "compute_global_tensor_info compute_local_shape_and_global_offset",
    "tensors over several processes are not built yet", _SINGLE,
)  # fmt: skip
