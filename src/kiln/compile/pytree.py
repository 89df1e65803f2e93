"""Nested values: taking dicts, lists, tuples, named tuples, deques, dataclasses and registered classes apart into leaves.

`kiln.utils._pytree` is the same under PyTorch's names. A structure is a hashable value: None for a leaf, else
`(class, parts)`, or `(class, parts, context)` where what is between the parts says more than the class. The parts of
what has names are pairs of a name and a structure.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple


class Node(NamedTuple):
    """How a registered class comes apart: `flatten(x)` gives children and context, `unflatten` the reverse."""

    flatten: Callable[[Any], tuple[Iterable[Any], Any]]
    unflatten: Callable[[list[Any], Any], Any]
    flatten_with_keys: Callable[[Any], tuple[Iterable[tuple[Any, Any]], Any]] | None = None


NODES: dict[type, Node] = {}
"""The registered classes."""


class Context:
    """What a registered class keeps beside its children; it can be hashed whatever it is."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(type(self.value))


def flatten(tree: Any, leaves: list[Any], is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """Append the leaves of a tree to `leaves`; returns its structure, a hashable value.

    What `is_leaf` says yes to is a leaf, whatever it is.
    """
    if is_leaf is not None and is_leaf(tree):
        leaves.append(tree)
        return None
    if NODES and (node := NODES.get(type(tree))) is not None:
        children, context = node.flatten(tree)
        return (type(tree), tuple(flatten(c, leaves, is_leaf) for c in children), Context(context))
    if isinstance(tree, dict):
        parts = tuple((k, flatten(v, leaves, is_leaf)) for k, v in tree.items())
        if isinstance(tree, defaultdict):
            return (type(tree), parts, tree.default_factory)
        return (type(tree), parts)
    if isinstance(tree, list | tuple):
        return (type(tree), tuple(flatten(v, leaves, is_leaf) for v in tree))
    if isinstance(tree, deque):
        return (type(tree), tuple(flatten(v, leaves, is_leaf) for v in tree), tree.maxlen)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type) and not callable(tree):
        fields = tuple(f.name for f in dataclasses.fields(tree) if f.init)
        return (type(tree), tuple((n, flatten(getattr(tree, n), leaves, is_leaf)) for n in fields))
    leaves.append(tree)
    return None


def unflatten(structure: Any, leaf: Callable[[], Any]) -> Any:
    """The tree of a structure, its leaves taken from successive calls of `leaf`."""
    if structure is None:
        return leaf()
    kind, parts, *rest = structure
    if rest and isinstance(rest[0], Context):
        return NODES[kind].unflatten([unflatten(s, leaf) for s in parts], rest[0].value)
    if issubclass(kind, dict):
        items = [(k, unflatten(s, leaf)) for k, s in parts]
        return dict(items) if kind is dict else kind(*rest, items)  # type: ignore[call-overload]
    if issubclass(kind, list | tuple | deque):
        values = [unflatten(s, leaf) for s in parts]
        return kind(*values) if hasattr(kind, "_fields") else kind(values, *rest)
    return kind(**{n: unflatten(s, leaf) for n, s in parts})


def children(structure: Any) -> Iterator[Any]:
    """The structures within a structure."""
    if structure is None:
        return iter(())
    kind, parts, *rest = structure
    if issubclass(kind, list | tuple | deque) or (rest and isinstance(rest[0], Context)):
        return iter(parts)
    return (s for _, s in parts)


def count(structure: Any) -> int:
    """How many leaves a structure has."""
    return 1 if structure is None else sum(map(count, children(structure)))
