"""Starting a function in several processes and hearing how they end.

https://docs.pytorch.org/docs/stable/multiprocessing.html#module-torch.multiprocessing.spawn
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

_LONGEST = 30_000  # what a pipe takes without a reader


class ProcessException(Exception):
    """A process that did not end well: which of them, by `error_index` and `error_pid`."""

    def __init__(self, msg: str, error_index: int, error_pid: int):
        super().__init__(msg)
        self.msg, self.error_index, self.error_pid = msg, error_index, error_pid

    def __reduce__(self) -> tuple:
        return type(self), (self.msg, self.error_index, self.error_pid)


class ProcessRaisedException(ProcessException):
    """A process whose function raised; the message has its traceback."""


class ProcessExitedException(ProcessException):
    """A process that exited with another code than 0, or by a signal."""

    def __init__(
        self, msg: str, error_index: int, error_pid: int, exit_code: int, signal_name: str | None = None
    ):  # fmt: skip
        super().__init__(msg, error_index, error_pid)
        self.exit_code, self.signal_name = exit_code, signal_name

    def __reduce__(self) -> tuple:
        return (
            type(self),
            (self.msg, self.error_index, self.error_pid, self.exit_code, self.signal_name),
        )


class ProcessContext:
    """Processes that were started together."""

    def __init__(self, processes: list[Any], errors: list[Any]):
        self.processes, self._errors = processes, errors
        self.sentinels = {p.sentinel: i for i, p in enumerate(processes)}

    def pids(self) -> list[int]:
        """The processes' numbers."""
        return [int(p.pid) for p in self.processes]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait for one process to end, or all; gives whether all have.

        Where one ends badly the others are ended too, after `grace_period` seconds if given, and its
        error is raised: ProcessRaisedException or ProcessExitedException.
        """
        if not self.sentinels:
            return True
        failed = None
        for sentinel in wait(list(self.sentinels), timeout):
            index = self.sentinels.pop(sentinel)  # type: ignore[call-overload]
            self.processes[index].join()
            if self.processes[index].exitcode != 0 and failed is None:
                failed = index
        if failed is None:
            return not self.sentinels
        self._end_all(grace_period)
        raise self._error(failed)

    def _end_all(self, grace_period: float | None) -> None:
        deadline = time.monotonic() + (grace_period or 0)
        for p in self.processes:
            p.join(max(0.0, deadline - time.monotonic()))
        for stop in ("terminate", "kill"):
            late = [p for p in self.processes if p.is_alive()]
            for p in late:
                getattr(p, stop)()
            for p in late:
                p.join(5)

    def _error(self, index: int) -> ProcessException:
        process, errors = self.processes[index], self._errors[index]
        with contextlib.suppress(EOFError):
            if errors.poll():
                text = (
                    f"\n\n-- Process {index} terminated with the following error:\n{errors.recv()}"
                )
                return ProcessRaisedException(text, index, process.pid)
        code = process.exitcode
        if code < 0:
            name = signal.Signals(-code).name
            text = f"process {index} terminated with signal {name}"
            return ProcessExitedException(text, index, process.pid, code, name)
        text = f"process {index} terminated with exit code {code}"
        return ProcessExitedException(text, index, process.pid, code)


class SpawnContext(ProcessContext):
    """Processes that were started with the method "spawn"."""


def start_processes(
    fn: Callable[..., Any], args: tuple = (), nprocs: int = 1, join: bool = True, daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:  # fmt: skip
    """Call `fn(i, *args)` in processes 0 to `nprocs` - 1.

    With `join` it waits for them all and gives None; else gives the processes as a ProcessContext.
    """
    context = multiprocessing.get_context(start_method)
    processes, errors = [], []
    for i in range(nprocs):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_call, args=(fn, i, args, theirs), daemon=daemon)  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        processes.append(process)
        errors.append(ours)
    kind = SpawnContext if start_method == "spawn" else ProcessContext
    out = kind(processes, errors)
    if not join:
        return out
    while not out.join():
        pass
    return None


def spawn(
    fn: Callable[..., Any], args: tuple = (), nprocs: int = 1, join: bool = True, daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:  # fmt: skip
    """`start_processes` with the method "spawn"."""
    if start_method != "spawn":
        warnings.warn(
            f"This method only supports start_method=spawn (got: {start_method}). To use a different start_method "
            "use start_processes.", FutureWarning, stacklevel=2,
        )  # fmt: skip
    return start_processes(fn, args, nprocs, join, daemon, start_method="spawn")


def _call(fn: Callable[..., Any], i: int, args: tuple, errors: Any) -> None:
    parent = os.getppid()
    if sys.platform == "linux":  # end with the process that started this one, however that ends
        ctypes.CDLL(None).prctl(1, signal.SIGINT, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGINT)
    try:
        fn(i, *args)
    except KeyboardInterrupt:
        pass  # the process that started this one has it too
    except Exception:
        errors.send(traceback.format_exc()[-_LONGEST:])
        sys.exit(1)


__all__ = [
    "ProcessContext", "ProcessException", "ProcessExitedException", "ProcessRaisedException", "SpawnContext",
    "spawn", "start_processes",
]  # fmt: skip
