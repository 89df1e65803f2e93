"""Nested values under PyTorch's names: `torch.utils._pytree`.

`kiln.compile.pytree` takes them apart. As in PyTorch, only exact classes are nodes here: list, tuple, dict, OrderedDict,
defaultdict, deque, named tuples, and what is registered; anything else is a leaf, dataclasses too. A class that is
registered is a node for `kiln.compile` and the transforms of functions as well.
"""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..compile.pytree import NODES
from ..compile.pytree import Context as _Context
from ..compile.pytree import children as _children
from ..compile.pytree import count as _count
from ..compile.pytree import flatten as _flatten
from ..compile.pytree import unflatten as _unflatten
from ..errors import KilnNotImplementedError, KilnTypeError, KilnValueError, describe
from ._pytree_builtin import *  # noqa: F403  (what __all__ there names)
from ._pytree_nodes import (  # noqa: F401  (what PyTorch has here, and some are for others)
    _DICTS,
    BUILTIN_TYPES,
    FROM_DUMPABLE,
    NAMES,
    TO_DUMPABLE,
    Context,
    DumpableContext,
    FlattenFn,
    FromDumpableContextFn,
    GetAttrKey,
    IsLeaf,
    KeyEntry,
    KeyPath,
    MappingKey,
    PyTree,
    SequenceKey,
    ToDumpableContextFn,
    UnflattenFn,
    _deregister_pytree_node,
    _node_type,
    _private_register_pytree_node,
    _register_pytree_node,
    is_namedtuple,
    is_namedtuple_class,
    is_namedtuple_instance,
    is_structseq,
    is_structseq_class,
    is_structseq_instance,
    key_get,
    keystr,
    namedtuple,
    register_constant,
    register_dataclass,
    register_pytree_node,
    tree_is_leaf,
)

# ---------------------------------------------------------------- structures


