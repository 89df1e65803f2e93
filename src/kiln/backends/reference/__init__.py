"""The reference backend: every op by its NumPy reference, one after the other. It defines the semantics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...compile import pipeline
from ...graph.node import CONST, INPUT, ITEM, LITERAL, Graph, Node
from ...ops.registry import Op


class ReferenceProgram:
    """A Graph run node by node; each value is dropped after its last use."""

    def __init__(self, graph: Graph, name: str):
        self.graph, self.name = graph, name
        self.order = [n for n in graph.nodes() if n.op is not INPUT]
        last: dict[Node, int] = {}
        for i, n in enumerate(self.order):
            for x in n.inputs:
                last[x] = i
        keep = set(graph.outputs) | set(graph.inputs)
        self.drop: list[list[Node]] = [[] for _ in self.order]
        for n, i in last.items():
            if n not in keep:
                self.drop[i].append(n)
        self.bound: list[Any] = [None] * len(graph.inputs)
        self.lock = threading.Lock()

    def bind(self, i: int, a: np.ndarray) -> None:
        """Have input i lie in this array at each call from now on."""
        self.bound[i] = a

    def caller(self, varying: Sequence[int]) -> Callable[..., None]:
        """The program as a function of the arrays of these inputs and of its outputs."""

        def call(*arrays: np.ndarray) -> None:
            inputs = list(self.bound)
            for i, a in zip(varying, arrays, strict=False):
                inputs[i] = a
            for out, r in zip(arrays[len(varying) :], self.run(inputs), strict=True):
                np.copyto(out, r)

        return call

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Execute once; updates are stored only after everything has been computed."""
        values: dict[Node, Any] = dict(zip(self.graph.inputs, inputs, strict=True))

        def raw(x: Any) -> Any:
            if isinstance(x, Node):
                return values[x]
            return (
                [raw(y) for y in x]
                if isinstance(x, tuple) and any(isinstance(y, Node) for y in x)
                else x
            )

        with np.errstate(all="ignore"):
            for n, drop in zip(self.order, self.drop, strict=True):
                values[n] = self._value(n, raw)
                for d in drop:
                    del values[d]
        outs = [values[o] for o in self.graph.outputs]
        taken = [np.array(o) if k in self.graph.updates else o for k, o in enumerate(outs)]
        results = []
        for k, o in enumerate(taken):
            i = self.graph.updates.get(k)
            if i is None:
                results.append(np.array(o))
            else:
                inputs[i][...] = o
        return results

    @staticmethod
    def _value(n: Node, raw: Any) -> Any:
        if n.op is CONST:
            return np.asarray(n.args[0], n.dtype.np)
        if n.op is LITERAL:
            return n.args[0]
        if n.op is ITEM:
            return np.asarray(raw(n.args[0])[n.args[1]])
        assert isinstance(n.op, Op)
        r = n.op.run(*[raw(a) for a in n.args])
        return r if n.outputs is not None else np.asarray(r)


def compile(graph: Graph, name: str) -> ReferenceProgram:
    """A Program that calls each op's reference, in the Graph as it was captured."""
    pipeline.optimize(graph, None, name)
    return ReferenceProgram(graph, name)
