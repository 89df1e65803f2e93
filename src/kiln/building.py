"""How this Kiln was built: `torch.__config__`'s texts, and the settings of `torch.__future__`."""

from __future__ import annotations

import platform
from importlib.metadata import version

from .runtime.threads import get_num_threads

_settings = {"overwrite": False, "swap": False}


def show() -> str:
    """What it is built with, in lines."""
    lines = [
        f"Python {platform.python_version()}",
        *(f"{n} {version(n)}" for n in ("numpy", "llvmlite")),
    ]
    return "Kiln built with:\n" + "".join(f"  - {line}\n" for line in lines)


def parallel_info() -> str:
    """How it uses threads, in lines."""
    return f"Kiln's threads:\n  get_num_threads() : {get_num_threads()}\n"


def set_overwrite_module_params_on_conversion(value: bool) -> None:
    """Whether `Module.to` gives modules other parameters: remembered; parameters are changed as they are."""
    _settings["overwrite"] = value


def get_overwrite_module_params_on_conversion() -> bool:
    """What was set."""
    return _settings["overwrite"]


def set_swap_module_params_on_conversion(value: bool) -> None:
    """Whether `Module.to` and `load_state_dict` swap parameters: remembered; parameters are changed as they are."""
    _settings["swap"] = value


def get_swap_module_params_on_conversion() -> bool:
    """What was set."""
    return _settings["swap"]
