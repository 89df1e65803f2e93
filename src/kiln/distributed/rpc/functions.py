"""Functions that other processes call: not built yet."""

from ...refusal import refuse
from ..group import _SINGLE

refuse(__name__, "async_execution", "calls of other processes are not built yet", _SINGLE)
