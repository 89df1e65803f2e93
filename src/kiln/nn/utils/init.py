"""Modules whose parameters wait for values."""

from __future__ import annotations

import inspect
from typing import Any

from ...errors import KilnError, describe
from ...random import get_rng_state, set_rng_state
from ..modules.module import Module


def skip_init(module_cls: type[Module], *args: Any, **kwargs: Any) -> Any:
    """A module whose parameters have no particular values; no random number is used up for it.

    RuntimeError: not a Module, or one without a `device` argument. Source: torch.nn.utils.skip_init.
    """
    if not (inspect.isclass(module_cls) and issubclass(module_cls, Module)):
        raise KilnError(
            "skip_init", f"Expected a Module; got {module_cls}", describe(module_cls), ""
        )
    if "device" not in inspect.signature(module_cls).parameters:
        raise KilnError(
            "skip_init", "Module must support a 'device' arg to skip initialization", module_cls.__name__, ""
        )  # fmt: skip
    state = get_rng_state()
    try:
        return module_cls(*args, **kwargs)
    finally:
        set_rng_state(state)


__all__ = ["skip_init"]