class TreeSpec:
    """The structure of a tree: its node's type, what that holds beside its children, and their structures."""

    __slots__ = ("structure",)

    def __init__(self, type: Any, context: Context, children_specs: list[TreeSpec]):
        parts = tuple(c.structure for c in children_specs)
        if type is None:
            self.structure: Any = None
        elif type in (dict, OrderedDict):
            self.structure = (type, tuple(zip(context, parts, strict=True)))
        elif type is defaultdict:
            self.structure = (type, tuple(zip(context[1], parts, strict=True)), context[0])
        elif type is deque:
            self.structure = (type, parts, context)
        elif type in (list, tuple):
            self.structure = (type, parts)
        else:
            self.structure = (
                (context, parts) if type is namedtuple else (type, parts, _Context(context))
            )

    @staticmethod
    def _of(structure: Any) -> TreeSpec:
        spec = object.__new__(TreeSpec)
        spec.structure = structure
        return spec

    @property
    def type(self) -> Any:
        """The class of the node, `namedtuple` for all of these; None for a leaf."""
        if self.structure is None:
            return None
        kind = self.structure[0]
        return namedtuple if kind not in NODES and is_namedtuple_class(kind) else kind

    @property
    def context(self) -> Context:
        """What the node holds beside its children: the keys of a dict, the class of a named tuple, …"""
        kind = self.type
        if kind is namedtuple:
            return self.structure[0]
        if kind in (None, list, tuple):
            return None
        if kind in _DICTS:
            keys = [k for k, _ in self.structure[1]]
            return [self.structure[2], keys] if kind is defaultdict else keys
        return self.structure[2] if kind is deque else self.structure[2].value

    _context = context

    @property
    def num_nodes(self) -> int:
        """How many nodes and leaves there are."""
        return 1 + sum(c.num_nodes for c in self.children())

    @property
    def num_leaves(self) -> int:
        """How many leaves there are."""
        return _count(self.structure)

    @property
    def num_children(self) -> int:
        """How many children the node has."""
        return 0 if self.structure is None else len(self.structure[1])

    def is_leaf(self) -> bool:
        """Whether it is the structure of a leaf."""
        return self.structure is None

    def children(self) -> list[TreeSpec]:
        """The structures of the children."""
        return [TreeSpec._of(s) for s in _children(self.structure)]

    children_specs = property(children)

    def child(self, index: int) -> TreeSpec:
        """The structure of one child."""
        return self.children()[index]

    def unflatten(self, leaves: Iterable[Any]) -> PyTree:
        """The tree of this structure with these leaves; ValueError where they are more or fewer."""
        leaves = list(leaves)
        if len(leaves) != self.num_leaves:
            raise KilnValueError(
                "tree_unflatten", f"`leaves` has length {len(leaves)} but the spec refers to a pytree that holds "
                f"{self.num_leaves} items", repr(self),
            )  # fmt: skip
        return _unflatten(self.structure, iter(leaves).__next__)

    def flatten_up_to(self, tree: PyTree) -> list[PyTree]:
        """What a tree that begins with this structure has where this has leaves; ValueError where it doesn't."""
        if self.structure is None:
            return [tree]
        kind, found = self.type, _node_type(tree)
        expected: Any = self.context
        dicts = kind in _DICTS and found in _DICTS
        if not dicts and found is not kind:
            raise _mismatch("type", f"expected {kind!r}, but got {found!r}")
        values = _apart(tree)
        if len(values) != self.num_children:
            raise _mismatch("arity", f"expected {self.num_children}, but got {len(values)}")
        if dicts:
            keys = expected[1] if kind is defaultdict else expected
            if set(tree) != set(keys):
                missing, extra = set(keys) - set(tree), set(tree) - set(keys)
                raise _mismatch("keys", f"missing key(s): {missing}; extra key(s): {extra}")
            values = [tree[k] for k in keys]
        elif kind is not deque:
            context = tree_structure(tree, lambda x: x is not tree).context
            if context != expected:
                raise _mismatch("context", f"expected {expected!r}, but got {context!r}")
        return [
            x
            for spec, v in zip(self.children(), values, strict=True)
            for x in spec.flatten_up_to(v)
        ]

    def __eq__(self, other: object) -> bool:
        return self.structure == other.structure if isinstance(other, TreeSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.structure)

    def __repr__(self, indent: int = 0) -> str:
        if self.structure is None:
            return "*"
        indent += 2
        parts = (",\n" + " " * indent).join(c.__repr__(indent) for c in self.children())
        return f"TreeSpec({self.type.__name__}, {self.context}, [{parts}])"


PyTreeSpec = TreeSpec


class LeafSpec(TreeSpec):
    """The structure of a leaf."""

    def __init__(self) -> None:
        super().__init__(None, None, [])


def _mismatch(what: str, text: str) -> KilnValueError:
    return KilnValueError(
        "pytree", f"Node {what} mismatch; {text}", None, "the trees must have one structure"
    )


def _apart(tree: PyTree) -> list[Any]:
    out: list[Any] = []
    _flatten(tree, out, lambda x: x is not tree)
    return out


def treespec_leaf() -> TreeSpec:
    """The structure of a leaf."""
    return TreeSpec._of(None)


def treespec_tuple(iterable: Iterable[TreeSpec] = (), /) -> TreeSpec:
    """The structure of a tuple."""
    return TreeSpec(tuple, None, list(iterable))


def treespec_list(iterable: Iterable[TreeSpec] = (), /) -> TreeSpec:
    """The structure of a list."""
    return TreeSpec(list, None, list(iterable))


def treespec_dict(mapping: Any = (), /, **kwargs: TreeSpec) -> TreeSpec:
    """The structure of a dict."""
    entries = dict(mapping, **kwargs)
    return TreeSpec(dict, list(entries), list(entries.values()))


# ---------------------------------------------------------------- trees


def tree_flatten(tree: PyTree, is_leaf: IsLeaf = None) -> tuple[list[Any], TreeSpec]:
    """The leaves of a tree, and its structure."""
    leaves: list[Any] = []
    return leaves, TreeSpec._of(_flatten(tree, leaves, lambda x: tree_is_leaf(x, is_leaf)))


