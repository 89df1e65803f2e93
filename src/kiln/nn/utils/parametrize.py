"""Parameters that are computed from others: modules put in front of a module's tensor.

https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.parametrize.register_parametrization.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from ...autograd.modes import no_grad
from ...errors import KilnError, KilnValueError, describe
from ...tensor import Tensor
from ..modules.container import ModuleDict, ModuleList
from ..modules.module import Module
from ..parameter import Parameter

__all__ = [
    "ParametrizationList", "cached", "is_parametrized", "register_parametrization",
    "remove_parametrizations", "transfer_parametrizations_and_params", "type_before_parametrizations",
]  # fmt: skip

_cache: list[dict | None] = [None]


@contextmanager
def cached() -> Iterator[None]:
    """Inside of it each parametrized tensor is computed once, when it is first read."""
    outer, _cache[0] = _cache[0], _cache[0] if _cache[0] is not None else {}
    try:
        yield
    finally:
        _cache[0] = outer


def _fits(what: str, x: Any, like: Tensor, name: str) -> None:
    """ValueError unless x is a tensor of a shape and dtype."""
    if not isinstance(x, Tensor):
        raise KilnValueError(
            "register_parametrization", f"{what} must return a tensor. Got {type(x).__name__}.", describe(x), ""
        )  # fmt: skip
    if x.dtype is not like.dtype or x.shape != like.shape:
        raise KilnValueError(
            "register_parametrization", f"{what} may not change the shape or dtype of '{name}', unless `unsafe`",
            f"{describe(like)} became {describe(x)}", "pass unsafe=True if the module can deal with that",
        )  # fmt: skip


def _inverted(parametrization: Module, x: Any, refuse: bool) -> Any:
    """What a parametrization makes x of; x itself where it can't tell, unless that is refused."""
    inverse = getattr(parametrization, "right_inverse", None)
    if inverse is not None:
        try:
            return inverse(x)
        except NotImplementedError:
            if refuse:
                raise
    elif refuse:
        raise KilnError(
            "parametrize", f"parametrization {type(parametrization).__name__} does not implement right_inverse.",
            None, "assign to the originals under module.parametrizations",
        )  # fmt: skip
    return x


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, first to last, with what they are computed from.

    That is `original`, or `original0`, `original1`, … where the first one's `right_inverse` gives several.
    """

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False):
        if not modules:
            raise KilnValueError("ParametrizationList", "requires one or more modules.", None, "")
        super().__init__(modules)
        self.unsafe = unsafe
        with no_grad():
            new: Any = original
            for module in reversed(list(self)):
                new = _inverted(module, new, False)
        self.is_tensor = isinstance(new, Tensor)
        several = [new] if self.is_tensor else new
        if not isinstance(several, list | tuple) or not all(isinstance(x, Tensor) for x in several):
            raise KilnValueError(
                "ParametrizationList", "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). "
                f"Got {type(new).__name__}", describe(new), "",
            )  # fmt: skip
        self.ntensors = len(several)
        before = original.detach().clone()
        if self.is_tensor:
            if new.dtype is not original.dtype:
                raise KilnValueError(
                    "ParametrizationList", "When `right_inverse` outputs one tensor, it may not change the dtype.",
                    f"{describe(original)} became {describe(new)}", "",
                )  # fmt: skip
            if new is not original:
                original.data = new.detach()
            self._keep("original", original)
        else:
            for i, x in enumerate(several):
                x = x.detach()
                kept = (
                    Parameter(x, original.requires_grad) if isinstance(original, Parameter) else x
                )
                self._keep(f"original{i}", kept)
        if not unsafe:
            _fits("A parametrization", self(), before, "the tensor")

    def _keep(self, name: str, x: Tensor) -> None:
        if isinstance(x, Parameter):
            self.register_parameter(name, x)
        else:
            self.register_buffer(name, x)

    def _originals(self) -> list[Tensor]:
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        return [getattr(self, n) for n in names]

    def right_inverse(self, value: Any) -> None:
        """Set the originals so that the parametrized tensor becomes `value`, or what is nearest to it."""
        with no_grad():
            for module in reversed(list(self)):
                value = _inverted(module, value, True)
            several = [value] if self.is_tensor else value
            if not isinstance(several, list | tuple) or len(several) != self.ntensors:
                raise KilnValueError(
                    "parametrize", f"'right_inverse' must return a sequence of tensors of length {self.ntensors}.",
                    describe(value), "",
                )  # fmt: skip
            for x, original in zip(several, self._originals(), strict=True):
                if not isinstance(x, Tensor) or x.dtype is not original.dtype:
                    raise KilnValueError(
                        "parametrize", f"`right_inverse` should return a tensor of {original.dtype}",
                        describe(x), "",
                    )  # fmt: skip
                original.data = x.detach()

    def forward(self) -> Tensor:
        """The parametrized tensor."""
        first, *rest = self
        x = first(*self._originals())
        for module in rest:
            x = module(x)
        return x


def _refuse_pickling(self: Module) -> Any:
    raise KilnError(
        "parametrize", "Serialization of parametrized modules is only supported through state_dict().", None,
        "save state_dict() and load it into a module that is parametrized alike",
    )  # fmt: skip


def _deepcopy(self: Module, memo: dict) -> Module:
    new = object.__new__(type(self))
    memo[id(self)] = new
    new.__dict__.update(deepcopy(self.__dict__, memo))
    return new


def _property(name: str) -> property:
    def read(self: Any) -> Tensor:
        if _cache[0] is None:
            return self.parametrizations[name]()
        key = (id(self), name)
        if key not in _cache[0]:
            _cache[0][key] = self.parametrizations[name]()
        return _cache[0][key]

    def write(self: Any, value: Tensor) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(read, write)


def is_parametrized(module: Any, tensor_name: str | None = None) -> bool:
    """Whether a module, or one of its tensors, is parametrized."""
    found = getattr(module, "parametrizations", None)
    if not isinstance(found, ModuleDict):
        return False
    return len(found) > 0 if tensor_name is None else tensor_name in found


def register_parametrization(
    module: Any, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Any:
    """Compute a parameter or buffer of a module by `parametrization(original)` whenever it is read; gives the module.

    Several are applied one after the other. Assigning to the tensor goes through `right_inverse`. The
    module gets a class of its own. `unsafe` allows another shape or dtype.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        if not unsafe:
            before = getattr(module, tensor_name)
            after = parametrization(before)
            _fits("A parametrization", after, before, tensor_name)
            with no_grad():
                _fits("right_inverse", _inverted(parametrization, after, False), before, tensor_name)  # fmt: skip
        module.parametrizations[tensor_name].append(parametrization)
        module.parametrizations[tensor_name].unsafe |= unsafe
        return module
    if tensor_name not in module._buffers and tensor_name not in module._parameters:
        raise KilnValueError(
            "register_parametrization", f"Module '{module}' does not have a parameter, a buffer, or a parametrized "
            f"element with name '{tensor_name}'", None, "",
        )  # fmt: skip
    made = ParametrizationList([parametrization], getattr(module, tensor_name), unsafe=unsafe)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        cls = type(module)
        facts = {"__getstate__": _refuse_pickling, "__module__": cls.__module__}
        if not hasattr(cls, "__deepcopy__"):
            facts["__deepcopy__"] = _deepcopy
        module.__class__ = type(f"Parametrized{cls.__name__}", (cls,), facts)
        module.parametrizations = ModuleDict()
    setattr(type(module), tensor_name, _property(tensor_name))
    module.parametrizations[tensor_name] = made
    return module


