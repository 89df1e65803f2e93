"""Derivatives of functions: `grad`, `vjp`, `jvp`, `linearize`, and Jacobians and Hessians made of them.

Note [Forward mode]: a gradient rule is linear in the gradient that comes in. So the backward pass of a
function, recorded for a gradient u that is a variable, is a linear function of u, whose own backward
pass takes tangents forward. That holds for every op that has a gradient, in-place ops, views, custom
functions and loops included, and it is exact. Its cost is that of two backward passes.

Note [Flows]: the inputs of a transform are tensors of their own that require grad, tied to the given
ones where those require grad, so derivatives nest, and a `Flow` tells what its results depend on
beside them. Where that is nothing, they are computed and returned without history.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.engine import grad as gradients
from ..autograd.function import direction
from ..autograd.modes import enable_grad, mode
from ..autograd.tape import TapeNode, Through, edge_of
from ..compile.pytree import flatten, unflatten
from ..errors import KilnError, KilnValueError, describe
from ..ops.batching import Lane
from ..ops.creation import ones_like, zeros_like
from ..ops.registry import FUNCTIONS
from ..ops.views import movedim, reshape
from ..tensor import Tensor, _fresh, alias, captured, differentiated
from .mapping import vmap

Argnums = int | tuple[int, ...]


class Flow:
    """One differentiation: its inputs, and what its results depend on beside them."""

    def __init__(self, outer: bool | None = None) -> None:
        # whether anybody outside may differentiate the results
        self.outer = mode.grad if outer is None else outer
        self.own: set[Any] = set()  # tensors and nodes that are this one's inputs

    def head(self, x: Any) -> Tensor:
        """An input: the values of a tensor, to be differentiated by."""
        if not isinstance(x, Tensor):
            raise KilnValueError(
                "func", f"what is differentiated must be Tensors, got {type(x).__name__}", describe(x),
                "name the tensors among the arguments with argnums=",
            )  # fmt: skip
        out = alias(x)
        out.requires_grad = True
        if self.outer and _fresh(x)._rg:
            out._fn = Through([edge_of(x)], 1)
        self.own.add(out._fn or out)
        return out

    def heads(self, tree: Any) -> Any:
        """A tree with its tensors as inputs."""
        leaves: list[Any] = []
        structure = flatten(tree, leaves)
        return unflatten(structure, iter([self.head(x) for x in leaves]).__next__)

    def reaches(self, *tensors: Tensor) -> bool:
        """Whether tensors depend on something that requires grad outside."""
        if not self.outer:
            return False
        if any(t._a.__class__ is Lane and differentiated(t._a.tensor) for t in tensors):
            return True
        stack = [_fresh(t)._fn or t for t in tensors if _fresh(t)._rg]
        seen = set(stack)
        while stack:
            x = stack.pop()
            if x in self.own:
                if isinstance(x, Through):
                    return True
            elif not isinstance(x, TapeNode):
                return True
            else:
                new = [e[0] for e in x.edges if e is not None and e[0] not in seen]
                seen.update(new)
                stack += new
        return False

    def release(self, x: Any) -> Any:
        """A result without the history that only this differentiation needs."""
        if not isinstance(x, Tensor) or self.reaches(x):
            return x
        if not self.outer and differentiated(x):
            return x.detach()
        return alias(x) if _fresh(x)._rg else x

    def released(self, tree: Any) -> Any:
        """`release` of all in a tree."""
        leaves: list[Any] = []
        structure = flatten(tree, leaves)
        return unflatten(structure, iter([self.release(x) for x in leaves]).__next__)

    def pull(
        self, outs: Sequence[Tensor], seeds: Sequence[Tensor], heads: Sequence[Tensor], keep: bool = True,
        create: bool | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """The gradients of `heads` from those of `outs`; zeros where there are none."""
        pairs = [(o, s) for o, s in zip(outs, seeds, strict=True) if _fresh(o)._rg]
        found: Sequence[Any] = [None] * len(heads)
        if pairs:
            some, given = zip(*pairs, strict=True)
            again = self.reaches(*some, *given) if create is None else create
            found = gradients(some, heads, given, keep or again, again, allow_unused=True)
        return [
            zeros_like(h).detach() if g is None else g for h, g in zip(heads, found, strict=True)
        ]


class Linear:
    """The derivative of outputs by inputs as a linear function of tangents; see Note [Forward mode]."""

    def __init__(self, flow: Flow, outs: Sequence[Tensor], heads: Sequence[Tensor]):
        self.flow, self.outs, self.heads = flow, list(outs), list(heads)
        self.used = [o for o in self.outs if _fresh(o)._rg]
        self.seeds = [flow.head(zeros_like(o).detach()) for o in self.used]
        self.grads: Sequence[Any] = [None] * len(self.heads)
        if self.used:
            before, direction.forward = direction.forward, True
            try:
                with enable_grad():
                    self.grads = gradients(
                        self.used, self.heads, self.seeds, True, True, allow_unused=True
                    )
            finally:
                direction.forward = before

    def __call__(self, tangents: Sequence[Tensor | None], keep: bool = True) -> list[Tensor]:
        """The tangents of all outputs; an input without one does not move."""
        pairs = [
            (g, t) for g, t in zip(self.grads, tangents, strict=True)
            if t is not None and g is not None and _fresh(g)._rg
        ]  # fmt: skip
        found: dict[int, Any] = {}
        if pairs:
            some, given = zip(*pairs, strict=True)
            again = self.flow.reaches(*some, *given)
            moved = gradients(some, self.seeds, given, keep or again, again, allow_unused=True)
            found = dict(zip(map(id, self.used), moved, strict=True))
        out = [found.get(id(o)) for o in self.outs]
        return [zeros_like(o).detach() if t is None else t for o, t in zip(self.outs, out, strict=True)]  # fmt: skip


# ---------------------------------------------------------------- calls


def _numbers(argnums: Argnums, args: tuple, name: str) -> tuple[int, ...]:
    """The positions of the arguments to differentiate by, counted from the front."""
    if not isinstance(argnums, int | tuple) or (isinstance(argnums, tuple) and not argnums):
        raise KilnError(
            name, "argnums must be int or a non-empty Tuple[int, ...]", repr(argnums), "argnums=0"
        )
    given = (argnums,) if isinstance(argnums, int) else argnums
    out = []
    for i in given:
        if not isinstance(i, int):
            raise KilnError(name, "argnum must be int", repr(i), "")
        if not -len(args) <= i < len(args):
            raise KilnError(
                name, f"Got argnum={i}, but only {len(args)} positional inputs", f"argnums={argnums}",
                "argnums counts the positional arguments",
            )  # fmt: skip
        out.append(i % len(args))
    if len(set(out)) != len(out):
        raise KilnError(name, "argnums elements must be unique", repr(argnums), "")
    return tuple(out)


class _Call:
    """A function called with inputs of a flow at `argnums`."""

    def __init__(
        self, name: str, func: Callable, argnums: Argnums, args: tuple, kwargs: dict, has_aux: bool
    ):  # fmt: skip
        self.flow = flow = Flow()
        numbers = _numbers(argnums, args, name)
        given = list(args)
        for i in numbers:
            given[i] = flow.heads(args[i])
        picked = given[argnums] if isinstance(argnums, int) else tuple(given[i] for i in numbers)
        self.heads: list[Tensor] = []
        self.structure = flatten(picked, self.heads)
        with enable_grad():
            self.out = func(*given, **kwargs)
        self.aux: Any = None
        if has_aux:
            if not isinstance(self.out, tuple) or len(self.out) != 2:
                raise KilnError(
                    name, "output of function f should be a tuple: (output, aux) if has_aux is True",
                    describe(self.out), "return output, aux",
                )  # fmt: skip
            self.out, self.aux = self.out[0], flow.released(self.out[1])

    def outs(self, name: str) -> tuple[Any, list[Tensor]]:
        """The structure of the output, and the tensors in it."""
        found: list[Any] = []
        structure = flatten(self.out, found)
        for x in found:
            if not isinstance(x, Tensor):
                raise KilnError(
                    name, f"Expected f(*args) to return only Tensors, got {type(x).__name__}", describe(x),
                    "return other values with has_aux=True",
                )  # fmt: skip
        return structure, found

    def tree(self, values: Sequence[Any]) -> Any:
        """One value for each tensor among the inputs, in their containers."""
        return unflatten(self.structure, iter(values).__next__)


# ---------------------------------------------------------------- gradients


def grad_and_value(func: Callable, argnums: Argnums = 0, has_aux: bool = False) -> Callable:
    """A function that gives the gradient of `func`, which gives one number, and that number.

    Arguments and errors as `grad`'s; with `has_aux` the result is (gradient, (value, aux)). Source:
    torch.func.grad_and_value.
    """

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _Call("grad", func, argnums, args, kwargs, has_aux)
        out, flow = call.out, call.flow
        if not isinstance(out, Tensor):
            raise KilnError(
                "grad", f"Expected f(*args) to return a tensor, got {type(out).__name__}", describe(out),
                "return other values with has_aux=True",
            )  # fmt: skip
        if out._a.ndim:
            raise KilnError(
                "grad", f"Expected f(*args) to return a scalar tensor, got tensor with {out._a.ndim} dims",
                describe(out), "reduce it, or use the vjp or jacrev APIs instead",
            )  # fmt: skip
        found = flow.pull([out], [ones_like(out)], call.heads, keep=False)
        grads = call.tree([flow.release(g) for g in found])
        value = flow.release(out)
        return grads, ((value, call.aux) if has_aux else value)

    return wrapper


def grad(func: Callable, argnums: Argnums = 0, has_aux: bool = False) -> Callable:
    """A function that gives the gradient of `func`, which gives one number.

    It is the gradient by the argument `argnums`, in the containers of that argument, or a tuple of
    gradients by several; zeros by what `func` does not use. With `has_aux`, `func` gives (number, aux)
    and the result is (gradient, aux). Errors: KilnError for another output than one number. Source:
    torch.func.grad.
    """

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        grads, value = grad_and_value(func, argnums, has_aux)(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return wrapper


def value_and_grad(func: Callable, argnums: Argnums = 0, has_aux: bool = False) -> Callable:
    """A function that gives the number that `func` gives, and its gradient.

    With `has_aux` the result is ((value, aux), gradient). Source: jax.value_and_grad.
    """

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        grads, value = grad_and_value(func, argnums, has_aux)(*args, **kwargs)
        return value, grads

    return wrapper


def vjp(func: Callable, *primals: Any, has_aux: bool = False) -> tuple:
    """`func(*primals)`, and a function from gradients of its output to those of the primals, a tuple.

    With `has_aux`, `func` gives (output, aux), and the result is (output, function, aux). The function
    may be called again and again, under vmap too. Errors: KilnError. Source: torch.func.vjp.
    """
    call = _Call("vjp", func, tuple(range(len(primals))), primals, {}, has_aux)
    structure, outs = call.outs("vjp")
    flow = call.flow

    def pullback(cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:  # fmt: skip
        given: list[Any] = []
        if flatten(cotangents, given) != structure:
            raise KilnError(
                "vjp", "Expected pytree structure of cotangents to be the same as pytree structure of "
                "outputs to the function", describe(cotangents), f"the output is {describe(call.out)}",
            )  # fmt: skip
        _match("vjp", "a cotangent", given, outs)
        found = flow.pull(outs, given, call.heads, retain_graph, create_graph)
        return call.tree([flow.release(g) for g in found])

    result = flow.released(call.out)
    return (result, pullback, call.aux) if has_aux else (result, pullback)


def _match(name: str, what: str, given: Sequence[Any], like: Sequence[Tensor]) -> None:
    for t, x in zip(given, like, strict=True):
        if not isinstance(t, Tensor) or tuple(t._a.shape) != tuple(x._a.shape):
            raise KilnError(
                name, f"{what} has another shape than its tensor", f"{describe(t)} for {describe(x)}",
                "give a tensor of the same shape",
            )  # fmt: skip


# ---------------------------------------------------------------- tangents


def linearize(func: Callable, *primals: Any) -> tuple[Any, Callable]:
    """`func(*primals)`, and the derivative there: a function from tangents of the primals to the output's.

    `func` runs once, whatever the number of tangents. Source: torch.func.linearize.
    """
    call = _Call("linearize", func, tuple(range(len(primals))), primals, {}, False)
    structure, outs = call.outs("linearize")
    linear, flow = Linear(call.flow, outs, call.heads), call.flow

    def push(*tangents: Any) -> Any:
        given = _tangents("linearize", tangents, call)
        moved = [flow.release(t) for t in linear(given)]
        return unflatten(structure, iter(moved).__next__)

    return flow.released(call.out), push


def jvp(
    func: Callable, primals: tuple, tangents: tuple, *, strict: bool = False, has_aux: bool = False
) -> tuple:
    """`func(*primals)` and how it moves as the primals move along `tangents`.

    With `has_aux`, `func` gives (output, aux), and the result is (output, tangent, aux). `strict` makes
    an output that does not depend on the primals an error instead of zeros. What `func` does within
    `no_grad` counts as constant. Errors: KilnError. Source: torch.func.jvp.
    """
    for what, x in (("primals", primals), ("tangents", tangents)):
        if not isinstance(x, tuple) or not x:
            raise KilnError(
                "jvp", f"Expected {what} to be a non-empty tuple", describe(x), f"{what}=(x,)"
            )
    call = _Call("jvp", func, tuple(range(len(primals))), primals, {}, has_aux)
    given = _tangents("jvp", tangents, call)
    structure, outs = call.outs("jvp")
    if strict and not all(_fresh(o)._rg for o in outs):
        raise KilnError(
            "jvp", "an output does not depend on the primals, with strict=True", describe(outs), ""
        )
    moved = Linear(call.flow, outs, call.heads)(given, keep=False)
    tangent = unflatten(structure, iter([call.flow.release(t) for t in moved]).__next__)
    result = call.flow.released(call.out)
    return (result, tangent, call.aux) if has_aux else (result, tangent)


def _tangents(name: str, tangents: tuple, call: _Call) -> list[Tensor]:
    given: list[Any] = []
    if flatten(tangents, given) != call.structure:
        raise KilnError(
            name, "Expected tangents to have the same structure as primals", describe(tangents),
            f"one for each of {describe(call.heads)}",
        )  # fmt: skip
    _match(name, "a tangent", given, call.heads)
    return given


# ---------------------------------------------------------------- Jacobians


def _mappable(x: Tensor) -> bool:
    """Whether backward from a tensor may be under vmap."""
    stack = [_fresh(x)._fn]
    seen = set(stack)
    while captured() is not None and stack:
        node = stack.pop()
        if isinstance(node, TapeNode):
            if not node.mapped:
                return False
            new = [e[0] for e in node.edges if e is not None and e[0] not in seen]
            seen.update(new)
            stack += new
    return True


def _basis(x: Tensor) -> Tensor:
    """The unit tensors like x, stacked."""
    n = x.numel()
    return reshape(FUNCTIONS["eye"](n, dtype=x.dtype), (n, *x._a.shape))


def jacobian_of(
    flow: Flow, outs: Sequence[Tensor], heads: Sequence[Tensor], *, forward: bool = False,
    chunk_size: int | None = None,
) -> list[list[Tensor]]:  # fmt: skip
    """The derivative of each output by each input, all elements of the one moved along, or pulled back, at once.

    One by one where a captured loop is among what they depend on: its steps are recorded once for all.
    """
    chunk_size = chunk_size if all(map(_mappable, outs)) else 1
    blocks: list[list[Tensor]] = []
    if not forward:
        for o in outs:
            rows = _for_each(lambda seed, o=o: flow.pull([o], [seed], heads), _basis(o), chunk_size)
            blocks.append(rows)
    else:
        linear = Linear(flow, outs, heads)
        columns = []
        for i, h in enumerate(heads):
            moved = _for_each(
                lambda t, i=i: linear([t if j == i else None for j in range(len(heads))]), _basis(h), chunk_size,
            )  # fmt: skip
            columns.append([movedim(m, 0, -1) for m in moved])
        blocks = [list(row) for row in zip(*columns, strict=True)]
    return [
        [
            flow.release(reshape(b, (*o._a.shape, *h._a.shape)))
            for b, h in zip(row, heads, strict=True)
        ]
        for row, o in zip(blocks, outs, strict=True)
    ]


def _for_each(fn: Callable, basis: Tensor, chunk_size: int | None) -> Any:
    """`vmap(fn)(basis)`; a single call where the basis is one tensor, or for each where chunks are."""
    if chunk_size == 1 or basis._a.shape[0] == 1:
        rows = [fn(x) for x in basis.unbind(0)]
        return [FUNCTIONS["stack"](column) for column in zip(*rows, strict=True)]
    return vmap(fn, randomness="same", chunk_size=chunk_size)(basis)


def _nested(call: _Call, structure: Any, rows: list[list[Tensor]]) -> Any:
    """A Jacobian in the containers of the output, and in them those of the inputs."""
    return unflatten(structure, iter([call.tree(row) for row in rows]).__next__)


def jacrev(
    func: Callable,
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    _preallocate_and_copy: bool = False,
) -> Callable:
    """A function that gives the Jacobian of `func`, row by row: all elements of the output pulled back at once.

    For an output y and an input x the Jacobian has the shape (*y.shape, *x.shape), in the containers of
    the output and in them those of the input. `chunk_size` rows at a time take less memory. Source:
    torch.func.jacrev.
    """
    if chunk_size is not None and not chunk_size > 0:
        raise KilnValueError("jacrev", "chunk_size should be greater than 0", chunk_size, "")

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _Call("jacrev", func, argnums, args, kwargs, has_aux)
        structure, outs = call.outs("jacrev")
        rows = jacobian_of(call.flow, outs, call.heads, chunk_size=chunk_size)
        result = _nested(call, structure, rows)
        return (result, call.aux) if has_aux else result

    return wrapper


def jacfwd(
    func: Callable, argnums: Argnums = 0, has_aux: bool = False, *, randomness: str = "error"
) -> Callable:
    """A function that gives the Jacobian of `func`, column by column: all elements of the input moved at once.

    Shapes and containers as `jacrev`'s. `func` runs once, so random ops in it need no `randomness`.
    Source: torch.func.jacfwd.
    """

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = _Call("jacfwd", func, argnums, args, kwargs, has_aux)
        structure, outs = call.outs("jacfwd")
        rows = jacobian_of(call.flow, outs, call.heads, forward=True)
        result = _nested(call, structure, rows)
        return (result, call.aux) if has_aux else result

    return wrapper


def hessian(func: Callable, argnums: Argnums = 0) -> Callable:
    """A function that gives the Hessian of `func`: the Jacobian of its Jacobian.

    Both go backward, where that is cheapest here (Note [Forward mode]). Source: torch.func.hessian.
    """
    return jacrev(jacrev(func, argnums), argnums)
