"""Results that come later: `torch.futures`' names, over Python's threads."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .errors import KilnError

T = TypeVar("T")


class Future(Generic[T]):
    """A value, or an error, that someone sets once; callbacks run when it is there."""

    def __init__(self, *, devices: Any = None):
        self._future: concurrent.futures.Future = concurrent.futures.Future()

    def done(self) -> bool:
        """Whether the value, or an error, is there."""
        return self._future.done()

    def wait(self) -> T:
        """Wait for the value; raises the error that was set instead."""
        return self._future.result()

    def value(self) -> T:
        """The value, which must be there."""
        if not self.done():
            raise KilnError("Future", "the value is not there yet", None, "wait() for it")
        return self._future.result()

    def set_result(self, result: T) -> None:
        """Set the value; an error where there is one already."""
        if self.done():
            raise KilnError("Future", "the future has its value already", None, "set it once")
        self._future.set_result(result)

    def set_exception(self, result: BaseException) -> None:
        """Set an error in place of a value."""
        if not isinstance(result, BaseException):
            raise AssertionError(f"{result} is of type {type(result)}, not an Exception.")
        self._future.set_exception(result)

    def then(self, callback: Callable[[Future[T]], Any]) -> Future[Any]:
        """The value of a function of this future, run when this one is done."""
        out: Future[Any] = Future()

        def run(_: Any) -> None:
            try:
                out.set_result(callback(self))
            except Exception as e:
                out.set_exception(e)

        self._future.add_done_callback(run)
        return out

    def add_done_callback(self, callback: Callable[[Future[T]], None]) -> None:
        """Run a function of this future when it is done."""
        self._future.add_done_callback(lambda _: callback(self))


def collect_all(futures: list[Future]) -> Future[list[Future]]:
    """A future of all these, done when the last of them is."""
    out: Future[list[Future]] = Future()
    left = [len(futures)]

    def one(_: Any) -> None:
        left[0] -= 1
        if not left[0]:
            out.set_result(futures)

    if not futures:
        out.set_result([])
    for f in futures:
        f.add_done_callback(one)
    return out


def wait_all(futures: list[Future]) -> list[Any]:
    """The values of all these, in their order."""
    return [f.wait() for f in collect_all(futures).wait()]
