"""The former place of `kiln.func.functional_call`."""

from __future__ import annotations

import warnings
from typing import Any

from ...func import functional_call as _functional_call
from ...tensor import Tensor
from ..modules.module import Module


def functional_call(
    module: Module, parameters_and_buffers: dict[str, Tensor], args: Any = None,
    kwargs: dict[str, Any] | None = None, *, tie_weights: bool = True, strict: bool = False,
) -> Any:  # fmt: skip
    """`kiln.func.functional_call`, which is the name to use."""
    warnings.warn(
        "This API is deprecated as of PyTorch 2.0. Please use kiln.func.functional_call instead.",
        FutureWarning, stacklevel=2,
    )  # fmt: skip
    return _functional_call(
        module, parameters_and_buffers, args, kwargs, tie_weights=tie_weights, strict=strict
    )


__all__ = ["functional_call"]
