"""Kernels from CUDA's source: not in this build."""

from ..accelerator import nothing

_create_jit_fn, _create_multi_output_jit_fn = (
    nothing("cuda", f"jiterator.{n}") for n in ("_create_jit_fn", "_create_multi_output_jit_fn")
)
