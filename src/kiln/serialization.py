"""Files of tensors: `torch.serialization`'s names. See `kiln.save` and `kiln.load`."""

from .io import load, save
from .io.safe import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals

__all__ = [
    "add_safe_globals",
    "clear_safe_globals",
    "get_safe_globals",
    "load",
    "safe_globals",
    "save",
]
