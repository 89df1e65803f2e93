"""`torch` in a process that a PyTorch program under Kiln has started: the alias, as in its parent."""

import importlib
import sys

from kiln.compat.torch import install

install()
del sys.modules[__name__]
sys.modules[__name__] = importlib.import_module(__name__)
