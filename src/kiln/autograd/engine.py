"""The backward pass: gradients flow along the tape in descending order of recording."""

from __future__ import annotations

import operator
import sys
import threading
import warnings
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from threading import get_ident
from typing import Any, cast

import numpy as np

from ..composed import ComposedTensor
from ..dtypes import bits
from ..errors import KilnError, KilnTypeError, describe
from ..formats import contiguous_format, dense, strided
from ..ops.dispatch import bump
from ..ops.registry import REGISTRY
from ..recording import BLOCK, RECORDING, begin_call, end
from ..sharing import watched, written
from ..tensor import ACTIVE, CAPTURING, Tensor, _fresh, wrap
from . import hooks
from .modes import DISABLED, mode
from .tape import ANOMALY, OpNode, TapeNode, fit


class Targets:
    """The tensors whose gradients `grad` was asked for, and the nodes that lead to them."""

    def __init__(self, inputs: Sequence[Tensor], roots: Sequence[Tensor]):
        self.found: dict[Any, Tensor] = {}
        self.keys = [(_fresh(x)._fn or x, x._idx if x._fn else 0) for x in inputs]
        self.wanted = set(self.keys)
        self.nodes: set[TapeNode] = set()
        ends = {k[0] for k in self.keys}
        # a node is needed if an input is below it: seen in ascending order of recording
        seen: set[TapeNode] = set()
        stack = [r._fn for r in roots if r._fn is not None]
        while stack:
            n = stack.pop()
            if n not in seen:
                seen.add(n)
                stack.extend(e[0] for e in n.edges if e is not None and isinstance(e[0], TapeNode))
        for n in sorted(seen, key=lambda n: n.seq):
            if any(e is not None and (e[0] in ends or e[0] in self.nodes) for e in n.edges):
                self.nodes.add(n)


class _Pass:
    """One backward pass: gradients on their way to tape nodes and leaves."""

    __slots__ = ("accumulate", "heap", "leaves", "pending", "targets")

    def __init__(self, targets: Targets | None, accumulate: bool):
        self.targets, self.accumulate = targets, accumulate
        self.pending: dict[
            TapeNode, list[Any]
        ] = {}  # (gradient, whether its memory is ours) by output
        self.heap: list[tuple[int, TapeNode]] = []
        self.leaves: dict[int, list[Any]] = {}

    def deliver(self, to: Any, idx: int, g: Tensor, owned: bool) -> None:
        """Add a gradient to what a node's output, or a leaf, has received."""
        if isinstance(to, TapeNode):
            slots = self.pending.get(to)
            if slots is None:
                slots = self.pending[to] = [None] * to.n_out
                heappush(self.heap, (-to.seq, to))
            old = slots[idx]
            slots[idx] = (g, owned) if old is None else (old[0] + g, True)
            return
        targets = self.targets
        if targets is not None and not (self.accumulate and (to, 0) in targets.wanted):
            if (to, 0) in targets.wanted:
                g = hooks.run_tensor_hooks(to, g)
                old = targets.found.get((to, 0))
                targets.found[(to, 0)] = g if old is None else old + g
            return
        entry = self.leaves.get(id(to))
        if entry is None:
            self.leaves[id(to)] = [to, g, owned]
        else:
            entry[1], entry[2] = entry[1] + g, True


class Running:
    """A backward pass that somebody asks about."""

    def __init__(self, roots: Sequence[Tensor], targets: Targets | None):
        self.roots, self.targets = roots, targets
        self.reached: set[Any] | None = None

    def computes(self, t: Tensor) -> bool:
        """Whether the gradient of a tensor comes up."""
        key: Any = _fresh(t)._fn or t
        if self.targets is not None:
            return key in self.targets.nodes or (key, t._idx) in self.targets.wanted
        if self.reached is None:
            stack: list[Any] = [r._fn or r for r in self.roots]
            self.reached = set(stack)
            while stack:
                x = stack.pop()
                if isinstance(x, TapeNode):
                    new = {e[0] for e in x.edges if e is not None} - self.reached
                    self.reached |= new
                    stack += new
        return key in self.reached


