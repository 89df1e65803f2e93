"""Names that exist so that programs can import them, and that say what is missing when they are used."""

from __future__ import annotations

import sys
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
