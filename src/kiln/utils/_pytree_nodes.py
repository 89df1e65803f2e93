"""What is a node of a tree, and the keys by which its children are found: a part of `kiln.utils._pytree`."""

from __future__ import annotations

import collections
import dataclasses
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

from ..compile.pytree import NODES, Node
from ..errors import KilnTypeError, KilnValueError, describe

namedtuple: Any = collections.namedtuple  # noqa: PYI024  (the type of all of these)
PyTree = Any
Context = Any
DumpableContext = Any
FlattenFn = Callable[[PyTree], tuple[list[Any], Context]]
UnflattenFn = Callable[[Iterable[Any], Context], PyTree]
ToDumpableContextFn = Callable[[Context], DumpableContext]
FromDumpableContextFn = Callable[[DumpableContext], Context]
IsLeaf = Callable[[PyTree], bool] | None

BUILTIN_TYPES = frozenset({tuple, list, dict, namedtuple, OrderedDict, defaultdict, deque})
_DICTS = frozenset({dict, OrderedDict, defaultdict})


# ---------------------------------------------------------------- paths


@dataclasses.dataclass(frozen=True, slots=True)
class SequenceKey:
    """A place in a list, tuple or deque."""

    idx: int

    def __str__(self) -> str:
        return f"[{self.idx!r}]"

    def get(self, sequence: Any) -> Any:
        """What is there."""
        return sequence[self.idx]


@dataclasses.dataclass(frozen=True, slots=True)
class MappingKey:
    """A key of a dict."""

    key: Any

    def __str__(self) -> str:
        return f"[{self.key!r}]"

    def get(self, mapping: Any) -> Any:
        """What is there."""
        return mapping[self.key]


