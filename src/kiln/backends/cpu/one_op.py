"""Programs of one op: how eager mode runs an op whose kernels are written for their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ... import dtypes as dt
from ...config import config
from ...graph.node import Graph, Node, input_node, item, make
from ...ops.registry import Op
from ...runtime.blocks import allocator
from ...runtime.forks import own_lock
from . import fuse
from .program import CpuProgram, Room, recipe_of
from .recipe import Host, Recipe

_MOST = 4096  # calls that are kept in mind


class Shelf:
    """The Programs of calls seen before. One runs at a time, so they have one arena, as large as the largest's."""

    def __init__(self) -> None:
        self.recipes: dict[Any, Recipe | None] = {}
        self.programs: dict[Any, CpuProgram] = {}  # those in the arena as it is
        self.arena, self.size = Room(0), 0
        self.lock = own_lock(self)

    def run(self, op: Op, args: Sequence[Any]) -> Any:
        """The op on arrays by a Program of its own, compiled where its shapes are new; None where it has no kernels.

        What is compiled is kept on disk. Gives what the reference gives: an array, or a tuple of them. Its
        bits are not the reference's, so whether an op runs here must depend on its shapes alone.
        """
        with self.lock:
            program = self._find(op, args)
            if program is None:
                return None
            outputs = program.run([a for a in args if a.__class__ is np.ndarray])
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    def run_blocks(self, op: Op, args: Sequence[Any], cut: Sequence[int], most: int) -> Any:
        """An op that treats each row by itself on rows of the C-contiguous arrays `cut`, by a Program for some rows.

        So it serves any number of rows: the last block begins where it ends with the arrays. A Program is for a
        power of two of rows, and `most` at most.
        """
        arrays = [args[i] for i in cut]
        n = len(arrays[0])
        block = 1 << min(n, most).bit_length() - 1
        if arrays[0][:block].nbytes >= fuse.STREAM_BYTES:
            return None  # a result written past the cache begins at 64 bytes, which a part of one need not
        with self.lock:
            first = [a[:block] if i in cut else a for i, a in enumerate(args)]
            program = self._find(op, first)
            if program is None:
                return None
            _, shape, d = program.results[0]
            shape = (n, *shape[1:])
            out = allocator(prod(shape) * d.itemsize)(shape, d)
            for start in (*range(0, n - block, block), n - block):
                part = slice(start, start + block)
                given = (a[part] if i in cut else a for i, a in enumerate(args))
                program.whole(*(a for a in given if a.__class__ is np.ndarray), out[part])
        return out

    def clear(self) -> None:
        """Forget all Programs, and let go of their memory."""
        with self.lock:
            self.recipes, self.programs = {}, {}
            self.arena, self.size = Room(0), 0

    def _find(self, op: Op, args: Sequence[Any]) -> CpuProgram | None:
        """The Program of a call."""
        key = (
            op.name, config.cpu_isa, config.float32_matmul_precision, config.layout,
            *((a.shape, a.dtype.num) if a.__class__ is np.ndarray else a for a in args),
        )  # fmt: skip
        return self.programs.get(key) or self._program(key, op, args)

    def _program(self, key: Any, op: Op, args: Sequence[Any]) -> CpuProgram | None:
        """The Program of a call that has none in the arena."""
        if key not in self.recipes:
            if len(self.recipes) >= _MOST:
                self.recipes, self.programs = {}, {}
            self.recipes[key] = _recipe(op, args)
        recipe = self.recipes[key]
        if recipe is None:
            return None
        if recipe.arena_bytes > self.size:
            self.programs, self.size = {}, recipe.arena_bytes
            self.arena = Room(self.size)
        program = self.programs[key] = CpuProgram(recipe, op.name, self.arena)
        return program


def _recipe(op: Op, args: Sequence[Any]) -> Recipe | None:
    """The Recipe of the Graph with this one call; None where the op's reference would do it."""
    inputs: list[Node] = []
    bound: list[Any] = []
    for a in args:
        if isinstance(a, np.ndarray):
            a = input_node(len(inputs), a.shape, dt.OF_NUMPY[a.dtype])
            inputs.append(a)
        bound.append(a)
    node = make(op, bound)
    outputs = [node] if node.outputs is None else [item(node, i) for i in range(len(node.outputs))]
    recipe = recipe_of(Graph(inputs, outputs), op.name)
    return None if any(isinstance(s, Host) for s in recipe.steps) else recipe


shelf = Shelf()
