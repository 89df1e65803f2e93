"""Programs as data: Graphs of calls with the layers and tensors that they read, written and read without code.

What a Graph may call is Kiln's functions and Tensor's methods by name, Python's operators, `math`, and layers of `kiln.nn`.
A file can name nothing else, and nothing of it becomes Python text: `Program` walks the nodes.
"""

from __future__ import annotations

import copy
import math
import operator
import sys
from collections.abc import Callable
from functools import cache
from inspect import Parameter as Argument
from inspect import Signature
from types import FunctionType
from typing import Any

from .. import dtypes as dt
from .. import formats
from ..autograd.modes import no_grad
from ..device import device
from ..errors import KilnAssertionError, KilnError, KilnTypeError, KilnValueError, describe
from ..naming import home
from ..nn.modules.module import Module
from ..ops.registry import FUNCTIONS, METHODS
from ..shape import Size
from ..tensor import Tensor
from .code import target_name
from .graph import Graph
from .node import Node, map_arg

_OPERATORS = "add sub mul truediv floordiv mod matmul pow lshift rshift and_ or_ xor lt le gt ge eq ne getitem neg pos abs invert"
_METHODS = frozenset(
    [
        "detach",
        "dim",
        "element_size",
        "equal",
        "is_complex",
        "is_contiguous",
        "is_floating_point",
        "is_nonzero",
        "is_signed",
        "ndimension",
        "nelement",
        "numel",
        "size",
        "storage_offset",
        "stride",
        "where",
        "allclose",
        "requires_grad_",
        "cpu",
    ]
)
_FIELDS = frozenset(
    "H T mH mT real imag shape dtype device layout ndim itemsize nbytes requires_grad data".split()  # noqa: SIM905
)


@cache
def _functions() -> dict[str, Callable]:
    """What a Graph may call, by name."""
    out = {f"torch.{n}": f for n, f in FUNCTIONS.items() if n != "from_file"}
    out |= {f"operator.{n}": getattr(operator, n) for n in _OPERATORS.split()}
    out |= {f"math.{n}": f for n, f in vars(math).items() if n[0] != "_" and callable(f)}
    out["getattr"] = getattr
    return out


@cache
def _names() -> dict[Any, str]:
    return {f: n for n, f in reversed(_functions().items())}


class Program(Module):
    """A module that runs a Graph of calls node by node, one Graph for training and one for evaluation where both are there.

    Results, gradients and `state_dict` are those of the module that was traced.
    """

    def __init__(self, root: Module, graphs: dict[bool, Graph]):
        super().__init__()
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            getattr(self, name).update(getattr(root, name))
        self.training = root.training
        object.__setattr__(self, "_graphs", graphs)

    @property
    def graph(self) -> Graph:
        """The Graph of the present mode."""
        return self._graphs.get(self.training) or next(iter(self._graphs.values()))

    @property
    def code(self) -> str:
        """The Graph as Python text, to be read; it is not what runs."""
        return self.graph.python_code().src

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the Graph gives."""
        graph = self.graph
        given = signature(graph).bind(*args, **kwargs)
        given.apply_defaults()
        return self.run(graph, given.arguments)

    def run(self, graph: Graph, given: dict[str, Any]) -> Any:
        """What a Graph gives for placeholders by name. AssertionError where a fact that it relies on doesn't hold."""
        values: dict[Node, Any] = {}
        last = {i: n for n in graph.nodes for i in n.all_input_nodes}
        for n in graph.nodes:
            if n.op == "placeholder":
                values[n] = given[str(n.target).lstrip("*")]
                continue
            args, kwargs = map_arg((n.args, n.kwargs), values.__getitem__)
            if n.op == "output":
                return args[0]
            if n.meta.get("no_grad"):
                with no_grad():
                    values[n] = self._call(n, args, kwargs)
            else:
                values[n] = self._call(n, args, kwargs)
            expected = n.meta.get("expected")
            if expected is not None and values[n] != expected:
                raise KilnAssertionError(
                    "export", f"Guard failed: {n.format_node()} is {expected}", values[n],
                    "the program was exported for sizes of which this holds",
                )  # fmt: skip
            for i in n.all_input_nodes:
                if last[i] is n:
                    del values[i]
        return None

    def _call(self, n: Node, args: tuple, kwargs: dict[str, Any]) -> Any:
        if n.op == "call_function":
            return n.target(*args, **kwargs)  # type: ignore[operator]
        if n.op == "call_method":
            if not isinstance(args[0], Tensor | Size):
                raise KilnTypeError(
                    "fx.Program", f"{n.target} is no method of a tensor", describe(args[0])
                )
            return getattr(args[0], str(n.target))(*args[1:], **kwargs)
        found = attribute(self, str(n.target))
        return found(*args, **kwargs) if n.op == "call_module" else found

    def __deepcopy__(self, memo: dict) -> Program:
        out = copy.copy(self)
        out.__dict__ = {
            k: v if k == "_graphs" else copy.deepcopy(v, memo) for k, v in vars(self).items()
        }
        return out


