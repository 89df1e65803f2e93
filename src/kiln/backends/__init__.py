"""Where programs run: one folder per backend; and PyTorch's settings of libraries (`cudnn`, `cuda`, `mkldnn`, …)."""

from __future__ import annotations

import importlib
from typing import Any

_SETTINGS = {"cpu", "cuda", "cudnn"}
_LIBRARIES = {
    "cusparselt", "kleidiai", "mha", "miopen", "mkl", "mkldnn", "mps", "nnpack", "openmp", "opt_einsum", "quantized",
    "xnnpack",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _SETTINGS:
        return importlib.import_module(f".{name}", __name__)
    if name in _LIBRARIES:
        return getattr(importlib.import_module(".libraries", __name__), name)
    raise AttributeError(f"module 'kiln.backends' has no attribute {name!r}")