@dataclasses.dataclass(frozen=True, slots=True)
class GetAttrKey:
    """An attribute."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"

    def get(self, obj: Any) -> Any:
        """What is there."""
        return getattr(obj, self.name)


KeyEntry = Any
KeyPath = tuple[KeyEntry, ...]


def keystr(kp: KeyPath) -> str:
    """A path as it is written in Python."""
    return "".join(map(str, kp))


def key_get(obj: Any, kp: KeyPath) -> Any:
    """What is at a path."""
    for k in kp:
        obj = k.get(obj)
    return obj


# ---------------------------------------------------------------- classes


NAMES: dict[type, str] = {
    **{t: f"builtins.{t.__name__}" for t in (tuple, list, dict)},
    **{t: f"collections.{t.__name__}" for t in (OrderedDict, defaultdict, deque, namedtuple)},
}
"""The names of classes in what `treespec_dumps` writes."""

TO_DUMPABLE: dict[type, ToDumpableContextFn] = {}
FROM_DUMPABLE: dict[type, FromDumpableContextFn] = {}


def register_pytree_node(
    cls: type[Any], flatten_fn: FlattenFn, unflatten_fn: UnflattenFn, *, serialized_type_name: str | None = None,
    to_dumpable_context: ToDumpableContextFn | None = None, from_dumpable_context: FromDumpableContextFn | None = None,
    flatten_with_keys_fn: Callable[[PyTree], tuple[list[tuple[KeyEntry, Any]], Context]] | None = None,
) -> None:  # fmt: skip
    """Have a class be a node: `flatten_fn(x)` gives (children, context), `unflatten_fn(children, context)` an x.

    `flatten_with_keys_fn` gives its children with their keys; the other arguments are for `treespec_dumps`. Raises
    ValueError for a class that is a node already, or where one of the two dump functions is missing.
    """
    if cls in BUILTIN_TYPES or cls in NODES:
        raise KilnValueError(
            "register_pytree_node", f"{cls} is already registered as pytree node.", None, "once is enough"
        )  # fmt: skip
    if (to_dumpable_context is None) != (from_dumpable_context is None):
        raise KilnValueError(
            "register_pytree_node", f"Both to_dumpable_context and from_dumpable_context for {cls} must be None or "
            "registered.", None,
        )  # fmt: skip
    NODES[cls] = Node(flatten_fn, unflatten_fn, flatten_with_keys_fn)
    if serialized_type_name is not None:
        NAMES[cls] = serialized_type_name
    if to_dumpable_context is not None and from_dumpable_context is not None:
        TO_DUMPABLE[cls], FROM_DUMPABLE[cls] = to_dumpable_context, from_dumpable_context


_register_pytree_node = _private_register_pytree_node = register_pytree_node


def _deregister_pytree_node(cls: type[Any]) -> None:
    """Have a class be a leaf again."""
    del NODES[cls]
    for table in (NAMES, TO_DUMPABLE, FROM_DUMPABLE):
        table.pop(cls, None)


def register_dataclass(
    cls: type[Any], *, field_names: list[str] | None = None, drop_field_names: list[str] | None = None,
    serialized_type_name: str | None = None,
) -> None:  # fmt: skip
    """Have a dataclass be a node, by its fields or those of `field_names`."""
    if not dataclasses.is_dataclass(cls) and field_names is None:
        raise KilnValueError(
            "register_dataclass", "field_names must be specified with a class that is no dataclass", describe(cls)
        )  # fmt: skip
    names = field_names or [f.name for f in dataclasses.fields(cls) if f.init]
    names = [n for n in names if n not in (drop_field_names or ())]

    def flatten_fn(x: Any) -> tuple[list[Any], Any]:
        present = [n for n in names if getattr(x, n) is not None]
        absent = [n for n in names if getattr(x, n) is None]
        return [getattr(x, n) for n in present], [present, absent]

    def with_keys(x: Any) -> tuple[list[tuple[Any, Any]], Any]:
        values, context = flatten_fn(x)
        return [(GetAttrKey(n), v) for n, v in zip(context[0], values, strict=True)], context

    def unflatten_fn(values: Iterable[Any], context: Any) -> Any:
        present, absent = context
        return cls(**dict(zip(present, values, strict=True)), **dict.fromkeys(absent))

    register_pytree_node(
        cls, flatten_fn, unflatten_fn, serialized_type_name=serialized_type_name, flatten_with_keys_fn=with_keys
    )  # fmt: skip


def register_constant(cls: type[Any]) -> None:
    """Have a class be a node without children: its value, which needs `__eq__` and `__hash__`, is structure."""
    if cls.__eq__ is object.__eq__ or cls.__hash__ in (None, object.__hash__):
        raise KilnTypeError(
            "register_constant", f"{cls} needs an __eq__ and a __hash__ of its own", None,
            "a dataclass with frozen=True has both",
        )  # fmt: skip
    register_pytree_node(
        cls, lambda x: ([], x), lambda _, x: x, flatten_with_keys_fn=lambda x: ([], x)
    )


def is_namedtuple_class(cls: type) -> bool:
    """Whether a class is a named tuple."""
    fields = getattr(cls, "_fields", None)
    return (
        isinstance(cls, type) and issubclass(cls, tuple) and isinstance(fields, tuple)
        and all(type(f) is str for f in fields) and callable(getattr(cls, "_make", None))
        and callable(getattr(cls, "_asdict", None))
    )  # fmt: skip


def is_namedtuple_instance(obj: object) -> bool:
    """Whether a value is a named tuple."""
    return is_namedtuple_class(type(obj))


def is_namedtuple(obj: object | type) -> bool:
    """Whether a value or class is a named tuple."""
    return is_namedtuple_class(obj if isinstance(obj, type) else type(obj))


def is_structseq_class(cls: type) -> bool:
    """Whether a class is one of Python's own structures, such as that of `time.localtime()`."""
    return (
        isinstance(cls, type) and cls.__bases__ == (tuple,)
        and all(isinstance(getattr(cls, n, None), int) for n in ("n_fields", "n_sequence_fields", "n_unnamed_fields"))
    )  # fmt: skip


def is_structseq_instance(obj: object) -> bool:
    """Whether a value is one of Python's own structures."""
    return is_structseq_class(type(obj))


def is_structseq(obj: object | type) -> bool:
    """Whether a value or class is one of Python's own structures."""
    return is_structseq_class(obj if isinstance(obj, type) else type(obj))


def _node_type(tree: PyTree) -> type | None:
    """What kind of node a value is; None for a leaf."""
    kind = type(tree)
    if kind in BUILTIN_TYPES or kind in NODES:
        return kind
    return namedtuple if is_namedtuple_class(kind) else None  # type: ignore[return-value]


def tree_is_leaf(tree: PyTree, is_leaf: IsLeaf = None) -> bool:
    """Whether a value is a leaf: `is_leaf` says so, or it is no node."""
    return (is_leaf is not None and is_leaf(tree)) or _node_type(tree) is None
