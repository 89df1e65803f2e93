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
    "as_strided_scatter": "PyTorch's gradient goes to the elements that are overwritten, on which nothing depends; Kiln's to those that are kept",
    "grid_sampler_3d": "points on a voxel's border, one of 79,200 as far as float32 tells, five of 2 million in float16; in float64 all agree",
    "nn.functional.grid_sample": "points on a voxel's border as far as float32 tells; in float64 all agree",
    "histogramdd": "the edges of this sample are not in order, and where a search then ends is chance",
    "istft": "PyTorch gives no gradient of this sample's window, and of a copy of it Kiln's",
    "linalg.norm[subgradients_at_zero]": "PyTorch's second gradient at the zero vector is NaN; Kiln's is 0, as a first one that is constant there asks for",
    "masked.logaddexp": "PyTorch's second gradient is NaN where both are masked, which nothing depends on; Kiln's is 0",
    "sparse.sampled_addmm": "a product over no elements: PyTorch's gradient of the sparse matrix has elements outside its places",
    "special.airy_ai": "a series in 80 digits has Kiln's digits; PyTorch is off by 7e-8",
    "special.bessel_y1": "a series in 80 digits has Kiln's digits; PyTorch is off by 6e-7",
    "fft.ihfftn": "PyTorch leaves out= as it was when s and dim are given",
    "__rdiv__": "of a number; PyTorch's own wrapper turns Kiln's TypeError into NotImplemented",
    "diff": "with n=0, a mere copy, PyTorch takes an output of no other dtype; with others it does",
    "lerp": "PyTorch takes an output of another dtype where the weight is a number, not where it is a tensor; Kiln does",
    "std": "PyTorch takes a complex output over all elements, not over dimensions; Kiln does",
    "var": "PyTorch takes a complex output over all elements, not over dimensions; Kiln does",
    "take_along_dim": "PyTorch's look for shared memory gives up on tensors that it has expanded",
    "split_with_sizes_copy": "PyTorch doesn't look for gradients among outputs in a list",
    "cat": "this output shares its memory with Kiln's here, which keeps PyTorch from resizing it",
    "histc": "PyTorch finds bins in bfloat16, Kiln in float64",
    "renorm": "PyTorch's gradient is NaN for complex numbers under the infinity norm; Kiln's is finite",
    "matrix_exp": "PyTorch's is wrong in half floats: NaN, and -1e30 for the identity",
    "complex": "of float16 parts PyTorch makes complex32, which NumPy lacks; Kiln makes complex64",
    "view_as_complex": "of float16 parts PyTorch makes complex32, which NumPy lacks; Kiln refuses",
    "nn.functional.soft_margin_loss": "PyTorch's exponentials overflow in float16; Kiln computes in float32",
    "nn.functional.interpolate[bilinear]": "weights are rounded to whole numbers for uint8, and some pixels are off by one",
    "nn.functional.interpolate[bicubic]": "weights are rounded to whole numbers for uint8, and some pixels are off by one",
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
