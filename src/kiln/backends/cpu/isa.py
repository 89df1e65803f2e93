"""Which instruction set the CPU kernels are generated for, decided at run time."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from kiln.config import config
from kiln.errors import KilnError

_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "fma", "f16c")
_NAMES = ("avx512", "avx2", "sse2", "neon")


@dataclass(frozen=True)
class Isa:
    """One target of the kernel generator: what LLVM is told and what the generator may assume.

    ``vector_bytes`` is the width of one vector register, ``n_vregs`` how many there are.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    n_vregs: int
    has_fma: bool

    def lanes(self, itemsize: int) -> int:
        """Number of elements of ``itemsize`` bytes in one vector register."""
        return self.vector_bytes // itemsize

    def has(self, feature: str) -> bool:
        """Whether LLVM's feature flag ``feature`` is on, such as ``"avx512bf16"``."""
        return f"+{feature}" in self.features.split(",")

    @property
    def key(self) -> str:
        """All that the generated machine code depends on, as one string (for cache keys)."""
        return f"{self.name}|{self.triple}|{self.cpu}|{self.features}"


def requested_isa() -> str | None:
    """The level asked for by ``KILN_CPU_ISA``, or None for the best the host has."""
    return config.cpu_isa.strip().lower() or None


def host_isa() -> Isa:
    """The Isa that kernels are made for: the host's best, or the one ``KILN_CPU_ISA`` names.

    Raises KilnError where the name is unknown or the host can't run it.
    """
    return make_isa(requested_isa())


@functools.cache
def make_isa(name: str | None = None) -> Isa:
    """The Isa called ``name`` on this host; None means the best one."""
    best, triple, cpu, flags = _detect()
    ladder = ("sse2", "avx2", "avx512") if best != "neon" else ("neon",)
    ladder = ladder[: ladder.index(best) + 1]
    if name is None:
        name = best
    if name not in ladder:
        known = "this CPU can't run it" if name in _NAMES else "no such level"
        raise KilnError(
            "cpu",
            f"instruction set {name!r} is not available: {known}",
            f"cpu_isa={name!r} on host cpu {cpu} ({triple})",
            f"unset KILN_CPU_ISA or choose one of: {', '.join(ladder)}",
        )
    if name == "avx512":
        # Intel's server tunings split 512-bit code into 256-bit halves unless told not to.
        on = ",".join(f"+{f}" for f in sorted(flags)) + ",-prefer-256-bit"
        return Isa("avx512", triple, cpu, on, 64, 32, True)
    if name == "avx2":
        return Isa("avx2", triple, "haswell", "+prefer-256-bit", 32, 16, True)
    if name == "sse2":
        return Isa("sse2", triple, "x86-64", "", 16, 16, False)
    on = ",".join(f"+{f}" for f in sorted(flags))
    return Isa("neon", triple, cpu, on, 16, 32, True)


@functools.cache
def _detect() -> tuple[str, str, str, frozenset[str]]:
    """Best level, triple, CPU name and the features that are on, from LLVM's host detection."""
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    cpu = llvm.get_host_cpu_name()
    arch = triple.split("-", 1)[0]
    flags = frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)
    if arch in ("x86_64", "amd64"):
        if all(f in flags for f in _AVX512):
            return "avx512", triple, cpu, flags
        if "avx2" in flags and "fma" in flags:
            return "avx2", triple, cpu, flags
        return "sse2", triple, cpu, flags
    if arch in ("aarch64", "arm64"):
        return "neon", triple, cpu, flags
    raise KilnError(
        "cpu",
        "no kernel generator for this processor",
        f"{triple}, cpu {cpu}",
        "use the reference backend, or run on x86-64 or arm64",
    )
