"""Type stubs of what is derived from the registry, for type checkers and editors.

    python -m kiln.ops.stubs          writes them
    python -m kiln.ops.stubs --check  fails where they are out of date

Functions and methods that the registry makes are not in any source file; these stubs are where a
type checker, or somebody looking for a signature, finds them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import kiln

from .. import dtypes as dt
from ..tensor import Tensor
from .numpy_names import NAMES
from .registry import FUNCTIONS, METHODS, REGISTRY, Op

ROOT = Path(__file__).resolve().parents[1]
HEADER = '''"""{doc} Derived from the op registry by `python -m kiln.ops.stubs`."""

import builtins
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

'''
KNOWN = {
    "Any", "Callable", "Iterable", "Iterator", "None", "Number", "Operand", "Sequence", "Size", "Tensor",
    "VarInts", "dict", "list", "np", "object", "str", "tuple", "type",
}  # fmt: skip
SHADOWED = {"bool", "int", "float", "complex"}  # kiln.float is a dtype


def annotation(text: Any) -> str:
    """An annotation as it stands in a stub; `Any` where it uses names of its own module."""
    if not isinstance(text, str):
        text = getattr(text, "__name__", "Any") if text is not None else "None"
    text = text.replace("dt.dtype", "dtype")
    try:
        names = {n.id for n in ast.walk(ast.parse(text, mode="eval")) if isinstance(n, ast.Name)}
    except SyntaxError:
        return "Any"
    if names - KNOWN - SHADOWED - {"dtype"}:
        return "Any"
    text = re.sub(r"\bdtype\b", "_dtype", text)
    return re.sub(r"(?<![\w.])(bool|int|float|complex)\b", r"builtins.\1", text)


def result_class(op: Op) -> str:
    """The named tuple that an op with several outputs returns."""
    fields = "".join(f"    {n}: Tensor\n" for n in op.result_names.replace(",", " ").split())
    return f"class {op.name}_result(NamedTuple):\n{fields}\n"


def _types(fn: Callable) -> tuple[dict[str, Any], str]:
    """Annotations by parameter, and that of the result."""
    op: Op | None = getattr(fn, "op", None)
    if op is None:
        found = dict(getattr(getattr(fn, "__wrapped__", fn), "__annotations__", {}))
        found |= {other: found[n] for n, other in NAMES.items() if n in found}
        return found, annotation(found.get("return", "Any"))
    found = dict(op.annotations)
    found |= {other: found.get(n, "Any") for n, other in NAMES.items()}
    for p in op.params:
        if p.variadic:
            found["_" + p.name] = found[p.name] = "Any"
    found["out"] = "Any" if op.result_names else "Tensor | None"
    return found, f"{op.name}_result" if op.result_names else annotation(
        found.get("return", "Tensor")
    )


def _parameters(fn: Callable) -> list[inspect.Parameter]:
    """A function's parameters; those of a composition with its `out=`."""
    found = list(inspect.signature(fn).parameters.values())
    if hasattr(fn, "__wrapped__"):
        found.append(inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None))
    return found


def definition(name: str, fn: Callable, indent: str = "", method: bool = False) -> str:
    """A function's line in a stub."""
    fn = getattr(fn, "plain", fn)
    kinds, result = _types(fn)
    parts, star, slash = [], False, False
    for i, p in enumerate(_parameters(fn)):
        text = "self" if method and i == 0 else p.name
        if not (method and i == 0):
            text += f": {annotation(kinds.get(p.name, 'Any'))}"
        if p.kind is p.VAR_POSITIONAL:
            text, star = "*" + text, True
        elif p.kind is p.VAR_KEYWORD:
            text = "**" + text
        else:
            if p.kind is p.KEYWORD_ONLY and not star:
                parts.append("*")
                star = True
            if slash and p.kind is not p.POSITIONAL_ONLY:
                parts.append("/")
            slash = p.kind is p.POSITIONAL_ONLY
            if p.default is not p.empty:
                text += " = ..."
        parts.append(text)
    if name.endswith("_") and not name.startswith("_"):
        result = "Tensor"
    return f"{indent}def {name}({', '.join(parts)}) -> {result}: ...\n"


def _imports(level: str) -> str:
    names = {"dtypes": "dtype as _dtype", "shape": "Size", "tensor": "Tensor"}
    lines = [f"from {level}{m} import {n}\n" for m, n in names.items()]
    return (
        lines[0]
        + f"from {level}ops.registry import Number, Operand, VarInts\n"
        + "".join(lines[1:])
    )


def _written() -> set[str]:
    """The names in the body of class Tensor: all others are bound to it from elsewhere."""
    tree = ast.parse((ROOT / "tensor.py").read_text())
    (body,) = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Tensor")
    names = {n.name for n in body if isinstance(n, ast.FunctionDef)}
    targets = [t for n in body if isinstance(n, ast.Assign) for t in n.targets]
    return names | {t.id for t in targets if isinstance(t, ast.Name)}


