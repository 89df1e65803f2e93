"""Products with Jacobians and Hessians, and these themselves: PyTorch's `torch.autograd.functional`.

`func` takes as many tensors as there are `inputs` and gives a tensor or a tuple of them. Results are
tuples where the inputs, or the outputs, are. With `create_graph` results can be differentiated, else
they have no history. `strict` makes it an error that an output does not depend on an input, where
the result would hold zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import KilnError, KilnNotImplementedError, KilnTypeError, describe
from ..func.derivatives import Flow, Linear, jacobian_of
from ..ops.creation import ones_like
from ..tensor import Tensor, _fresh
from .engine import grad as gradients
from .modes import enable_grad

Tensors = Tensor | Sequence[Tensor]


def _tuple(x: Any, what: str, name: str) -> tuple[bool, tuple[Tensor, ...]]:
    """Whether tensors came as a tuple, and all of them."""
    several = isinstance(x, tuple | list)
    xs = tuple(x) if several else (x,)
    for i, t in enumerate(xs):
        if not isinstance(t, Tensor):
            raise KilnTypeError(
                name, f"The {what} given to {name} must be either a Tensor or a tuple of Tensors"
                + (f" but the value at index {i} has type {type(t).__name__}" if several else ""),
                describe(t), "",
            )  # fmt: skip
    return several, xs


class _Call:
    """`func` called with inputs that are differentiated."""

    def __init__(self, name: str, func: Callable, inputs: Tensors, create_graph: bool, strict: bool):  # fmt: skip
        self.name, self.strict, self.create = name, strict, create_graph
        self.flow = Flow(create_graph)
        self.several_inputs, given = _tuple(inputs, "inputs", name)
        self.heads = [self.flow.head(x) for x in given]
        with enable_grad():
            self.several_outputs, self.outs = _tuple(
                func(*self.heads), "outputs of the user-provided function", name
            )
        self.depends(self.outs)

    def depends(self, outs: Sequence[Tensor]) -> None:
        """Raise in strict mode where an output does not depend on any input."""
        for i, o in enumerate(outs) if self.strict else ():
            if not _fresh(o)._rg:
                raise KilnError(
                    self.name, f"Output {i} of the user-provided function does not require gradients. The outputs "
                    "must be computed in a differentiable manner from the input when running in strict mode",
                    describe(o), "strict=False gives zeros",
                )  # fmt: skip

    def independent(self, found: Sequence[Any]) -> None:
        """Raise in strict mode where a derivative by an input is missing, or can't be differentiated."""
        for i, g in enumerate(found) if self.strict else ():
            if g is None or (self.create and not _fresh(g)._rg):
                raise KilnError(
                    self.name, (f"The output of the user-provided function is independent of input {i}. This is not "
                    "allowed in strict mode" if g is None else f"The result is independent of input {i}. This is not "
                    "allowed in strict mode when create_graph=True"), describe(self.heads[i]), "strict=False gives zeros",
                )  # fmt: skip

    def vector(self, v: Any, like: Sequence[Tensor], several: bool, whose: str) -> list[Tensor]:
        """The vector to multiply with; 1 where it is left out and there is one number."""
        if v is None:
            if len(like) != 1 or like[0].numel() != 1:
                raise KilnError(
                    self.name, f"The vector v can only be None if {whose} a single Tensor with a single element",
                    describe(like), "give v",
                )  # fmt: skip
            return [ones_like(like[0]).detach()]
        _, given = _tuple(v, "v", self.name)
        if len(given) != len(like):
            raise KilnError(
                self.name, f"v is a tuple of invalid length: should be {len(like)} but got {len(given)}",
                describe(v), "",
            )  # fmt: skip
        for i, (a, b) in enumerate(zip(given, like, strict=True)):
            if a._a.shape != b._a.shape:
                raise KilnError(
                    self.name, f"Entry {i} in v has invalid size: should be {list(b.shape)} but got {list(a.shape)}",
                    describe(v), "",
                )  # fmt: skip
        return list(given) if self.create else [g.detach() for g in given]

    def scalar(self) -> Tensor:
        """The one number that the function gives."""
        if self.several_outputs:
            raise KilnError(
                self.name, f"The function given to {self.name} should return a single Tensor",
                describe(self.outs), "",
            )  # fmt: skip
        if self.outs[0].numel() != 1:
            raise KilnError(
                self.name, f"The Tensor returned by the function given to {self.name} should contain a single "
                "element", describe(self.outs[0]), "reduce it: x.sum()",
            )  # fmt: skip
        return self.outs[0]

    def gradient(self) -> list[Tensor]:
        """The gradient of the one number, with its history."""
        out = self.scalar()
        if self.strict:
            with enable_grad():
                self.independent(gradients(out.reshape(()), self.heads, create_graph=True, allow_unused=True))  # fmt: skip
        with enable_grad():
            return self.flow.pull([out], [ones_like(out)], self.heads, create=True)

    def give(self, xs: Sequence[Tensor], several: bool) -> Any:
        """Results in the containers that are due."""
        done = tuple(self.flow.release(x) for x in xs)
        return done if several else done[0]

    def outputs(self) -> Any:
        return self.give(self.outs, self.several_outputs)


