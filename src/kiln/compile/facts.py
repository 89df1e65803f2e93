"""Python values that a captured function read, as guards: nothing is frozen silently.

While a function is captured, every frame of user code that it enters is looked at: the bytecode
says which globals, closure cells and attribute chains (`self.scale`, `cfg.model.depth`) it loads.
They become guards: at each call a plain value must be equal to what it was, and any other object the
same one. What the function makes itself is its own affair: objects younger than the call are no facts. What would
give another value at each call (`changing`) is refused. Where no program comes of a capture, what the
function did to the values that it read is taken back.
"""

from __future__ import annotations

import dis
import gc
import os
import random
import sys
import types
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import copy
from functools import lru_cache
from operator import is_
from typing import Any

import numpy as np

from ..errors import CaptureError, describe, place
from ..heap import freeze_again, frozen_closures
from ..sharing import root_of
from ..tensor import Tensor
from .changing import Generators, asked, is_iterator
from .source import Source

_KILN = __name__.split(".")[0]
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_LONG, _DEEP, _LARGE = 1024, 12, 1 << 16
"""Containers with more elements, or inside more containers, and larger arrays are compared by identity."""


_LIBRARIES = (_KILN, "numpy", "contextlib", "importlib", "rich")
_STDLIB = os.path.dirname(os.__file__) + os.sep


def _is_stdlib(filename: str) -> bool:
    return filename.startswith(_STDLIB) and "site-packages" not in filename


def _is_users(frame: types.FrameType) -> bool:
    """Whether a frame runs the user's code: not Kiln's, Python's or that of libraries known to be harmless."""
    name = frame.f_code.co_filename
    return (
        frame.f_globals.get("__name__", "").split(".")[0] not in _LIBRARIES
        and not name.startswith(("<frozen", "<kiln"))
        and not _is_stdlib(name)
    )


@lru_cache(4096)
def _chains(
    code: types.CodeType,
) -> tuple[tuple[tuple[str, str, tuple[str, ...]], ...], tuple[tuple[str, ...], ...]]:
    """(kind, root name, attribute names) of the loads in a code object, and the attribute names in which
    it may read objects that come out of containers.

    kind: global, cell, local, variable (assigned), element (of something computed; no root).
    """
    out = []
    kind, root, path = "", "", []

    def flush() -> None:
        if kind:
            out.append((kind, root, tuple(path)))

    reads_by_name = "getattr" in code.co_names or "__dict__" in code.co_names
    stored = set()
    for i in dis.get_instructions(code):
        name = i.opname
        if name.startswith(("STORE_FAST", "DELETE_FAST")):
            names = i.argval if isinstance(i.argval, tuple) else (i.argval,)
            stored.update(names[:1] if name == "STORE_FAST_LOAD_FAST" else names)
    for i in dis.get_instructions(code):
        name = i.opname
        if name in ("LOAD_GLOBAL", "LOAD_NAME"):
            flush()
            kind, root, path = "global", i.argval, []
        elif name in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
            flush()
            kind, root, path = "cell", i.argval, []
        elif name.startswith("LOAD_FAST") or name == "STORE_FAST_LOAD_FAST":
            flush()
            last = i.argval[-1] if isinstance(i.argval, tuple) else i.argval
            kind, root, path = ("variable" if last in stored else "local"), last, []
        elif name in ("LOAD_ATTR", "LOAD_METHOD"):
            if not kind:
                kind, root, path = "element", "", []
            if i.argval != "__dict__":
                path.append(i.argval)
        elif kind and name == "LOAD_CONST" and isinstance(i.argval, str) and reads_by_name:
            flush()
            path = [*path, i.argval]
        elif name in ("COPY", "PUSH_NULL", "CACHE", "RESUME", "PRECALL", "EXTENDED_ARG"):
            continue
        else:
            flush()
            kind = ""
    flush()
    inner = [p for kind, _, p in out if p and kind not in ("global", "cell")]
    return tuple(c for c in dict.fromkeys(out) if c[0] != "element"), tuple(dict.fromkeys(inner))


