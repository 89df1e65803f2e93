"""Running one generated kernel on NumPy arrays."""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import replace

import numpy as np

from kiln.backends.cpu import jit
from kiln.backends.cpu.isa import Isa, make_isa
from kiln.backends.cpu.kernel import Kernel
from kiln.runtime import threads

_Native = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def levels() -> list[Isa]:
    """Every instruction set that this host can run."""
    best = make_isa()
    if best.name == "neon":
        return [best]
    ladder = ["sse2", "avx2", "avx512"]
    return [make_isa(name) for name in ladder[: ladder.index(best.name) + 1]]


def unique(*parts: object) -> str:
    """A symbol name made from what the kernel depends on."""
    return "t" + hashlib.sha256(repr(parts).encode()).hexdigest()[:20]


def strides(array: np.ndarray) -> tuple[int, ...]:
    """How many elements apart neighbours along each dimension are."""
    return tuple(s // array.itemsize for s in array.strides)


def address(array: np.ndarray) -> int:
    """Address of element (0, ..., 0)."""
    return array.__array_interface__["data"][0]


def aligned(nbytes: int) -> np.ndarray:
    """Zeroed scratch at a multiple of 64 bytes, filled with NaN bits so that misuse shows."""
    raw = np.full(nbytes + 64, 0xFF, np.uint8)
    start = -address(raw) % 64
    return raw[start : start + nbytes]


def run(
    kernel: Kernel, isa: Isa, arrays: list[np.ndarray], reverse: bool = True,
    workspace: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Run every phase, tasks last to first: their order must not matter.

    What a kernel prepares of its second operand is prepared before, in exactly as much memory.
    """
    if kernel.prepared_bytes:
        arrays, kernel = _prepared(kernel, isa, arrays), kernel.then
    lookup = jit.build([phase.text for phase in kernel.phases()], isa)
    scratch = aligned(kernel.workspace_bytes) if workspace is None else workspace
    table = [address(a) for a in arrays]
    table.insert(3, address(scratch) if scratch.size else 0)
    args = np.array(table, np.int64)
    for phase in kernel.phases():
        native = _Native(lookup(phase.symbol))
        for task in sorted(range(phase.ntasks), reverse=reverse):
            native(address(args), task, (phase.ntasks - 1) * (task % 2))


def _prepared(kernel: Kernel, isa: Isa, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays with what the first phase makes of the second operand in place of it."""
    raw = guarded((kernel.prepared_bytes + 64,), np.int8)
    where = -address(raw) % 64
    room = raw[where : where + kernel.prepared_bytes]
    first = replace(kernel, then=None, prepared_bytes=0)
    run(first, isa, [np.zeros(1), np.zeros(1), arrays[2]], workspace=room)
    assert margins_untouched(raw)
    assert (raw[:where] == -77).all()
    assert (raw[where + kernel.prepared_bytes :] == -77).all()
    return [*arrays[:2], room, *arrays[3:]]


def run_threaded(kernel: Kernel, isa: Isa, arrays: list[np.ndarray], count: int) -> None:
    """Run every phase through the thread pool with ``count`` threads."""
    if kernel.prepared_bytes:
        arrays, kernel = _prepared(kernel, isa, arrays), kernel.then
    lookup = jit.build([phase.text for phase in kernel.phases()], isa)
    scratch = aligned(kernel.workspace_bytes)
    table = [address(a) for a in arrays]
    table.insert(3, address(scratch))
    args = np.array(table, np.int64)
    rows = [[lookup(p.symbol), address(args), p.ntasks] for p in kernel.phases()]
    plan = np.array(rows, np.int64)
    before = threads.get_num_threads()
    threads.set_num_threads(count)
    try:
        threads.run_plan(address(plan), len(plan))
    finally:
        threads.set_num_threads(before)


def guarded(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array with a margin of sentinels round it; see ``margins_untouched``."""
    size = int(np.prod(shape)) if shape else 1
    base = np.full(size + 128, -77, dtype)
    return base[64 : 64 + size].reshape(shape)


def margins_untouched(array: np.ndarray) -> bool:
    """Whether nothing was written outside a ``guarded`` array."""
    base = array
    while base.base is not None:
        base = base.base
    return bool((base[:64] == -77).all() and (base[-64:] == -77).all())
