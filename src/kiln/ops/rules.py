"""Gradient rules that are made rather than written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.engine import grad
from ..autograd.modes import enable_grad, mode
from ..autograd.tape import Zeros, edge_of
from ..errors import KilnError, KilnNotImplementedError, describe
from ..shape import Size
from ..tensor import Tensor, alias
from .registry import Sample, op, parameter_names
from .samples import draw, rng


def by_body(
    body: Callable, *targets: str, several: bool = False
) -> dict[tuple[str, ...], Callable]:
    """The joint rule for `targets` that runs an op's body again and differentiates that.

    For ops that are gradients themselves: only a second derivative comes here. `several` says that
    the op has more than one result.
    """
    names = parameter_names(body)
    slots = [names.index(t) for t in targets]

    def rule(g: Any, needs: tuple[bool, ...], *args: Any) -> tuple:
        create = mode.grad
        values = list(args)
        wanted = []
        for i, needed in zip(slots, needs, strict=True):
            if needed:  # a tensor of its own for each, as one tensor may be given twice
                x = args[i]
                values[i] = x.clone() if create and x.requires_grad else alias(x).requires_grad_()
                wanted.append(values[i])
        with enable_grad():
            out = body(*values)
        if several:  # results that nobody used have no gradient
            out, g = zip(
                *((o, h) for o, h in zip(out, g, strict=True) if h is not None), strict=True
            )
        found = iter(grad(out, wanted, g, create_graph=create, allow_unused=True))
        return tuple(next(found) if needed else None for needed in needs)

    rule.names = ("gs" if several else "g", "needs", *names)  # type: ignore[attr-defined]
    return {targets: rule}


def _no_gradients(to: Sequence[Tensor], zeros: bool) -> tuple[list[Any]]:
    return ([x.new_zeros(x.shape) if zeros else None for x in to],)


@op(
    private=True, lies="operands", node=("TiedOpBackward0", lambda node: node.args[3] + "Backward0"), formal=("to",),
    infer=lambda input, *rest: (Size(input.shape), input.dtype),
    grad={"input": lambda g: g, ("to",): _no_gradients}, body=lambda input, to, zeros, name: input,
    samples=lambda: iter([Sample((draw(rng(), (3,)), [draw(rng(), (2,))], zeros, "Sum")) for zeros in (True, False)]),
)  # fmt: skip
def tied_op(input: Tensor, to: Sequence[Tensor], zeros: bool, name: str) -> Tensor:
    """input itself, whose gradient formally depends on `to`: no part of it goes there, or `zeros`."""
    return input


def zero_gradient(out: Tensor, *inputs: Tensor) -> Tensor:
    """A result whose gradient is zero everywhere, but which has one: it requires grad where inputs do."""
    edges = [e for x in inputs if (e := edge_of(x)) is not None] if mode.grad else []
    if edges:
        out._fn, out._rg = Zeros(edges, 1), True  # type: ignore[arg-type]
    return out


def tied(out: Tensor, name: str, *to: Tensor | None, zeros: bool = False) -> Tensor:
    """A new result of a composition whose backward is an op of its own in PyTorch, of this name, one that reads `to`."""
    on = [t for t in to if t is not None and t.requires_grad] if mode.grad else []
    return tied_op(out, on, zeros, name) if on else out


def constants(name: str, **given: Tensor | None) -> None:
    """Refuse arguments that require grad by which an op has no gradient, as PyTorch does where it is called."""
    for argument, x in given.items():
        if x is not None and x.requires_grad and mode.grad:
            raise KilnError(
                name, f"not differentiable with respect to argument '{argument}'", describe(x), "pass it detached"
            )  # fmt: skip


def not_differentiable(name: str, by: str = "") -> Callable:
    """The rule for what has no known gradient (by one argument): an error where it is asked for, as in PyTorch."""

    def rule() -> Any:
        raise KilnNotImplementedError(
            name, f"the derivative for '{by or name}' is not implemented", None, f"detach() {by or 'its input'}"
        )  # fmt: skip

    return rule
