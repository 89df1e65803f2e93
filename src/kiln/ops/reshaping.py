"""In-place changes of what a tensor shows of its memory: `t_`, `transpose_`, `squeeze_`, `resize_`, `set_`, …

Elements are neither read nor written; the tensor becomes a view of what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd.modes import mode
from ..autograd.views import check_inplace
from ..errors import CaptureError, KilnError, describe
from ..shape import numel
from ..sharing import watched, written
from ..tensor import Tensor, active_capture, wrap
from .creation import _size
from .registry import FUNCTIONS, METHODS, method
from .storing import bump
from .strided import as_strided

_SLOTS = ("_a", "_fn", "_idx", "_rg", "_ver", "_base")


def _own(x: Tensor, name: str) -> None:
    """Refuse tensors from outside a captured function: a program keeps the shape of what it is given."""
    ctx = active_capture()
    if ctx is not None and (isinstance(x._a, np.ndarray) or id(x) in ctx.stand_ins):
        raise CaptureError(
            "compile", f"{name} changes the shape of a tensor from outside the function", describe(x),
            f"use the out-of-place form, or call {name} outside of kiln.compile",
        )  # fmt: skip


def _turn(x: Tensor, name: str, view: Callable[[Tensor], Tensor]) -> Tensor:
    """Make x the view of itself that `view` gives, with that view's history."""
    check_inplace(x, name, False)
    _own(x, name)
    old = wrap(x._a)
    alone = x._ver is None and not x._rg  # nobody has a history to keep
    bump(x)  # first, so that what backward keeps of the tensor is kept as it is now
    for slot in _SLOTS:
        setattr(old, slot, getattr(x, slot))
    if x._base is not None:
        old._view, old._seen = x._view, x._seen
    try:
        y = view(old)
    except Exception:
        x._ver[0] -= 1
        raise
    if y is not old:
        x._a = y._a
        if mode.grad and not alone:
            x._fn, x._idx, x._rg = y._fn, y._idx, y._rg
            x._base, x._view, x._seen = y._base, y._view, y._seen
        elif x._base is not None:
            x._view = None
    return x


def _in_place(name: str) -> Callable:
    """The form of a method that returns a view which makes the tensor that view."""
    fn = METHODS[name]

    def into(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _turn(self, name + "_", lambda x: fn(x, *args, **kwargs))

    into.__name__, into.__doc__ = name + "_", f"In-place form of `{name}`: {fn.__doc__}"
    return method(name + "_")(into)


TURNED = ("t", "transpose", "swapaxes", "swapdims", "squeeze", "unsqueeze")
"""Methods whose in-place forms change what a tensor shows, and store nothing."""
for _name in TURNED:
    _in_place(_name)
FUNCTIONS["as_strided_"] = _in_place("as_strided")


# ---------------------------------------------------------------- other memory


def _replace(x: Tensor, name: str, a: np.ndarray) -> Tensor:
    """Point x at other memory. Tensors that shared the old one keep it."""
    if x.requires_grad:
        raise KilnError(
            name,
            "cannot resize variables that require grad",
            describe(x),
            "use x.detach() or x.data",
        )
    if watched:
        written(x._a)
    x._a, x._base, x._ver = a, None, None
    bump(x)
    return x


def _extent(size: Sequence[int], stride: Sequence[int]) -> int:
    """Elements from the first to behind the last one."""
    return 0 if 0 in size else 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))


def _row_major(size: Sequence[int]) -> list[int]:
    return [numel(size[i + 1 :]) if 0 not in size else 1 for i in range(len(size))]


def _memory(a: np.ndarray) -> tuple[np.ndarray, int]:
    """The whole memory that an array lies in, as one dimension, and where the array begins in it."""
    root = a
    while isinstance(root.base, np.ndarray) and root.base.dtype == a.dtype:
        root = root.base
    if not root.flags.c_contiguous:
        return a.reshape(-1) if a.flags.c_contiguous else a.copy().reshape(-1), 0
    flat = root.reshape(-1)
    start = a.__array_interface__["data"][0] if a.dtype.isbuiltin == 1 else a.ctypes.data
    first = root.__array_interface__["data"][0] if a.dtype.isbuiltin == 1 else root.ctypes.data
    return flat, (start - first) // a.itemsize


@method("resize_")
def resize_(self: Tensor, *sizes: Any, size: Any = None, memory_format: Any = None) -> Tensor:
    """Another shape, row-major from the first element on; memory grows where there is not enough.

    New elements hold what was there. Where memory grows, tensors that shared it keep the old one.
    """
    _own(self, "resize_")
    size = _size(sizes, size, "resize_")
    flat, start = _memory(self._host("resize_"))
    n = numel(size)
    if start + n > flat.size:
        grown = np.zeros(start + n, flat.dtype)
        grown[: flat.size] = flat
        return _replace(self, "resize_", grown[start:].reshape(size))
    if self.shape == size:
        return self
    return _replace(self, "resize_", flat[start : start + n].reshape(size))


@method("resize_as_")
def resize_as_(self: Tensor, the_template: Tensor, *, memory_format: Any = None) -> Tensor:
    """`resize_` to the shape of another tensor."""
    return resize_(self, the_template.shape)


FUNCTIONS["resize_as_"] = resize_as_


@method("set_")
def set_(
    self: Tensor, source: Any = None, storage_offset: int = 0, size: Any = (), stride: Any = ()
) -> Tensor:
    """Show the memory of another tensor: all that it shows, or a part given by offset, size and stride.

    Without a source the tensor becomes empty.
    """
    _own(self, "set_")
    if source is None:
        return _replace(self, "set_", np.empty(0, self._a.dtype))
    if source.dtype is not self.dtype:
        raise KilnError("set_", "could not set a tensor to the memory of one of another dtype",
                        f"{describe(self)}, {describe(source)}", "convert one of them")  # fmt: skip
    a = source._host("set_")
    if size or stride or storage_offset:
        size = tuple(size)
        a = as_strided(wrap(a), size, tuple(stride) or _row_major(size), storage_offset)._a
    return _replace(self, "set_", a)


@method("is_set_to")
def is_set_to(self: Tensor, tensor: Tensor) -> bool:
    """Whether two tensors show the same elements of the same memory in the same order."""
    a, b = self._host("is_set_to"), tensor._host("is_set_to")
    same = a.dtype == b.dtype and a.shape == b.shape and a.strides == b.strides
    return same and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