def vjp(
    func: Callable, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """The outputs, and v times the Jacobian: v is like the outputs, the product like the inputs."""
    call = _Call("vjp", func, inputs, create_graph, strict)
    seeds = call.vector(v, call.outs, call.several_outputs, "the user-provided function returns")
    if strict:
        call.independent(
            gradients(call.outs, call.heads, seeds, True, create_graph, allow_unused=True)
        )
    found = call.flow.pull(call.outs, seeds, call.heads)
    return call.outputs(), call.give(found, call.several_inputs)


def jvp(
    func: Callable, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """The outputs, and the Jacobian times v: v is like the inputs, the product like the outputs."""
    call = _Call("jvp", func, inputs, create_graph, strict)
    tangents = call.vector(v, call.heads, call.several_inputs, "the input to the function is")
    moved = Linear(call.flow, call.outs, call.heads)(tangents)
    return call.outputs(), call.give(moved, call.several_outputs)


def jacobian(
    func: Callable, inputs: Tensors, create_graph: bool = False, strict: bool = False,
    vectorize: bool = False, strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """The Jacobian: for an output y and an input x a tensor of shape (*y.shape, *x.shape), in tuples of tuples.

    `vectorize` takes all rows at once, under vmap; `strategy` is "reverse-mode" or "forward-mode" (with
    `vectorize`). Errors: KilnError, NotImplementedError's class as PyTorch raises them.
    """
    if strategy not in ("forward-mode", "reverse-mode"):
        raise KilnError(
            "jacobian", "Expected strategy to be either 'forward-mode' or 'reverse-mode'", strategy, ""
        )  # fmt: skip
    if strict and vectorize:
        raise KilnError(
            "jacobian",
            "strict=True and vectorize=True are not supported together",
            None,
            "drop one",
        )
    forward = strategy == "forward-mode"
    if forward and (create_graph or not vectorize):
        raise KilnNotImplementedError(
            "jacobian", "strategy='forward-mode' needs vectorize=True, and no create_graph", None,
            "use strategy='reverse-mode'",
        )  # fmt: skip
    call = _Call("jacobian", func, inputs, create_graph, strict)
    if strict:
        for o in call.outs:
            call.independent(
                gradients(o, call.heads, ones_like(o), True, create_graph, allow_unused=True)
            )
    chunk = None if vectorize else 1
    rows = jacobian_of(call.flow, call.outs, call.heads, forward=forward, chunk_size=chunk)
    nested = [call.give(row, call.several_inputs) for row in rows]
    return tuple(nested) if call.several_outputs else nested[0]


def hessian(
    func: Callable, inputs: Tensors, create_graph: bool = False, strict: bool = False,
    vectorize: bool = False, outer_jacobian_strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """The Hessian of a function that gives one number: for inputs x and y a tensor (*x.shape, *y.shape)."""
    if outer_jacobian_strategy not in ("forward-mode", "reverse-mode"):
        raise KilnError(
            "hessian", "Expected strategy to be either 'forward-mode' or 'reverse-mode'",
            outer_jacobian_strategy, "",
        )  # fmt: skip
    several = _tuple(inputs, "inputs", "hessian")[0]

    def gradient(*xs: Tensor) -> Any:
        call = _Call("hessian", func, xs, True, strict)
        found = call.gradient()
        return tuple(found) if several else found[0]

    return jacobian(gradient, inputs, create_graph, strict, vectorize, outer_jacobian_strategy)


def vhp(
    func: Callable, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """The one number that the function gives, and v times its Hessian; v is like the inputs."""
    return _product("vhp", func, inputs, v, create_graph, strict)


def _product(
    name: str, func: Callable, inputs: Tensors, v: Tensors | None, create_graph: bool, strict: bool
) -> tuple[Any, Any]:  # fmt: skip
    call = _Call(name, func, inputs, create_graph, strict)
    call.scalar()
    seeds = call.vector(v, call.heads, call.several_inputs, "the input to the function is")
    grads = call.gradient()
    call.depends(grads)
    found = call.flow.pull(grads, seeds, call.heads)
    return call.outputs(), call.give(found, call.several_inputs)


def hvp(
    func: Callable, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """The one number that the function gives, and its Hessian times v: as `vhp`, a Hessian being symmetric."""
    return _product("hvp", func, inputs, v, create_graph, strict)


__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]
