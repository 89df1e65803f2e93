"""Names of types for annotations: `torch.types`."""

import builtins
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

from . import dtypes as _dtypes
from .device import device
from .formats import layout as _layout
from .shape import Size
from .tensor import Tensor

_dtype = _dtypes.dtype
_device = device
_size: TypeAlias = Size | list[int] | tuple[int, ...]  # noqa: PYI042
_TensorOrTensors: TypeAlias = Tensor | Sequence[Tensor]  # noqa: PYI047
_int, _float, _bool, _complex = builtins.int, builtins.float, builtins.bool, builtins.complex
Number: TypeAlias = int | float | bool
Device: TypeAlias = device | str | int | None
FileLike: TypeAlias = str | os.PathLike[str] | Any

__all__ = [
    "Device",
    "FileLike",
    "Number",
    "Size",
    "Tensor",
    "_device",
    "_dtype",
    "_layout",
    "_size",
]
