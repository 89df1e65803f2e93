"""The alias under which PyTorch programs run: after `install()`, `import torch` means Kiln in this process.

One rule: `torch.X` is `kiln.X`, for modules and for names. `torch_names` holds the exceptions, `VALUES` what has
another value under that name. PyTorch itself is never loaded, installed or not. A name that Kiln lacks is
an error that names it in full, with the nearest one that exists.

`from kiln.compat import torch` gives the same names without touching what `import torch` means.
"""

from __future__ import annotations

import builtins
import difflib
import importlib
import importlib.machinery
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, wraps
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from .. import naming
from ..errors import KilnError
from ..overrides import TorchFunctionMode, notice
from ..random import set_stream
from ..tensor import Tensor
from ..torch_names import MODULES, public_module, target_of
from ..torch_version import TorchVersion

VERSION = TorchVersion("2.13.0+kiln")
"""The version of PyTorch whose API this is."""

VALUES: dict[str, dict[str, Any]] = {
    "torch": {"__version__": VERSION},
    "torch.version": {"__version__": str(VERSION)},
}

_KEPT = (type, FunctionType, BuiltinFunctionType)


def _meet(value: Any) -> None:
    """A program comes to see a value: where it is a class of Kiln, those of its module take their public names."""
    if isinstance(value, type) and naming.name == "torch":
        ours = value.__module__
        if ours.partition(".")[0] == "kiln":
            _adopt(ours)


@cache
def _adopt(ours: str) -> None:
    """Have the classes of a module of Kiln say that they come from where PyTorch has them: programs print and compare that."""
    if ours.startswith(("kiln.errors", "kiln.compat")) or ours not in sys.modules:
        return
    for cls in list(vars(sys.modules[ours]).values()):
        if isinstance(cls, type) and cls.__module__ == ours and "." not in cls.__qualname__:
            public = public_module(ours, cls.__name__)
            if getattr(target_of(public), cls.__name__, None) is cls:
                naming.rename(cls, public)


class Face(ModuleType):
    """A module of Kiln under another name: what is read, set or deleted here is so there."""

    def __init__(self, name: str, target: ModuleType):
        super().__init__(name, target.__doc__)
        values: dict[str, Any] = {  # programs look up models in `torchvision.models.__dict__`
            n: v for n, v in vars(target).items() if n[0] != "_" and isinstance(v, _KEPT)
        }
        values |= {"_target": target, "__path__": [], **VALUES.get(name, {})}
        if getattr(target, "__file__", None):
            values["__file__"] = target.__file__
        self.__dict__.update(values)
        for value in values.values():
            _meet(value)
        if name == "torch":
            self.__dict__["torch"] = self  # as its own code has it: `torch.torch.Tensor` is written

    def __getattr__(self, name: str) -> Any:
        target: ModuleType = self.__dict__["_target"]
        if name == "__all__":
            listed = getattr(target, "__all__", None)
            return [n for n in dir(target) if n[0] != "_"] if listed is None else listed
        try:
            value = getattr(target, name)
        except AttributeError:
            full = f"{self.__name__}.{name}"
            if (name[:2] != "__" or full in MODULES) and target_of(full) is not None:
                return face(full)
            raise AttributeError(absent(full), name=name, obj=self) from None
        if isinstance(value, ModuleType) and not callable(value):
            if value.__name__.partition(".")[0] == "kiln":
                value = face(f"{self.__name__}.{name}")
        elif isinstance(value, _KEPT):
            self.__dict__[name] = value
            _meet(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Face) or (name[:2] == "__" and name[-2:] == "__"):
            if not isinstance(getattr(self.__dict__["_target"], name, None), FunctionType):
                self.__dict__[name] = (
                    value  # what the import system sets; `autograd.gradcheck` stays a function
                )
        else:
            self.__dict__.pop(name, None)
            setattr(self.__dict__["_target"], name, value)

    def __delattr__(self, name: str) -> None:
        cached = self.__dict__.pop(name, None) is not None
        if not cached or hasattr(self.__dict__["_target"], name):
            delattr(self.__dict__["_target"], name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self.__dict__["_target"]), *VALUES.get(self.__name__, {})})

    def __repr__(self) -> str:
        return f"<module '{self.__name__}' ({self.__dict__['_target'].__name__})>"

    def __reduce__(self) -> tuple:
        return importlib.import_module, (self.__name__,)


