"""Whole objects in PyTorch's files: their class by name, and their attributes.

Reading one runs no code, of the file or of the class: an object is made by `object.__new__` and its
attributes are set. Classes are found among the modules that this process has imported already, and only
for `kiln.load(..., weights_only=False)`; those with code of their own for making, reading or deleting
objects are refused. https://docs.python.org/3/library/pickle.html#object.__reduce__
"""

from __future__ import annotations

import abc
import argparse
import copyreg
import functools
import importlib
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import KilnError
from ..naming import home
from ..ops.registry import FUNCTIONS
from ..torch_names import MODULES, public_module
from .pickled import Call, Function, Global

_HARMLESS: dict[str, Callable] = {
    "pathlib.PosixPath": pathlib.PurePath, "pathlib.WindowsPath": pathlib.PureWindowsPath,
    "pathlib.PurePosixPath": pathlib.PurePosixPath, "pathlib.PureWindowsPath": pathlib.PureWindowsPath,
}  # fmt: skip
_METACLASSES = (type, abc.ABCMeta)


# ---------------------------------------------------------------- writing


def reduce(x: Any) -> Call | Global | None:
    """What stands for an object in a file; None where it can't be written."""
    if isinstance(x, np.ndarray | np.generic | np.dtype):
        return _numbers(x)
    if isinstance(x, type | types.FunctionType):
        return _name(x)
    if isinstance(x, pathlib.PurePath):
        return Call(Global("pathlib", type(x).__name__), tuple(x.parts))
    if type(x) is functools.partial:
        return Call(Global("functools", "partial"), (x.func,), None, (x.func, *within(x)))
    made = attributes(x)
    return None if made is None else Call(_name(type(x)), (), None, made, new=True)  # type: ignore[arg-type]


def within(x: Any) -> Any:
    """What an object that is no tensor and no container holds."""
    return (x.args, x.keywords, vars(x)) if type(x) is functools.partial else attributes(x)


def attributes(x: Any) -> dict[str, Any] | None:
    """The state of a plain object of a class that can be found again, else None."""
    kind = type(x)
    if kind.__module__ == "builtins" or kind.__new__ is not object.__new__ or _name(kind) is None:
        return None
    try:
        made = x.__reduce_ex__(2)
    except (TypeError, ValueError):
        return None
    if not isinstance(made, tuple) or made[0] is not copyreg.__newobj__ or made[1] != (kind,):  # type: ignore[attr-defined]
        return None
    state, *items = (*made[2:], None, None, None)[:3]
    if any(i is not None for i in items) or not isinstance(state, dict | None):
        return None
    return state or {}


def _name(x: Any) -> Global | None:
    """The name under which a class or function is found; Kiln's own go by PyTorch's."""
    public = _functions().get(x) if isinstance(x, types.FunctionType) else None
    if public is not None:
        return public
    module, name = home(x) if isinstance(x, type) else x.__module__, x.__qualname__
    if module == "builtins" or getattr(sys.modules.get(module), name, None) is not x:
        return None
    if module == "kiln" or module.startswith("kiln."):
        module = public_module(module, name)
    return Global(module, name)


@functools.cache
def _functions() -> dict[Any, Global]:
    """The public names of Kiln's functions on tensors: of `torch.nn.functional` where it has them, as in PyTorch's files."""

    def rank(item: tuple[str, Any]) -> tuple[int, bool]:
        room, _, name = item[0].rpartition(".")
        return ("", "nn.functional").index(room) if room in (
            "",
            "nn.functional",
        ) else -1, name == item[1].__name__

    functions = [x for x in FUNCTIONS.items() if isinstance(x[1], types.FunctionType)]
    return {
        f: Global(*f"torch.{name}".rpartition(".")[::2]) for name, f in sorted(functions, key=rank)
    }


def _numbers(x: Any) -> Call | None:
    """NumPy's arrays, numbers and dtypes."""
    if isinstance(x, np.dtype):
        if x.kind not in "biufcSU":
            return None
        order = "|" if x.itemsize == 1 or x.kind == "S" else "<"
        size = x.itemsize if x.kind in "SU" else -1
        state = (3, order, None, None, None, size, 4 if x.kind == "U" else size, 0)
        return Call(Global("numpy", "dtype"), (x.str.lstrip("<>|="), False, True), None, state)
    if x.dtype.kind not in "biufcSU":
        return None
    x = x.astype(x.dtype.newbyteorder("<")) if x.dtype.byteorder == ">" else x
    if isinstance(x, np.generic):
        return Call(Global("numpy.core.multiarray", "scalar"), (x.dtype, x.tobytes()))
    made = (Global("numpy", "ndarray"), (0,), b"b")
    state = (1, x.shape, x.dtype, False, x.tobytes())
    return Call(Global("numpy.core.multiarray", "_reconstruct"), made, None, state)


