"""The array object: a tensor that obeys the standard where PyTorch's tensor does otherwise."""

from __future__ import annotations

from typing import Any

from .. import dtypes as dt
from ..device import as_device
from ..errors import KilnError, describe
from ..tensor import Tensor, _disabled_torch_function_impl


class _Count(int):
    """`x.size`: a number, as the standard has it, that may be called, as PyTorch's method is."""

    tensor: Tensor

    def __call__(self, dim: int | None = None) -> Any:
        return Tensor.size(self.tensor, dim)


class Array(Tensor):
    """A tensor whose operators promote as the standard says: by dtypes alone, whatever the shapes.

    Functions of this namespace take any tensor and give Arrays. An Array is a Tensor in all else: methods,
    gradients, modules and `kiln.compile` take it, and PyTorch's methods give plain tensors again.
    """

    __torch_function__ = _disabled_torch_function_impl  # type: ignore[assignment]

    __slots__ = ()

    @property
    def size(self) -> Any:
        """The number of elements."""
        n = _Count(self.numel())
        n.tensor = self
        return n

    @property
    def T(self) -> Array:
        """The transpose of a matrix."""
        if self.ndim != 2:
            raise KilnError("T", "only matrices have a transpose", describe(self), "x.mT transposes the last two dimensions")  # fmt: skip
        return self.mT

    @property
    def mT(self) -> Array:
        """The last two dimensions exchanged."""
        if self.ndim < 2:
            raise KilnError("mT", "needs at least two dimensions", describe(self), "")
        return array(self.transpose(-2, -1))

    def to_device(self, device: Any, /, *, stream: Any = None) -> Array:
        """This array on a device: itself, as there is only the CPU."""
        as_device(device)
        return self

    def __getitem__(self, key: Any, /) -> Array:
        key, flips = _index(self, key)
        out = Tensor.__getitem__(self, key)  # type: ignore[attr-defined]
        return array(out.flip(flips) if flips else out, self)

    def __setitem__(self, key: Any, value: Any, /) -> None:
        key, flips = _index(self, key)
        if flips and isinstance(value, Tensor):
            value = value.expand(Tensor.__getitem__(self, key).shape).flip(flips)  # type: ignore[attr-defined]
        Tensor.__setitem__(self, key, value)  # type: ignore[attr-defined]


def array(t: Tensor, *given: Any) -> Array:
    """A result as an Array; where it is one of the arguments, which stay what they are, a view of it."""
    if t.__class__ is Array:
        return t  # type: ignore[return-value]
    if any(t is g for g in given):
        t = t.view(t.shape)
    t.__class__ = Array
    return t  # type: ignore[return-value]


def _index(x: Tensor, key: Any) -> tuple[Any, tuple[int, ...]]:
    """An index as Kiln's tensors take it, and the axes of what it selects that are in reverse order."""
    if isinstance(key, Tensor) and key.dtype is dt.bool_ and 0 < key.ndim <= x.ndim:
        sizes = tuple(x.shape[: key.ndim])
        if 0 in key.shape and all(k in (n, 0) for k, n in zip(key.shape, sizes, strict=True)):
            return key.new_zeros(sizes), ()  # a mask without elements selects none
    items = key if isinstance(key, tuple) else (key,)
    if any(isinstance(i, slice) and i.step is not None and i.step < 0 for i in items):
        return _ascending(x, items)
    return tuple(map(position, items)) if isinstance(key, tuple) else position(key), ()


def _ascending(x: Tensor, items: tuple) -> tuple[tuple, tuple[int, ...]]:
    """Slices of negative steps as such of positive ones, which PyTorch's tensors have alone."""
    used = sum(i is not None and i is not Ellipsis for i in items)
    out, flips, axis, place = [], [], 0, 0
    for i in items:
        if isinstance(i, slice) and i.step is not None and i.step < 0:
            at = range(x.shape[axis])[i]
            i = slice(at[-1], at[0] + 1, -i.step) if at else slice(0, 0)
            flips.append(place)
        width = x.ndim - used if i is Ellipsis else 1
        axis += width if i is not None else 0
        place += width if i is None or isinstance(i, slice) or i is Ellipsis else 0
        out.append(i)
    return tuple(out), tuple(flips)


def position(k: Any) -> Any:
    """An index; one of integers of any dtype as int64, as uint8 is a mask to PyTorch."""
    return k.to(dt.int64) if isinstance(k, Tensor) and k.dtype.category == dt.INT else k
