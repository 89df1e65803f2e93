"""Element types of eight bits, and complex numbers of two half floats: they can be named, and say that they are not built where they are used."""

from __future__ import annotations

from typing import Any

from . import naming
from .errors import KilnNotImplementedError
from .refusal import refused

_HELP = "use kiln.bfloat16, or kiln.int8 with a scale"


class Float8:
    """The name of an element type that Kiln has no tensors of."""

    _why, _help = "tensors of this element type are not built yet", _HELP
    itemsize, is_floating_point, is_complex, is_signed = 1, True, False, True

    def __init__(self, name: str, limits: tuple[float, float, float, float]):
        self.name, self.limits = name, limits

    @property
    def np(self) -> Any:
        """What tensors of it would be stored as: KilnNotImplementedError."""
        raise KilnNotImplementedError(self.name, self._why, None, self._help)

    category = order = to_real = np

    @property
    def dtype(self) -> Any:
        """What NumPy asks for: KilnNotImplementedError."""
        return self.np

    def __repr__(self) -> str:
        return f"{naming.name}.{self.name}"


class Complex32(Float8):
    """The name of complex numbers of two half floats."""

    _help = "use kiln.complex64"
    itemsize, is_floating_point, is_complex = 4, False, True


# Their limits are eps, min, max and the smallest normal number.
float8_e4m3fn = Float8("float8_e4m3fn", (0.125, -448.0, 448.0, 2.0**-6))
float8_e4m3fnuz = Float8("float8_e4m3fnuz", (0.125, -240.0, 240.0, 2.0**-7))
float8_e5m2 = Float8("float8_e5m2", (0.25, -57344.0, 57344.0, 2.0**-14))
float8_e5m2fnuz = Float8("float8_e5m2fnuz", (0.125, -57344.0, 57344.0, 2.0**-15))
float8_e8m0fnu = Float8("float8_e8m0fnu", (1.0, 2.0**-127, 2.0**127, 2.0**-127))
complex32 = chalf = Complex32("complex32", (2.0**-10, -65504.0, 65504.0, 2.0**-14))
_scaled_mm = refused("_scaled_mm", "products of float8 matrices are not built yet", _HELP)