def attribute(root: Module, path: str) -> Any:
    """A module, parameter or buffer of a module by its path."""
    *parts, last = path.split(".")
    for part in parts:
        root = root._modules[part]  # type: ignore[assignment]
    for held in (root._modules, root._parameters, root._buffers):
        if last in held:
            return held[last]
    raise KilnValueError("fx.Program", f"the Graph reads {path!r}, which is not there", None)


def signature(graph: Graph) -> Signature:
    """The arguments of a Graph, from its placeholders."""
    kinds = {"*": Argument.VAR_POSITIONAL, "**": Argument.VAR_KEYWORD}
    out, kind = [], Argument.POSITIONAL_OR_KEYWORD
    for n in graph.nodes:
        if n.op == "placeholder":
            name = str(n.target).lstrip("*")
            stars = kinds.get(str(n.target)[: -len(name)])
            out.append(
                Argument(name, stars or kind, default=n.args[0] if n.args else Argument.empty)
            )
            kind = Argument.KEYWORD_ONLY if stars else kind
    return Signature(out)


def skeleton(m: Module, called: set[str], path: str = "") -> Module:
    """A module of the same parameters, buffers and layers that are `called`, by path, without the classes of all others."""
    if path in called:
        return m
    out = Module()
    out.training = m.training
    for name in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
        getattr(out, name).update(getattr(m, name))
    for name, child in m._modules.items():
        out._modules[name] = (
            None if child is None else skeleton(child, called, f"{path}.{name}".lstrip("."))
        )
    return out


# ---------------------------------------------------------------- as data


def encode(program: Program, what: str) -> dict[str, Any]:
    """A program as containers of plain values and layers, for `decode`. KilnError names `what` and what can't be written."""
    for name, m in program.named_modules():
        why = _unfit(m) if m is not program else None
        if why:
            raise KilnError(what, f"{name} {why}", type(m).__name__, "write it without")
    called = {
        str(n.target) for g in program._graphs.values() for n in g.find_nodes(op="call_module")
    }
    root = skeleton(program, called)
    graphs = {training: _encode(g, what) for training, g in program._graphs.items()}
    return {"root": root, "training": graphs.get(True), "evaluation": graphs.get(False)}


def decode(content: dict[str, Any], what: str) -> tuple[Module, dict[bool, Graph]]:
    """The root and the Graphs of a program that `encode` wrote; KilnError where they are not what a program may hold."""
    root = content["root"]
    for name, m in root.named_modules():
        why = _unfit(m)
        if why:
            raise KilnError(
                what, f"{name or 'the module'} {why}", type(m).__name__, "use another copy"
            )
    graphs = {}
    for training, key in ((True, "training"), (False, "evaluation")):
        if content[key] is not None:
            graphs[training] = _decode(content[key], root, what)
    return root, graphs


def _unfit(m: Module) -> str | None:
    """Why a module is no layer that can be written: its class, hooks or functions."""
    kind = type(m)
    if (
        home(kind).split(".")[:2] != ["kiln", "nn"]
        or vars(sys.modules[home(kind)]).get(kind.__name__) is not kind
    ):
        return "is of a class that is no layer of kiln.nn"
    for key, value in vars(m).items():
        if key.endswith("_hooks") and value:
            return "has hooks, which are code"
        if isinstance(value, FunctionType) and value not in _names():
            return f"holds a function of its own ({key})"
        if key in ("forward", "__call__"):
            return f"has a {key} of its own"
    return None