class _Passes(threading.local):
    def __init__(self) -> None:
        self.now: list[Running] = []


_passes = _Passes()
RUNNING: list[Any] = []
"""Who asks about passes that are running; empty almost always."""


def running() -> Running:
    """The innermost backward pass of this thread."""
    return _passes.now[-1]


def run(
    roots: Sequence[Tensor],
    grads: Sequence[Tensor],
    retain_graph: bool,
    create_graph: bool,
    targets: Targets | None = None,
    accumulate: bool = True,
) -> None:
    """Push `grads` of `roots` back; add to leaves' `.grad`, or collect what `targets` wants."""
    if RECORDING and (event := begin_call("backward", BLOCK)) is not None:
        try:
            run(roots, grads, retain_graph, create_graph, targets, accumulate)
        finally:
            end(event)
        return
    if ACTIVE and get_ident() in ACTIVE:  # gradients have the dtypes of what they are gradients of
        from ..ops.precision import off

        with off():
            run(roots, grads, retain_graph, create_graph, targets, accumulate)
        return
    if not RUNNING:
        _run(roots, grads, retain_graph, create_graph, targets, accumulate)
        return
    _passes.now.append(Running(roots, targets))
    try:
        _run(roots, grads, retain_graph, create_graph, targets, accumulate)
    finally:
        _passes.now.pop()


def _run(
    roots: Sequence[Tensor],
    grads: Sequence[Tensor],
    retain_graph: bool,
    create_graph: bool,
    targets: Targets | None,
    accumulate: bool,
) -> None:
    plain = targets is None and not create_graph and not CAPTURING and not ANOMALY
    if plain and all(r._a.__class__ is np.ndarray for r in roots):
        thread = get_ident()
        recording = thread not in DISABLED
        DISABLED.add(thread)
        try:
            _run_arrays(roots, grads, retain_graph)
        finally:
            if recording:
                DISABLED.discard(thread)
        return
    work = _Pass(targets, accumulate)
    heap, pending, deliver = work.heap, work.pending, work.deliver
    old_mode = mode.grad
    mode.grad = create_graph
    try:
        for r, g in zip(roots, grads, strict=True):
            deliver(_fresh(r)._fn or r, r._idx if r._fn else 0, g, False)
        while heap:
            node = heappop(heap)[1]
            entries = pending.pop(node)
            gs = [None if e is None else e[0] for e in entries]
            if node.hooks is not None:
                gs = hooks.run_output_hooks(node, gs)
            if targets is not None:
                for i, g in enumerate(gs):
                    if (node, i) in targets.wanted and g is not None:
                        targets.found[(node, i)] = g
                if node not in targets.nodes:
                    continue
            results = ANOMALY[0].run(node, gs) if ANOMALY else node.backward(gs)
            if node.hooks is not None:
                results = hooks.run_node_hooks(node, results, gs)
            if not retain_graph:
                node.free()
            edges = node.edges
            alone = len(results) == 1
            for i, r in enumerate(results):
                edge = edges[i]
                if r is None or edge is None:
                    continue
                # a result that is the incoming gradient itself, or goes two ways, may not be kept as it is
                if r is gs[0] or (len(gs) > 1 and any(r is g for g in gs)):
                    owned = alone and all(e is None or e[1] for e in entries)
                else:
                    owned = alone or sum(r is o for o in results) == 1
                a = r._a
                if a.shape != edge[2] or a.dtype != edge[3]:
                    r, owned = fit(r, edge[2], edge[3]), True
                deliver(edge[0], edge[1], r, owned)
        for leaf, g, owned in work.leaves.values():
            kept = owned and not isinstance(getattr(g._a, "base", None), np.ndarray)
            _accumulate(leaf, g, kept, create_graph)
    finally:
        mode.grad = old_mode


