"""Modules whose activations are computed again in backward."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Any

from ....nn.modules.module import Module
from ....utils.checkpoint import checkpoint


class CheckpointImpl(Enum):
    """How backward gets at what it computes again."""

    REENTRANT = auto()
    NO_REENTRANT = auto()


class CheckpointWrapper(Module):
    """A module whose forward is computed again in backward; its state_dict is the module's own."""

    def __init__(
        self, mod: Module, checkpoint_impl: CheckpointImpl = CheckpointImpl.NO_REENTRANT,
        checkpoint_fn: Callable | None = None, **options: Any,
    ):  # fmt: skip
        super().__init__()
        self._checkpoint_wrapped_module = mod
        use = (
            {} if checkpoint_fn else {"use_reentrant": checkpoint_impl is CheckpointImpl.REENTRANT}
        )
        self._checkpoint = partial(checkpoint_fn or checkpoint, **use, **options)
        self._register_state_dict_hook(self._without_prefix)
        self._register_load_state_dict_pre_hook(self._with_prefix)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result."""
        return self._checkpoint(self._checkpoint_wrapped_module, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._checkpoint_wrapped_module, name)

    def __getitem__(self, key: Any) -> Any:
        return self._checkpoint_wrapped_module[key]  # type: ignore[index]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        """The parameters by the names that they have in the module."""
        for name, p in super().named_parameters(*args, **kwargs):
            yield name.replace(_PREFIX, ""), p

    @staticmethod
    def _without_prefix(module: Any, state: dict, prefix: str, *args: Any) -> None:
        for key in [k for k in state if k.startswith(prefix + _PREFIX)]:
            state[prefix + key[len(prefix + _PREFIX) :]] = state.pop(key)

    @staticmethod
    def _with_prefix(state: dict, prefix: str, *args: Any) -> None:
        for key in [k for k in state if k.startswith(prefix)]:
            state[prefix + _PREFIX + key[len(prefix) :]] = state.pop(key)


_PREFIX = "_checkpoint_wrapped_module."


def checkpoint_wrapper(
    module: Module, checkpoint_impl: CheckpointImpl = CheckpointImpl.NO_REENTRANT, checkpoint_fn: Any = None,
    **options: Any,
) -> Module:  # fmt: skip
    """A module that computes its activations again in backward."""
    return CheckpointWrapper(module, checkpoint_impl, checkpoint_fn, **options)


def apply_activation_checkpointing(
    model: Module,
    checkpoint_wrapper_fn: Callable[[Module], Module] = checkpoint_wrapper,
    check_fn: Callable[[Module], bool] = lambda _: True,
    auto_wrap_policy: Any = None,
) -> None:
    """Wrap, in place, the modules inside of a model that `check_fn` chooses."""
    for name, child in list(model.named_children()):
        apply_activation_checkpointing(child, checkpoint_wrapper_fn, check_fn)
        if check_fn(child):
            setattr(model, name, checkpoint_wrapper_fn(child))
