"""What PyTorch says about libraries that it may be built with. Kiln generates its kernels itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Self

from ..accelerator import nothing
from ..errors import KilnError


def _library(name: str, doc: str, **names: Any) -> None:
    module = ModuleType(f"{__package__}.{name}", doc)
    module.__dict__.update(names)
    sys.modules[module.__name__] = module
    globals()[name] = module


def _no() -> bool:
    """Whether it is there: False."""
    return False


def _not_built(*args: Any) -> bool:
    """Whether it is there: False."""
    return False


class verbose:
    """What a library would print inside of a `with` block: nothing, as it isn't used."""

    def __init__(self, level: int | None = None):
        self.level = level

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def _flags(**defaults: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    @contextmanager
    def flags(**settings: Any) -> Iterator[None]:
        """Settings for the length of a `with` block: nothing follows from them."""
        unknown = settings.keys() - defaults.keys()
        if unknown:
            raise TypeError(f"flags() got an unexpected keyword argument {min(unknown)!r}")
        yield

    def set_flags(*settings: Any) -> tuple:
        """Make settings: nothing follows from them."""
        return tuple(defaults.values())

    return flags, set_flags


_mkldnn_flags, _mkldnn_set = _flags(
    enabled=False, deterministic=False, allow_tf32=True, fp32_precision="none"
)
_nnpack_flags, _nnpack_set = _flags(enabled=False)

_fastpath = [True]


def get_fastpath_enabled() -> bool:
    """What `set_fastpath_enabled` set."""
    return _fastpath[0]


def set_fastpath_enabled(value: bool) -> None:
    """Whether attention may take a shorter way where no gradient is asked for: remembered, results are the same."""
    _fastpath[0] = bool(value)


_library("mha", "Attention's shorter way.", get_fastpath_enabled=get_fastpath_enabled,
         set_fastpath_enabled=set_fastpath_enabled)  # fmt: skip
_library("xnnpack", "XNNPACK: Kiln computes without it.", enabled=False)
_library("mps", "Apple's GPUs: not in this build.", is_available=_no, is_built=_no, is_macos13_or_newer=_not_built,
         is_macos_or_newer=_not_built, get_name=nothing("mps", "get_name", KilnError),
         get_core_count=nothing("mps", "get_core_count", KilnError))  # fmt: skip
_library(
    "mkl",
    "Intel's MKL: Kiln computes without it.",
    is_available=_no,
    verbose=verbose,
    VERBOSE_OFF=0,
    VERBOSE_ON=1,
)
_library("mkldnn", "Intel's oneDNN: Kiln computes without it.", is_available=_no, is_acl_available=_no, verbose=verbose,
         enabled=False, deterministic=False, allow_tf32=None, fp32_precision="none", flags=_mkldnn_flags,
         set_flags=_mkldnn_set, VERBOSE_OFF=0, VERBOSE_ON=1, VERBOSE_ON_CREATION=2)  # fmt: skip
_library("openmp", "OpenMP: Kiln has a thread pool of its own.", is_available=_no)
_library(
    "nnpack",
    "NNPACK: Kiln computes without it.",
    is_available=_no,
    flags=_nnpack_flags,
    set_flags=_nnpack_set,
)
_library("opt_einsum", "The package opt_einsum: Kiln orders products itself.", is_available=_no, enabled=False,
         strategy=None, get_opt_einsum=lambda: None)  # fmt: skip
_library(
    "cusparselt", "NVIDIA's cuSPARSELt: not in this build.", is_available=_no, version=lambda: None
)
_library("kleidiai", "Arm's KleidiAI: Kiln computes without it.", is_available=_no)
_library("miopen", "AMD's MIOpen: not in this build.", immediate=False)
_library(
    "quantized",
    "Kernels for quantised tensors: none yet.",
    engine="none",
    supported_engines=["none"],
)
