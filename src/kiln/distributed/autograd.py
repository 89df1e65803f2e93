"""Gradients through calls of other processes: not built yet."""

from ..refusal import refuse
from .group import _SINGLE

refuse(
    __name__,
    "backward context get_gradients",
    "calls of other processes are not built yet",
    _SINGLE,
)


def is_available() -> bool:
    """Whether other processes can be called: False."""
    return False
