"""A Graph as Python: PyTorch's text for it, to the letter, so that what programs print is the same."""

from __future__ import annotations

import builtins
import operator
import re
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from .. import naming
from ..device import device
from ..dtypes import dtype
from ..formats import layout, memory_format
from ..ops.registry import FUNCTIONS
from ..tensor import Tensor
from .node import Node, map_arg

_INFIX: dict[Any, str] = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//", operator.mod: "%",
    operator.matmul: "@", operator.pow: "**", operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=",
    operator.eq: "==", operator.ne: "!=", operator.and_: "&", operator.or_: "|", operator.xor: "^", operator.lshift: "<<",
    operator.rshift: ">>",
}  # fmt: skip
_PREFIX: dict[Any, str] = {operator.neg: "-", operator.pos: "+", operator.invert: "~"}
_INPLACE: dict[Any, str] = {
    operator.iadd: "+=", operator.isub: "-=", operator.imul: "*=", operator.itruediv: "/=", operator.ifloordiv: "//=",
    operator.imod: "%=", operator.imatmul: "@=", operator.ipow: "**=", operator.iand: "&=", operator.ior: "|=",
    operator.ixor: "^=", operator.ilshift: "<<=", operator.irshift: ">>=",
}  # fmt: skip


@dataclass
class PythonCode:
    """A Graph as a Python function: its text, and the names that the text reads."""

    src: str
    globals: dict[str, Any]


@cache
def _public() -> dict[Any, str]:
    """The public names of Kiln's functions: of `nn.functional` where it has them, as layers call those, and the one in its `def`."""

    def rank(item: tuple[str, Any]) -> tuple[bool, bool]:
        room, _, name = item[0].rpartition(".")
        return room == "nn.functional", name == getattr(item[1], "__name__", "")

    return {fn: name for name, fn in sorted(FUNCTIONS.items(), key=rank)}


def public_name(target: Any) -> str | None:
    """The name in full by which the process knows one of Kiln's functions; None for others."""
    try:
        name = _public().get(target)
    except TypeError:  # not hashable
        return None
    return None if name is None else f"{naming.name}.{name}"


def target_name(target: Any) -> str:
    """A target as text: a name, or a function's with its module."""
    if isinstance(target, str):
        return target
    if (name := public_name(target)) is not None:
        return name
    module = getattr(target, "__module__", "") or ""
    name = getattr(target, "__name__", type(target).__name__)
    return f"{module.replace('_operator', 'operator')}.{name}" if module else name


def argument_text(a: Any) -> str:
    """An argument as a Graph shows it: nodes by their names behind %."""
    if isinstance(a, Node):
        return f"%{a.name}"
    if isinstance(a, list):
        return f"[{', '.join(map(argument_text, a))}]"
    if isinstance(a, tuple) and not hasattr(a, "_fields"):
        return f"({', '.join(map(argument_text, a))}{',' if len(a) == 1 else ''})"
    if isinstance(a, dict):
        return "{" + ", ".join(f"{k}: {argument_text(v)}" for k, v in a.items()) + "}"
    return str(a)


def type_text(t: Any) -> str:
    """A type as annotations write it."""
    if isinstance(t, type):
        if issubclass(t, Tensor):
            return f"{naming.name}.Tensor"
        return t.__qualname__ if t.__module__ == "builtins" else f"{t.__module__}.{t.__qualname__}"
    return t if isinstance(t, str) else repr(t)


def node_text(n: Node) -> str:
    """A node in one line."""
    if n.op == "output":
        return f"return {n.args[0]}"
    kind = f"{type_text(n.type)} " if n.type else ""
    head = f"%{n.name} : {kind}[num_users={len(n.users)}] = {n.op}[target={target_name(n.target)}]"
    if n.op == "placeholder":
        return head + (f"(default={n.args[0]})" if n.args else "")
    if n.op == "get_attr":
        return head
    return f"{head}(args = {argument_text(n.args)}, kwargs = {argument_text(n.kwargs)})"


