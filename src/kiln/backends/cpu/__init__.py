"""The CPU backend: Graphs to native programs, with kernels generated as LLVM IR."""

from .program import compile as compile


def get_cpu_capability() -> str:
    """The vectors that kernels use, by PyTorch's names: "AVX512", "AVX2" or "DEFAULT"."""
    from .isa import host_isa

    return {"avx512": "AVX512", "avx2": "AVX2"}.get(host_isa().name, "DEFAULT")