def _encode(graph: Graph, what: str) -> list[list[Any]]:
    at: dict[Node, int] = {}

    def value(a: Any) -> Any:
        if a is None or type(a) in (bool, int, float, str):
            return a
        if isinstance(a, Node):
            return {"node": at[a]}
        if type(a) is list:
            return [value(x) for x in a]
        if type(a) in (tuple, Size):
            return {"tuple": [value(x) for x in a]}
        if type(a) is dict:
            return {"dict": [[value(k), value(v)] for k, v in a.items()]}
        if isinstance(a, slice):
            return {"slice": [value(a.start), value(a.stop), value(a.step)]}
        if a is ...:
            return {"ellipsis": 0}
        if isinstance(a, complex):
            return {"complex": [a.real, a.imag]}
        if isinstance(a, dt.dtype):
            return {"dtype": a.name}
        if isinstance(a, device):
            return {"device": str(a)}
        if isinstance(a, formats.layout | formats.memory_format):
            return {"format": str(a).rpartition(".")[2]}
        if isinstance(a, FunctionType) and a in _names():
            return {"function": _names()[a]}
        raise KilnTypeError(
            what, "the program holds what can't be written: it consists of tensors, numbers, strings and containers",
            describe(a), "",
        )  # fmt: skip

    out = []
    for n in graph.nodes:
        target: Any = n.target
        if n.op == "call_function":
            target = _names().get(n.target)
            if target is None:
                raise KilnError(
                    what, f"the program calls {target_name(n.target)}, which is no function of Kiln's", n.name,
                    "call it outside of the module, or write it in tensors' functions",
                )  # fmt: skip
        if n.op == "call_method" and not _is_method(str(target)):
            raise KilnError(
                what,
                f"the program calls {target}, which is no method of tensors that a program may call",
                n.name,
                "",
            )
        out.append([n.op, n.name, target, value(n.args), value(n.kwargs), {
            k: value(n.meta[k]) for k in ("no_grad", "expected") if k in n.meta}])  # fmt: skip
        at[n] = len(at)
    return out


def _is_method(name: str) -> bool:
    return name in METHODS or name in _METHODS


def _decode(nodes: list[list[Any]], root: Module, what: str) -> Graph:
    graph = Graph()
    made: list[Node] = []

    def value(a: Any) -> Any:
        if isinstance(a, list):
            return [value(x) for x in a]
        if not isinstance(a, dict):
            return a
        ((kind, x),) = a.items()
        if kind == "node":
            return made[x]
        if kind == "tuple":
            return tuple(value(y) for y in x)
        if kind == "dict":
            return {value(k): value(v) for k, v in x}
        if kind == "slice":
            return slice(*map(value, x))
        readers: dict[str, Callable[[Any], Any]] = {
            "ellipsis": lambda _: ..., "complex": lambda p: complex(*p), "dtype": dt.BY_NAME.__getitem__,
            "device": device, "format": formats.BY_NAME.__getitem__, "function": _functions().__getitem__,
        }  # fmt: skip
        return readers[kind](x)

    try:
        for op, name, target, args, kwargs, meta in nodes:
            wrong = (
                (op == "call_function" and target not in _functions())
                or (op == "call_method" and not _is_method(target))
                or (op == "placeholder" and not str(target).lstrip("*").isidentifier())
                or (op == "get_attr" and not isinstance(attribute(root, target), Tensor))
                or (op == "call_module" and not isinstance(attribute(root, target), Module))
            )  # fmt: skip
            if wrong or not name.isidentifier():
                raise ValueError(f"a {op} of {target} that no program has")
            called = _functions()[target] if op == "call_function" else target
            node = graph.create_node(op, called, value(args), value(kwargs), name)
            if called is getattr and (len(node.args) != 2 or node.args[1] not in _FIELDS):
                raise ValueError(f"an attribute that no program reads: {node.args}")
            node.meta.update({k: value(meta[k]) for k in ("no_grad", "expected") if k in meta})
            made.append(node)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        why = str(e).partition("\n")[0]
        raise KilnError(what, "the file's program is corrupt", why, "use another copy") from None
    return graph
