"""Compositions on large tensors: what is written in several ops runs as one Program, forward and backward.

The tape then has one node for the whole. It keeps the arguments, and its gradient is a Program that runs
the composition again and differentiates that: cheap for what is elementwise, sums or movement, which is
what compositions declare (`fused`). Gradients of gradients run it op by op, from the arguments themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import tape
from ..autograd.engine import grad
from ..autograd.modes import enable_grad, mode
from ..config import config
from ..tensor import Tensor, _fresh, alias, wrap
from . import one_call

_PLAIN = (int, float, bool, str, type(None))
_met: set[Any] = set()  # calls that only move elements, seen once


def _plain(x: Any) -> bool:
    """Whether an argument may be part of a Program's name."""
    if x.__class__ is tuple or x.__class__ is list:
        return all(y.__class__ in _PLAIN for y in x)
    return x.__class__ in _PLAIN


class Composed(tape.TapeNode):
    """A recorded call of a composition with `n` results: those of `args` at `wanted` have edges."""

    __slots__ = ("args", "fn", "key", "title", "wanted")

    def __init__(self, title: str, fn: Callable, key: Any, args: list, wanted: list[int], n: int):
        super().__init__([tape.edge_of(args[i]) for i in wanted], n)
        self.title, self.fn, self.key, self.wanted = title, fn, key, wanted
        self.args: Any = args
        versions = []
        for x in args:
            if isinstance(x, Tensor):
                if x._ver is None:
                    x._ver = [0, 0]
                versions.append((x._ver, x._ver[0]))
        self.versions = versions

    def name(self) -> str:
        return "".join(w.capitalize() for w in self.title.split("_")) + "Backward0"

    def _differentiate(self, *given: Any) -> tuple[Tensor | None, ...]:
        gs, values, create = given[: self.n_out], list(given[self.n_out :]), mode.grad
        for i in self.wanted:  # a tensor of its own for each, as one may be given twice
            x = values[i]
            values[i] = x.clone() if create and x.requires_grad else alias(x).requires_grad_()
        with enable_grad():
            outs = self.fn(*values)
        found = zip([outs] if isinstance(outs, Tensor) else outs, gs, strict=True)
        used, gs = zip(*[(o, g) for o, g in found if g is not None], strict=True)
        return grad(
            used, [values[i] for i in self.wanted], gs, create_graph=create, allow_unused=True
        )

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        return [None] * len(self.edges) if not any(g is not None for g in gs) else list(self._differentiate(*gs, *self.args))  # fmt: skip

    def backward_arrays(self, gs: list[Any]) -> list[Any]:
        self.check()
        arrays = [g for g in gs if g is not None]
        if arrays and config.eager == "cpu" and all(g.__class__ is np.ndarray and g.dtype.kind == "f" for g in arrays):  # fmt: skip
            args = [x._a if isinstance(x, Tensor) else x for x in self.args]
            name = self.title + "_backward"
            r = one_call.shelf().run(
                name, self._differentiate, [*gs, *args], (self.key, *self.wanted),
                lambda: (self.key, *self.wanted, *one_call.alike([*gs, *args])),
            )  # fmt: skip
            if r is not None and all(x is None or x.__class__ is np.ndarray for x in r):
                return r
        return super().backward_arrays(gs)

    def free(self) -> None:
        super().free()
        self.args = None


def bind(native: Callable[[], bool]) -> Callable:
    """What `registry.whole` is to be: a composition's result, or None where its ops are to run one by one."""

    def run(title: str, fn: Callable, moves: bool, args: Sequence[Any], kwargs: dict) -> Any:
        values = [*args, *kwargs.values()]
        for x in values:
            if isinstance(x, Tensor):
                if x._a.__class__ is not np.ndarray or x._a.dtype.kind not in "fiub":
                    return None
            elif not _plain(x):
                return None
        if not moves and args[0]._a.dtype.kind != "f":
            return None
        if config.eager != "cpu" or tape.SAVING or tape.ANOMALY or not native():
            return None
        n, names = len(args), tuple(kwargs)

        def call(*given: Any) -> Tensor:
            return fn(*given[:n], **dict(zip(names, given[n:], strict=True)))

        arrays = [x._a if isinstance(x, Tensor) else x for x in values]
        if moves:  # the same bits either way, so what is met only once need not be compiled
            met = names, *((x.shape, x.strides, x.dtype.num) if x.__class__ is np.ndarray else (x.__class__, repr(x)) for x in arrays)  # fmt: skip
            if (title, met) not in _met:
                if len(_met) > 4096:
                    _met.clear()
                _met.add((title, met))
                return None
        r = one_call.shelf().run(
            title, call, arrays, ("composed", names), lambda: (names, *one_call.alike(arrays))
        )
        if r is None or any(a.__class__ is not np.ndarray for a in r):
            return None
        outs = tuple(map(wrap, r))
        if mode.grad:
            wanted = [i for i, x in enumerate(values) if isinstance(x, Tensor) and _fresh(x)._rg]
            if wanted:
                node = Composed(title, call, names, values, wanted, len(outs))
                for k, out in enumerate(outs):
                    out._fn, out._idx, out._rg = node, k, True
        return outs[0] if len(outs) == 1 else outs

    return run
