"""What PyTorch tries out for tensors over several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...refusal import refuse
from ..group import _SINGLE

refuse(
    __name__, "context_parallel local_map register_sharding", "tensors over several processes are not built yet", _SINGLE,
)  # fmt: skip


@contextmanager
def implicit_replication() -> Iterator[None]:
    """Take tensors of one process for such that each process holds: there is one."""
    yield
