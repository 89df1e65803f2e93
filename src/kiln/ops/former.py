"""Names of tensors that older programs, or PyTorch itself, still use; each does what it did, or says what to do instead."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..errors import KilnError, KilnNotImplementedError, KilnTypeError, describe
from ..tensor import Tensor, wrap
from .legacy import tensor_type
from .registry import method


def _deprecated(name: str) -> None:
    warnings.warn(f"non-inplace {name} is deprecated", stacklevel=3)


@method("resize")
def resize(self: Tensor, *sizes: Any) -> Tensor:
    """These elements in another shape of as many, with a warning: `reshape` by an old name."""
    _deprecated("resize")
    return self.reshape(*sizes)


@method("resize_as")
def resize_as(self: Tensor, tensor: Tensor) -> Tensor:
    """These elements in the shape of another tensor of as many, with a warning."""
    _deprecated("resize_as")
    return self.reshape(tensor.shape)


@method("reinforce")
def reinforce(self: Tensor, reward: Any) -> None:
    """Refused, as in PyTorch: distributions' `log_prob` takes its place."""
    raise KilnError(
        "reinforce", "reinforce() was removed. Use distributions instead.", describe(self),
        "loss = -distributions.Categorical(probs).log_prob(action) * reward; loss.backward()",
    )  # fmt: skip


@method("module_load")
def module_load(self: Tensor, other: Tensor, assign: bool = False) -> Tensor:
    """What `Module.load_state_dict` gives this parameter for a loaded tensor: its values here, or itself with `assign`."""
    return other if assign else self.copy_(other)


@method("storage_type")
def storage_type(self: Tensor) -> Any:
    """The class of storages of this dtype."""
    import kiln

    return getattr(kiln, tensor_type(self.type()).__name__.replace("Tensor", "Storage"))


@method("_typed_storage")
def _typed_storage(self: Tensor) -> Any:
    """The elements of the memory that the tensor is a view of."""
    return self.storage()


@method("__array_wrap__")
def __array_wrap__(
    self: Tensor, array: Any, context: Any = None, return_scalar: bool = False
) -> Tensor:
    """What a function of NumPy gives for tensors, as a tensor."""
    return wrap(np.asarray(array))


@method("__delitem__")
def __delitem__(self: Tensor, key: Any) -> None:
    """Refused, as in PyTorch."""
    raise KilnTypeError(
        "delitem", "Tensor does not support deleting items", describe(self), "index what is to stay"
    )


@method("dequantize")
def dequantize(self: Tensor) -> Tensor:
    """The values as floating numbers: this tensor, as none is quantised."""
    return self


def _plain(name: str, kind: str) -> None:
    @method(name)
    def refuse(self: Tensor, *args: Any) -> Any:
        raise KilnNotImplementedError(name, f"only {kind} tensors have that", describe(self), "")

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Of {kind} tensors: refused for others."


for _name in ("int_repr", "q_scale", "q_zero_point", "q_per_channel_axis", "q_per_channel_scales", "q_per_channel_zero_points", "qscheme"):  # fmt: skip
    _plain(_name, "quantised")
for _name in ("sparse_resize_", "sparse_resize_and_clear_"):
    _plain(_name, "sparse")
_plain("to_mkldnn", "oneDNN's")


@method("_is_zerotensor")
def _is_zerotensor(self: Tensor) -> bool:
    """Whether this is a zero without memory: False."""
    return False


@method("_neg_view")
def _neg_view(self: Tensor) -> Tensor:
    """The negative."""
    return -self


def _volatile(self: Tensor) -> bool:
    warnings.warn("volatile was removed (Variable.volatile is always False)", stacklevel=2)
    return False


def _hooks(self: Tensor) -> Any:
    table, key = (
        (self._hooks, "grad") if self._fn is None else (self._fn.hooks, ("grad", self._idx))
    )
    return (table or {}).get(key) or None


Tensor.volatile = property(_volatile, doc="Always False, with a warning.")  # type: ignore[attr-defined]
Tensor.name = property(lambda self: None, doc="None: tensors have no names.")  # type: ignore[attr-defined]
Tensor._backward_hooks = property(
    _hooks, doc="The hooks on the gradient, by number; None without any."
)
Tensor._grad_fn = property(lambda self: self.grad_fn, doc="`grad_fn`.")  # type: ignore[attr-defined]