def remove_parametrizations(module: Any, tensor_name: str, leave_parametrized: bool = True) -> Any:
    """Make a tensor a plain parameter or buffer again: with its parametrized value, or its original; gives the module."""
    if not is_parametrized(module, tensor_name):
        raise KilnValueError(
            "remove_parametrizations", f"Module {module} does not have a parametrization on {tensor_name}", None, ""
        )  # fmt: skip
    made = module.parametrizations[tensor_name]
    value = getattr(module, tensor_name)
    if made.is_tensor:
        original = made.original
        if leave_parametrized:
            original.data = value.detach()
    elif leave_parametrized:
        original = Parameter(value.detach()) if value.requires_grad else value
    else:
        raise KilnValueError(
            "remove_parametrizations", "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is "
            "parametrized in terms of a sequence of tensors.", None, "",
        )  # fmt: skip
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    if not is_parametrized(module):
        delattr(module, "parametrizations")
        module.__class__ = type(module).__bases__[0]
    if isinstance(original, Parameter):
        module.register_parameter(tensor_name, original)
    else:
        module.register_buffer(tensor_name, original)
    return module


def type_before_parametrizations(module: Module) -> type:
    """The class that a module had before it was parametrized."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(
    from_module: Any, to_module: Any, tensor_name: str | None = None
) -> Any:
    """Parametrize a module as another one is, with its originals and parametrizations (of one tensor, or all); gives it."""
    if not is_parametrized(from_module):
        return to_module
    for name in [tensor_name] if tensor_name is not None else list(from_module.parametrizations):
        source = from_module.parametrizations[name]
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(source.original.detach().clone()))
        for parametrization in source:
            register_parametrization(to_module, name, parametrization, unsafe=True)
        made = to_module.parametrizations[name]
        with no_grad():
            for x, y in zip(made._originals(), source._originals(), strict=True):
                x.data = y.detach().clone()
    return to_module
