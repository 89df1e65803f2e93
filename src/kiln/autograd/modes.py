"""Grad modes: whether operations are recorded on the tape, by thread."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from threading import get_ident
from typing import Any

DISABLED: set[int] = set()
"""Ids of the threads that record nothing; empty almost always, which is what hot paths look at."""


class _Mode(threading.local):
    inference = False

    @property
    def grad(self) -> bool:
        """Whether this thread records."""
        return not DISABLED or get_ident() not in DISABLED

    @grad.setter
    def grad(self, value: bool) -> None:
        if value:
            DISABLED.discard(get_ident())
        else:
            DISABLED.add(get_ident())


mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether operations on this thread are recorded."""
    return mode.grad


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside `inference_mode`."""
    return mode.inference


class _GradMode:
    """A context manager that sets the mode; also a decorator of functions and generators."""

    value = True

    def __enter__(self) -> None:
        thread = get_ident()
        self._old = thread in DISABLED
        DISABLED.discard(thread) if self.value else DISABLED.add(thread)

    def __exit__(self, *_: object) -> None:
        DISABLED.add(get_ident()) if self._old else DISABLED.discard(get_ident())

    def __call__(self, fn: Callable) -> Callable:
        if inspect.isgeneratorfunction(fn):

            @functools.wraps(fn)
            def generator(*args: Any, **kwargs: Any) -> Any:
                it = fn(*args, **kwargs)
                while True:
                    with self._clone():
                        try:
                            item = next(it)
                        except StopIteration as stop:
                            return stop.value
                    yield item

            return generator

        @functools.wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._clone():
                return fn(*args, **kwargs)

        return run

    def _clone(self) -> _GradMode:
        out = _GradMode.__new__(type(self))
        out.__dict__.update(self.__dict__)
        return out


class _Bare(_GradMode):
    """Modes that may decorate without parentheses: `@no_grad`."""

    def __new__(cls, fn: Callable | None = None) -> Any:
        out = object.__new__(cls)
        return out if fn is None or not callable(fn) else out(fn)


class no_grad(_Bare):
    """Nothing inside is recorded; results do not require grad."""

    value = False


class enable_grad(_Bare):
    """Operations inside are recorded even within `no_grad`."""

    value = True


class inference_mode(_GradMode):
    """Like `no_grad`, for code that will never need gradients of its results."""

    def __new__(cls, mode: Any = True) -> Any:
        out = super().__new__(cls)
        if callable(mode):
            out.__init__(True)
            return out(mode)
        return out

    def __init__(self, mode: Any = True):
        self.value, self.inference = not mode, bool(mode)

    def __enter__(self) -> None:
        super().__enter__()
        self._outer = mode.inference
        mode.inference = self.inference or self._outer

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        mode.inference = self._outer


class set_multithreading_enabled:
    """Whether backward may run on several threads, for a `with` block or from here on: kernels use all of them either way."""

    def __init__(self, mode: bool):
        self.mode = mode

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class set_grad_enabled(_GradMode):
    """Set the mode at once; as a context manager it is restored at the end."""

    def __init__(self, mode_: bool):
        self.value = bool(mode_)
        self._old = not mode.grad
        mode.grad = self.value

    def __enter__(self) -> None:
        mode.grad = self.value

    def __call__(self, fn: Callable) -> Callable:
        mode.grad = not self._old
        return super().__call__(fn)

    def _clone(self) -> _GradMode:
        return set_grad_enabled(self.value)
