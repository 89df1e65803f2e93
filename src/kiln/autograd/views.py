"""In-place ops under autograd: rebasing the history of tensors, views and their bases."""

from __future__ import annotations

from typing import Any

from ..errors import KilnError, describe
from ..ops.registry import REGISTRY, Op
from ..tensor import Tensor, _fresh
from .modes import enable_grad, mode
from .tape import TapeNode, edge_of, fit

Chain = tuple  # of (op name, arguments after the input): the view ops from a base to a view


class Several(tuple):
    """The arguments of a view that is one of several results, which autograd lets nobody write to."""

    __slots__ = ()


def together(views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Views that one call gave: marked as such."""
    for v in views:
        if v._base is None:  # such as those of tensors without data
            continue
        if v._view and len(v._view) == 1:
            ((name, rest),) = v._view
            v._view = ((name, Several(rest)),)
        elif v._view:
            *chain, (name, rest) = v._view
            v._view = (*chain, (name, Several(rest)))
    return views


def _one_of_several(x: Tensor) -> bool:
    return any(rest.__class__ is Several for _, rest in x._view or ())


def replay(base: Tensor, chain: Chain) -> Tensor:
    """The view of `base` that `chain` describes."""
    for name, rest in chain:
        base = REGISTRY[name].fn(base, *rest)
    return base


def region(g: Tensor, chain: Chain) -> Tensor:
    """The part of a base's gradient that belongs to a view; `as_strided` counts in row-major memory."""
    if any(REGISTRY[name].layout for name, _ in chain):
        g = g.contiguous()
    return replay(g, chain)


def root(view: Tensor) -> Tensor:
    """The base of a view; a base that an in-place `t_` or `squeeze_` made a view itself has another."""
    base = view._base
    while base._base is not None:
        base = view._base = base._base
    return base


def refresh(view: Tensor) -> None:
    """Give a view the history that its base has now."""
    base = root(view)
    if _one_of_several(view):
        raise KilnError(
            "view", "a view is used whose base, or another view of it, has been modified in place, and which is one "
            "of the several results of split, chunk or unbind", describe(view), "use indexing, or clone() the view first",
        )  # fmt: skip
    if view._view is not None:
        with enable_grad():
            again = replay(base, view._view)
        view._fn, view._idx, view._rg = again._fn, again._idx, again._rg
    view._seen = view._ver[1]


def tie(op: Op, args: tuple, out: Tensor) -> None:
    """Tie a view to the tensor whose memory it shares, the first of the op's arguments."""
    x = args[0]
    if x._ver is None:
        x._ver = [0, 0]
    out._ver, out._seen = x._ver, x._ver[1]
    out._base = x if x._base is None else x._base
    chain = () if x._base is None else x._view
    out._view = (*chain, (op.name, args[1:])) if mode.grad and chain is not None else None


def check_inplace(x: Tensor, op: str, others_need_grad: bool) -> None:
    """Refuse in-place changes that autograd could not honour; nothing has been written yet."""
    if not mode.grad:
        return
    _fresh(x)
    base = x._base if x._base is None else root(x)
    if base is not None and (x._rg or others_need_grad) and _one_of_several(x):
        raise KilnError(
            op, "a view is being modified in place that is one of the several results of split, chunk or unbind",
            describe(x), "use the out-of-place form, or take the view by indexing",
        )  # fmt: skip
    if x._rg and x._fn is None:
        raise KilnError(
            op, "a leaf Variable that requires grad is being used in an in-place operation",
            describe(x), "use the out-of-place form, or wrap the update in kiln.no_grad()",
        )  # fmt: skip
    if base is not None and base._rg and base._fn is None and x._view is not None:
        raise KilnError(
            op, "a view of a leaf Variable that requires grad is being used in an in-place operation",
            describe(x), "clone() the leaf first, or wrap the update in kiln.no_grad()",
        )  # fmt: skip
    if base is not None and x._view is None and (others_need_grad or base._rg):
        raise KilnError(
            op, "a view was created in no_grad mode and is being modified inplace with grad mode enabled",
            describe(x), "create the view with gradients enabled, or modify it inside no_grad",
        )  # fmt: skip


class CopySlices(TapeNode):
    """The history of a base after an in-place op on one of its views.

    base' = base with the viewed region replaced by fn(view of base, others…).
    """

    __slots__ = ("chain", "inner", "view_edge")

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        from ..ops.slicing import view_update

        g = gs[0]
        assert g is not None
        part = region(g, self.chain)
        inner = self.inner.backward([part])
        i = self.view_edge
        through = inner[i] if i is not None else None
        if through is None:
            through = part.new_zeros(part.shape)
        else:  # an op of several dtypes computes in the widest
            through = fit(through, part.shape, part._a.dtype)
        base_grad = view_update(g, through, self.chain)
        rest = [r for j, r in enumerate(inner) if j != i]
        return [base_grad, *rest]

    def free(self) -> None:
        super().free()
        self.inner.free()


def rebase(x: Tensor, node: TapeNode, old_edge: Any, idx: int = 0) -> None:
    """Point `x`, just changed in place to be output `idx` of `node`, at its new history.

    `old_edge` was its own before.
    """
    base = x._base if x._base is None else root(x)
    if base is None or x._view is None:
        x._fn, x._idx, x._rg = node, idx, True
        if x._ver is not None:
            x._ver[1] += 1
        return
    position = None
    for j, e in enumerate(node.edges):
        if e is not None and e is old_edge:
            position = j
    rest = [e for j, e in enumerate(node.edges) if j != position]
    copy = CopySlices([edge_of(base), *rest], 1)
    copy.chain, copy.inner, copy.view_edge = x._view, node, position
    base._fn, base._idx, base._rg = copy, 0, True
    x._ver[1] += 1
    refresh(x)
