"""The extension of discrete Fourier transforms: Kiln's, under the standard's names of arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import fft as _kiln
from ..tensor import Tensor
from ._array import Array, array
from ._dtypes import COMPLEX, FLOAT, FLOATING, checked
from ._elementwise import _named

_TRANSFORMS = {
    "fft": COMPLEX, "ifft": COMPLEX, "rfft": FLOAT, "irfft": COMPLEX, "hfft": COMPLEX, "ihfft": FLOAT,
    "fftn": COMPLEX, "ifftn": COMPLEX, "rfftn": FLOAT, "irfftn": COMPLEX,
}  # fmt: skip
__all__ = [*_TRANSFORMS, "fftfreq", "fftshift", "ifftshift", "rfftfreq"]


def _along_one(name: str, kinds: set[int], fn: Callable) -> Callable:
    def f(x: Tensor, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
        return array(fn(checked(name, kinds, x), n, axis, norm), x)

    return f


def _along_several(name: str, kinds: set[int], fn: Callable) -> Callable:
    def f(x: Tensor, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None,
          norm: str = "backward") -> Array:  # fmt: skip
        return array(fn(checked(name, kinds, x), s, axes, norm), x)

    return f


for _name, _kinds in _TRANSFORMS.items():
    _fn = getattr(_kiln, _name)
    _make = _along_several if _name.endswith("n") else _along_one
    globals()[_name] = _named(_name, _make(_name, _kinds, _fn), _fn.__doc__)


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Array:
    """The frequencies of the bins of `fft` for n points d apart."""
    return array(_kiln.fftfreq(n, d, dtype=dtype, device=device))


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Array:
    """The frequencies of the bins of `rfft` for n points d apart."""
    return array(_kiln.rfftfreq(n, d, dtype=dtype, device=device))


def fftshift(x: Tensor, /, *, axes: int | Sequence[int] | None = None) -> Array:
    """The bins of `fft` in ascending order of frequency."""
    return array(_kiln.fftshift(checked("fftshift", FLOATING, x), axes), x)


def ifftshift(x: Tensor, /, *, axes: int | Sequence[int] | None = None) -> Array:
    """The inverse of `fftshift`."""
    return array(_kiln.ifftshift(checked("ifftshift", FLOATING, x), axes), x)
