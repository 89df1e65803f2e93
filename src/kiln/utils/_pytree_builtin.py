"""How Python's own containers are taken apart, as functions: names of `torch.utils._pytree` that programs use."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ._pytree_nodes import (
    BUILTIN_TYPES,
    NODES,
    GetAttrKey,
    MappingKey,
    SequenceKey,
    is_namedtuple_instance,
    namedtuple,
)

Parts = tuple[list[Any], Any]


class NodeDef(NamedTuple):
    """How values of a type are taken apart and made again."""

    type: Any
    flatten_fn: Callable[[Any], Parts]
    unflatten_fn: Callable[[Iterable[Any], Any], Any]
    flatten_with_keys_fn: Callable[[Any], Parts] | None = None


def _list_flatten(d: Any) -> Parts:
    return list(d), None


def _list_unflatten(values: Iterable[Any], context: Any) -> list[Any]:
    return list(values)


def _list_flatten_with_keys(d: Any) -> Parts:
    return [(SequenceKey(i), v) for i, v in enumerate(d)], None


def _tuple_unflatten(values: Iterable[Any], context: Any) -> tuple[Any, ...]:
    return tuple(values)


_tuple_flatten, _tuple_flatten_with_keys = _list_flatten, _list_flatten_with_keys


def _dict_flatten(d: Any) -> Parts:
    return list(d.values()), list(d)


def _dict_unflatten(values: Iterable[Any], context: Any) -> dict[Any, Any]:
    return dict(zip(context, values, strict=True))


def _dict_flatten_with_keys(d: Any) -> Parts:
    return [(MappingKey(k), v) for k, v in d.items()], list(d)


def _ordereddict_unflatten(values: Iterable[Any], context: Any) -> OrderedDict[Any, Any]:
    return OrderedDict(zip(context, values, strict=True))


_ordereddict_flatten, _ordereddict_flatten_with_keys = _dict_flatten, _dict_flatten_with_keys


def _defaultdict_flatten(d: Any) -> Parts:
    return list(d.values()), [d.default_factory, list(d)]


def _defaultdict_unflatten(values: Iterable[Any], context: Any) -> defaultdict[Any, Any]:
    return defaultdict(context[0], zip(context[1], values, strict=True))


def _defaultdict_flatten_with_keys(d: Any) -> Parts:
    return _dict_flatten_with_keys(d)[0], [d.default_factory, list(d)]


def _deque_flatten(d: Any) -> Parts:
    return list(d), d.maxlen


def _deque_unflatten(values: Iterable[Any], context: Any) -> deque[Any]:
    return deque(values, maxlen=context)


def _deque_flatten_with_keys(d: Any) -> Parts:
    return _list_flatten_with_keys(d)[0], d.maxlen


def _namedtuple_flatten(d: Any) -> Parts:
    return list(d), type(d)


def _namedtuple_unflatten(values: Iterable[Any], context: Any) -> Any:
    return context(*values)


def _namedtuple_flatten_with_keys(d: Any) -> Parts:
    return [(GetAttrKey(n), v) for n, v in zip(d._fields, d, strict=True)], type(d)


def _get_node_type(tree: Any) -> Any:
    """The type of a value; `namedtuple` for all named tuples."""
    return namedtuple if is_namedtuple_instance(tree) else type(tree)


_BUILTIN = {
    kind: NodeDef(kind, *(globals()[f"_{kind.__name__.lower()}_{form}"] for form in ("flatten", "unflatten", "flatten_with_keys")))
    for kind in BUILTIN_TYPES
}  # fmt: skip


class _Supported(Mapping[Any, NodeDef]):
    def __getitem__(self, kind: Any) -> NodeDef:
        if kind in _BUILTIN:
            return _BUILTIN[kind]
        node = NODES[kind]
        return NodeDef(kind, node.flatten, node.unflatten, node.flatten_with_keys)

    def __iter__(self) -> Iterator[Any]:
        yield from _BUILTIN
        yield from NODES

    def __len__(self) -> int:
        return len(_BUILTIN) + len(NODES)


SUPPORTED_NODES = _Supported()
"""What is a node: Python's containers and what `register_pytree_node` was told about."""

__all__ = ["SUPPORTED_NODES", "NodeDef", "_get_node_type", *(n for n in globals() if n.endswith(("_flatten", "_unflatten", "_with_keys")))]  # fmt: skip
