"""Tensors without data, on the device `meta`: they have a shape, a dtype and an order in memory.

Note [Meta tensors]: such a tensor's payload is no array, so that what NumPy is asked to do with it raises and
dispatch looks here for what to do instead (Note [Composed tensors]): calls on plain tensors pay nothing. An op's
result is found by capturing the op alone, the Graph is thrown away; so is a new tensor's by capturing the function
that makes it. Nothing is computed and no random number is drawn. Source: torch.device("meta").

Note [Watched meta tensors]: who wants to know what a program would do before it runs it (`inspection`) runs it on meta tensors
and watches its thread: it is told each op, and a tensor that would have memory of its own holds a token of the
watcher's, which its views share and which goes with the last of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import get_ident
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import dtypes as dt
from .autograd.modes import no_grad
from .autograd.tape import record
from .device import CPU, META, anywhere, device, places
from .errors import KilnError, KilnNotImplementedError, describe
from .shape import contiguous_strides, dummy_array, numel
from .tensor import Tensor, wrap


class Nothing:
    """The payload of a meta tensor; `strides` count elements, `memory` is the token of who watches."""

    __slots__ = ("dtype", "memory", "shape", "strides")
    place = META
    calls: Any = None  # what calls ops on such tensors
    tensor = None  # that this stands for: see `SymArray`
    flags = SimpleNamespace(c_contiguous=False, f_contiguous=False, writeable=False)

    def __init__(self, shape: Any, dtype: np.dtype, strides: Any = None):
        self.shape, self.dtype, self.memory = tuple(shape), dtype, None
        self.strides = contiguous_strides(self.shape) if strides is None else tuple(strides)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return numel(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def strided(self) -> np.ndarray:
        """The layout as a dummy array; its strides count elements."""
        return dummy_array(self.shape, self.strides)

    def copy(self, order: str = "K") -> Nothing:
        return Nothing(self.shape, self.dtype, self.strides)

    def suffixes(self) -> list[str]:
        """What is printed of a tensor that holds this, after its values' dots."""
        d = dt.OF_NUMPY[self.dtype]
        kind = [] if d is dt.get_default_dtype() else [f"dtype={d!r}"]
        return ["device='meta'", f"size={self.shape}", *kind]

    def host(self, why: str) -> Any:
        """The value for Python: there is none."""
        raise KilnNotImplementedError(
            why, "Cannot copy out of meta tensor; no data!", f"{self.dtype}{list(self.shape)}",
            "give it memory first: kiln.empty_like(x, device='cpu'), Module.to_empty(device='cpu')",
        )  # fmt: skip

    def __array__(self, *_: Any, **__: Any) -> Any:
        self.host("numpy")

    def __array_ufunc__(self, ufunc: Any, method: str, *_: Any, **__: Any) -> Any:
        # where all operands give NotImplemented NumPy (2.4) may keep a reference to them for good
        if method == "reduce":
            return _REDUCED
        raise TypeError(f"{ufunc.__name__} of a tensor without data")

    def __bool__(self) -> bool:
        return bool(self.host("bool"))


_REDUCED = Nothing((), np.dtype(np.bool_))
"""What NumPy's reductions give for such payloads: another one, which dispatch takes for no result."""


def without_data(t: Tensor, dtype: Any = None) -> Tensor:
    """A meta tensor with the shape, dtype and order in memory of any tensor."""
    return wrap(Nothing(t._a.shape, t._a.dtype if dtype is None else dtype, t.stride()))


WATCHING: dict[int, Any] = {}
"""Who watches a thread's meta tensors, by thread id: `called(op, args, outs)`, and `held(bytes)` that gives a token."""


# ---------------------------------------------------------------- ops


def _capture() -> Any:
    from .compile.capture import Capture

    capture = Capture(constants=True)
    capture.valueless = True
    return capture


