"""Processes of a group: there is this one."""

from ....refusal import refuse
from ...group import _SINGLE
from .errors import record

refuse(__name__, "start_processes", "groups of several processes are not built yet", _SINGLE)

__all__ = ["record"]
