"""Backward: whose gradients are asked for, and what becomes of them. The passes themselves are `passes`."""

from __future__ import annotations

import operator
import threading
import warnings
from collections.abc import Iterable, Sequence
from threading import get_ident
from typing import Any

import numpy as np

from ..composed import ComposedTensor
from ..errors import KilnError, KilnTypeError, describe
from ..recording import BLOCK, RECORDING, begin_call, end
from ..tensor import ACTIVE, CAPTURING, Tensor, _fresh, wrap
from . import hooks
from .modes import DISABLED, mode
from .passes import Targets, add_gradient, add_gradients, on_arrays, on_tensors
from .tape import ANOMALY, TapeNode


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
    plain = not create_graph and not CAPTURING and not ANOMALY
    for r in roots:
        plain = plain and r._a.__class__ is np.ndarray
    if plain:
        thread = get_ident()
        recording = thread not in DISABLED
        DISABLED.add(thread)
        try:
            leaves = on_arrays(roots, grads, retain_graph, targets)
            if targets is None or accumulate:
                add_gradients(leaves)
            else:
                for leaf, a, _ in leaves:
                    targets.found[(leaf, 0)] = hooks.run_tensor_hooks(leaf, targets.tensor(a))
        finally:
            if recording:
                DISABLED.discard(thread)
        return
    old_mode = mode.grad
    mode.grad = create_graph
    try:
        for leaf, g, owned in on_tensors(roots, grads, retain_graph, create_graph, targets):
            if targets is not None and not accumulate:
                targets.found[(leaf, 0)] = hooks.run_tensor_hooks(leaf, g)
            else:
                kept = owned and not isinstance(getattr(g._a, "base", None), np.ndarray)
                add_gradient(leaf, g, kept, create_graph)
    finally:
        mode.grad = old_mode


def _as_tensors(x: Any, op: str, what: str) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    out = list(x) if x.__class__ in (list, tuple) or isinstance(x, Iterable) else [x]
    for t in out:
        if not isinstance(t, Tensor):
            raise KilnTypeError(
                op, f"{what} must be tensors", describe(t), "pass a Tensor or a sequence"
            )
    return out


def _one(a: np.ndarray) -> np.ndarray:
    """The gradient that a single element begins with."""
    return np.ones(a.shape, a.dtype) if a.ndim else np.array(1, a.dtype)


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
            a = r._a
            plain = not CAPTURING and a.__class__ is np.ndarray
            if (a.size if plain else r.numel()) != 1:
                raise KilnError(
                    op, "grad can be implicitly created only for scalar outputs", describe(r),
                    "reduce it (loss.mean()) or pass gradient=",
                )  # fmt: skip
            if plain:
                out.append(wrap(_one(a)))
                continue
            g = r.detach().new_ones(r.shape)
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
    if grads is not None and any(map(operator.is_not, roots, plain)):
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
        seed = wrap(_one(a))
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
