"""What is done to samples before a model sees them: pictures (`vision`), sounds (`audio`) and texts (`text`).

`kiln.transforms.vision` is `kiln.vision.transforms`; transforms of sounds are modules, differentiable and compiled with the rest of
a model; tokenizers give tensors of numbers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import KilnAttributeError

if TYPE_CHECKING:
    from ..vision import transforms as vision
    from ..vision.transforms import Compose
    from . import audio, text

__all__ = ["Compose", "audio", "text", "vision"]


def __getattr__(name: str) -> Any:
    found: Any
    if name in ("audio", "text"):
        found = importlib.import_module(f".{name}", __name__)
    elif name in ("vision", "Compose"):
        found = importlib.import_module("..vision.transforms", __name__)
        found = found if name == "vision" else found.Compose
    else:
        raise KilnAttributeError(
            "transforms", f"module 'kiln.transforms' has no attribute {name!r}", name, ", ".join(__all__)
        )  # fmt: skip
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
