"""Modules in other processes: not built yet."""

from ...refusal import refuse
from ..group import _SINGLE

refuse(__name__, "RemoteModule", "modules in other processes are not built yet", _SINGLE)
