"""How state is parted over files: not built yet."""

from ...refusal import refuse
from . import _HELP, _WHY

refuse(__name__, "DefaultLoadPlanner DefaultSavePlanner", _WHY, _HELP)
