"""A native program as data: what `layout` decides, `program` runs and the disk cache keeps.

A Recipe says what lies where and which kernels run in which order, and nothing else: no Graph, no
code, so that another process goes from a captured Graph to its first step without lowering it again.
The machine code of its kernels lies beside it in the same cache.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import NamedTuple

import numpy as np

import kiln

from ... import dtypes as dt
from ...config import config
from ...graph.node import Graph, Leaf
from ...graph.text import print_graph
from . import cache
from .isa import Isa


class Slot(NamedTuple):
    """Where an array lies: in input ("ext") or output ("out") `where`, in literal `where` ("literal"),
    `where` bytes into the arena ("arena") or what is kept from call to call ("kept") with `strides` in bytes, or
    nowhere ("none": zeros stand for it)."""

    kind: str
    where: int
    shape: tuple[int, ...]
    dtype: dt.dtype
    strides: tuple[int, ...]


class Native(NamedTuple):
    """A stretch of kernels that run one after the other in one native call."""

    first: int
    count: int


class Host(NamedTuple):
    """A call of an op's reference: its arguments, with Slots where arrays go, and (output, Slot) of results."""

    op: str
    args: tuple
    results: tuple[tuple[int | None, Slot], ...]


class Checks(NamedTuple):
    """Indices to look at before state is written: where a flag is set, the reference raises the error."""

    flags: tuple[tuple[Slot, Host], ...]


class Kernel(NamedTuple):
    """A launch: symbol, first entry in the table of arguments, tasks (-1: a jump); for reports also its result, traffic and arithmetic."""

    symbol: str
    at: int
    ntasks: int
    label: str
    touched: int
    flops: int = 0


@dataclass
class Recipe:
    """All that a program needs besides its inputs; sizes in bytes.

    `table` are the arguments of all kernels as (kind, where, extra bytes), kinds as in Slot, "null" or
    "int" (a number that a jump reads, see `control`);
    `outputs` are (k, shape, dtype) of the Graph's outputs that are not updates, `copies` are results
    that end up in a second place, `objects` are the cache keys of the kernels' machine code. The first
    `ahead` kernels are the prologue, which computes what is kept of the inputs `sources`.
    """

    n_inputs: int
    outputs: list[tuple[int, tuple[int, ...], dt.dtype]]
    written: list[int]
    arena_bytes: int
    kept_bytes: int
    ahead: int
    sources: list[int]
    literals: list[np.ndarray]
    table: list[tuple[str, int, int]]
    kernels: list[Kernel]
    steps: list[Native | Host | Checks]
    copies: list[tuple[Slot, Slot]]
    objects: list[str]


def key(
    graph: Graph, isa: Isa, max_memory: int | None = None, steady: Sequence[int] = ()
) -> str | None:
    """The name of a captured Graph's Recipe in the cache; None where it can't be kept.

    It stands for all that lowering depends on: the Graph, the flags, the machine and Kiln's own code.
    """
    for n in graph.deep_nodes():
        if not isinstance(n.op, Leaf) and not n.op.reference.__module__.startswith("kiln."):
            return None  # an op from elsewhere: its body may change without a trace here
    flags = (
        f"fuse={not config.no_fuse} simplify={not config.no_simplify} layout={config.layout} "
        f"float32={config.float32_matmul_precision} max_memory={max_memory} steady={list(steady)}"
    )
    text = "\n".join((_code(), flags, print_graph(graph, sources=False)))
    return cache.make_key(text, isa.key)


@once
def _code() -> str:
    """A hash of the code that Recipes depend on: a change in it is a change of every key."""
    digest = hashlib.sha256(kiln.__version__.encode())
    root = Path(kiln.__file__).parent
    for folder in (".", "graph", "compile", "compile/passes", "ops", "backends/cpu"):
        with os.scandir(root / folder) as listing:
            for name in sorted(e.name for e in listing if e.name.endswith(".py")):
                digest.update((root / folder / name).read_bytes())
    return digest.hexdigest()


def store(name: str, recipe: Recipe) -> None:
    """Keep a Recipe in the cache."""
    cache.put(name, pickle.dumps(recipe))


def fetch(name: str) -> Recipe | None:
    """The Recipe of that name, or None.

    A pickle could run code, but so does the machine code beside it: the cache takes neither from a
    file that anybody else could have written.
    """
    data = cache.get(name)
    return None if data is None else pickle.loads(data)