def tree_unflatten(leaves: Iterable[Any], treespec: TreeSpec) -> PyTree:
    """The tree of a structure with these leaves."""
    if not isinstance(treespec, TreeSpec):
        raise KilnTypeError(
            "tree_unflatten", "Expected `treespec` to be an instance of TreeSpec", describe(treespec),
            "tree_unflatten(leaves, treespec)",
        )  # fmt: skip
    return treespec.unflatten(leaves)


def tree_iter(tree: PyTree, is_leaf: IsLeaf = None) -> Iterator[Any]:
    """The leaves of a tree, one after the other."""
    yield from tree_flatten(tree, is_leaf)[0]


def tree_leaves(tree: PyTree, is_leaf: IsLeaf = None) -> list[Any]:
    """The leaves of a tree."""
    return tree_flatten(tree, is_leaf)[0]


def tree_structure(tree: PyTree, is_leaf: IsLeaf = None) -> TreeSpec:
    """The structure of a tree."""
    return tree_flatten(tree, is_leaf)[1]


def tree_map(func: Callable[..., Any], tree: PyTree, *rests: PyTree, is_leaf: IsLeaf = None) -> PyTree:  # fmt: skip
    """The tree of what `func` gives for each leaf, and what the other trees have there."""
    leaves, spec = tree_flatten(tree, is_leaf)
    return spec.unflatten(map(func, leaves, *(spec.flatten_up_to(r) for r in rests)))


def tree_map_(func: Callable[..., Any], tree: PyTree, *rests: PyTree, is_leaf: IsLeaf = None) -> PyTree:  # fmt: skip
    """Call `func` for each leaf, and what the other trees have there; returns the tree."""
    tree_map(func, tree, *rests, is_leaf=is_leaf)
    return tree


def map_only(type_or_types_or_pred: Any, /) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:  # fmt: skip
    """Have a function apply to what is of a type (or of one of several, or what a predicate says yes to) only."""
    applies: Any = type_or_types_or_pred
    if isinstance(applies, type | tuple) or hasattr(applies, "__args__"):
        return lambda func: lambda x: func(x) if isinstance(x, applies) else x
    if callable(applies):
        return lambda func: lambda x: func(x) if applies(x) else x
    raise KilnTypeError(
        "map_only", "Argument must be a type, a tuple of types, or a callable.", describe(applies)
    )


def tree_map_only(type_or_types_or_pred: Any, /, func: Callable[[Any], Any], tree: PyTree, is_leaf: IsLeaf = None) -> PyTree:  # fmt: skip
    """`tree_map` of the leaves of a type, or of one of several, or that a predicate says yes to."""
    return tree_map(map_only(type_or_types_or_pred)(func), tree, is_leaf=is_leaf)


def tree_map_only_(type_or_types_or_pred: Any, /, func: Callable[[Any], Any], tree: PyTree, is_leaf: IsLeaf = None) -> PyTree:  # fmt: skip
    """`tree_map_` of the leaves of a type, or of one of several, or that a predicate says yes to."""
    return tree_map_(map_only(type_or_types_or_pred)(func), tree, is_leaf=is_leaf)


def tree_all(pred: Callable[[Any], bool], tree: PyTree, is_leaf: IsLeaf = None) -> bool:
    """Whether `pred` holds for all leaves."""
    return all(map(pred, tree_iter(tree, is_leaf)))


def tree_any(pred: Callable[[Any], bool], tree: PyTree, is_leaf: IsLeaf = None) -> bool:
    """Whether `pred` holds for any leaf."""
    return any(map(pred, tree_iter(tree, is_leaf)))


def tree_all_only(type_or_types: Any, /, pred: Callable[[Any], bool], tree: PyTree, is_leaf: IsLeaf = None) -> bool:  # fmt: skip
    """Whether `pred` holds for all leaves of a type."""
    return all(pred(x) for x in tree_iter(tree, is_leaf) if isinstance(x, type_or_types))


