"""Nested arguments: flattening dicts, lists, tuples, named tuples and dataclasses into leaves."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any


def flatten(tree: Any, leaves: list[Any]) -> Any:
    """Append the leaves of a tree to `leaves`; returns its structure, a hashable value."""
    if isinstance(tree, defaultdict):
        return (
            type(tree),
            tuple((k, flatten(v, leaves)) for k, v in tree.items()),
            tree.default_factory,
        )
    if isinstance(tree, dict):
        return (type(tree), tuple((k, flatten(v, leaves)) for k, v in tree.items()))
    if isinstance(tree, list | tuple):
        return (type(tree), tuple(flatten(v, leaves) for v in tree))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type) and not callable(tree):
        fields = tuple(f.name for f in dataclasses.fields(tree) if f.init)
        return (type(tree), tuple((n, flatten(getattr(tree, n), leaves)) for n in fields))
    leaves.append(tree)
    return None


def unflatten(structure: Any, leaf: Callable[[], Any]) -> Any:
    """The tree of a structure, its leaves taken from successive calls of `leaf`."""
    if structure is None:
        return leaf()
    kind, parts, *rest = structure
    if rest:
        return kind(rest[0], [(k, unflatten(s, leaf)) for k, s in parts])
    if issubclass(kind, dict):
        items = [(k, unflatten(s, leaf)) for k, s in parts]
        return dict(items) if kind is dict else kind(items)
    if issubclass(kind, list | tuple):
        values = [unflatten(s, leaf) for s in parts]
        return kind(*values) if hasattr(kind, "_fields") else kind(values)
    return kind(**{n: unflatten(s, leaf) for n, s in parts})


def count(structure: Any) -> int:
    """How many leaves a structure has."""
    if structure is None:
        return 1
    keyed = not issubclass(structure[0], list | tuple)
    return sum(count(p[1] if keyed else p) for p in structure[1])
