"""What PyTorch's operator database holds: entries, their names, and which are left out."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import torch

with contextlib.redirect_stderr(io.StringIO()):  # advice for developers of PyTorch
    from torch.testing._internal import common_methods_invocations as database
    from torch.testing._internal.common_methods_invocations import op_db as ENTRIES


def _as_it_stands(fn: Any, *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)


# Entries of random functions set the seed before each call, which hides that they draw at all.
database.wrapper_set_seed = _as_it_stands

NAMESPACES = ("nn.functional", "linalg", "fft", "special", "signal.windows", "masked", "sparse")

# Entries that nobody calls by these names, where Kiln hasn't got them; what it has is checked.
LEFT_OUT = (
    (r"^((torch\.)?ops|aten)\.", "an operator of ATen, without a public name"),
    (r"^(torch\.)?_(?!_)", "private to PyTorch"),
    (r"^jiterator_", "compiles CUDA C++ that it is given as text"),
    (r"_copy$", "written by PyTorch's own compiler in place of a view"),
    (r"^native_|^unsafe_|_with_indices_backward$|^grid_sampler_[23]d$|^hash_tensor$",
     "an operator behind a public one, which is checked"),
    (r"^chalf$", "complex32, a dtype that PyTorch has for CUDA"),
)  # fmt: skip

# Where Kiln differs and is meant to.
MEANT = {
    "div[trunc_rounding]": "PyTorch rounds a quotient to bfloat16 before it truncates: 17.97 becomes 18; Kiln's is 17",
    "histc": "PyTorch finds bins in bfloat16, Kiln in float64",
    "renorm": "PyTorch's gradient is NaN for complex numbers under the infinity norm; Kiln's is finite",
    "matrix_exp": "PyTorch's is NaN in bfloat16",
    "native_layer_norm": "a single element has the gradient 0; PyTorch's is what rounding leaves",
    "nn.functional.layer_norm": "a single element has the gradient 0; PyTorch's is what rounding leaves",
}


def key(entry: Any) -> str:
    """An entry's name, with its variant: `linalg.pinv[hermitian]`."""
    return entry.name + (f"[{entry.variant_test_name}]" if entry.variant_test_name else "")


def namespace(entry: Any) -> str:
    """Where users find it: `torch`, `Tensor`, `linalg`, …"""
    for name in NAMESPACES:
        if entry.name.startswith(name + "."):
            return name
    return "torch" if hasattr(torch, entry.name.split(".")[0]) else "Tensor"


def left_out(entry: Any, missing: str) -> str:
    """Why an entry for which Kiln misses a name is not counted as missing; empty where it is."""
    names = (entry.name, missing)
    return next((w for pattern, w in LEFT_OUT if any(re.search(pattern, n) for n in names)), "")


def public_path(entry: Any) -> str | None:
    """The public name of the function that an entry calls; None where it calls a Python function of its own."""
    where: Any = torch
    for part in entry.name.split("."):
        where = getattr(where, part, None)
    return entry.name if where is entry.op else None


def select(pattern: str = "") -> list[Any]:
    """The entries with a name in which the pattern is found."""
    return [e for e in ENTRIES if re.search(pattern, key(e))]