def _run_arrays(roots: Sequence[Tensor], grads: Sequence[Tensor], retain_graph: bool) -> None:
    """`run` for first-order gradients of leaves in eager mode, on plain arrays: the common case, kept short."""
    pending: dict[
        TapeNode, Any
    ] = {}  # (array, whether its memory is ours), or a list of them by output
    heap: list[tuple[int, TapeNode]] = []
    leaves: dict[int, list[Any]] = {}

    def deliver(to: TapeNode, idx: int, a: Any, owned: bool) -> None:
        old = pending.get(to)
        if old is None:
            heappush(heap, (-to.seq, to))
        if to.n_out == 1:
            pending[to] = (a, owned) if old is None else (old[0] + a, True)
            return
        if old is None:
            old = pending[to] = cast(list, [None] * to.n_out)
        e = old[idx]
        old[idx] = (a, owned) if e is None else (e[0] + a, True)

    def add_part(edge: Any, place: tuple, g: np.ndarray) -> None:
        """Add the gradient of a part of a tensor to that of the whole, in memory that is only for this."""
        to, idx, shape, d = edge
        node = isinstance(to, TapeNode)
        old = pending.get(to) if node else leaves.get(id(to))
        if old is not None and node and to.n_out > 1:
            old = old[idx]
        if old is not None and old[-1] is _PARTS:
            old[-2][place] += g
            return
        whole = np.zeros(shape, d)
        whole[place] = g
        if old is not None:
            whole = whole + old[-2]
        entry = (whole, _PARTS if whole.__class__ is np.ndarray else True)
        if not node:
            leaves[id(to)] = [to, *entry]
            return
        slots = pending.get(to)
        if slots is None:
            heappush(heap, (-to.seq, to))
            slots = cast(list, [None] * to.n_out)
        if to.n_out == 1:
            pending[to] = entry
        else:
            pending[to] = slots
            slots[idx] = entry

    for r, seed in zip(roots, grads, strict=True):
        fn = _fresh(r)._fn
        if fn is None:
            _accumulate(r, seed, False, False)
        else:
            deliver(fn, r._idx, seed._a, False)
    while heap:
        node = heappop(heap)[1]
        entry = pending.pop(node)
        if node.n_out == 1:
            g, ours = entry
            gs = [g]
        else:
            g, ours = None, False
            gs = [None if e is None else e[0] for e in entry]
        if node.hooks is not None:
            hooked = hooks.run_output_hooks(node, [None if g is None else _tensor(g) for g in gs])
            results = hooks.run_node_hooks(node, node.backward(hooked), hooked)
            gs = [None if g is None else g._a for g in hooked]
            g, ours = gs[0], False
            arrays = [None if r is None else r._a for r in results]
        elif (
            type(node) is OpNode
            and (part := node.op.part) is not None
            and (edge := node.edges[0]) is not None
            and isinstance(g, np.ndarray)
            and g.dtype is edge[3]
        ):
            if node.freed:
                node.check()
            add_part(edge, part(*node.args[1:]), g)
            if not retain_graph:
                node.free()
            continue
        else:
            arrays = node.backward_arrays(gs)
        edges = node.edges
        if not retain_graph:
            node.free()
        single = len(arrays) == len(gs) == 1
        ids = None if single else [id(x) for x in (*arrays, *gs)]
        for edge, a in zip(edges, arrays, strict=True):
            if a is None or edge is None:
                continue
            # what is the incoming gradient itself, or goes two ways, may not become a leaf's own memory
            owned = (ours or a is not g) if ids is None else ids.count(id(a)) == 1
            to, idx, shape, d = edge
            if a.shape != shape or a.dtype is not d:
                summed = _summed(a, shape) if a.dtype is d else None
                # or a view, whose memory is asked about below
                a, owned = fit(_tensor(a), shape, d)._a if summed is None else summed, True
            if not isinstance(to, TapeNode):
                known = leaves.get(id(to))
                if known is None:
                    leaves[id(to)] = [to, a, owned]
                else:
                    known[1], known[2] = known[1] + a, True
            elif to in pending or to.n_out > 1:
                deliver(to, idx, a, owned)
            else:
                heappush(heap, (-to.seq, to))
                pending[to] = (a, owned)
    g = gs = entry = arrays = a = (
        None  # no names of gradients, by which they would seem to be shared
    )
    parts: set[int] | None = None
    for known in leaves.values():
        owned = known[2]
        if owned and isinstance(getattr(known[1], "base", None), np.ndarray):
            if parts is None:
                parts = _apart(leaves.values())
            owned = id(known) in parts
        _accumulate(known[0], _tensor(known[1]), owned, False)


