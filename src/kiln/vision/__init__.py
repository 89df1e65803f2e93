"""Pictures: data sets in their own files, transforms, models and drawing; PyTorch programs know it as `torchvision`.

https://docs.pytorch.org/vision/stable/
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import datasets, io, models, ops, transforms, tv_tensors, utils

__all__ = ["datasets", "io", "models", "ops", "transforms", "tv_tensors", "utils"]
__version__ = "0.28.0+kiln"


def get_image_backend() -> str:
    """The package that reads pictures."""
    return "PIL"


def set_image_backend(backend: str) -> None:
    """Take the package that reads pictures: PIL is the one there is."""
    from ..errors import KilnValueError

    if backend != "PIL":
        raise KilnValueError("vision", f"Invalid backend '{backend}'", backend, "'PIL'")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
