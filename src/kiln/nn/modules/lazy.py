"""Layers that learn their input's size from the first input."""

from __future__ import annotations

from typing import Any

from ...compile.hooks import eager
from ...errors import KilnError, describe
from ..parameter import is_lazy
from .module import Module


class LazyModuleMixin(Module):
    """Makes a layer lazy: its first call fills in the parameters, and it becomes a `cls_to_become`."""

    cls_to_become: type[Module] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.has_uninitialized_params():
            return super().__call__(*args, **kwargs)
        with eager():  # parameters are memory: made once, also where the call is being captured
            self.initialize_parameters(*args, **kwargs)
        if self.has_uninitialized_params():
            raise KilnError(
                "initialize_parameters",
                f"module {type(self).__name__} has not been fully initialized", describe(args),
                "initialize_parameters must materialize every parameter",
            )  # fmt: skip
        if self.cls_to_become is not None:
            self.__class__ = self.cls_to_become  # type: ignore[assignment]
        return self(*args, **kwargs)

    def has_uninitialized_params(self) -> bool:
        """Whether a parameter or buffer waits for its shape."""
        return any(is_lazy(x) for x in (*self._parameters.values(), *self._buffers.values()))

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Give parameters their shapes from the first inputs; a lazy layer defines it."""
        raise KilnError(
            "initialize_parameters",
            f"initialize_parameters is not implemented for {type(self).__name__}",
            describe(args), "define it",
        )  # fmt: skip
