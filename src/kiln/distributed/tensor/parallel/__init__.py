"""Modules spread over processes by the parts of their weights: over one process, as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any

from ....errors import KilnTypeError, KilnWarning, describe
from ....nn.modules.module import Module
from ...group import default
from .style import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleInputOutput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
)


def parallelize_module(
    module: Module,
    device_mesh: Any = None,
    parallelize_plan: Any = None,
    *,
    src_data_rank: int | None = 0,
) -> Module:
    """A module whose layers a plan spreads over a mesh: of one process, the module itself.

    Errors: KilnTypeError for what is no plan; a warning for names in it that the module hasn't.
    """
    if device_mesh is None:
        default("parallelize_module")
    plan = (
        {"": parallelize_plan} if isinstance(parallelize_plan, ParallelStyle) else parallelize_plan
    )
    if plan is not None and not (
        isinstance(plan, dict) and all(isinstance(s, ParallelStyle) for s in plan.values())
    ):
        raise KilnTypeError("parallelize_module", "Expect Union[ParallelStyle, Dict[str, ParallelStyle]] for parallelize_plan", describe(parallelize_plan), "ColwiseParallel(), RowwiseParallel(), …")  # fmt: skip
    names = [n for n, _ in module.named_modules()]
    for pattern in plan or {}:
        if not any(fnmatch(n, pattern) for n in names):
            import warnings

            warnings.warn(
                f"Parallelize plan key '{pattern}' could not be resolved: no submodule matching it found",
                KilnWarning, stacklevel=2,
            )  # fmt: skip
    return module


@contextmanager
def loss_parallel() -> Iterator[None]:
    """Losses of results that are spread over processes: of one process, as they are."""
    yield


__all__ = [
    "ColwiseParallel", "ParallelStyle", "PrepareModuleInput", "PrepareModuleInputOutput", "PrepareModuleOutput",
    "RowwiseParallel", "SequenceParallel", "loss_parallel", "parallelize_module",
]  # fmt: skip
