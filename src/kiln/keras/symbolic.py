"""Symbolic tensors: what `Input` gives, and what layers and functions give for them; a functional model is the graph of these calls.

Shapes are found by a call on meta tensors, which computes nothing; a dimension that is None is one that follows what a None
of the inputs is.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..autograd.modes import no_grad
from ..compile.pytree import flatten, unflatten
from ..errors import KilnNotImplementedError, KilnTypeError, KilnValueError, describe
from ..ops.creation import empty, ones
from ..tensor import Tensor
from .configured import snake
from .dtypes import array, name_of, to_dtype

NAMES: Counter[str] = Counter()
FILLS = 83, 89
"""What a None is in the two calls that find shapes: sizes that hardly any layer's own are."""


def unique(name: str) -> str:
    """`dense`, then `dense_1`, …"""
    n = NAMES[name]
    NAMES[name] += 1
    return name if n == 0 else f"{name}_{n}"


class Node:
    """One call: what was called, with which arguments, and the symbolic tensors that came out."""

    def __init__(self, operation: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        self.operation, self.args, self.kwargs = operation, args, kwargs
        self.outputs: list[KerasTensor] = []
        self.structure = flatten(out, self.outputs)
        held = nodes_of(operation)
        self.index = len(held)
        held.append(self)
        for i, t in enumerate(self.outputs):
            t.node, t.index = self, i

    @property
    def inputs(self) -> list[KerasTensor]:
        """The symbolic tensors among the arguments."""
        return list(symbols((self.args, self.kwargs)))

    def run(self, values: dict[int, Any]) -> None:
        """Call it on the values of its inputs, by the tensors' identities, and add those of its outputs."""
        args, kwargs = replaced((self.args, self.kwargs), lambda t: values[id(t)])
        found: list[Any] = []
        flatten(self.operation(*args, **kwargs), found)
        for t, value in zip(self.outputs, found, strict=True):
            values[id(t)] = value


def nodes_of(operation: Any) -> list[Node]:
    """The calls of a layer or function on symbolic tensors so far."""
    return operation.__dict__.setdefault("_nodes", [])


class KerasTensor:
    """A tensor of a functional model that has shape (None where anything goes) and dtype, and no values."""

    node: Node | None = None
    index = 0
    _keras_mask: KerasTensor | None = None

    def __init__(self, shape: Sequence[int | None], dtype: Any = "float32", name: str | None = None) -> None:  # fmt: skip
        self.shape, self.dtype = tuple(shape), name_of(dtype)
        self.name = name or unique("keras_tensor")

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        if not self.shape or self.shape[0] is None:
            raise KilnTypeError("KerasTensor", "nobody knows how long it is", repr(self), "use its shape")  # fmt: skip
        return self.shape[0]

    def __iter__(self) -> Iterator[KerasTensor]:
        return (self[i] for i in range(len(self)))  # type: ignore[index]

    def __bool__(self) -> bool:
        raise KilnTypeError("KerasTensor", "a symbolic tensor is neither true nor false", repr(self), "keras.ops.where, or a layer of your own")  # fmt: skip

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise KilnValueError("KerasTensor", "a symbolic tensor has no values", repr(self), "keras.ops in place of NumPy")  # fmt: skip

    def __repr__(self) -> str:
        return f"<KerasTensor shape={self.shape}, dtype={self.dtype}, name={self.name}>"


class Function:
    """A function in a functional model: a node that is no layer."""

    def __init__(self, fn: Callable, name: str | None = None) -> None:
        self.fn = fn
        self.name = name or unique(snake(fn.__name__))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


def op(fn: Callable) -> Any:
    """A function of tensors that takes arrays, too, and symbolic tensors."""

    @functools.wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        leaves: list[Any] = []
        flatten((args, kwargs), leaves)
        if any(x.__class__ is KerasTensor for x in leaves):
            return call(Function(fn), args, kwargs, fn)
        if any(hasattr(x, "__array__") and not isinstance(x, Tensor) for x in leaves):
            args, kwargs = tensors((args, kwargs))
        return fn(*args, **kwargs)

    return called


def symbols(tree: Any) -> Iterator[KerasTensor]:
    """The symbolic tensors in containers."""
    leaves: list[Any] = []
    flatten(tree, leaves)
    return (x for x in leaves if isinstance(x, KerasTensor))


def replaced(tree: Any, fn: Callable[[KerasTensor], Any]) -> Any:
    """With something else in place of each symbolic tensor."""
    return mapped(tree, lambda x: fn(x) if isinstance(x, KerasTensor) else x)


def tensors(tree: Any) -> Any:
    """With arrays as tensors, those of float64 as float32."""
    return mapped(tree, lambda x: array(x) if hasattr(x, "__array__") and not isinstance(x, Tensor) else x)  # fmt: skip


def mapped(tree: Any, fn: Callable[[Any], Any]) -> Any:
    """A function of each leaf, in the same containers."""
    leaves: list[Any] = []
    structure = flatten(tree, leaves)
    it = iter(leaves)
    return unflatten(structure, lambda: fn(next(it)))


def call(operation: Any, args: tuple, kwargs: dict[str, Any], run: Callable) -> Any:
    """A call on symbolic tensors, noted; `run` is what finds the shapes."""
    out = inferred(run, args, kwargs)
    Node(operation, args, kwargs, out)
    return out


def inferred(run: Callable, args: Any, kwargs: Any) -> Any:
    """Symbolic tensors like what `run` gives."""
    unknown = any(None in t.shape for t in symbols((args, kwargs)))
    found = [_filled(run, args, kwargs, n) for n in (FILLS if unknown else FILLS[:1])]
    sides: list[list[Any]] = [[], []]
    structure = flatten(found[0], sides[0])
    flatten(found[-1], sides[1])
    both = zip(*sides, strict=True)

    def one() -> Any:
        a, b = next(both)
        if not isinstance(a, Tensor):
            return a
        out = _between(a, b)
        masks = [getattr(x, "_keras_mask", None) for x in (a, b)]
        if isinstance(masks[0], Tensor) and isinstance(masks[1], Tensor):
            out._keras_mask = _between(*masks)  # type: ignore[arg-type]
        return out

    return unflatten(structure, one)


def _between(a: Tensor, b: Tensor) -> KerasTensor:
    """What has two shapes for two sizes of a None."""
    return KerasTensor([m if m == n else None for m, n in zip(a.shape, b.shape, strict=True)], a.dtype)  # fmt: skip


def _filled(run: Callable, args: Any, kwargs: Any, n: int) -> Any:
    def stand_in(t: KerasTensor, make: Callable) -> Tensor:
        options = {"device": "meta"} if make is empty else {}
        out = make(*(n if d is None else d for d in t.shape), dtype=to_dtype(t.dtype), **options)
        if t._keras_mask is not None:
            vars(out)["_keras_mask"] = stand_in(t._keras_mask, make)
        return out

    with no_grad():
        try:
            a, k = replaced((args, kwargs), lambda t: stand_in(t, empty))
            return run(*a, **k)
        except KilnNotImplementedError:  # it looks at values, or writes to a state: ones will do
            a, k = replaced((args, kwargs), lambda t: stand_in(t, ones))
            return run(*a, **k)


def connected(inputs: Sequence[KerasTensor], outputs: Sequence[KerasTensor]) -> tuple[list[Node], list[Any]]:  # fmt: skip
    """The calls that lead from inputs to outputs, each after those it needs; and layers and functions in Keras's order.

    That is by how far they are from the outputs, and then by when a search from there meets them: names in files depend on it.
    """
    known = {id(t) for t in inputs}
    order: list[Node] = []
    met: dict[int, int] = {}
    seen: set[int] = set()
    stack: list[tuple[Node, bool, bool]] = []

    def push(t: KerasTensor) -> None:
        if t.node is None or (id(t) not in known and not t.node.inputs):
            raise KilnValueError(
                "Model", "the outputs do not come from the inputs alone", repr(t), "have every Input that leads there among `inputs`"
            )  # fmt: skip
        stack.append((t.node, False, id(t) in known))

    for out in reversed(outputs):
        push(out)
    while stack:
        node, ready, given = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            met.setdefault(id(node.operation), len(met))
            stack.append((node, True, given))
            for t in reversed(node.inputs if not given else []):
                push(t)
    calls = [n for n in order if not any(id(t) in known for t in n.outputs)]
    return calls, _by_depth(order, met, [t.node for t in inputs if t.node is not None])


def _by_depth(order: list[Node], met: dict[int, int], starts: list[Node]) -> list[Any]:
    depth: dict[int, int] = {}
    of: dict[int, tuple[int, Any]] = {}
    held = {id(n) for n in order}
    for node in reversed(order):
        at = max(depth.get(id(node), 0), of.get(id(node.operation), (0, None))[0])
        depth[id(node)], of[id(node.operation)] = at, (at, node.operation)
        for t in node.inputs:
            if t.node is not None and id(t.node) in held:
                depth[id(t.node)] = max(at + 1, depth.get(id(t.node), 0))
    for node in starts:  # inputs that lead nowhere
        of.setdefault(id(node.operation), (0, node.operation))
    found = sorted(of.items(), key=lambda e: (-e[1][0], met.get(e[0], -1)))
    return [operation for _, (_, operation) in found]


def shape_of(x: Any) -> Any:
    """The shape of a tensor as a tuple, the list of them of several."""
    if isinstance(x, Tensor | KerasTensor):
        return tuple(x.shape)
    if isinstance(x, dict):
        return {k: shape_of(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [shape_of(v) for v in x]
    return describe(x)


__all__ = [
    "Function",
    "KerasTensor",
    "Node",
    "call",
    "connected",
    "inferred",
    "mapped",
    "op",
    "shape_of",
    "symbols",
    "tensors",
    "unique",
]