def tree_any_only(type_or_types: Any, /, pred: Callable[[Any], bool], tree: PyTree, is_leaf: IsLeaf = None) -> bool:  # fmt: skip
    """Whether `pred` holds for any leaf of a type."""
    return any(pred(x) for x in tree_iter(tree, is_leaf) if isinstance(x, type_or_types))


def _broadcast_to_and_flatten(tree: PyTree, treespec: TreeSpec, is_leaf: IsLeaf = None) -> list[Any] | None:  # fmt: skip
    """The leaves of a tree, each as often as a structure that it is the beginning of has leaves there."""
    leaves, spec = tree_flatten(tree, is_leaf)
    try:
        parts = spec.flatten_up_to(treespec.unflatten([0] * treespec.num_leaves))
    except ValueError:
        return None
    return [x for x, part in zip(leaves, parts, strict=True) for _ in tree_iter(part, is_leaf)]


def arg_tree_leaves(*args: PyTree, **kwargs: PyTree) -> list[Any]:
    """The leaves of the arguments."""
    return tree_leaves((*args, *kwargs.values()))


# ---------------------------------------------------------------- with paths


def _paths(path: KeyPath, tree: PyTree, is_leaf: IsLeaf) -> Iterator[tuple[KeyPath, Any]]:
    if tree_is_leaf(tree, is_leaf):
        yield path, tree
        return
    kind = _node_type(tree)
    if kind in NODES:
        with_keys = NODES[kind].flatten_with_keys  # type: ignore[index]
        if with_keys is None:
            raise KilnValueError(
                "tree_flatten_with_path", f"Did not find a flatten_with_keys_fn for type: {kind}", None,
                "pass flatten_with_keys_fn to register_pytree_node",
            )  # fmt: skip
        pairs: Iterable[tuple[Any, Any]] = with_keys(tree)[0]
    elif kind in _DICTS:
        pairs = ((MappingKey(k), v) for k, v in tree.items())
    elif kind is namedtuple:
        pairs = ((GetAttrKey(n), getattr(tree, n)) for n in tree._fields)
    else:
        pairs = ((SequenceKey(i), v) for i, v in enumerate(tree))
    for key, value in pairs:
        yield from _paths((*path, key), value, is_leaf)


def tree_flatten_with_path(tree: PyTree, is_leaf: IsLeaf = None) -> tuple[list[tuple[KeyPath, Any]], TreeSpec]:  # fmt: skip
    """The leaves of a tree with their paths, and its structure."""
    return list(_paths((), tree, is_leaf)), tree_structure(tree, is_leaf)


def tree_leaves_with_path(tree: PyTree, is_leaf: IsLeaf = None) -> list[tuple[KeyPath, Any]]:
    """The leaves of a tree with their paths."""
    return list(_paths((), tree, is_leaf))


def tree_map_with_path(func: Callable[..., Any], tree: PyTree, *rests: PyTree, is_leaf: IsLeaf = None) -> PyTree:  # fmt: skip
    """The tree of what `func` gives for each path, the leaf there, and what the other trees have there."""
    leaves, spec = tree_flatten_with_path(tree, is_leaf)
    others = [spec.flatten_up_to(r) for r in rests]
    return spec.unflatten([func(*leaf, *more) for leaf, *more in zip(leaves, *others, strict=True)])


# ---------------------------------------------------------------- as text


def _register_namedtuple(cls: type[Any], *, serialized_type_name: str) -> None:
    """Have `treespec_dumps` write a named tuple under a name."""
    NAMES[cls] = serialized_type_name


