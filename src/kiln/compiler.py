"""What programs ask and tell the compiler: `torch.compiler`'s names. See `kiln.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .compile import compile as compile
from .errors import KilnValueError
from .tensor import captured

__all__ = [
    "allow_in_graph", "assume_constant_result", "compile", "cudagraph_mark_step_begin", "disable", "is_compiling",
    "is_dynamo_compiling", "is_exporting", "list_backends", "reset", "set_stance",
]  # fmt: skip


def is_compiling() -> bool:
    """Whether a function is being captured right now."""
    return captured() is not None


def is_dynamo_compiling() -> bool:
    """Whether a function is being captured right now."""
    return captured() is not None


def is_exporting() -> bool:
    """Whether a function is being captured in order to be exported: False."""
    return False


def _as_it_is(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
    return fn if fn is not None else lambda fn: fn


def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """The function, as a decorator too. Kiln captures whole functions: inside of a compiled one it is captured with it."""
    return _as_it_is(fn)


def allow_in_graph(fn: Callable) -> Callable:
    """The function: Kiln captures the ops of all that is called."""
    return fn


def assume_constant_result(fn: Callable) -> Callable:
    """The function: what it gives while a program is captured is guarded like any other value."""
    return fn


def reset() -> None:
    """Forget compiled programs: each goes with the compiled function that it belongs to."""


def cudagraph_mark_step_begin() -> None:
    """Say that a new step begins: a compiled program needs no such mark."""


def list_backends(exclude_tags: Any = ("debug", "experimental")) -> list[str]:
    """The backends that `kiln.compile` takes."""
    from .backends.base import NAMES

    return list(NAMES)


class set_stance:
    """How compiled functions behave from now on, or in a `with` block: "default" is all there is."""

    def __init__(self, stance: str = "default", **options: Any):
        if stance != "default":
            raise KilnValueError(
                "set_stance",
                "no such stance in Kiln",
                repr(stance),
                "call the function itself: compiled.fn(…)",
            )

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass
