"""Which parts of a model are wrapped by themselves: functions of a module that policies consist of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...nn.modules.activation import MultiheadAttention
from ...nn.modules.container import ModuleDict, ModuleList
from ...nn.modules.module import Module


def always_wrap_policy(*args: Any, **kwargs: Any) -> bool:
    """Each module."""
    return True


def lambda_auto_wrap_policy(
    module: Module, recurse: bool, nonwrapped_numel: int, lambda_fn: Callable
) -> bool:
    """Modules for which a function says so."""
    return True if recurse else bool(lambda_fn(module))


def transformer_auto_wrap_policy(
    module: Module, recurse: bool, nonwrapped_numel: int, transformer_layer_cls: Any
) -> bool:
    """Modules of these classes."""
    return True if recurse else isinstance(module, tuple(transformer_layer_cls))


def size_based_auto_wrap_policy(
    module: Module, recurse: bool, nonwrapped_numel: int, min_num_params: int = int(1e8), force_leaf_modules: Any = None,
    exclude_wrap_modules: Any = None,
) -> bool:  # fmt: skip
    """Modules with as many parameters that are not wrapped yet."""
    leaves = (MultiheadAttention,) if force_leaf_modules is None else tuple(force_leaf_modules)
    apart = (
        (ModuleList, ModuleDict) if exclude_wrap_modules is None else tuple(exclude_wrap_modules)
    )
    large = nonwrapped_numel >= min_num_params
    return large and not isinstance(module, leaves if recurse else apart)


class _Policy:
    """What says of a module whether it is wrapped."""

    def __call__(
        self, module: Module, recurse: bool = False, *args: Any, **kwargs: Any
    ) -> bool | dict:
        return True if recurse else bool(self._wants(module))

    def _wants(self, module: Module) -> Any:
        raise NotImplementedError


class ModuleWrapPolicy(_Policy):
    """Modules of these classes."""

    def __init__(self, module_classes: Any) -> None:
        self._module_classes = set(module_classes)

    def _wants(self, module: Module) -> bool:
        return isinstance(module, tuple(self._module_classes))

    def __repr__(self) -> str:
        return f"{super().__repr__()}({self._module_classes})"


class CustomPolicy(_Policy):
    """Modules for which a function says so."""

    def __init__(self, lambda_fn: Callable) -> None:
        self._lambda_fn = lambda_fn

    def _wants(self, module: Module) -> Any:
        return self._lambda_fn(module)


_enabled: list[tuple[Callable, dict[str, Any]]] = []


@contextmanager
def enable_wrap(*, wrapper_cls: Any, **wrapper_kwargs: Any) -> Iterator[None]:
    """Within this, `wrap` wraps modules in a class."""
    _enabled.append((wrapper_cls, wrapper_kwargs))
    try:
        yield
    finally:
        _enabled.pop()


def wrap(module: Module, **wrap_overrides: Any) -> Module:
    """A module in the class that `enable_wrap` names, itself elsewhere."""
    if not _enabled:
        return module
    cls, options = _enabled[-1]
    return cls(module, **{**options, **wrap_overrides})