# ---------------------------------------------------------------- reading


def find(module: str, name: str) -> Any:
    """What a name stands for where whole objects are wanted: a class, or a function of Kiln's; else None."""
    full = f"{module}.{name}"
    if full in _HARMLESS:
        return Function(_HARMLESS[full])
    if full == "functools.partial":
        return Function(_partial, _fill_partial)
    if full == "builtins.getattr":
        return Function(_builtin)
    if full == "torch._C._VariableFunctionsClass":
        return _VARIABLE_FUNCTIONS
    if _torch(module):
        x = (
            FUNCTIONS.get(f"{_BUILTIN[module]}{name.removeprefix(module[10:] + '_')}")
            if module in _BUILTIN
            else ours(module, name)
        )
        if isinstance(x, types.FunctionType):
            return x if x.__module__.partition(".")[0] == "kiln" else None
    else:
        there = sys.modules.get(module)
        x = vars(there).get(name) if isinstance(there, types.ModuleType) else None
    if not isinstance(x, type) or not _plain(x):
        return None
    return Function(_never, _build, lambda: object.__new__(x), x)


_VARIABLE_FUNCTIONS = object()
_BUILTIN = {
    "torch._C._nn": "nn.functional.", "torch._C._linalg": "linalg.", "torch._C._special": "special.", "torch._C._fft": "fft.",
}  # fmt: skip
"""Where PyTorch's files find functions that it has from C++."""


def _builtin(room: Any, name: str) -> Any:
    """A function by the name that `torch` has it by: all that getattr in a file may ask for."""
    if room is not _VARIABLE_FUNCTIONS or not isinstance(FUNCTIONS.get(name), types.FunctionType):
        raise ValueError(f"an attribute {name!r}")
    return FUNCTIONS[name]


def _partial(f: Any) -> functools.partial:
    """A function or class of the file with arguments, which its state says; nothing calls it."""
    if not isinstance(f, type | types.FunctionType):
        raise ValueError("a partial of what is no function")
    return functools.partial(f)


def _fill_partial(x: functools.partial, state: Any) -> None:
    f, args, keywords, attributes = state
    if f is not x.func or (type(args), type(keywords), type(attributes or {})) != (
        tuple,
        dict,
        dict,
    ):
        raise ValueError("a partial of another function, or of no arguments")
    x.__setstate__(state)  # type: ignore[attr-defined]


def _torch(module: str) -> bool:
    return module.partition(".")[0] in ("torch", "torchvision")


def ours(module: str, name: str) -> Any:
    """What Kiln has under one of PyTorch's names, else None; the room's own where its files differ.

    Nothing else is imported: a file could name modules that do something when they are.
    """
    if not _torch(module):
        return None
    room = ".".join(module.split(".")[:2])
    if room in ("torch.nn", "torch.optim", "torchvision.models", "torchvision.ops"):
        importlib.import_module(_kiln(room))
    for candidate in (module, room):
        found = sys.modules.get(_kiln(candidate))
        if found is not None and name in vars(found):
            return vars(found)[name]
    return None


def _kiln(module: str) -> str:
    """The module of Kiln that one of PyTorch's stands for, which may not be there."""
    if module in MODULES:
        return MODULES[module]
    above, _, last = module.rpartition(".")
    return f"{_kiln(above)}.{last}"


def _plain(kind: type) -> bool:
    """Whether no code of a class runs where an object is made, given its attributes and deleted."""
    if type(kind) not in _METACLASSES or kind.__new__ is not object.__new__:
        return False
    if kind.__module__.partition(".")[0] in sys.stdlib_module_names:
        return kind is argparse.Namespace
    return all(
        c is object
        or (
            "__del__" not in vars(c)
            and ("__setstate__" not in vars(c) or home(c).startswith("kiln."))
        )
        for c in kind.__mro__
    )


def _never(*_: Any) -> Any:
    raise ValueError("a call of a class")


def _build(x: Any, state: Any) -> None:
    """Set the attributes of an object."""
    if type(state) is not dict or not all(type(k) is str for k in state):
        raise ValueError("a state that is no dict of attributes")
    if hasattr(x, "__setstate__"):
        x.__setstate__(state)
        return
    try:
        vars(x).update(state)
    except TypeError:
        raise KilnError("load", "an object without attributes was given some", None) from None
