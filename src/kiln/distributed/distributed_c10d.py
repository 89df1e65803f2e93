"""The names of `torch.distributed.distributed_c10d`."""

from .. import distributed
from .group import default as _get_default_group  # noqa: F401

globals().update({n: getattr(distributed, n) for n in distributed.__all__})
