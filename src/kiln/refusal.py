"""Names that exist so that programs can import them, and that say what is missing when they are used."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .errors import KilnNotImplementedError


class Refusal(type):
    """The type of names that can be imported, subclassed and asked for by `isinstance`, but not used.

    `_name` is the name in full, `_why` what is missing, `_help` what to do instead.
    """

    _name: str
    _why: str
    _help: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise KilnNotImplementedError(cls._name, cls._why, None, cls._help)

    def __getitem__(cls, item: Any) -> Any:
        return cls  # as a type of annotations


def refused(name: str, why: str, help: str, members: tuple[str, ...] = ()) -> Any:
    """A name that raises KilnNotImplementedError where it is called; so do its `members`, methods by name."""
    out = Refusal(
        name.rpartition(".")[2], (), {"_name": name, "_why": why, "_help": help, "__doc__": f"Not built yet: {why}.",
                                      "__module__": "kiln." + name.rpartition(".")[0]}
    )  # fmt: skip
    for member in members:
        setattr(out, member, refused(f"{name}.{member}", why, help))
    return out


def refuse(module: str, names: str, why: str, help: str) -> None:
    """Give a module (by its `__name__`) names that are refused, several in one text."""
    short = module.partition(".")[2]
    vars(sys.modules[module]).update({n: refused(f"{short}.{n}", why, help) for n in names.split()})


class Room(ModuleType):
    """A module of which nothing is built: each name in it is refused, and those of its `ROOMS` are rooms like it."""

    ROOMS = frozenset(
        [
            "backend_config",
            "dynamic",
            "fake_quantize",
            "fx",
            "functional",
            "intrinsic",
            "iter",
            "map",
            "modules",
            "nn",
            "ns",
            "observer",
            "pruning",
            "pt2e",
            "qat",
            "qconfig",
            "qconfig_mapping",
            "quantizable",
            "quantization",
            "quantize",
            "quantize_fx",
            "quantized",
            "quantizer",
            "reference",
            "sparsity",
            "stubs",
            "utils",
        ]
    )

    def __init__(self, name: str, why: str, help: str):
        super().__init__(name, f"Not built yet: {why}.")
        self._why, self._help = why, help

    def __getattr__(self, name: str) -> Any:
        if name[:1] == "_":
            raise AttributeError(name)
        found = (
            Room(f"{self.__name__}.{name}", self._why, self._help) if name in self.ROOMS
            else refused(f"{self.__name__.partition('.')[2]}.{name}", self._why, self._help)
        )  # fmt: skip
        setattr(self, name, found)
        return found
