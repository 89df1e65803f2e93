"""Control flow under the names that PyTorch keeps it at: `kiln.cond`, `kiln.while_loop`, `kiln.associative_scan`."""

from ..compile.control import cond as cond
from ..compile.control import while_loop as while_loop
