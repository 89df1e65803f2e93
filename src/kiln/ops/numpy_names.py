"""NumPy's names of arguments, which PyTorch takes by keyword beside its own: `axis` for `dim`, `keepdims` for `keepdim`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from ..errors import KilnTypeError
from .registry import code_of

UNSET = object()
"""The default of an argument that has another name, and of those without a default behind it."""
NAMES = {"dim": "axis", "keepdim": "keepdims"}


def numpy_names(fn: Callable) -> Callable:
    """A function that takes these names too, by code of its own signature; as it is where it has no such argument."""
    inner: Any = inspect.unwrap(fn)
    code, given = inner.__code__, inner.__defaults__ or ()
    placed = code.co_argcount
    names = code.co_varnames[: placed + code.co_kwonlyargcount]
    others = {i: NAMES[n] for i, n in enumerate(names) if n in NAMES and NAMES[n] not in names}
    if not others or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS):
        return fn
    first = min(others)
    required = range(placed - len(given))
    late = [i for i in required if i >= first]
    passed = []
    for i, n in enumerate(names):
        value = f"p{i}"
        if i in late:
            test = f"p{i} is not _UNSET" + (f" and a{i} is _UNSET" if i in others else "")
            value += f" if {test} else _one({i}, p{i}, {f'a{i}' if i in others else '_UNSET'})"
        elif i in others:
            value += f" if a{i} is _UNSET else _one({i}, p{i}, a{i})"
        passed.append(value if i < placed else f"{n}={value}")
    params = [f"p{i}" for i in range(placed)] + ["*"]
    params += [f"p{i}" for i in range(placed, len(names))] + [f"a{i}" for i in others]
    made = code_of(
        f"def call({', '.join(params)}):\n    return _run({', '.join(passed)})\n", "<kiln names>"
    )
    made = made.replace(
        co_varnames=(*names, *others.values()), co_name=inner.__name__, co_qualname=inner.__name__
    )

    def one(i: int, value: Any, other: Any) -> Any:
        at = i - len(required)
        default = given[at] if 0 <= at < len(given) else (inner.__kwdefaults__ or {}).get(names[i], UNSET)  # fmt: skip
        if other is not UNSET and value is default:
            return other
        missing = other is UNSET
        raise KilnTypeError(
            inner.__name__,
            f'missing 1 required positional arguments: "{names[i]}"' if missing else f"got two values for {names[i]}",
            "nothing for it" if missing else f"{names[i]}={value!r}, {others[i]}={other!r}",
            "" if missing else f"{others[i]} is another name of it",
        )  # fmt: skip

    scope = {"__name__": inner.__module__, "_run": fn, "_one": one, "_UNSET": UNSET}
    call: Any = FunctionType(made, scope, inner.__name__, (*[UNSET] * len(late), *given))
    call.__kwdefaults__ = {**(inner.__kwdefaults__ or {}), **dict.fromkeys(others.values(), UNSET)}
    call.__doc__, call.__module__ = inner.__doc__, inner.__module__
    call.__annotations__ = inner.__annotations__
    return call