def tensor_methods() -> str:
    """`_tensor_methods.pyi`: what is bound to Tensor from the registry and beside it."""
    text = HEADER.format(doc="Tensor's derived methods.") + _imports(".") + "\n"
    text += "".join(result_class(o) for o in REGISTRY.values() if o.result_names)
    text += "class TensorMethods:\n"
    written = _written() | set(vars(object)) - {
        "__eq__",
        "__ne__",
        "__lt__",
        "__le__",
        "__gt__",
        "__ge__",
    }
    for name, value in sorted(vars(Tensor).items()):
        if name in written or (name.startswith("_") and not name.startswith("__")):
            continue
        if isinstance(value, property):
            text += f"    @property\n    def {name}(self) -> Tensor: ...\n"
            if value.fset is not None:
                text += f"    @{name}.setter\n    def {name}(self, value: Any) -> None: ...\n"
        elif isinstance(value, types.FunctionType):
            if name.startswith("__") and name not in METHODS:
                alone = name in ("__neg__", "__abs__", "__invert__", "__pos__")
                text += f"    def {name}(self{'' if alone else ', other: Any'}) -> Tensor: ...\n"
            else:
                text += definition(name, value, "    ", method=True)
    return text


def package() -> str:
    """`__init__.pyi`: everything that `kiln` offers."""
    imports = (
        _imports(".")
        .replace("import Size", "import Size as Size")
        .replace("import Tensor", "import Tensor as Tensor")
    )
    text = HEADER.format(doc="Everything that `kiln` offers.") + imports + "\n"
    text += imports_of(o.name + "_result" for o in _public_results(FUNCTIONS, "")) + "\n"
    modules, imports, values, functions = "", "", "", ""
    for name in sorted(set(dir(kiln))):
        if (name.startswith("_") and name != "__version__") or name in ("Any", "Size", "Tensor"):
            continue
        value = kiln._LAZY_MODULES and (name in kiln._LAZY_MODULES)
        if value and name not in kiln._LAZY_NAMES:
            if (ROOT / name).exists() or (ROOT / f"{name}.py").exists():
                modules += f"from . import {name} as {name}\n"
            continue
        if name in kiln._LAZY_NAMES:
            source = kiln._LAZY_NAMES[name]
            imports += f"from .{source} import {name} as {name}\n"
            continue
        value = getattr(kiln, name)
        if isinstance(value, types.ModuleType):
            continue
        if isinstance(value, dt.dtype):
            values += f"{name}: _dtype\n"
        elif name in FUNCTIONS or getattr(value, "__module__", "") == "kiln":
            functions += definition(name, value)
        elif callable(value):
            imports += f"from {value.__module__.replace('kiln', '', 1)} import {name} as {name}\n"
        else:
            kind = "Any" if value is None else f"builtins.{type(value).__name__}"
            values += f"{name}: {kind}\n"
    return text + modules + imports + "\n" + values + "\n" + functions


def _public_results(functions: dict[str, Callable], prefix: str) -> list[Op]:
    found = {}
    for name, fn in functions.items():
        op = getattr(fn, "op", None)
        if (
            name.startswith(prefix)
            and "." not in name.removeprefix(prefix)
            and op
            and op.result_names
        ):
            found[op.name] = op
    return list(found.values())


def imports_of(names: Iterable[str], level: str = ".") -> str:
    """An import of result classes."""
    names = sorted(names)
    return f"from {level}_tensor_methods import {', '.join(names)}\n" if names else ""


def room(name: str, doc: str) -> str:
    """The stub of a module whose functions all come from the registry."""
    level = "." * (name.count(".") + 1)
    text = HEADER.format(doc=doc) + _imports(level) + "\n"
    results = _public_results(FUNCTIONS, name + ".")
    text += imports_of((o.name + "_result" for o in results), level) + "\n"
    module = importlib.import_module(f"kiln.{name}")
    for n in sorted(module.__all__):
        value = getattr(module, n)
        if isinstance(value, type):
            text += f"from {level}{value.__module__.removeprefix('kiln.')} import {n} as {n}\n"
        else:
            text += definition(n, value)
    return text


STUBS: dict[str, Callable[[], str]] = {
    "_tensor_methods.pyi": tensor_methods, "__init__.pyi": package,
    "nn/functional.pyi": lambda: room("nn.functional", "The functional API of layers."),
    "fft.pyi": lambda: room("fft", "Discrete Fourier transforms."),
    "special.pyi": lambda: room("special", "Special functions."),
    "linalg.pyi": lambda: room("linalg", "Linear algebra."),
    "masked.pyi": lambda: room("masked", "Reductions and normalisations under masks."),
    "signal/windows.pyi": lambda: room("signal.windows", "Windows of signals."),
}  # fmt: skip


def outdated() -> list[str]:
    """The stubs whose files are not what the registry says."""
    return [
        name
        for name, make in STUBS.items()
        if not (ROOT / name).exists() or (ROOT / name).read_text() != make()
    ]


def main(argv: list[str]) -> int:
    """Write the stubs, or only check them."""
    stale = outdated()
    if "--check" in argv:
        for name in stale:
            print(f"{name} is out of date: python -m kiln.ops.stubs")
        return bool(stale)
    for name in stale:
        (ROOT / name).write_text(STUBS[name]())
        print(f"wrote {ROOT / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
