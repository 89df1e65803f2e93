"""The names of `torch.distributed.constants`."""

from .group import default_pg_timeout as default_pg_timeout
