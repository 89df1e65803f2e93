"""Who holds what memory: `kiln.memory_report`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..autograd.profiler_util import _format_memory
from ..autograd.tape import TapeNode
from ..errors import KilnKeyError
from ..heap import everything, is_module, is_optimizer
from ..places import tensor_names
from ..runtime.blocks import blocks
from ..sharing import root_of
from ..tensor import Tensor

KINDS = (
    "parameters", "buffers", "gradients", "optimizer state", "saved for backward", "other tensors", "compiled programs",
    "cached memory",
)  # fmt: skip
"""What memory may be held for: memory that serves several is counted as the first of these."""


class Holding(NamedTuple):
    """Memory of one holder: what for (`KINDS`), its name, bytes, and in how many pieces."""

    kind: str
    name: str
    bytes: int
    count: int


class MemoryReport:
    """Who holds what, made by `memory_report`: `holdings`, the largest first; `[kind]` bytes; `str()` of it is a table."""

    def __init__(self, holdings: list[Holding]):
        self.holdings = sorted(holdings, key=lambda h: -h.bytes)

    def __getitem__(self, kind: str) -> int:
        if kind not in KINDS:
            raise KilnKeyError("memory_report", "memory is held for no such thing", repr(kind), ", ".join(KINDS))  # fmt: skip
        return sum(h.bytes for h in self.holdings if h.kind == kind)

    @property
    def total(self) -> int:
        """All bytes, each counted once."""
        return sum(h.bytes for h in self.holdings)

    def table(self, limit: int = 5) -> str:
        """A line for each kind, and under it its `limit` largest holders."""
        lines = []
        for kind in KINDS:
            mine = [h for h in self.holdings if h.kind == kind]
            lines.append(f"{kind:<44} {_format_memory(self[kind]):>12}")
            for h in mine[:limit]:
                lines.append(f"  {h.name[:40]:<42} {_format_memory(h.bytes):>12}  in {h.count}")
            if len(mine) > limit:
                rest = sum(h.bytes for h in mine[limit:])
                lines.append(f"  {f'{len(mine) - limit} more':<42} {_format_memory(rest):>12}")
        return "\n".join([*lines, f"{'all':<44} {_format_memory(self.total):>12}"])

    def __str__(self) -> str:
        return self.table()


class _Heap:
    """The objects of the process that hold memory, by what they are."""

    def __init__(self) -> None:
        from ..compile.compiled import CompiledFunction

        self.modules: list[Any] = []
        self.optimizers: list[Any] = []
        self.nodes: list[TapeNode] = []
        self.tensors: list[Tensor] = []
        self.functions: list[CompiledFunction] = []
        for x in everything():
            try:
                if isinstance(x, Tensor):
                    self.tensors.append(x)
                elif isinstance(x, TapeNode):
                    self.nodes.append(x)
                elif isinstance(x, CompiledFunction):
                    self.functions.append(x)
                elif is_module(x):
                    self.modules.append(x)
                elif is_optimizer(x):
                    self.optimizers.append(x)
            except Exception:  # what a stranger's attributes do is no concern of this
                continue


def _arrays(x: Any, depth: int = 3) -> Iterator[np.ndarray]:
    """The arrays that an object's value consists of."""
    if isinstance(x, Tensor):
        x = x._a
    if isinstance(x, np.ndarray):
        yield x
    elif depth and isinstance(x, list | tuple | dict):
        for y in x.values() if isinstance(x, dict) else x:
            yield from _arrays(y, depth - 1)


def _saved(node: TapeNode) -> Iterator[np.ndarray]:
    """The arrays that a node of the tape keeps for backward."""
    for cls in type(node).__mro__:
        slots = getattr(cls, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("edges", "hooks", "versions", "plan", "op", "__weakref__"):
                yield from _arrays(getattr(node, name, None))
    yield from _arrays(getattr(node, "__dict__", None))


def memory_report() -> MemoryReport:
    """Who holds the memory of this process's tensors: parameters, gradients, optimizer state, values saved for backward, …

    Every piece of memory is counted once, under the first of `debugging.memory.KINDS` that it serves, and by its owner: a
    parameter's name (`encoder.weight`), a node of the tape (`MulBackward0`), a compiled function. "compiled programs" is what
    these, and kernels of eager mode, hold between their kernels and keep of parameters; "cached memory" waits for new results (`kiln.cpu.empty_cache`).
    The heap is walked: milliseconds, more in a large program.
    """
    heap = _Heap()
    params = {id(p): p for m in heap.modules for p in m._parameters.values() if p is not None}
    buffers = {id(b): b for m in heap.modules for b in m._buffers.values() if b is not None}
    states = {
        id(t): t for o in heap.optimizers for slots in o.state.values() if isinstance(slots, dict)
        for t in slots.values() if isinstance(t, Tensor)
    }  # fmt: skip
    names = tensor_names([*params.values(), *buffers.values(), *states.values()])
    found: dict[tuple[str, str], list[int]] = {}
    seen: set[int] = set()

    def hold(kind: str, name: str, arrays: Iterator[np.ndarray]) -> None:
        for a in arrays:
            root = root_of(a)
            if id(root) not in seen and (n := getattr(root, "nbytes", a.nbytes)):
                seen.add(id(root))
                total = found.setdefault((kind, name), [0, 0])
                total[0] += n
                total[1] += 1

    for kind, table in (("parameters", params), ("buffers", buffers)):
        for key, t in table.items():
            hold(kind, names.get(key, "?"), _arrays(t))
    for t in heap.tensors:
        if t._grad is not None:
            hold("gradients", names.get(id(t), f"a tensor {list(t.shape)}"), _arrays(t._grad))
    for key, t in states.items():
        hold("optimizer state", names.get(key, "?"), _arrays(t))
    for n in heap.nodes:
        hold("saved for backward", n.name(), _saved(n))
    for t in heap.tensors:
        hold("other tensors", f"{t.dtype} {list(t.shape)}" if isinstance(t._a, np.ndarray) else type(t).__name__, _arrays(t))  # fmt: skip
    holdings = [Holding(kind, name, n, count) for (kind, name), (n, count) in found.items()]
    for f in heap.functions:
        stats = f.memory_stats()
        if stats["held_bytes"]:
            holdings.append(Holding("compiled programs", f.name, stats["held_bytes"], stats["programs"]))  # fmt: skip
    if (eager := sys.modules.get("kiln.backends.cpu.one_op")) is not None and eager.shelf.size:
        holdings.append(Holding("compiled programs", "kernels of eager mode", eager.shelf.size, 1))
    if blocks.held:
        holdings.append(Holding("cached memory", "blocks of dead results", blocks.held, 1))
    return MemoryReport(holdings)
