"""Groups whose processes come and go: not built yet."""

from ...refusal import refuse
from ..group import _SINGLE

refuse(
    __name__,
    "rendezvous agent",
    "groups of several processes are not built yet",
    _SINGLE,
)
