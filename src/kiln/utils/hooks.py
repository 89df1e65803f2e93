"""The names of `torch.utils.hooks`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ..autograd.hooks import RemovableHandle as RemovableHandle


def unserializable_hook(f: Callable) -> Callable:
    """Mark a hook that is lost, with a warning, where its tensor is written to a file."""
    f.__torch_unserializable__ = True  # type: ignore[attr-defined]
    return f


def warn_if_has_hooks(tensor: Any) -> None:
    """Warn where a tensor has hooks that a file of it will not hold."""
    for hook in (tensor._backward_hooks or {}).values():
        if not hasattr(hook, "__torch_unserializable__"):
            warnings.warn(
                f"backward hook {hook!r} on tensor will not be serialized. If this is expected, you can decorate the "
                "function with @torch.utils.hooks.unserializable_hook to suppress this warning", stacklevel=2,
            )  # fmt: skip
