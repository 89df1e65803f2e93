"""What the namespace can do, for programs that ask: `__array_namespace_info__()`."""

from __future__ import annotations

from typing import Any

from .. import dtypes as dt
from ..device import CPU, as_device, device
from ._dtypes import isdtype

STANDARD = (
    dt.bool_, dt.int8, dt.int16, dt.int32, dt.int64, dt.uint8, dt.uint16, dt.uint32, dt.uint64,
    dt.float32, dt.float64, dt.complex64, dt.complex128,
)  # fmt: skip
"""The dtypes of the standard. Kiln's half floats work too, as far as the functions are defined for floats."""


class Info:
    """Capabilities, devices and dtypes of the namespace."""

    def capabilities(self) -> dict[str, Any]:
        """Which optional parts of the standard are there."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> device:
        """The device of new arrays."""
        return CPU

    def devices(self) -> tuple[device, ...]:
        """All devices."""
        return (CPU,)

    def default_dtypes(self, *, device: Any = None) -> dict[str, dt.dtype]:
        """The dtypes of new arrays by kind; the floating ones follow `kiln.set_default_dtype`."""
        as_device(device)
        real = dt.get_default_dtype()
        return {
            "real floating": real, "complex floating": real.to_complex(), "integral": dt.int64, "indexing": dt.int64,
        }  # fmt: skip

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, dt.dtype]:
        """The dtypes by name, all or those of a kind (or of several) that `isdtype` knows."""
        as_device(device)
        return {d.name: d for d in STANDARD if kind is None or isdtype(d, kind)}


def __array_namespace_info__() -> Info:
    """What this namespace can do."""
    return Info()