def _summed(a: Any, shape: tuple) -> np.ndarray | None:
    """A gradient summed over the dimensions that broadcasting its input has added; None in other cases."""
    lead = a.ndim - len(shape)
    if a.__class__ is not np.ndarray or lead <= 0 or a.shape[lead:] != shape:
        return None
    return np.asarray(REGISTRY["sum"].eager(a, tuple(range(lead)), False))


_PARTS = 2
"""That memory is ours, and holds nothing but a sum of gradients: whoever adds to it may do so in place."""


def _holders(entry: list) -> tuple[int, int]:
    """How often a leaf's gradient, and the array that it is a view of, are referred to."""
    a = entry[1]
    return sys.getrefcount(a), sys.getrefcount(a.base)


_ALONE = _holders([None, np.empty(2)[:1]])


def _apart(entries: Iterable[list]) -> set[int]:
    """The ids of entries whose gradients are parts of arrays that nobody else can reach, no two of them the same part.

    So `.grad` may lie in the gradient of what a leaf was reshaped or joined to, but never in one that the user has.
    """
    groups: dict[int, list[list]] = {}
    for e in entries:
        base = getattr(e[1], "base", None)
        if isinstance(base, np.ndarray):
            groups.setdefault(id(base), []).append(e)
    base = None
    found: set[int] = set()
    for group in groups.values():
        free = all(_holders(e) == (_ALONE[0], _ALONE[1] + len(group) - 1) for e in group)
        if free and all(dense(e[1]) for e in group):
            bounds = sorted((e[1].ctypes.data, e[1].nbytes) for e in group)
            if all(a + n <= b for (a, n), (b, _) in pairwise(bounds)):
                found.update(map(id, group))
    return found


def _tensor(a: Any) -> Tensor:
    """A tensor of a payload: an array, or that of a sparse gradient."""
    if a.__class__ is np.ndarray:
        return wrap(a)
    if isinstance(a, np.generic):
        return wrap(np.asarray(a))
    return a.tensor()


def _accumulate(leaf: Tensor, g: Tensor, owned: bool, create_graph: bool) -> None:
    """Add a gradient to a leaf's `.grad`; its first one is stored in memory of its own, as it is where `owned`.

    It lies as the leaf does, where that is dense, as PyTorch has it.
    """
    if leaf._hooks is not None:
        hooked = hooks.run_tensor_hooks(leaf, g)
        g, owned = hooked, owned and hooked is g
    old = leaf.grad if CAPTURING else leaf._grad
    if old is None:
        if not create_graph and (CAPTURING or g._a.__class__ is np.ndarray):
            a, like = g._a, leaf._a
            if (
                a.__class__ is np.ndarray is like.__class__
                and not like.flags.c_contiguous
                and dense(like)
            ):
                if a.strides != like.strides or not (owned and a.flags.writeable):
                    a = np.empty_like(like, a.dtype)
                    np.copyto(a, g._a)
            elif not CAPTURING and not (owned and a.flags.c_contiguous and a.flags.writeable):
                if a.flags.c_contiguous:
                    a = bits(a).copy().view(a.dtype)
                else:
                    a = REGISTRY["clone"].eager(a, contiguous_format)
            g = wrap(a)
        if CAPTURING:
            leaf.grad = g
        else:
            leaf._grad = g
    elif (
        not create_graph
        and not CAPTURING
        and (a := g._a).__class__ is np.ndarray is old._a.__class__
        and a.dtype is old._a.dtype
        and a.shape == old._a.shape
        and old._fn is old._base is None
        and old._a.flags.writeable
    ):  # nothing to record, promote or broadcast
        if watched:
            written(old._a)
        np.add(old._a, a, old._a)
        bump(old)
    elif create_graph or g.layout is not strided or old.layout is not strided:
        leaf.grad = old + g
    else:
        old.add_(g)
    if leaf._hooks is not None:
        hooks.run_post_accumulate(leaf)


