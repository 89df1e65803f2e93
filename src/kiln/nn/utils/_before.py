"""What the older forms of weight and spectral normalization share: a hook that sets a weight before each forward."""

from __future__ import annotations

from typing import Any

from ...autograd.modes import no_grad
from ...errors import KilnError, KilnValueError, describe
from ...tensor import Tensor
from ..modules.module import Module
from ..parameter import Parameter, is_lazy


class Before:
    """A forward hook that computes a weight from other parameters and buffers of its module."""

    suffixes: tuple[str, ...]

    def __init__(self, name: str, dim: int):
        self.name, self.dim = name, dim

    def __call__(self, module: Any, inputs: Any) -> None:
        setattr(module, self.name, self.weight(module, module.training))

    def weight(self, module: Any, training: bool) -> Tensor:
        raise NotImplementedError

    def parts(self, module: Any) -> list[Tensor]:
        """What the weight is computed from."""
        return [getattr(module, self.name + s) for s in self.suffixes]

    def attach(self, module: Any) -> Tensor:
        """Take the plain parameter away from the module and give it."""
        kind, name = type(self), self.name
        if any(type(h) is kind and h.name == name for h in module._forward_pre_hooks.values()):
            raise KilnError(
                kind.__name__, f"Cannot register two {kind.__name__} hooks on the same parameter {name}", None, ""
            )  # fmt: skip
        weight = getattr(module, name)
        if weight is None or is_lazy(weight):
            what = "None" if weight is None else "uninitialized: run a forward first"
            raise KilnValueError(
                kind.__name__, f"cannot be applied as parameter `{name}` is {what}", None, ""
            )
        delattr(module, name)
        module.register_forward_pre_hook(self)
        return weight

    def detach(self, module: Any) -> None:
        """Give the module the weight as a plain parameter again."""
        with no_grad():
            weight = self.weight(module, False)
        for name in ("", *self.suffixes):
            delattr(module, self.name + name)
        module.register_parameter(self.name, Parameter(weight.detach()))


def remove(kind: type[Before], module: Module, name: str, what: str) -> Any:
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, kind) and hook.name == name:
            hook.detach(module)
            del module._forward_pre_hooks[key]
            return module
    raise KilnValueError(f"remove_{what}", f"{what} of '{name}' not found in {module}", describe(name), "")  # fmt: skip
