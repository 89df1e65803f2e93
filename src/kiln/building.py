"""How this Kiln was built: `torch.__config__`'s texts, and the settings of `torch.__future__`."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from .runtime.threads import get_num_threads

_settings = {"overwrite": False, "swap": False}


has_lapack = has_spectral = True
has_mkl = has_openmp = False


class AcceleratorError(RuntimeError):
    """What a call on a device reports that failed there: there is no such device."""


def compiled_with_cxx11_abi() -> bool:
    """Which of two layouts compiled extensions must have: the newer one. There are none here."""
    return True


def is_vulkan_available() -> bool:
    """Whether Vulkan computes: False."""
    return False


def get_file_path(*path_components: str) -> str:
    """Where a file of this package lies."""
    return str(Path(__file__).parent.joinpath(*path_components))


def init_num_threads() -> None:
    """Set up threads in a process that was started: done when the first kernel runs."""


def prepare_multiprocessing_environment(path: str) -> None:
    """Set up a process that is to start others: nothing is needed."""


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