def plain(value: Any) -> Any:
    """A scalar as a key: -0.0 is not 0.0, nor 1 True, and NaN is itself."""
    if isinstance(value, float | complex) and (value == 0 or value != value):
        return (type(value), repr(value))
    return (type(value), value)


def _snapshot(value: Any, depth: int = 0) -> Any:
    """A comparable copy of a plain value; any other object stands for itself."""
    if isinstance(value, _SCALARS):
        return plain(value)
    if _is_small_array(value):
        return (Same(value), value.dtype, value.shape, value.tobytes())
    if depth < _DEEP and _is_container(value):
        if isinstance(value, set | frozenset):
            return (type(value), frozenset(value))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return (
            type(value),
            tuple((_snapshot(k, _DEEP), _snapshot(v, depth + 1)) for k, v in items),
        )
    return Same(value)


def _is_container(value: Any) -> bool:
    return isinstance(value, _CONTAINERS) and len(value) <= _LONG


def _is_small_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size <= _LARGE and not value.dtype.hasobject


def unchanged(value: Any, s: Source, depth: int = 0) -> list[str]:
    """Expressions that say that a container holds the same objects as now, as deep as a snapshot looks."""
    if _is_small_array(value):
        return [f"{s.constant(value)}.tobytes() == {s.constant(value.tobytes())}"]
    if depth >= _DEEP or not _is_container(value):
        return []
    name = s.constant(value)
    s.names["same_objects"] = same_objects
    if isinstance(value, set | frozenset):
        return [f"{name} == {s.constant(frozenset(value))}"]
    items = list(value.values() if isinstance(value, dict) else value)
    out = [] if isinstance(value, tuple) else [f"same_objects({name}, {s.constant(list(value))})"]
    if isinstance(value, dict):
        out.append(f"same_objects({name}.values(), {s.constant(items)})")
    for x in items:
        out += unchanged(x, s, depth + 1)
    return out


def same_objects(a: Collection[Any], b: Collection[Any]) -> bool:
    """Whether two collections hold the same objects in the same order."""
    return len(a) == len(b) and all(map(is_, a, b))


def _short(value: Any) -> str:
    """A fact's value in a message; no code of the user's runs for it."""
    return (
        describe(value)
        if isinstance(value, (*_SCALARS, *_CONTAINERS))
        else f"a {type(value).__name__} object"
    )


class Same:
    """A key that is equal where the object is the same one, which it keeps alive."""

    __slots__ = ("object",)

    def __init__(self, x: Any):
        self.object = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.object is other.object

    def __hash__(self) -> int:
        return id(self.object)

    def __repr__(self) -> str:
        return f"{type(self.object).__name__} object"


_GLOBAL = random.random.__self__  # type: ignore[attr-defined]

_READ: dict[str, Callable[[Any, Any], Any]] = {
    "item": lambda h, k: h[k],
    "cell": lambda h, _: h.cell_contents,
    "field": lambda h, k: h.__dict__[k],
    "attribute": getattr,
}
_TEXT = {
    "item": "{h}[{k!r}]",
    "cell": "{h}.cell_contents",
    "field": "{h}.__dict__[{k!r}]",
    "attribute": "getattr({h}, {k!r})",
}


