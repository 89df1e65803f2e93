"""A small part of the pickle format, written and read without pickle: nothing in a file can run code.

What is read is data and calls of functions that the reader was given by name. There is no import, no
attribute is looked up, and only objects that say so take a state.
https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import KilnError

_MARK = object()
_DEEPEST = 100


class KilnUnpicklingError(KilnError, pickle.UnpicklingError):
    """A pickled file that is corrupt, or that asks for more than data."""


class Global(NamedTuple):
    """A name in a pickled file, `module` and `name`, that stands for an object."""

    module: str
    name: str


class Persistent(NamedTuple):
    """What a pickled file refers to outside of itself: a tuple that says where it is."""

    id: tuple


class Call(NamedTuple):
    """An object as a call that makes it: of a name, with arguments; then items and a state.

    `new` asks for an object of the named class that nothing was called for but `__new__`.
    """

    made_by: Global
    args: tuple
    items: list | None = None
    state: Any = None
    new: bool = False


class Writer:
    """Writes objects by protocol 2; `reduce` gives what stands for an object of no plain type."""

    def __init__(self, reduce: Callable[[Any], Call | Global | Persistent]):
        self.reduce = reduce
        self.out = bytearray(b"\x80\x02")
        self.memo: dict[Any, tuple[int, Any]] = {}  # strings and names by value, others by id

    def dumps(self, obj: Any) -> bytes:
        """The bytes of an object."""
        self.write(obj)
        return bytes(self.out + b".")

    def write(self, x: Any) -> None:
        """Append an object."""
        kind, out = type(x), self.out
        if x is None or kind is bool:
            out += {None: b"N", True: b"\x88", False: b"\x89"}[x]
        elif kind is int:
            self._int(x)
        elif kind is float:
            out += b"G" + struct.pack(">d", x)
        elif kind is tuple and not x:
            out += b")"
        elif not self._known(x):
            self._object(x, kind)

    def _known(self, x: Any) -> bool:
        found = self.memo.get(_key(x))
        if found is None:
            return False
        n = found[0]
        self.out += b"h" + bytes([n]) if n < 256 else b"j" + struct.pack("<I", n)
        return True

    def _memoize(self, x: Any) -> None:
        n = len(self.memo)
        self.memo[_key(x)] = n, x  # x is kept, so that its id stays its own
        self.out += b"q" + bytes([n]) if n < 256 else b"r" + struct.pack("<I", n)

    def _object(self, x: Any, kind: type) -> None:
        out = self.out
        if kind is str:
            data = x.encode("utf-8", "surrogatepass")
            out += b"X" + struct.pack("<I", len(data)) + data
            self._memoize(x)
        elif kind is tuple:
            if len(x) > 3:
                out += b"("
            for y in x:
                self.write(y)
            out += {1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(x), b"t")
            self._memoize(x)
        elif kind is list:
            out += b"]"
            self._memoize(x)
            self._items(x, b"e")
        elif kind is dict:
            out += b"}"
            self._memoize(x)
            self._items([y for pair in x.items() for y in pair], b"u")
        elif kind is Global:
            out += f"c{x.module}\n{x.name}\n".encode()
            self._memoize(x)
        elif kind is bytes:
            self._call(x, Call(Global("_codecs", "encode"), (x.decode("latin-1"), "latin1")))
        elif kind is complex:
            self._call(x, Call(Global("__builtin__", "complex"), (x.real, x.imag)))
        elif kind is set:
            self._call(x, Call(Global("__builtin__", "set"), (list(x),)))
        elif kind is OrderedDict:
            items = [y for pair in x.items() for y in pair]
            self._call(x, Call(Global("collections", "OrderedDict"), (), items, vars(x) or None))
        else:
            made = self.reduce(x)
            if isinstance(made, Call):
                self._call(x, made)
            elif isinstance(made, Persistent):
                self.write(made.id)
                out += b"Q"
            else:
                self.write(made)

    def _call(self, x: Any, call: Call) -> None:
        self.write(call.made_by)
        self.write(call.args)
        self.out += b"\x81" if call.new else b"R"
        self._memoize(x)
        if call.items:
            self._items(call.items, b"u")
        if call.state is not None:
            self.write(call.state)
            self.out += b"b"

    def _items(self, xs: list, end: bytes) -> None:
        if xs:
            self.out += b"("
            for y in xs:
                self.write(y)
            self.out += end

    def _int(self, x: int) -> None:
        if 0 <= x < 256:
            self.out += b"K" + bytes([x])
        elif -(2**31) <= x < 2**31:
            self.out += b"J" + struct.pack("<i", x)
        else:
            data = x.to_bytes(x.bit_length() // 8 + 1, "little", signed=True)
            size = b"\x8a" + bytes([len(data)]) if len(data) < 256 else None
            self.out += (size or b"\x8b" + struct.pack("<i", len(data))) + data


def _key(x: Any) -> Any:
    return x if isinstance(x, str | Global) else id(x)


def printable(text: str) -> str:
    """Text that may hold what a file says, on one line and without a terminal's control codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def hashable(key: Any, depth: int = 0) -> Any:
    """The key; ValueError where it is nested so deeply that hashing it would exhaust the stack."""
    if isinstance(key, tuple | frozenset):
        if depth == _DEEPEST:
            raise ValueError("a key that is nested too deeply")
        for x in key:
            hashable(x, depth + 1)
    return key


