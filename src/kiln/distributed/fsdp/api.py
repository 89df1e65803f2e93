"""The names of `torch.distributed.fsdp.api`."""

from .. import fsdp

globals().update({n: v for n, v in vars(fsdp).items() if n[0].isupper()})
