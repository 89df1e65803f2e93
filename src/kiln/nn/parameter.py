"""Parameters and buffers: tensors that belong to a module."""

from __future__ import annotations

from typing import Any

from ..errors import KilnError, KilnTypeError, describe
from ..ops.creation import empty
from ..shape import Size
from ..tensor import Tensor


class Parameter(Tensor):
    """A tensor that a module lists among its parameters; requires grad unless told otherwise.

    Shares memory with `data`.
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Any:
        if data is None:
            data = empty(0)
        if not isinstance(data, Tensor):
            raise KilnTypeError(
                "Parameter", f"a parameter is made from a Tensor, not {type(data).__name__}",
                describe(data), "kiln.tensor(…) first",
            )  # fmt: skip
        out = data.detach()
        out.__class__ = cls
        out.requires_grad = requires_grad
        return out

    def __deepcopy__(self, memo: dict) -> Any:
        if id(self) not in memo:  # the copy starts without a gradient
            memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return memo[id(self)]

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return "Parameter containing:\n" + super().__repr__(tensor_contents=tensor_contents)


class Buffer(Tensor):
    """A tensor that a module registers as a buffer when it is assigned to an attribute."""

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Any:
        out: Any = (empty(0) if data is None else data).detach()
        out.__class__ = cls
        out.requires_grad = bool(data is not None and data.requires_grad)
        out.persistent = persistent
        return out


class UninitializedTensorMixin:
    """A tensor of a lazy module: it has a dtype, and gets its shape in the first forward."""

    _final: type = Tensor

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Give the tensor a shape; its values are not specified."""
        self.__class__ = self._final  # type: ignore[assignment]
        self.data = empty(shape, device=device, dtype=dtype or self.dtype)  # type: ignore[attr-defined]

    @property
    def shape(self) -> Size:
        """Refused: there is no shape yet."""
        raise KilnError(
            "shape", "can't access the shape of an uninitialized parameter or buffer",
            type(self).__name__, "run the lazy module once on an example input",
        )  # fmt: skip

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"<{type(self).__name__}>"


class UninitializedParameter(UninitializedTensorMixin, Parameter):
    """The parameter of a lazy module before its first forward."""

    _final = Parameter

    def __new__(cls, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> Any:
        out = empty(0, device=device, dtype=dtype)
        out.__class__ = cls
        out.requires_grad = requires_grad
        return out

    def __deepcopy__(self, memo: dict) -> Any:
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.requires_grad, dtype=self.dtype)
        return memo[id(self)]


class UninitializedBuffer(UninitializedTensorMixin, Tensor):
    """The buffer of a lazy module before its first forward."""

    def __new__(
        cls,
        requires_grad: bool = False,
        device: Any = None,
        dtype: Any = None,
        persistent: bool = True,
    ) -> Any:
        out: Any = empty(0, device=device, dtype=dtype)
        out.__class__ = cls
        out.requires_grad, out.persistent = requires_grad, persistent
        return out


def is_lazy(x: Any) -> bool:
    """Whether a tensor waits for its shape."""
    return isinstance(x, UninitializedTensorMixin)
