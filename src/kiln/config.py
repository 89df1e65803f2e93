"""Every flag of Kiln, typed, in one place: set by `KILN_*` variables or as a context manager.

>>> with context(debug=2):
...     config.debug
2
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from .errors import KilnValueError


@dataclass
class Config:
    """The flags. `KILN_DEBUG=2` in the environment sets `config.debug`."""

    debug: int = 0
    """1 cache hits, 2 kernel times and bandwidth, 3 fusion, 4 Graph after each pass, 5 LLVM IR, 6 assembly"""
    explain: bool = False
    """print why a call was captured again"""
    no_fuse: bool = False
    """one kernel per op, to bisect a wrong result"""
    no_simplify: bool = False
    """skip the algebraic rewrites, to bisect a wrong result"""
    backend: str = "cpu"
    """where compiled programs run: cpu (LLVM) or reference (NumPy, the semantics)"""
    layout: str = "auto"
    """order of images in memory: auto, or row_major or channels_last everywhere, to bisect a wrong result"""
    num_threads: int = 0
    """threads of compiled programs; 0 means all cores of this process"""
    cpu_isa: str = ""
    """force avx512, avx2, sse2 or neon; empty means what the machine has"""
    cache_dir: str = ""
    """where compiled kernels are kept; empty means the user's cache directory"""
    cache_size_mb: int = 512
    """the cache's size, oldest entries go first; 0 turns it off"""
    memory_cache_mb: int = 256
    """memory of dead results that is kept for new ones (`kiln.cpu.empty_cache` gives it back); 0 keeps none"""
    eager: str = "cpu"
    """what large operations of eager mode run on: cpu, native kernels; reference, NumPy alone"""
    float32_matmul_precision: str = "high"
    """highest: only direct sums; high: Winograd convolutions too, errors up to about 2e-6 of the largest result (rms)"""
    max_sizes: int = 16
    """sizes of arguments for which one compiled function is captured; calls with others run in eager mode"""
    max_shapes: int = 4
    """sizes for which eager mode compiles a layer's convolution at once; it runs on NumPy in others that come rarely"""
    deterministic: int = 0
    """1 or 2: no matter in how many sizes calls come, all are compiled, so that bits depend on no call before"""
    max_paths: int = 16
    """captured paths that one compiled function may have before it is an error"""


def _parse(name: str, kind: Any, text: str) -> Any:
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "on": True, "0": False, "": False,
                    "false": False, "no": False, "off": False}[text.lower()]  # fmt: skip
        return kind(text)
    except (KeyError, ValueError):
        raise KilnValueError(
            "config", f"KILN_{name.upper()} takes a value of type {kind.__name__}", repr(text),
            f"unset it or set it to a valid {kind.__name__}",
        ) from None  # fmt: skip


config = Config()
_kinds = {f.name: type(getattr(config, f.name)) for f in fields(Config)}


def load_environment() -> None:
    """Read the `KILN_*` variables into the flags."""
    for name, kind in _kinds.items():
        text = os.environ.get("KILN_" + name.upper())
        if text is not None:
            setattr(config, name, _parse(name, kind, text))


load_environment()


@contextlib.contextmanager
def context(**flags: Any) -> Iterator[Config]:
    """Flags with other values for the length of a `with` block."""
    for name, value in flags.items():
        if name not in _kinds or not isinstance(value, _kinds[name]):
            raise KilnValueError(
                "config", "no such flag, or a value of the wrong type", f"{name}={value!r}",
                "flags: " + ", ".join(f"{n}: {k.__name__}" for n, k in _kinds.items()),
            )  # fmt: skip
    old = {name: getattr(config, name) for name in flags}
    try:
        for name, value in flags.items():
            setattr(config, name, value)
        yield config
    finally:
        for name, value in old.items():
            setattr(config, name, value)


def set_float32_matmul_precision(precision: str) -> None:
    """How float32 products and convolutions may be computed by programs compiled from now on.

    ``"highest"``: every sum is taken as it is written. ``"high"``, the default, and ``"medium"``: 3x3
    convolutions may use Winograd's F(4x4, 3x3), three times as fast; its rms error is 2e-7 to 2e-6
    of the result's rms, where the direct sum has 3e-7 to 8e-7. The same bits on any number of
    threads either way. PyTorch's function of that name (whose default is "highest").
    """
    if precision not in ("highest", "high", "medium"):
        raise KilnValueError(
            "set_float32_matmul_precision", "no such precision", repr(precision),
            "pass 'highest', 'high' or 'medium'",
        )  # fmt: skip
    config.float32_matmul_precision = precision


def get_float32_matmul_precision() -> str:
    """What ``set_float32_matmul_precision`` set."""
    return config.float32_matmul_precision
