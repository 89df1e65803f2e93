"""How programs get fast: capture, guards, passes, schedules, kernels."""

import sys
import types

from .compiled import CompiledFunction, compile

__all__ = ["CompiledFunction", "compile"]


class _Package(types.ModuleType):
    """The package is the function too: `kiln.compile(fn)` works in whatever order things are imported."""

    __call__ = staticmethod(compile)


sys.modules[__name__].__class__ = _Package
