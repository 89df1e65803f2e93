"""Objects that know what they were made with: `get_config`, `from_config`, and what a name, a class or a config stands for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import KilnValueError, describe

CUSTOM: dict[str, Any] = {}
"""What `saving.register_keras_serializable` made known, and what a call of `load_model` was given, by name."""


def snake(name: str) -> str:
    """`Conv2DTranspose` as `conv2d_transpose`."""
    name = re.sub(r"\W", "", name)
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


class Configured:
    """Remembers the arguments it was made with."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        made.__dict__["_given"] = args, kwargs
        return made

    def get_config(self) -> dict[str, Any]:
        """The arguments it was made with, defaults too."""
        return arguments(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """One like that which gave the config."""
        return cls(**accepted(cls, config))


def arguments(made: Any) -> dict[str, Any]:
    """What an object was made with by parameter's name; those of `**kwargs` by their own."""
    args, kwargs = made.__dict__["_given"]
    signature = inspect.signature(type(made).__init__)
    bound = signature.bind(made, *args, **kwargs)
    bound.apply_defaults()
    out: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            out.update(value)
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            out[name] = value
    return out


def accepted(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config a class takes: options of Keras's that are not here may be left out where they are off."""
    names = options(cls)
    out = {}
    for name, value in config.items():
        if name in names:
            out[name] = value
        elif value not in (None, False) and name not in UNUSED:
            raise KilnValueError(
                cls.__name__, f"there is no option {name!r}", describe(value), "one of " + ", ".join(sorted(names))
            )  # fmt: skip
    return out


def options(cls: type) -> set[str]:
    """The parameters of a class, those too that it hands to the class before it (`**common`) or to its cell."""
    names: set[str] = set()
    for c in cls.__mro__:
        if "__init__" not in vars(c):
            continue
        found = inspect.signature(vars(c)["__init__"]).parameters.values()
        names |= {p.name for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            break
    kind = vars(cls).get("kind")
    return names - {"self"} | (options(kind) if isinstance(kind, type) else set())


UNUSED = ("seed", "autocast", "implementation", "renorm_momentum", "attention_axes", "axis_names")


def finder(base: type, kinds: Iterable[type], others: Mapping[str, Any]) -> Callable[[Any], Any]:
    """The function that gives an object of `base` for a name, a class, a config or such an object; None for None."""
    known: dict[str, Any] = {**{c.__name__: c for c in kinds}, **others}
    known |= {snake(k): c for k, c in list(known.items())}

    def get(given: Any) -> Any:
        if given is None or isinstance(given, base):
            return given
        if isinstance(given, str):
            found = CUSTOM.get(given, known.get(given))
            if found is not None:
                return found() if isinstance(found, type) else found
        elif isinstance(given, Mapping) and "class_name" in given:
            found = CUSTOM.get(given.get("registered_name") or "", known.get(given["class_name"]))
            if found is not None:
                return found.from_config(given.get("config") or {})
        elif isinstance(given, type) and issubclass(given, base):
            return given()
        elif callable(given):
            return given
        raise KilnValueError(
            base.__name__, f"this stands for no {base.__name__.lower()}", describe(given), "one of " + ", ".join(sorted(known))
        )  # fmt: skip

    return get


def register_keras_serializable(package: str = "Custom", name: str | None = None) -> Callable:
    """A decorator that makes a class or function known to files, as "package>name"."""

    def known(found: Any) -> Any:
        full = f"{package}>{name or found.__name__}"
        CUSTOM[full] = found
        found._registered = full
        return found

    return known


@contextmanager
def knowing(objects: Mapping[str, Any] | None) -> Iterator[None]:
    """Know classes and functions by name meanwhile."""
    before = dict(CUSTOM)
    CUSTOM.update(objects or {})
    try:
        yield
    finally:
        CUSTOM.clear()
        CUSTOM.update(before)


custom_object_scope = CustomObjectScope = knowing


def get_custom_objects() -> dict[str, Any]:
    """What is known by name."""
    return CUSTOM


def get_registered_name(found: Any) -> str:
    """The name that a class or function was registered under."""
    return getattr(found, "_registered", found.__name__)


__all__ = [
    "CUSTOM", "Configured", "CustomObjectScope", "accepted", "arguments", "custom_object_scope", "finder", "get_custom_objects",
    "get_registered_name", "knowing", "register_keras_serializable", "snake",
]  # fmt: skip
