"""Which modules are running: `torch.utils.module_tracker`."""

from __future__ import annotations

from typing import Any, Self

from ..nn.modules.module import (
    Module,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)


class ModuleTracker:
    """In the `with` block, `parents` holds the names of the modules whose forward is under way, "Global" first.

    Names are those in the outermost module that was called, after its class's. Source: torch.utils.module_tracker.
    """

    def __init__(self) -> None:
        self.parents: set[str] = {"Global"}
        self._names: dict[int, str] = {}
        self._handles: list[Any] = []

    def _name(self, m: Module) -> str:
        if id(m) not in self._names:
            root = type(m).__name__
            self._names |= {
                id(child): f"{root}.{name}" if name else root for name, child in m.named_modules()
            }
        return self._names[id(m)]

    def _enter(self, m: Module, args: Any) -> None:
        self.parents.add(self._name(m))

    def _leave(self, m: Module, args: Any, output: Any) -> None:
        self.parents.discard(self._name(m))

    @property
    def is_bw(self) -> bool:
        """Whether backward is under way."""
        from ..autograd.engine import RUNNING

        return bool(RUNNING)

    def __enter__(self) -> Self:
        self._handles = [
            register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave),
        ]  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
