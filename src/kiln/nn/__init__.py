"""Neural networks: modules, layers, losses, initialisation."""

import importlib
from typing import Any

from . import functional, init, modules, parameter, utils
from .modules import *  # noqa: F403
from .parameter import Buffer, Parameter, UninitializedBuffer, UninitializedParameter

_LAZY = {  # what few programs use
    "attention": "", "common_types": "", "grad": "", "parallel": "", "DataParallel": "parallel",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f".{_LAZY[name] or name}", __name__)
    return getattr(home, name) if _LAZY[name] else home


def factory_kwargs(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """The keywords among `device`, `dtype` and `memory_format` for the functions that make tensors.

    A dict under "factory_kwargs" is merged in. TypeError: another keyword, or one given twice.
    """
    names = {"device", "dtype", "memory_format"}
    given = dict(kwargs or {})
    out = dict(given.pop("factory_kwargs", {}))
    if unknown := given.keys() - names:
        raise TypeError(f"unexpected kwargs {unknown}")
    if twice := given.keys() & out.keys():
        raise TypeError(
            f"{', '.join(sorted(twice))} specified twice, in **kwargs and in factory_kwargs"
        )
    return {**out, **given}


__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter", "factory_kwargs",
           "functional", "init", "modules", "parameter", "utils"]  # fmt: skip
__all__ += modules.__all__
