"""Modes beneath autograd (`torch.utils._python_dispatch`): their names can be imported, and say what is missing."""

from __future__ import annotations

from typing import Any

from ..refusal import refuse

refuse(
    __name__, "TorchDispatchMode BaseTorchDispatchMode return_and_correct_aliasing transform_subclass",
    "there is no dispatcher beneath autograd that could ask", "kiln.overrides.TorchFunctionMode sees functions",
)  # fmt: skip


def is_traceable_wrapper_subclass(t: Any) -> bool:
    """Whether a tensor is made of others by `__tensor_flatten__`."""
    return hasattr(t, "__tensor_flatten__") and hasattr(t, "__tensor_unflatten__")
