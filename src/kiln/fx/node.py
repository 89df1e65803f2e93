"""Nodes of a Graph of Python calls, and walks over their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import KilnError

Target = Callable[..., Any] | str
"""What a node calls: a function, or the name of a method, module, attribute or argument."""
Argument = Any

OPS = ("placeholder", "call_method", "call_module", "call_function", "get_attr", "output")
_EFFECTS: set[Any] = set()


def has_side_effect(fn: Callable) -> Callable:
    """A mark on functions whose calls are kept though nothing reads their results."""
    _EFFECTS.add(fn)
    return fn


def map_aggregate(a: Any, fn: Callable[[Any], Any]) -> Any:
    """A function of each leaf of nested tuples, lists, dicts and slices."""
    if isinstance(a, tuple):
        parts = [map_aggregate(x, fn) for x in a]
        return type(a)(*parts) if hasattr(a, "_fields") else tuple(parts)
    if isinstance(a, list):
        return [map_aggregate(x, fn) for x in a]
    if isinstance(a, dict):
        return {k: map_aggregate(v, fn) for k, v in a.items()}
    if isinstance(a, slice):
        return slice(
            map_aggregate(a.start, fn), map_aggregate(a.stop, fn), map_aggregate(a.step, fn)
        )
    return fn(a)


def map_arg(a: Any, fn: Callable[[Node], Any]) -> Any:
    """A function of each Node in nested arguments."""
    return map_aggregate(a, lambda x: fn(x) if isinstance(x, Node) else x)


class Node:
    """One call: `op` says of what kind, `target` what is called with `args` and `kwargs`; `users` read its result.

    `op` is "placeholder" (an argument), "get_attr", "call_function", "call_method", "call_module" or "output".
    """

    def __init__(
        self,
        graph: Any,
        name: str,
        op: str,
        target: Target,
        args: tuple,
        kwargs: dict[str, Any],
        return_type: Any = None,
    ):
        if op not in OPS:
            raise KilnError("fx.Node", "no such kind of node", repr(op), "one of " + ", ".join(OPS))
        self.graph, self.name, self.op, self.target, self.type = (
            graph,
            name,
            op,
            target,
            return_type,
        )
        self.users: dict[Node, None] = {}
        self._inputs: dict[Node, None] = {}
        self._args: tuple = ()
        self._kwargs: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        self._prev = self._next = self
        self._erased = False
        self._set(args, kwargs)

    def _set(self, args: tuple, kwargs: dict[str, Any]) -> None:
        for n in self._inputs:
            n.users.pop(self, None)
        self._inputs = {}
        self._args, self._kwargs = tuple(args), dict(kwargs)
        map_arg((self._args, self._kwargs), lambda n: self._inputs.setdefault(n))
        for n in self._inputs:
            n.users[self] = None

    @property
    def args(self) -> tuple:
        """Its arguments: nodes, values, and containers of them."""
        return self._args

    @args.setter
    def args(self, a: tuple) -> None:
        self._set(a, self._kwargs)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its arguments by name."""
        return self._kwargs

    @kwargs.setter
    def kwargs(self, k: dict[str, Any]) -> None:
        self._set(self._args, k)

    @property
    def all_input_nodes(self) -> list[Node]:
        """The nodes that it reads."""
        return list(self._inputs)

    @property
    def next(self) -> Node:
        """The node after it."""
        return self._next

    @property
    def prev(self) -> Node:
        """The node before it."""
        return self._prev

    @property
    def stack_trace(self) -> str | None:
        """Where it was traced, if that was kept."""
        return self.meta.get("stack_trace")

    def update_arg(self, idx: int, arg: Any) -> None:
        """Put another argument in a place."""
        args = list(self._args)
        args[idx] = arg
        self.args = tuple(args)

    def insert_arg(self, idx: int, arg: Any) -> None:
        """Put an argument before the one in a place."""
        self.args = (*self._args[:idx], arg, *self._args[idx:])

    def update_kwarg(self, key: str, arg: Any) -> None:
        """Put another argument under a name."""
        self.kwargs = {**self._kwargs, key: arg}

    def replace_input_with(self, old_input: Node, new_input: Node) -> None:
        """Read one node in place of another."""
        self._set(
            *map_arg((self._args, self._kwargs), lambda n: new_input if n is old_input else n)
        )

    def replace_all_uses_with(
        self,
        replace_with: Node,
        delete_user_cb: Callable[[Node], bool] = lambda _: True,
        *,
        propagate_meta: bool = False,
    ) -> list[Node]:
        """Have another node read in place of this one; gives the nodes that read it."""
        if propagate_meta:
            replace_with.meta.update(self.meta)
        changed = [u for u in self.users if delete_user_cb(u)]
        for u in changed:
            u.replace_input_with(self, replace_with)
        return changed

    def prepend(self, x: Node) -> None:
        """Move a node before this one."""
        x._remove()
        x._prev, x._next = self._prev, self
        self._prev._next = self._prev = x

    def append(self, x: Node) -> None:
        """Move a node after this one."""
        self._next.prepend(x)

    def _remove(self) -> None:
        self._prev._next, self._next._prev = self._next, self._prev

    def is_impure(self) -> bool:
        """Whether it is kept though nothing reads it."""
        if self.op in ("placeholder", "output"):
            return True
        if self.op == "call_function":
            return self.target in _EFFECTS
        return (
            self.op == "call_method"
            and str(self.target).endswith("_")
            and not str(self.target).endswith("__")
        )

    def format_node(self) -> str:
        """The node in one line."""
        from .code import node_text

        return node_text(self)

    def __repr__(self) -> str:
        return self.name
