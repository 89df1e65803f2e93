"""Names of PyTorch's compiled part that programs touch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .device import device
from .nn._conversions import parse_to
from .overrides import DisableTorchFunction as DisableTorchFunction
from .overrides import DisableTorchFunctionSubclass as DisableTorchFunctionSubclass
from .random import Generator as Generator
from .refusal import refuse
from .shape import Size as Size
from .tensor import Tensor
from .tensor import _disabled_torch_function_impl as _disabled_torch_function_impl

_TensorMeta = type(Tensor)


def _parse_to(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool, Any]:
    """The device, dtype, `non_blocking` and memory format that arguments of `Module.to` name."""
    place, dtype, waits, form = parse_to(*args, **kwargs)
    return None if place is None else device(place), dtype, waits, form


_nn = SimpleNamespace(_parse_to=_parse_to)
"""Names of PyTorch's compiled part of `nn`."""


def _get_tracing_state() -> None:
    """The trace that is being made: none, functions are captured otherwise."""


def _log_api_usage_once(event: str) -> None:
    """Tell PyTorch's makers what is used: nothing is told."""


def _setting(name: str) -> Any:
    values = [False]

    def set(value: Any = True, *args: Any) -> Any:
        before, values[0] = values[0], value
        return before

    set.__name__, set.__doc__ = (
        name,
        "A setting of TorchScript's executor: nothing follows from it.",
    )
    return set


for _name in [
    "_jit_override_can_fuse_on_cpu",
    "_jit_override_can_fuse_on_gpu",
    "_jit_set_nvfuser_enabled",
    "_jit_set_profiling_executor",
    "_jit_set_profiling_mode",
    "_jit_set_texpr_fuser_enabled",
]:
    globals()[_name] = _setting(_name)

refuse(
    __name__,
    "PyTorchFileReader PyTorchFileWriter",
    "files are read and written by Kiln's own code",
    "use kiln.load and kiln.save",
)
refuse(
    __name__,
    "Graph Node Value",
    "TorchScript's intermediate form is PyTorch's own",
    "kiln.compile captures functions",
)