class _Writer:
    """Collects what the text reads beside the module."""

    def __init__(self, root: str):
        self.root = root
        self.names: dict[str, Any] = {}
        self._taken: dict[int, str] = {}

    def known(self, value: Any, name: str) -> str:
        """The name under which the text reads a value."""
        if (
            public_name(value) is not None
            or isinstance(value, dtype | memory_format | layout)
            or value is Tensor
        ):
            import kiln

            self.names[naming.name] = sys.modules.get(naming.name, kiln)
            return f"{naming.name}.Tensor" if value is Tensor else public_name(value) or repr(value)
        if isinstance(value, device):
            self.names["device"] = device
            return repr(value)
        if getattr(builtins, name.removeprefix("builtins."), None) is value:
            return name.removeprefix("builtins.")
        if id(value) not in self._taken:
            name = re.sub(r"\W+", "_", name)
            while name in self.names:
                name += "_"
            self.names[name], self._taken[id(value)] = value, name
        return self._taken[id(value)]

    def show(self, a: Any) -> str:
        """An argument."""
        show = self.show
        if isinstance(a, Node):
            return a.name
        if isinstance(a, tuple) and not hasattr(a, "_fields"):
            return f"({', '.join(map(show, a))}{',' if len(a) == 1 else ''})"
        if isinstance(a, list):
            return f"[{', '.join(map(show, a))}]"
        if isinstance(a, dict):
            return "{" + ", ".join(f"{k!r}: {show(v)}" for k, v in a.items()) + "}"
        if isinstance(a, slice):
            return f"slice({show(a.start)}, {show(a.stop)}, {show(a.step)})"
        if isinstance(a, tuple):
            return f"{self.known(type(a), type(a).__name__)}({', '.join(map(show, a))})"
        if a is None or a is ... or isinstance(a, bool | int | str | bytes):
            return "..." if a is ... else repr(a)
        if isinstance(a, float):
            if a != a or abs(a) == float("inf"):
                self.names[repr(a).lstrip("-")] = abs(a)
            return repr(a)
        if isinstance(a, type) and a.__module__ == "builtins":
            return a.__name__
        return self.known(a, getattr(a, "__name__", f"_{type(a).__name__}"))

    def call(self, args: tuple, kwargs: dict[str, Any]) -> str:
        """What stands between the parentheses of a call."""
        return ", ".join(
            [*map(self.show, args), *(f"{k} = {self.show(v)}" for k, v in kwargs.items())]
        )

    def attribute(self, path: str) -> str:
        """What the module has at a path."""
        out = self.root
        for part in path.split("."):
            out = f"{out}.{part}" if part.isidentifier() else f'getattr({out}, "{part}")'
        return out

    def line(self, n: Node) -> str:
        """The statement of a node that is neither an argument nor the result."""
        show, args = self.show, n.args
        target: Any = n.target
        if n.op == "get_attr":
            value = self.attribute(str(target))
        elif n.op == "call_module":
            value = f"{self.attribute(str(target))}({self.call(args, n.kwargs)})"
        elif n.op == "call_method":
            value = f"{show(args[0])}.{target}({self.call(args[1:], n.kwargs)})"
        elif target in _INFIX and len(args) == 2:
            value = f"{show(args[0])} {_INFIX[target]} {show(args[1])}"
        elif target in _PREFIX:
            value = f"{_PREFIX[target]}{show(args[0])}"
        elif target in _INPLACE:
            return (
                f"{show(args[0])} {_INPLACE[target]} {show(args[1])};  {n.name} = {show(args[0])}"
            )
        elif target is operator.getitem:
            value = f"{show(args[0])}[{show(args[1])}]"
        elif target is getattr and str(args[1]).isidentifier() and len(args) == 2:
            value = f"{show(args[0])}.{args[1]}"
        else:
            value = f"{self.known(target, target_name(target))}({self.call(args, n.kwargs)})"
        return f"{n.name} = {value}"


def python_code(nodes: list[Node], root_module: str) -> PythonCode:
    """The nodes of a Graph as a method `forward`; values are let go after their last use."""
    last: dict[Node, list[Node]] = {}
    seen: set[Node] = set()

    def ends(n: Node, at: Node) -> None:
        if n not in seen:
            seen.add(n)
            last.setdefault(at, []).append(n)

    for n in reversed(nodes):
        map_arg((n.args, n.kwargs), lambda x, n=n: ends(x, n))
    write = _Writer(root_module)
    heads, body = [root_module], ""
    for n in nodes:
        if n.op == "placeholder":
            free = str(n.target)
            kind = (
                ""
                if n.type is None or isinstance(n.type, str)
                else " : " + write.known(n.type, type_text(n.type))
            )
            heads.append(free + kind + (f" = {write.show(n.args[0])}" if n.args else ""))
            if free.lstrip("*") != n.name:
                body += f"{n.name} = {free.lstrip('*')}\n"
        elif n.op == "output":
            body += f"return {write.show(n.args[0])}\n"
        else:
            gone = [x.name for x in (*last.get(n, ()), *(() if n.users else (n,)))]
            body += write.line(n) + (f";  {' = '.join([*gone, 'None'])}" if gone else "") + "\n"
    lines = "\n".join(f"    {line}" for line in (body or "pass\n").split("\n"))
    return PythonCode(f"\n\n\ndef forward({', '.join(heads)}):\n{lines}", write.names)