class Fact:
    """One Python value that was read: `key` of `holder` ("item", "cell", "field" or "attribute"), and what it was."""

    __slots__ = ("holder", "how", "keep", "key", "live", "path", "seen", "was")

    def __init__(self, path: str, holder: Any, how: str, key: Any, value: Any):
        self.path, self.holder, self.how, self.key = path, holder, how, key
        self.seen, self.keep, self.was = _snapshot(value), value, _short(value)
        self.live = False  # an array that programs read where it lies

    def read(self) -> Any:
        """The value now."""
        return _READ[self.how](self.holder, self.key)

    def text(self, holder: str) -> str:
        """The expression that reads it from a holder of that name."""
        return _TEXT[self.how].format(h=holder, k=self.key)

    def holds(self) -> bool:
        """Whether the value is still what it was."""
        try:
            now = self.read()
            if now is self.keep and (self.live or not isinstance(now, (*_CONTAINERS, np.ndarray))):
                return True
            return _snapshot(now) == self.seen
        except (KeyError, AttributeError, ValueError):
            return False

    def undo(self) -> None:
        """Make it what it was."""
        if self.how == "cell":
            self.holder.cell_contents = self.keep
        elif self.how == "attribute":
            setattr(self.holder, self.key, self.keep)
        else:
            (self.holder if self.how == "item" else self.holder.__dict__)[self.key] = self.keep

    def explain(self) -> str:
        """What changed, for KILN_EXPLAIN."""
        try:
            now = _short(self.read())
        except (KeyError, AttributeError, ValueError):
            now = "gone"
        return f"{self.path} was {self.was} and is {now}"


_CODE = object()


def _class_attribute(holder: Any, attr: str) -> Any:
    """What a user's class holds under a name; `_CODE` where that is missing, or computes."""
    for c in (holder if isinstance(holder, type) else type(holder)).__mro__:
        if attr in c.__dict__:
            found = c.__dict__[attr]
            ours = c.__module__.split(".")[0] in (_KILN, "builtins", "numpy")
            slot = isinstance(found, types.MemberDescriptorType) and not isinstance(holder, type)
            return _CODE if ours or (hasattr(type(found), "__get__") and not slot) else found
    return _CODE


