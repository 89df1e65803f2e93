"""Python's `multiprocessing`, in which tensors travel by shared memory: PyTorch's `torch.multiprocessing`.

A tensor that is sent (through a Queue or Pipe, or as an argument of a Process) moves to shared memory, and what one
process writes there the other sees. The memory is an anonymous file: it goes with the last process that has
it, also where processes are killed.

https://docs.pytorch.org/docs/stable/multiprocessing.html
"""

import multiprocessing
from multiprocessing import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary]

from ..errors import KilnAssertionError
from .reductions import init_reductions
from .spawn import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    SpawnContext,
    spawn,
    start_processes,
)

_strategies = {"file_descriptor", "file_system"}
_strategy = "file_descriptor"


def set_sharing_strategy(new_strategy: str) -> None:
    """Accept one of PyTorch's names for how memory is shared: "file_descriptor" or "file_system".

    Kiln always hands over descriptors of files that have no name. "file_system" is for programs that would
    have too many files open: Kiln's loader keeps none open for the batches that it has received.
    """
    global _strategy
    if new_strategy not in _strategies:
        raise KilnAssertionError(
            "set_sharing_strategy", "no such strategy", repr(new_strategy), f"one of {sorted(_strategies)}"
        )  # fmt: skip
    _strategy = new_strategy


def get_sharing_strategy() -> str:
    """The name that was set last."""
    return _strategy


def get_all_sharing_strategies() -> set[str]:
    """The names that can be set."""
    return set(_strategies)


init_reductions()

__all__ = [
    "ProcessContext", "ProcessExitedException", "ProcessRaisedException", "SpawnContext", "get_all_sharing_strategies",
    "get_sharing_strategy", "set_sharing_strategy", "spawn", "start_processes",
    *multiprocessing.__all__,  # type: ignore[attr-defined]
]  # fmt: skip
