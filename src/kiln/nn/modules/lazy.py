"""Layers that learn their input's size from the first input."""

from __future__ import annotations

from typing import Any

from ...errors import KilnError, describe
from ..module import Module
from ..parameter import is_lazy


class Lazy(Module):
    """Makes a layer lazy: the first call fills in its parameters, after which it is `cls_to_become`."""

    cls_to_become: type[Module] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending = [self.register_forward_pre_hook(_fill, with_kwargs=True)]

    def has_uninitialized_params(self) -> bool:
        """Whether a parameter or buffer waits for its shape."""
        return any(is_lazy(x) for x in (*self._parameters.values(), *self._buffers.values()))

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Give parameters their shapes from the first inputs; a lazy layer defines it."""
        raise KilnError(
            "initialize_parameters", f"initialize_parameters is not implemented for {type(self).__name__}",
            describe(args), "define it",
        )  # fmt: skip


def _fill(module: Any, args: tuple, kwargs: dict) -> None:
    module.initialize_parameters(*args, **kwargs)
    if module.has_uninitialized_params():
        raise KilnError(
            "initialize_parameters",
            f"module {type(module).__name__} has not been fully initialized", describe(args),
            "initialize_parameters must materialize every parameter",
        )  # fmt: skip
    for handle in module._pending:
        handle.remove()
    del module._pending
    if module.cls_to_become is not None:
        module.__class__ = module.cls_to_become
