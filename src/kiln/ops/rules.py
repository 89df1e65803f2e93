"""Gradient rules that are made rather than written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autograd.engine import grad
from ..autograd.modes import enable_grad, mode
from .registry import parameter_names


def by_body(body: Callable, *targets: str) -> dict[tuple[str, ...], Callable]:
    """The joint rule for `targets` that runs an op's body again and differentiates that.

    For ops that are gradients themselves: only a second derivative comes here.
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
                values[i] = x.clone() if create and x.requires_grad else x.detach().requires_grad_()
                wanted.append(values[i])
        with enable_grad():
            out = body(*values)
        found = iter(grad(out, wanted, g, create_graph=create, allow_unused=True))
        return tuple(next(found) if needed else None for needed in needs)

    rule.names = ("g", "needs", *names)  # type: ignore[attr-defined]
    return {targets: rule}
