"""Settings of the process that PyTorch's programs ask for: determinism, warnings, the default device.

Kiln's results have the same bits on any number of threads. Asking for deterministic algorithms makes them
depend on nothing but values, shapes and dtypes: eager mode then compiles every large call, also in the many
sizes that come rarely (`KILN_MAX_SHAPES`), and compiled functions are captured for all sizes (`KILN_MAX_SIZES`).
"""

from __future__ import annotations

import importlib
from typing import Any

from . import dtypes as dt
from . import naming
from .config import config
from .device import anywhere, as_device, device, places
from .device import device as _device
from .errors import KilnError, KilnTypeError
from .ops.legacy import TensorType, tensor_type
from .tensor import Tensor

_MODES = {"default": 0, "warn": 1, "error": 2}
_state: dict[str, Any] = {"warn_always": False, "interop_threads": 1}


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Ask for bits that depend on values, shapes and dtypes alone, not on what else was called before.

    Nothing raises or warns, as Kiln can do all of it so.
    """
    config.deterministic = (1 if warn_only else 2) if mode else 0


def are_deterministic_algorithms_enabled() -> bool:
    """Whether deterministic algorithms were asked for."""
    return config.deterministic > 0


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """Whether they were asked for with `warn_only`."""
    return config.deterministic == 1


def set_deterministic_debug_mode(debug_mode: int | str) -> None:
    """`use_deterministic_algorithms` by number or name: 0 "default", 1 "warn", 2 "error"."""
    mode = _MODES.get(debug_mode, debug_mode) if isinstance(debug_mode, str) else debug_mode
    if not isinstance(mode, int):
        raise KilnError("set_deterministic_debug_mode", "invalid value of debug_mode, expected one of `default`, `warn`, "
                        "`error`", repr(debug_mode), "")  # fmt: skip
    if mode not in (0, 1, 2):
        raise KilnError(
            "set_deterministic_debug_mode",
            "invalid value of debug_mode, expected 0, 1, or 2",
            debug_mode,
            "",
        )
    config.deterministic = mode


def get_deterministic_debug_mode() -> int:
    """What `set_deterministic_debug_mode` set, as a number."""
    return config.deterministic


def set_warn_always(b: bool) -> None:
    """Whether a warning is given each time; Kiln leaves that to Python's filters and remembers the answer."""
    _state["warn_always"] = bool(b)


def is_warn_always_enabled() -> bool:
    """What `set_warn_always` set."""
    return _state["warn_always"]


def set_num_interop_threads(n: int) -> None:
    """How many operations may run side by side; Kiln runs one, on all threads, and remembers the answer."""
    if not isinstance(n, int) or isinstance(n, bool):
        raise KilnTypeError("set_num_interop_threads", "expects an int", repr(n), "")
    if n < 1:
        raise KilnError("set_num_interop_threads", "expects a positive number of threads", n, "")
    _state["interop_threads"] = n


def get_num_interop_threads() -> int:
    """What `set_num_interop_threads` set."""
    return _state["interop_threads"]


def set_flush_denormal(mode: bool) -> bool:
    """Ask that denormal numbers count as zero; False, as the processor's mode stays as it is."""
    return False


def set_default_device(device: Any) -> None:
    """Where new tensors are made; an error for a device that is not there."""
    places.stack = () if device is None else (anywhere(device),)


def get_default_device() -> device:
    """Where new tensors are made."""
    return anywhere(None)


def set_default_tensor_type(t: Any) -> None:
    """`set_default_dtype` by a tensor type such as `kiln.DoubleTensor`, or its name."""
    kind = tensor_type(t) if isinstance(t, str) else t
    if not isinstance(kind, TensorType):
        raise KilnTypeError(
            "set_default_tensor_type", "invalid type object", repr(t), "kiln.FloatTensor"
        )
    as_device(kind.device)
    if kind.dtype.category != dt.FLOAT:
        raise KilnTypeError("set_default_tensor_type", "only floating-point types are supported as the default type",
                            kind.dtype.name, "")  # fmt: skip
    dt.set_default_dtype(kind.dtype)


def typename(obj: Any) -> str:
    """The full name of a tensor's or another object's type."""
    if isinstance(obj, Tensor):
        return obj.type()
    owner = obj if hasattr(obj, "__qualname__") else type(obj)
    module = getattr(owner, "__module__", "") or ""
    if module.split(".")[0] == "kiln":
        module = naming.name + module.removeprefix("kiln")
    name = getattr(owner, "__qualname__", type(obj).__name__)
    return name if module in ("", "builtins") else f"{module}.{name}"


def _assert_async(
    input: Tensor, message: str = "Expected Tensor with single nonzero value, but got zero"
) -> None:
    """An error where a one-element tensor is zero; inside `kiln.compile` it becomes a branch."""
    if input.numel() != 1:
        raise KilnError(
            "_assert_async",
            "Boolean value of Tensor with more than one value is ambiguous",
            input,
            "",
        )
    if not input:
        raise KilnError("_assert_async", message, input, "")


def get_device_module(device: Any = None) -> Any:
    """The module of a kind of device: `kiln.cpu` for the CPU, and where none is named."""
    kind = "cpu" if device is None else _device(device).type
    if kind not in ("cpu", "cuda", "mps", "xpu"):
        raise KilnError("get_device_module", f"{kind} has no module", repr(device), "")
    return importlib.import_module(f".{kind}", __package__)


def is_inference(input: Tensor) -> bool:
    """Whether a tensor was made for inference only: False, tensors of inference mode are like others here."""
    return input.is_inference()
