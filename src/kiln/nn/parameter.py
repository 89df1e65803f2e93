"""Parameters and buffers: tensors that belong to a module."""

from __future__ import annotations

from typing import Any

from ..errors import KilnError, KilnTypeError, describe
from ..ops.creation import empty
from ..shape import Size
from ..tensor import PLAIN, Tensor, _disabled_torch_function_impl


class _Kind(type):
    """The type of Parameter, of which tensors of other classes are instances that were made parameters."""


class Parameter(Tensor, metaclass=_Kind):
    """A tensor that a module lists among its parameters; requires grad unless told otherwise.

    Shares memory with `data`.
    """

    __torch_function__ = _disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Any:
        if data is None:
            data = empty(0)
        if not isinstance(data, Tensor):
            raise KilnTypeError(
                "Parameter", f"a parameter is made from a Tensor, not {type(data).__name__}",
                describe(data), "kiln.tensor(…) first",
            )  # fmt: skip
        if type(data) not in PLAIN:
            return _of_class(data, requires_grad)
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


def _of_class(data: Tensor, requires_grad: bool) -> Any:
    """A parameter that stays a tensor of its class, which answers for functions itself."""
    out: Any = data.detach().requires_grad_(requires_grad)
    if type(out) is not type(data):
        raise KilnError(
            "Parameter", f"detach() of a {type(data).__name__} gives a {type(out).__name__}", type(data).__name__,
            "have its __torch_function__ keep the class",
        )  # fmt: skip
    vars(out)["_is_param"] = True
    # set with the first such parameter: `isinstance(x, Parameter)` asks Python code from then on
    _Kind.__instancecheck__ = _is_kept
    return out


def _is_kept(cls: type, x: Any) -> bool:
    if type.__instancecheck__(cls, x):
        return True
    mark = {Parameter: "_is_param", Buffer: "_is_buffer"}.get(cls)
    return mark is not None and isinstance(x, Tensor) and mark in vars(x)


class Buffer(Tensor, metaclass=_Kind):
    """A tensor that a module registers as a buffer when it is assigned to an attribute."""

    __torch_function__ = _disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Any:
        out: Any = (empty(0) if data is None else data).detach()
        if type(out) in PLAIN:
            out.__class__ = cls
        else:
            out._is_buffer, _Kind.__instancecheck__ = True, _is_kept
        out.requires_grad = bool(data is not None and data.requires_grad)
        out.persistent = persistent
        return out


class UninitializedTensorMixin:
    """A tensor of a lazy module: it has a dtype, and gets its shape in the first forward."""

    __torch_function__ = _disabled_torch_function_impl  # type: ignore[assignment]

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