def _as_tensors(x: Any, op: str, what: str) -> list[Tensor]:
    out = [x] if isinstance(x, Tensor) or not isinstance(x, Iterable) else list(x)
    for t in out:
        if not isinstance(t, Tensor):
            raise KilnTypeError(
                op, f"{what} must be tensors", describe(t), "pass a Tensor or a sequence"
            )
    return out


def _root_grads(roots: list[Tensor], grads: Any, op: str) -> list[Tensor]:
    given = list(grads) if isinstance(grads, list | tuple) else [grads]
    if grads is None:
        given = [None] * len(roots)
    if len(given) != len(roots):
        raise KilnError(
            op,
            f"got {len(roots)} tensors and {len(given)} gradients",
            describe(roots),
            "one for each",
        )
    out = []
    for r, g in zip(roots, given, strict=True):
        if not _fresh(r)._rg:
            raise KilnError(
                op, "element 0 of tensors does not require grad and does not have a grad_fn",
                describe(r), "set requires_grad=True on a leaf before the computation",
            )  # fmt: skip
        if g is None:
            if r.numel() != 1:
                raise KilnError(
                    op, "grad can be implicitly created only for scalar outputs", describe(r),
                    "reduce it (loss.mean()) or pass gradient=",
                )  # fmt: skip
            plain = not CAPTURING and r._a.__class__ is np.ndarray
            g = wrap(np.ones(r._a.shape, r._a.dtype)) if plain else r.detach().new_ones(r.shape)
        elif g._a.shape != r._a.shape:
            raise KilnError(
                op, "mismatch in shape: a gradient has the shape of its tensor",
                f"{describe(g)} for {describe(r)}", "reshape the gradient",
            )  # fmt: skip
        out.append(g if g.dtype is r.dtype else g.to(r.dtype))  # compiled backwards read its bytes
    return out


def _plain(tensors: list[Tensor]) -> list[Tensor]:
    """Composed tensors as their values, whose history is theirs."""
    return [x._a.parts[-1] if isinstance(x, ComposedTensor) else x for x in tensors]


def _roots(x: Any, grads: Any, op: str) -> tuple[list[Tensor], list[Tensor]]:
    """Where a backward pass begins, and the gradients with which it does."""
    roots = _as_tensors(x, op, "the outputs")
    plain = _plain(roots)
    if any(map(operator.is_not, roots, plain)) and grads is not None:
        given = list(grads) if isinstance(grads, list | tuple) else [grads]
        grads = [r._values_of(g) if isinstance(r, ComposedTensor) and g is not None else g
                 for r, g in zip(roots, given, strict=False)]  # fmt: skip
    return plain, _root_grads(plain, grads, op)


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Any = None,
) -> None:
    """Accumulate the gradients of `tensors` into the `.grad` of the leaves (or of `inputs`).

    `grad_variables` is the older name of `grad_tensors`.
    """
    if grad_variables is not None:
        warnings.warn("grad_variables is deprecated: use grad_tensors", FutureWarning, stacklevel=2)
        if grad_tensors is not None:
            raise KilnError(
                "backward",
                "grad_tensors and grad_variables were both given",
                None,
                "give the first",
            )
        grad_tensors = grad_variables
    roots, grads = _roots(tensors, grad_tensors, "backward")
    keep = create_graph if retain_graph is None else retain_graph
    targets = None
    if inputs is not None:
        wanted = _plain(_as_tensors(inputs, "backward", "inputs"))
        if not wanted:
            raise KilnError("backward", "inputs is empty", "[]", "name a tensor or leave it out")
        targets = Targets(wanted, roots)
    run(roots, grads, keep, create_graph, targets)
    if targets is not None:
        for x, key in zip(wanted, targets.keys, strict=True):
            if x._fn is not None and (g := targets.found.get(key)) is not None:
                x.grad = g if x._grad is None else x._grad + g