class Facts:
    """The Python values read during a capture; `whole`: what the function prints may be printed once for all calls."""

    def __init__(self, fn: Any, whole: bool = True) -> None:
        self.whole = whole
        self.found: dict[Any, Fact] = {}
        self.held: dict[int, tuple[Any, Any]] = {}  # containers, and copies of what they held
        self.generators = Generators()
        self.seeded: dict[int, Any] = {}  # Python's generators that the function seeded itself
        self.failure: CaptureError | None = None
        self.young: set[int] = set()  # ids of what was made during the capture
        self.entry: Any = getattr(fn, "__func__", fn)  # the function whose frame comes first
        self.functions: dict[int, list[types.FunctionType]] = defaultdict(list)  # by id of code
        self.looked_up: set[int] = set()

    def visit(self, frame: types.FrameType, leaving: bool = False) -> None:
        """Note what the code of a user's frame can read: as it is entered, and by its own variables as it ends."""
        if not _is_users(frame):
            return
        code = frame.f_code
        first = not leaving and getattr(self.entry, "__code__", None) is code
        chains, inner = _chains(code)
        for kind, root, path in chains:
            if (kind == "variable") is not leaving:
                continue
            scope = frame.f_globals if kind == "global" else frame.f_locals
            if root not in scope:
                continue
            value = scope[root]
            self._note_generator(value, root, path)
            if kind in ("local", "variable"):
                self._follow(value, root, path, inner)
            elif isinstance(value, types.ModuleType) and value.__name__.split(".")[0] in (
                _KILN,
                "numpy",
                "math",
            ):
                continue
            else:
                if kind == "global":
                    self._add(root, scope, "item", root, value)
                else:
                    self._add_cell([self.entry] if first else self._closures(code), root, value)
                self._follow(value, root, path, inner)
        if first:
            defaults = getattr(self.entry, "__defaults__", None) or ()
            if any(isinstance(x, (*_CONTAINERS, np.ndarray)) for x in defaults):
                self._add(
                    f"{code.co_name}.__defaults__",
                    self.entry,
                    "attribute",
                    "__defaults__",
                    defaults,
                )
            self.entry = None  # another frame of this code may be another closure's

    def _note_generator(self, value: Any, root: str, path: tuple[str, ...]) -> None:
        """Look for NumPy's random generators at the end of `np.random.rand` and the like."""
        self.generators.note(value, root)
        for i, attr in enumerate(path):
            if not isinstance(value, types.ModuleType) and attr not in getattr(
                value, "__dict__", ()
            ):
                return
            value = getattr(value, attr, None)
            self.generators.note(value, ".".join((root, *path[: i + 1])))

    def calls(self, frame: types.FrameType, call: Any) -> None:
        """Refuse calls of builtins that answer otherwise each time."""
        what = None if id(getattr(call, "__self__", None)) in self.seeded else asked(call)
        if (
            what == "random.seed"
            and frame.f_locals.get("a") is not None
            and call.__self__ is not _GLOBAL
        ):
            self.seeded[id(call.__self__)] = call.__self__
            return
        if what is None and (self.whole or call is not print):
            return
        if _is_users(frame) or (what is not None and frame.f_globals.get("__name__") == "random"):
            while not _is_users(frame) and frame.f_back is not None:
                frame = frame.f_back
            self.refuse(
                f"{what} gives another value at each call" if what else "what is printed differs from call to call",
                place(frame),
            )  # fmt: skip

    def argument(self, x: Any) -> None:
        """Look at an argument that is no tensor and no plain value."""
        self.generators.note(x, "an argument")
        if is_iterator(x):
            self.refuse("an argument is an iterator, of which values are taken", _short(x))

    def refuse(self, what: str, received: str) -> None:
        """Raise for something that would be frozen; again as the function ends, if it caught that."""
        self.failure = CaptureError(
            "compile", f"{what}, and a captured function runs once", received,
            "pass it as an argument, call it outside, or draw with kiln.rand, whose numbers are new at each call",
        )  # fmt: skip
        raise self.failure

    def _closures(self, code: types.CodeType) -> list[types.FunctionType]:
        """The functions that a frame of this code may belong to.

        The heap is walked once a capture, what was made in it for each code: a walk takes milliseconds.
        """
        if id(code) not in self.looked_up:
            objects = gc.get_objects(0 if self.looked_up else None)
            if not self.looked_up:
                objects += frozen_closures()
            for f in [x for x in objects if type(x) is types.FunctionType]:
                self.functions[id(f.__code__)].append(f)
            self.looked_up.add(id(code))
        return self.functions[id(code)]

    def _add_cell(self, functions: list[types.FunctionType], name: str, value: Any) -> None:
        for fn in functions:
            if fn.__closure__ and name in fn.__code__.co_freevars:
                cell = fn.__closure__[fn.__code__.co_freevars.index(name)]
                try:
                    if cell.cell_contents is value:
                        self._add(name, cell, "cell", name, value)
                except ValueError:
                    continue

    def _follow(
        self,
        value: Any,
        text: str,
        path: tuple[str, ...],
        inner: set[tuple[str, ...]],
        depth: int = 0,
    ) -> None:
        """Note the attributes of a path from a value; of objects in a container at its end those of the paths `inner`."""
        for attr in path:
            if isinstance(value, types.FunctionType | types.MethodType | Tensor):
                return
            holder = value
            fields = getattr(holder, "__dict__", None)
            text = f"{text}.{attr}"
            if fields is not None and attr in fields and not isinstance(holder, type):
                value = fields[attr]
                self._add(text, holder, "field", attr, value)
                continue
            # class attributes and slots hold data; properties and methods belong to the code
            found = _class_attribute(holder, attr)
            if found is _CODE:
                return
            try:
                value = getattr(holder, attr)
            except AttributeError:
                return
            self._add(text, holder, "attribute", attr, value)
        if _is_container(value) and depth < 4:
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for k, x in items:
                if isinstance(x, _CONTAINERS):
                    self._follow(x, f"{text}[{k!r}]", (), inner, depth + 1)
                elif not isinstance(x, (*_SCALARS, Tensor, type, types.ModuleType)):
                    for p in inner:
                        self._follow(x, f"{text}[{k!r}]", p, inner, depth + 1)

    def _add(self, path: str, holder: Any, how: str, key: Any, value: Any) -> None:
        if (id(holder), key) not in self.found:
            self.found[id(holder), key] = Fact(path, holder, how, key, value)
            self._hold(value)

    def _hold(self, value: Any, depth: int = 0) -> None:
        """Keep what a container holds, as deep as it is compared."""
        if _is_small_array(value):
            self.held.setdefault(id(value), (value, value.copy()))
        if depth >= _DEEP or not _is_container(value) or id(value) in self.held:
            return
        self.held[id(value)] = (value, value if isinstance(value, tuple) else copy(value))
        for x in value.values() if isinstance(value, dict) else value:
            self._hold(x, depth + 1)

    @contextmanager
    def watching(self) -> Iterator[Callable]:
        """Visit every frame that is entered on this thread inside the block; gives the profile hook that does.

        The collector rests meanwhile: its callbacks and finalizers are frames that the function never called,
        and its youngest generation is then what the function made.
        """
        old, collecting = sys.getprofile(), gc.isenabled()

        importing = (
            0  # frames of an import under way: what it runs is nothing that the function reads
        )

        def hook(frame: types.FrameType, event: str, arg: Any) -> None:
            nonlocal importing
            if event == "c_call":
                if not importing:
                    self.calls(frame, arg)
                return
            if event not in ("call", "return"):
                return
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                importing += 1 if event == "call" else -1
            elif not importing:
                self.visit(frame, event == "return")

        gc.collect(0)
        gc.disable()
        sys.setprofile(hook)
        try:
            yield hook
        finally:
            if old is None or callable(old):
                sys.setprofile(old)
            else:  # cProfile's own object
                old.enable()
            holders = {id(f.holder) for f in self.found.values()}
            self.young = holders.intersection(map(id, gc.get_objects(0)))
            freeze_again()
            if collecting:
                gc.enable()

    def settle(self, read: Collection[np.ndarray] = ()) -> list[Fact]:
        """The guards, of arrays `read` by the program not their elements; an error where the function itself changed a value that it read, or asked what changes by itself."""
        if self.failure is not None:
            raise self.failure
        drawn = self.generators.drawn()
        if drawn is not None:
            self.refuse(f"{drawn} gives another value at each call", "a random generator of NumPy")
        found = [f for f in self.found.values() if id(f.holder) not in self.young]
        roots = {id(root_of(a)) for a in read}
        for f in found:
            f.live = isinstance(f.keep, np.ndarray) and id(root_of(f.keep)) in roots
            if is_iterator(f.keep):
                self.refuse(f"{f.path} is an iterator, of which values are taken", _short(f.keep))
            if not f.holds():
                raise CaptureError(
                    "compile", "the function changes a Python value that it also reads; only tensors can change "
                    "inside a compiled function", f.explain(),
                    "keep it in a tensor and update it in place, or change it outside the function",
                )  # fmt: skip
        return found

    def undo(self) -> None:
        """Take back what the function did to the values that it read, and to the generators that it could reach."""
        for value, was in self.held.values():
            if isinstance(value, np.ndarray):
                if value.tobytes() != was.tobytes():
                    value[...] = was
            elif isinstance(value, set):
                value.symmetric_difference_update(value ^ was)
            elif not isinstance(value, tuple | frozenset) and not _same_items(value, was):
                value.clear()
                value.update(was) if isinstance(value, dict) else value.extend(was)
        for f in self.found.values():
            if id(f.holder) not in self.young and not f.holds():
                f.undo()
        self.generators.undo()


def _same_items(a: Any, b: Any) -> bool:
    """Whether two lists or two dicts hold the same objects."""
    if isinstance(a, dict):
        return same_objects(a, b) and same_objects(a.values(), b.values())
    return same_objects(a, b)
