"""Expressions at points that another kernel's loops visit: GEMM and convolution epilogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kiln.backends.cpu.access import Access
from kiln.backends.cpu.exprs import ExprEmitter
from kiln.backends.cpu.ir import Builder, Val
from kiln.backends.cpu.isa import Isa
from kiln.compile.loopnest import Expr, LoopNest


class PointEmitter:
    """Emits an elementwise nest's stores, or just their values, wherever the caller's loops stand.

    The nest is over the caller's index space, such as (rows, columns); its buffers are entries of the table
    ``args``, loaded where this object is made. Values that the caller computes enter as ``leaf`` nodes.
    """

    def __init__(self, b: Builder, isa: Isa, nest: LoopNest, args: Val) -> None:
        self.nest = nest.check()
        self.access = Access(b, isa, nest, len(nest.buffers), ())
        self.access.base(args)
        self.emitter = ExprEmitter(
            b, isa, lambda e: self.access.leaf(e, self.emitter), self.access.run
        )

    def store(
        self,
        index: Sequence[Val],
        leaves: Mapping[Expr, Val],
        vector: int | None = None,
        lanes: int = 1,
        mask: Val | None = None,
    ) -> None:
        """Evaluate and store at ``index`` (i64 each), with ``lanes`` running along dim ``vector``.

        ``leaves`` binds `loopnest.leaf` nodes to values of as many lanes; ``mask`` is as in `Access`.
        """
        point = self._enter(index, leaves, vector, lanes, mask)
        self.access.write(self.emitter, self.nest.stages[0].stores)
        self.access.restore(point)

    def values(
        self,
        index: Sequence[Val],
        leaves: Mapping[Expr, Val],
        vector: int | None = None,
        lanes: int = 1,
        mask: Val | None = None,
    ) -> list[Val]:
        """The register values that `store` would write, all ``lanes`` wide."""
        point = self._enter(index, leaves, vector, lanes, mask)
        found = [self.emitter.emit(t.expr) for t in self.nest.stages[0].stores]
        self.access.restore(point)
        return [self.access.b.splat(v, lanes) for v in found]

    def _enter(
        self,
        index: Sequence[Val],
        leaves: Mapping[Expr, Val],
        vector: int | None,
        lanes: int,
        mask: Val | None,
    ) -> tuple[Any, ...]:
        point = self.access.save()
        self.emitter.values = dict(leaves)
        self.access.vector(vector, lanes, mask)
        for d, i in enumerate(index):
            self.access.enter(d, i)
        return point
