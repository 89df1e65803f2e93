"""Modules in other processes: not built yet."""

from ...refusal import refuse
from ..group import _SINGLE
from .functional import (  # noqa: F401
    all_gather,
    all_reduce,
    all_to_all,
    all_to_all_single,
    broadcast,
    gather,
    reduce,
    reduce_scatter,
    scatter,
)

refuse(__name__, "RemoteModule", "modules in other processes are not built yet", _SINGLE)
