"""Tensors made of other tensors: sparse and nested ones.

Note [Composed tensors]: such a tensor's payload is no array, and whatever NumPy or a native routine is
asked to do with it raises. Dispatch then looks for the form of the op that the tensor's module has
(`_calls`), so that calls on plain tensors pay nothing. The forms are written in ops on the parts:
gradients, and capture of what needs no values on the host, follow. The history of a composed tensor is
that of its values, the last of its parts, and its gradient is theirs, in the same form.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from . import formats
from .errors import KilnAttributeError, KilnNotImplementedError, KilnTypeError, describe
from .shape import numel
from .tensor import Tensor, _disabled_torch_function_impl, _new


class Composed:
    """The payload of a composed tensor: its parts, the last of which are the values."""

    __slots__ = ("layout", "parts")
    __array_ufunc__ = None
    layout: formats.layout
    parts: tuple[Tensor, ...]
    shape: Any
    flags = SimpleNamespace(c_contiguous=False, f_contiguous=False, carray=False, writeable=False)

    @property
    def dtype(self) -> np.dtype:
        return self.parts[-1]._a.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Any:
        return numel(self.shape)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise KilnNotImplementedError(
            "numpy", "this tensor is no array", self.layout.name, "make it a dense one first"
        )

    def __getattr__(self, name: str) -> Any:
        raise KilnAttributeError(
            "tensor", f"not defined for {self.layout.name} tensors ({name})", list(self.shape),
            "make it a dense one first, or work on x.values()",
        )  # fmt: skip


def composed(cls: type, a: Composed) -> Any:
    """A tensor of a class with a payload."""
    t = _new(cls)
    t._a = a
    t._fn = t._grad = t._ver = t._base = t._hooks = None
    t._idx = 0
    t._rg = False
    return t


class ComposedTensor(Tensor):
    """A tensor made of others."""

    __torch_function__ = _disabled_torch_function_impl  # type: ignore[assignment]

    __slots__ = ()
    _a: Any

    layout = property(lambda self: self._a.layout, doc="How the elements are stored.")

    def _components(self) -> list[Tensor]:
        """The strided tensors that it is made of."""
        return list(self._a.parts)

    def _with(self, values: Tensor) -> Any:
        """A tensor of the same form with other values."""
        raise NotImplementedError

    def _values_of(self, g: Tensor) -> Tensor:
        """What a gradient of this tensor's, in its form, says of the values."""
        if not isinstance(g, ComposedTensor) or g.layout is not self.layout:
            raise KilnTypeError(
                "backward", f"expected a gradient that is {self.layout.name}", describe(g), ""
            )
        return g._a.parts[-1]

    def _rebuilding(self) -> tuple:
        """What PyTorch's files tell of it beside its layout."""
        raise KilnTypeError(
            "save", f"a {type(self).__name__} can't be saved", describe(self), "save its parts"
        )

    def is_contiguous(self, memory_format: Any = None) -> bool:
        return bool(self._refuse("is_contiguous"))

    def stride(self, dim: int | None = None) -> Any:
        return self._refuse("stride")

    def storage_offset(self) -> int:
        return self._refuse("storage_offset")

    def _host(self, why: str) -> Any:
        raise KilnTypeError(
            why, f"a {self.layout.name} tensor is no array", describe(self), "x.to_dense() first"
        )

    def _refuse(self, name: str) -> Any:
        raise KilnNotImplementedError(
            name, f"not defined for {self.layout.name} tensors", describe(self),
            "make it a dense one first, or work on x.values()",
        )  # fmt: skip

    # ---- gradient fields

    @property
    def requires_grad(self) -> bool:
        return self._a.parts[-1].requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        self._a.parts[-1].requires_grad = flag

    grad_fn = property(lambda self: self._a.parts[-1].grad_fn)
    is_leaf = property(lambda self: self._a.parts[-1].is_leaf)

    @property
    def grad(self) -> Tensor | None:
        g = self._a.parts[-1].grad
        return None if g is None else self._with(g)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        self._a.parts[-1].grad = None if value is None else value._a.parts[-1]

    def retain_grad(self) -> None:
        self._a.parts[-1].retain_grad()

    def register_hook(self, hook: Any) -> Any:
        def on_values(g: Tensor) -> Tensor | None:
            out = hook(self._with(g))
            return None if out is None else out._a.parts[-1]

        return self._a.parts[-1].register_hook(on_values)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        self._a = value._a

    def detach(self) -> Any:
        return self._with(self._a.parts[-1].detach())

    def detach_(self) -> Any:
        self._a = self.detach()._a
        return self