@cache
def face(name: str) -> Face:
    """The module of Kiln that is known by a name under the alias; ModuleNotFoundError where there is none."""
    target = target_of(name)
    if target is None:
        raise ModuleNotFoundError(absent(name), name=name.partition(".")[0])
    return Face(name, target)


def absent(name: str) -> str:
    """What to say about a name that Kiln lacks: its full name, and the nearest that exists."""
    parent, _, last = name.rpartition(".")
    there = target_of(parent)
    if there is None:
        return absent(parent) if parent.count(".") else f"[torch] Kiln has no {name}"
    names = [n for n in dir(there) if n[0] != "_" or last[:1] == "_"]
    lower = {n.lower(): n for n in names}
    near = difflib.get_close_matches(last.lower(), lower, 1, 0.6)
    nearest = f"the nearest is {parent}.{lower[near[0]]}; " if near else ""
    return (
        f"[torch] Kiln has no {name}\nhelp: {nearest}`kiln run --torch --report FILE` lists the torch names "
        "that a program uses"
    )


class _Version(importlib.metadata.Distribution):
    """What `importlib.metadata.version("torch")` finds."""

    def read_text(self, filename: str) -> str | None:
        if filename == "METADATA":
            return f"Metadata-Version: 2.1\nName: torch\nVersion: {VERSION}\n"
        return None

    def locate_file(self, path: Any) -> Path:
        return Path(__file__).parent / path


class Finder(importlib.metadata.DistributionFinder):
    """Finds `torch` and all that begins with `torch.` in Kiln; it stands first on `sys.meta_path`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if (
            name.partition(".")[0] not in MODULES or name[-1] == "."
        ):  # `__import__(m, fromlist=[""])`
            return None
        if target_of(name) is not None:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        if sys._getframe(2).f_globals.get("__name__") == "importlib.util":  # who only asks
            return None
        # Were it the module's name, `from torch.nn import Lin` would hide this message.
        raise ModuleNotFoundError(absent(name), name=name.partition(".")[0])

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return face(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module of Kiln has run."""

    def find_distributions(self, context: Any = None) -> Iterator[importlib.metadata.Distribution]:
        if getattr(context, "name", None) == "torch":
            yield _Version()


_finder = Finder()
SHIMS = str(Path(__file__).with_name("shims"))
"""A folder whose `torch` installs the alias: on PYTHONPATH it does so in every Python started from here."""


def _watch_classes() -> None:
    """Have functions ask the classes that are defined with a `__torch_function__` from then on."""
    build = builtins.__build_class__

    @wraps(build)
    def noticing(body: Callable, name: str, *bases: Any, **kwargs: Any) -> Any:
        cls = build(body, name, *bases, **kwargs)
        if body.__globals__.get("__name__", "").startswith("kiln."):
            return cls  # what Kiln defines says itself when it is to be asked
        if "__torch_function__" in getattr(cls, "__dict__", ()) and not issubclass(
            cls, (Tensor, TorchFunctionMode)
        ):
            notice(cls)
        return cls

    builtins.__build_class__ = noticing


def install() -> None:
    """Have `import torch` mean Kiln in this process, and in Pythons that it starts.

    KilnError where PyTorch has been imported already.
    """
    for name in ("torch", "torchvision"):
        loaded = sys.modules.get(name)
        origin = str(getattr(loaded, "__file__", ""))
        if loaded is not None and not isinstance(loaded, Face) and not origin.startswith(SHIMS):
            raise KilnError(
                "torch", f"{name} itself is imported already", origin, "install the alias first"
            )
    if _finder in sys.meta_path:
        return
    sys.meta_path.insert(0, _finder)
    naming.name = "torch"
    for value in list(vars(face("torch")).values()):  # which somebody may have asked for before
        _meet(value)
    _watch_classes()
    set_stream("torch")  # a seeded program draws the numbers that it draws under PyTorch
    others = os.environ.get("PYTHONPATH", "")
    if SHIMS not in others.split(os.pathsep):
        os.environ["PYTHONPATH"] = SHIMS + (os.pathsep + others if others else "")
    if SHIMS not in sys.path:
        sys.path.insert(1, SHIMS)  # which processes that multiprocessing spawns take over


def __getattr__(name: str) -> Any:
    return getattr(face("torch"), name)
