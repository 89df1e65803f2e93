"""Classes of C++ that PyTorch's extensions register (`torch.classes`): there are none."""

from __future__ import annotations

from typing import Any

from .refusal import refused

loaded_libraries: set[str] = set()
load_library = refused(
    "classes.load_library", "extensions in C++ are not built", "write the class in Python"
)


def __getattr__(name: str) -> Any:
    if name[:2] == "__":
        raise AttributeError(name)
    raise RuntimeError(f"class {name!r} does not exist: no extension has registered it")