def _stand_in(capture: Any, x: Any, tokens: dict[Any, Any]) -> Any:
    from .compile.symbolic import Storage, SymArray, layout_of

    if isinstance(x, list | tuple):
        return type(x)(_stand_in(capture, y, tokens) for y in x)
    if not isinstance(x, Tensor):
        return x
    a = x._a
    node = capture._input("arg", a.shape, x.dtype).node
    layout = a.strided() if isinstance(a, Nothing) else layout_of(a)
    storage = Storage(node)
    tokens[storage] = getattr(a, "memory", None)
    return wrap(SymArray(capture, storage, (), a.shape, a.dtype, layout))


def call(op: Any, args: tuple) -> Any:
    """The result of an op of which an argument has no data."""
    outs, several = _call(op, args)
    record(op, args, outs)
    if not several:
        return outs[0]
    return op.result(*outs) if op.result is not None else outs


def _call(op: Any, args: tuple, stored: bool = False) -> tuple[tuple[Tensor, ...], bool]:
    """The results without history, and whether the op has several; `stored`: in memory that is there."""
    capture = _capture()
    tokens: dict[Any, Any] = {}
    with capture.active(), no_grad():
        r = capture.call(op, tuple(_stand_in(capture, a, tokens) for a in args))
    found = (r,) if isinstance(r, Tensor) else tuple(r)
    outs = tuple(map(without_data, found))
    watcher = WATCHING.get(get_ident())
    if watcher is not None:
        for t, out in zip(found, outs, strict=True):
            storage, a = t._a.storage, out._a
            if storage in tokens:
                a.memory = tokens[storage]
            elif not stored:
                a.memory = watcher.held(a.size * a.itemsize)
        watcher.called(op, args, args[0] if stored else outs)
    return outs, not isinstance(r, Tensor)


def inplace(op: Any, args: tuple) -> Tensor:
    """An op whose result would be stored in its first argument: shapes are checked, nothing else happens."""
    x = args[0]
    if not isinstance(x._a, Nothing):
        raise KilnNotImplementedError(
            op.name + "_", "Cannot copy out of meta tensor; no data!", describe(x), "give it memory first"
        )  # fmt: skip
    ((r,), _) = _call(op, args, stored=True)
    if r.shape != x.shape:
        raise KilnError(
            op.name + "_", "the result has another shape", f"{describe(r)} into {describe(x)}", ""
        )
    return x


Nothing.calls = SimpleNamespace(call=call, inplace=inplace)


# ---------------------------------------------------------------- new tensors


def makes(fn: Callable) -> Callable:
    """A function that makes tensors, on the device that is asked for or that of a `with` block."""

    @wraps(fn)
    def make(*args: Any, **kwargs: Any) -> Any:
        d = kwargs.get("device")
        if d is None and not places.stack:
            return fn(*args, **kwargs)
        return _placed(fn, args, kwargs, anywhere(d))

    make.plain = fn  # type: ignore[attr-defined]
    return make


def makes_like(fn: Callable) -> Callable:
    """A function that makes tensors, on the device that is asked for or that of its first argument."""

    @wraps(fn)
    def make(*args: Any, **kwargs: Any) -> Any:
        d = kwargs.get("device")
        if d is None and args and args[0]._a.__class__ is not Nothing:
            return fn(*args, **kwargs)
        given: Any = args[0] if args else kwargs["input"]
        return _placed(fn, args, kwargs, given.device if d is None else anywhere(d))

    make.plain = fn  # type: ignore[attr-defined]
    return make


def _placed(fn: Callable, args: tuple, kwargs: dict[str, Any], d: device) -> Any:
    kwargs = kwargs | {"device": CPU}
    if d is not META:
        return fn(*args, **kwargs)
    needs = kwargs.pop("requires_grad", False)
    capture = _capture()
    with capture.active(), no_grad():
        t = fn(*args, **kwargs)
    out = without_data(t)
    if (watcher := WATCHING.get(get_ident())) is not None:
        out._a.memory = watcher.held(out._a.size * out._a.itemsize)
    return out.requires_grad_() if needs else out