def _written(spec: TreeSpec) -> dict[str, Any]:
    kind, context = spec.type, spec.context
    if kind is None:
        return {"type": None, "context": None, "children_spec": []}
    if kind not in NAMES:
        raise KilnNotImplementedError(
            "treespec_dumps", f"Serializing {kind} in pytree is not registered.", None, "pass serialized_type_name to "
            "register_pytree_node",
        )  # fmt: skip
    if kind is namedtuple:
        if context not in NAMES:
            raise KilnNotImplementedError(
                "treespec_dumps", f"Can't serialize namedtuple of type {context}", None, "_register_namedtuple(cls, "
                "serialized_type_name=…)",
            )  # fmt: skip
        context = NAMES[context]
    elif kind is defaultdict:
        factory = context[0]
        if factory not in _FACTORIES.values():
            raise KilnNotImplementedError(
                "treespec_dumps", "a default_factory that is no class of Python's own can't be written", describe(factory)
            )  # fmt: skip
        context = {
            "default_factory": getattr(factory, "__name__", None),
            "dict_context": context[1],
        }
    elif kind in TO_DUMPABLE:
        context = TO_DUMPABLE[kind](context)
    try:
        text = json.dumps(context)
    except TypeError as e:
        raise KilnTypeError(
            "treespec_dumps", f"Unable to serialize context: {e}", describe(context), "pass to_dumpable_context to "
            "register_pytree_node",
        ) from e  # fmt: skip
    return {
        "type": NAMES[kind], "context": text, "children_spec": [_written(c) for c in spec.children()],
    }  # fmt: skip


_FACTORIES: dict[str | None, Any] = {None: None, **{t.__name__: t for t in (int, float, complex, bool, str, bytes, list, tuple, dict, set)}}  # fmt: skip


def _read(data: dict[str, Any]) -> TreeSpec:
    if data["type"] is None:
        return treespec_leaf()
    kind = next((t for t, name in NAMES.items() if name == data["type"]), None)
    if kind is None:
        raise KilnNotImplementedError("treespec_loads", f"Deserializing {data['type']} in pytree is not registered.", None)  # fmt: skip
    context = json.loads(data["context"])
    if kind is namedtuple:
        context = next(t for t, name in NAMES.items() if name == context)
    elif kind is defaultdict:
        context = [_FACTORIES[context["default_factory"]], context["dict_context"]]
    elif kind in FROM_DUMPABLE:
        context = FROM_DUMPABLE[kind](context)
    return TreeSpec(kind, context, [_read(c) for c in data["children_spec"]])


def treespec_dumps(treespec: TreeSpec, protocol: int | None = None) -> str:
    """A structure as JSON, as PyTorch writes it (protocol 1)."""
    if protocol not in (None, 1):
        raise KilnValueError("treespec_dumps", f"Unknown protocol {protocol}. Available protocols: [1]", protocol)  # fmt: skip
    if not isinstance(treespec, TreeSpec):
        raise KilnTypeError("treespec_dumps", "Expected `treespec` to be an instance of TreeSpec", describe(treespec))  # fmt: skip
    return json.dumps([1, _written(treespec)])


def treespec_loads(serialized: str) -> TreeSpec:
    """The structure that `treespec_dumps` wrote."""
    protocol, data = json.loads(serialized)
    if protocol != 1:
        raise KilnValueError("treespec_loads", f"Unknown protocol {protocol}. Available protocols: [1]", protocol)  # fmt: skip
    return _read(data)


class _Asterisk(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "*"


def treespec_pprint(treespec: TreeSpec) -> str:
    """A structure as the tree that it is, with * for leaves."""
    return repr(treespec.unflatten([_Asterisk("*")] * treespec.num_leaves))


__all__ = [
    "Context", "DumpableContext", "FlattenFn", "FromDumpableContextFn", "LeafSpec", "PyTree", "PyTreeSpec",
    "ToDumpableContextFn", "TreeSpec", "UnflattenFn", "is_namedtuple", "is_namedtuple_class", "is_namedtuple_instance",
    "is_structseq", "is_structseq_class", "is_structseq_instance", "key_get", "keystr", "register_pytree_node",
    "tree_all", "tree_all_only", "tree_any", "tree_any_only", "tree_flatten", "tree_flatten_with_path", "tree_is_leaf",
    "tree_iter", "tree_leaves", "tree_leaves_with_path", "tree_map", "tree_map_", "tree_map_only", "tree_map_only_",
    "tree_map_with_path", "tree_structure", "tree_unflatten", "treespec_dumps", "treespec_loads", "treespec_pprint",
]  # fmt: skip