def tensor_backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Accumulate d(self)/d(leaf) into the `.grad` of every leaf that requires grad.

    `gradient` weights self's elements and may be left out for a single element; `create_graph` makes
    the gradients differentiable; `inputs` restricts the leaves.
    """
    a = self._a
    if (
        gradient is None and inputs is None and self._rg and not CAPTURING and a.size == 1
        and a.__class__ is np.ndarray
    ):  # fmt: skip
        seed = wrap(np.ones(a.shape, a.dtype) if a.ndim else np.array(1, a.dtype))
        keep = create_graph if retain_graph is None else bool(retain_graph)
        run((self,), (seed,), keep, create_graph)
    else:
        backward(self, gradient, retain_graph, create_graph, inputs=inputs)


Tensor.backward = tensor_backward  # type: ignore[method-assign]


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of `outputs` with respect to `inputs`, as a tuple; `.grad` is untouched.

    `only_inputs` is accepted for old programs, as in PyTorch: other gradients are never accumulated.
    `is_grads_batched` takes a batch of gradients at once, in the first dimension of `grad_outputs`.
    """
    if not only_inputs:
        warnings.warn(
            "only_inputs argument is deprecated and is ignored now (defaults to True)",
            FutureWarning,
            stacklevel=2,
        )
    if is_grads_batched:
        options = (retain_graph, create_graph, True, allow_unused, False, materialize_grads)
        return _batched(outputs, inputs, grad_outputs, options)
    asked = _as_tensors(inputs, "grad", "the inputs")
    wanted = _plain(asked)
    for x in wanted:
        if not _fresh(x)._rg:
            raise KilnError(
                "grad", "one of the differentiated tensors does not require grad", describe(x),
                "set requires_grad=True before the computation",
            )  # fmt: skip
    roots, grads = _roots(outputs, grad_outputs, "grad")
    targets = Targets(wanted, roots)
    keep = create_graph if retain_graph is None else retain_graph
    run(roots, grads, keep, create_graph, targets, accumulate=False)
    out = []
    for of, x, key in zip(asked, wanted, targets.keys, strict=True):
        g = targets.found.get(key)
        if g is None and materialize_grads:
            g = x.detach().new_zeros(x.shape)
        elif g is None and not allow_unused:
            raise KilnError(
                "grad", "one of the differentiated tensors appears to not have been used in the graph",
                describe(x), "pass allow_unused=True if that is meant",
            )  # fmt: skip
        out.append(of._with(g) if isinstance(of, ComposedTensor) and g is not None else g)
    return tuple(out)


def _batched(outputs: Any, inputs: Any, grads: Any, options: tuple) -> tuple[Tensor | None, ...]:
    """`grad` for each of a batch of gradients, the first dimension of `grads`, at once."""
    from ..func import vmap

    rows = tuple(grads) if isinstance(grads, list | tuple) else (grads,)
    there: list[bool] = []

    def one(*gs: Tensor) -> tuple[Tensor, ...]:
        found = grad(outputs, inputs, gs, *options)
        there[:] = [g is not None for g in found]
        return tuple(g for g in found if g is not None)

    found = iter(vmap(one)(*rows))
    return tuple(next(found) if t else None for t in there)


__all__ = ["backward", "grad", "run"]