class Function:
    """Something that a pickled file may call by its name; `build` gives what it made a state.

    `value` is what the name stands for where it is not called, as a class or function among the data.
    """

    def __init__(
        self,
        call: Callable,
        build: Callable[[Any, Any], None] | None = None,
        new: Callable | None = None,
        value: Any = None,
    ):
        self.call, self.build, self.new, self.value = call, build, new, value


class Reader:
    """Reads one pickled object after the other from bytes.

    `find(module, name)` gives the Function or the plain value of a name; `persistent(id)` the object
    that an id stands for; `encoding` is that of text which Python 2 has written. Whatever else a file holds raises KilnUnpicklingError.
    """

    def __init__(
        self, data: bytes | memoryview, find: Callable, persistent: Callable, name: str,
        encoding: str = "utf-8",
    ):  # fmt: skip
        self.data, self.find, self.persistent, self.name = memoryview(data), find, persistent, name
        self.encoding = encoding
        self.at = 0

    def refuse(self, what: str, help: str = "nothing was loaded; use another copy") -> Any:
        """Raise for what the file holds here."""
        received = f"{self.name}, at byte {self.at}"
        raise KilnUnpicklingError("load", printable(what), received, printable(help)) from None

    def load(self) -> Any:
        """The next object."""
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.calls: dict[int, Function] = {}  # by id of what they are among the data
        self.builders: dict[int, tuple[Any, Callable]] = {}  # by id of what they build
        try:
            while True:
                op = self._take(1)[0]
                if op == 0x2E:  # STOP
                    (out,) = self.stack
                    return out if out is not _MARK else self.refuse("the pickled data is corrupt")
                step = _STEPS.get(op)
                if step is None:
                    self.refuse(f"a pickle operation that is not data: {bytes([op])!r}")
                step(self)  # type: ignore[misc]
        except KilnUnpicklingError:
            raise
        except KilnError as e:
            return self.refuse(f"the pickled data is corrupt ({str(e).splitlines()[0]})")
        except (
            ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError,
            struct.error,
        ) as e:  # fmt: skip
            return self.refuse(f"the pickled data is corrupt ({type(e).__name__}: {str(e)[:200]})")

    def _take(self, n: int) -> memoryview:
        part = self.data[self.at : self.at + n]
        if len(part) != n:
            self.refuse("the pickled data is cut short")
        self.at += n
        return part

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _line(self) -> str:
        end = bytes(self.data[self.at : self.at + 4096]).find(b"\n")
        if end < 0:
            self.refuse("the pickled data is corrupt")
        return str(self._take(end + 1)[:-1], "utf-8")

    def _text(self, n: int) -> str:
        return str(self._take(n), "utf-8", "surrogatepass")

    def _push(self, x: Any) -> None:
        self.stack.append(x)

    def _pop(self, at: int = -1) -> Any:
        x = self.stack.pop(at)
        return x if x is not _MARK else self.refuse("the pickled data is corrupt")

    def _marked(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                self.refuse("the pickled data is corrupt")
        out = self.stack[at + 1 :]
        del self.stack[at:]
        return out

    def _tuple(self, n: int) -> None:
        out = tuple(self.stack[len(self.stack) - n :])
        if len(out) != n or any(x is _MARK for x in out):
            self.refuse("the pickled data is corrupt")
        self.stack[len(self.stack) - n :] = [out]

    def _top(self, *kinds: type) -> Any:
        x = self.stack[-1]
        return x if type(x) in kinds else self.refuse("the pickled data is corrupt")

    def _set(self, items: list[Any]) -> None:
        into = self._top(dict, OrderedDict)
        for k, v in zip(items[::2], items[1::2], strict=True):
            into[hashable(k)] = v

    def _name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            self.refuse("the pickled data is corrupt")
        found = self.find(module, name)
        if type(found) is Function and found.value is not None:
            self.calls[id(found.value)] = found
            found = found.value
        self.stack.append(found)

    def _call(self, new: bool = False) -> Any:
        args, fn = self._pop(), self._pop()
        fn = self.calls.get(id(fn), fn)
        call = (fn.new if new else fn.call) if isinstance(fn, Function) else None
        if not isinstance(fn, Function) or call is None or type(args) is not tuple:
            return self.refuse(f"a call of what is no function: {type(fn).__name__}")
        made = call(*args)
        if fn.build is not None:
            self.builders[id(made)] = made, fn.build
        self.stack.append(made)

    def _build(self) -> None:
        state, x = self._pop(), self.stack[-1]
        if type(x) is OrderedDict and type(state) is dict:
            vars(x).update({k: v for k, v in state.items() if k == "_metadata"})
        elif id(x) in self.builders:
            self.builders[id(x)][1](x, state)
        else:
            self.refuse(f"a state for an object that takes none: {type(x).__name__}")


def _sized(code: str, make: Callable[[Reader, int], Any]) -> Callable[[Reader], None]:
    return lambda r: r._push(make(r, r._number(code)))


def _plain(value: Callable[[], Any]) -> Callable[[Reader], None]:
    return lambda r: r._push(value())


def _put(code: str) -> Callable[[Reader], None]:
    return lambda r: r.memo.update({r._number(code): r.stack[-1]})


def _get(code: str) -> Callable[[Reader], None]:
    return lambda r: r._push(r.memo[r._number(code)])


def _raw(r: Reader, n: int) -> bytes:
    return bytes(r._take(n))


def _old_text(r: Reader, n: int) -> str:
    return str(r._take(n), r.encoding)


def _long(r: Reader, n: int) -> int:
    return int.from_bytes(r._take(n), "little", signed=True)


def _frozen(r: Reader) -> None:
    r._push(frozenset(map(hashable, r._marked())))


_STEPS: dict[int, Callable[[Reader], Any]] = {
    ord(code) if isinstance(code, str) else code: step for code, step in {
        0x80: lambda r: r._take(1), 0x95: lambda r: r._take(8),  # PROTO, FRAME
        "(": _plain(lambda: _MARK), "0": lambda r: r.stack.pop(), "N": _plain(lambda: None),
        0x88: _plain(lambda: True), 0x89: _plain(lambda: False),
        "K": _sized("<B", lambda r, n: n), "M": _sized("<H", lambda r, n: n), "J": _sized("<i", lambda r, n: n),
        0x8A: _sized("<B", _long), 0x8B: _sized("<I", _long), "G": _sized(">d", lambda r, x: x),
        "X": _sized("<I", Reader._text), 0x8C: _sized("<B", Reader._text), 0x8D: _sized("<Q", Reader._text),
        "T": _sized("<I", _old_text), "U": _sized("<B", _old_text),
        "B": _sized("<I", _raw), "C": _sized("<B", _raw), 0x8E: _sized("<Q", _raw),
        "]": _plain(list), "}": _plain(dict), ")": _plain(tuple), 0x8F: _plain(set),
        0x85: lambda r: r._tuple(1), 0x86: lambda r: r._tuple(2), 0x87: lambda r: r._tuple(3),
        "t": lambda r: r._push(tuple(r._marked())), "l": lambda r: r._push(r._marked()),
        "a": lambda r: _append(r, [r._pop()]), "e": lambda r: _append(r, r._marked()),
        "s": lambda r: r._set([r._pop(-2), r._pop()]), "u": lambda r: r._set(r._marked()),
        0x90: lambda r: _add(r, r._marked()), 0x91: _frozen,
        "q": _put("<B"), "r": _put("<I"), "h": _get("<B"), "j": _get("<I"),
        0x94: lambda r: r.memo.update({len(r.memo): r.stack[-1]}),
        "c": lambda r: r._name(r._line(), r._line()), 0x93: lambda r: r._name(r.stack.pop(-2), r.stack.pop()),
        "R": Reader._call, 0x81: lambda r: r._call(new=True), "b": Reader._build,
        "Q": lambda r: r._push(r.persistent(r.stack.pop())),
    }.items()
}  # fmt: skip


def _append(r: Reader, items: list[Any]) -> None:
    r._top(list).extend(items)


def _add(r: Reader, items: list[Any]) -> None:
    r._top(set).update(map(hashable, items))
