"""Settings of CUDA's libraries: not in this build. They can be made and read, and nothing follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import KilnError


class _Matmul:
    """How products are computed on a CUDA device."""

    allow_tf32 = False
    allow_fp16_reduced_precision_reduction = True
    allow_bf16_reduced_precision_reduction = True
    allow_fp16_accumulation = False
    fp32_precision = "none"


class _PlanCache:
    """Kept plans of Fourier transforms: none."""

    size = 0
    max_size = 0

    def clear(self) -> None:
        """Give them up."""

    def __getitem__(self, device: Any) -> _PlanCache:
        return self


matmul = _Matmul()
cufft_plan_cache = _PlanCache()
_sdp = {"flash": True, "mem_efficient": True, "math": True, "cudnn": True}
_reduced = False


class _Needs(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise KilnError(
            f"backends.cuda.{cls.__name__}", "not compiled with CUDA enabled: this build of Kiln has no cuda device", None,
            "compute on the CPU where cuda.is_available() is False",
        )  # fmt: skip


class SDPAParams(metaclass=_Needs):
    """What decides about the form of attention on a CUDA device: there is none."""


def is_ck_sdpa_available() -> bool:
    """Whether AMD's kernels of attention are there: False."""
    return False


def is_built() -> bool:
    """Whether this build has CUDA: False."""
    return False


def _switch(kind: str) -> tuple[Any, Any]:
    def enable(enabled: bool) -> None:
        _sdp[kind] = bool(enabled)

    def is_enabled() -> bool:
        return _sdp[kind]

    enable.__name__, is_enabled.__name__ = f"enable_{kind}_sdp", f"{kind}_sdp_enabled"
    enable.__doc__ = f"Whether attention on a CUDA device may take its form {kind!r}."
    is_enabled.__doc__ = f"What `enable_{kind}_sdp` set."
    return enable, is_enabled


enable_flash_sdp, flash_sdp_enabled = _switch("flash")
enable_mem_efficient_sdp, mem_efficient_sdp_enabled = _switch("mem_efficient")
enable_math_sdp, math_sdp_enabled = _switch("math")
enable_cudnn_sdp, cudnn_sdp_enabled = _switch("cudnn")


def allow_fp16_bf16_reduction_math_sdp(enabled: bool) -> None:
    """Whether attention on a CUDA device may sum in half floats."""
    global _reduced
    _reduced = bool(enabled)


def fp16_bf16_reduction_math_sdp_allowed() -> bool:
    """What `allow_fp16_bf16_reduction_math_sdp` set."""
    return _reduced


def is_flash_attention_available() -> bool:
    """Whether a CUDA device has flash attention: False. Kiln's attention on the CPU is always of that form."""
    return False


def can_use_flash_attention(params: Any, debug: bool = False) -> bool:
    """Whether a CUDA device takes these arguments: False."""
    return False


can_use_efficient_attention = can_use_cudnn_attention = can_use_flash_attention


@contextmanager
def sdp_kernel(
    enable_flash: bool = True, enable_math: bool = True, enable_mem_efficient: bool = True,
    enable_cudnn: bool = True,
) -> Iterator[dict[str, bool]]:  # fmt: skip
    """Which forms attention on a CUDA device may take, for the length of a `with` block."""
    before = dict(_sdp)
    _sdp.update(
        flash=enable_flash, math=enable_math, mem_efficient=enable_mem_efficient, cudnn=enable_cudnn
    )
    try:
        yield dict(_sdp)
    finally:
        _sdp.update(before)


def _preferred(name: str, names: tuple[str, ...]) -> Any:
    chosen = [names[0]]

    def preferred(backend: str | None = None) -> str:
        if backend is not None:
            if backend not in names:
                raise KilnError(
                    name, "no such library", repr(backend), "one of " + ", ".join(names)
                )
            chosen[0] = backend
        return chosen[0]

    preferred.__name__, preferred.__doc__ = (
        name,
        "The library that a CUDA device is to use; sets it where one is given.",
    )
    return preferred


preferred_linalg_library = _preferred("preferred_linalg_library", ("default", "cusolver", "magma"))
preferred_blas_library = _preferred(
    "preferred_blas_library", ("cublas", "cublaslt", "hipblaslt", "ck", "default")
)
