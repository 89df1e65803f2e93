"""Objects and modes that answer for PyTorch's functions themselves: `__torch_function__`. Source: torch.overrides.

Note [Who is asked]: plain tensors pay nothing for this. A short path serves the classes in `tensor.PLAIN` alone, so an
op finds out on its long path that there is somebody to ask. Tensor's own methods are wrapped in the classes that
answer, not in Tensor. Functions that are no ops ask from the first such class on: their code is replaced by code that
asks and then runs theirs (`_Entry`). So is that of Tensor's own methods while a mode is entered. A class that is no
Tensor is such a class from its definition on where `import torch` means Kiln, elsewhere from the first op that sees
one of its objects.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from types import CodeType, FunctionType
from typing import Any

from . import naming
from .errors import KilnNotImplementedError, KilnTypeError
from .ops.dispatch import NOBODY
from .ops.registry import FUNCTIONS, METHODS, TENSORS, Op
from .tensor import (
    MODES,
    OVERRIDING,
    PLAIN,
    Tensor,
    _disabled_torch_function_impl,
    watch_calls,
)


class _State(threading.local):
    """What a thread is in: the modes entered, whether objects and modes are left alone, one call that asks nobody."""

    modes: tuple[TorchFunctionMode, ...] = ()
    objects_off = all_off = skip = False


_state = _State()


# ---------------------------------------------------------------- who answers


def overriding(values: Iterable[Any]) -> list[Any]:
    """Those who are to be asked, one of each class, subclasses before the classes they derive from."""
    if _state.objects_off or _state.all_off:
        return []
    found: list[Any] = []
    for x in values:
        c = x.__class__
        if c in PLAIN or any(type(y) is c for y in found):
            continue
        answer = getattr(c, "__torch_function__", None)
        if answer is None or answer is _disabled_torch_function_impl:
            continue
        if getattr(answer, "__module__", None) == "torch._tensor":
            continue  # PyTorch's own tensors answer by calling the function again, without end
        at = next((i for i, y in enumerate(found) if issubclass(c, type(y))), len(found))
        found.insert(at, x)
    return found


def _skipped() -> bool:
    skip, _state.skip = _state.skip, False
    return skip


def _modes() -> bool:
    return bool(_state.modes) and not _state.all_off


def asked(op: Op, fn: Callable, args: tuple) -> Any:
    """What an argument of an op or a mode says in its place; NOBODY where the op is to run."""
    if _state.skip and _skipped():
        return NOBODY
    found = overriding(_flat(args[i] for i in op.tensor_slots))
    if not found and not _modes():
        return NOBODY
    if found:
        notice(type(found[0]))
    return _ask(fn, found, *_given(op, args))


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for x in values:
        if x.__class__ is list or x.__class__ is tuple:
            yield from x
        else:
            yield x


def _given(op: Op, args: tuple) -> tuple[tuple, dict[str, Any]]:
    """Arguments by place and by name, without those that have their defaults at the end or by name."""
    last = op.params[-1] if op.params else None
    if last is not None and last.variadic and last.kind == TENSORS:
        return (*args[:-1], *args[-1]), {}  # as they were given
    pairs = list(zip(op.params, args, strict=True))
    named = {p.name: a for p, a in pairs if p.keyword_only and a is not p.default}
    placed = [(p, a) for p, a in pairs if not p.keyword_only]
    while placed and placed[-1][1] is placed[-1][0].default:
        placed.pop()
    return tuple(a for _, a in placed), named


def _ask(fn: Callable, found: list[Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    types = tuple(map(type, found))
    if _modes():
        stack = _state.modes
        _state.modes = stack[:-1]  # who answers calls functions without being asked again
        try:
            out = stack[-1].__torch_function__(fn, types, args, kwargs)
        finally:
            _state.modes = stack
        if out is not NotImplemented:
            return out
    for x in found:
        out = x.__torch_function__(fn, types, args, kwargs)
        if out is not NotImplemented:
            return out
    raise KilnTypeError(
        "torch_function", f"Multiple dispatch failed for '{resolve_name(fn)}'; all __torch_function__ handlers returned NotImplemented",
        ", ".join(t.__name__ for t in types) or type(_state.modes[-1]).__name__, "answer for it, or call the function",
    )  # fmt: skip


@contextmanager
def _switched(**flags: bool) -> Iterator[None]:
    before = {n: getattr(_state, n) for n in flags}
    for n, flag in flags.items():
        setattr(_state, n, flag)
    try:
        yield
    finally:
        for n, flag in before.items():
            setattr(_state, n, flag)


def DisableTorchFunctionSubclass() -> Any:
    """Within this, objects are not asked; modes are."""
    return _switched(objects_off=True)


def DisableTorchFunction() -> Any:
    """Within this, nobody is asked."""
    return _switched(all_off=True)


def run_plain(fn: Callable, args: tuple, kwargs: dict[str, Any] | None) -> Any:
    """Call a function without asking objects."""
    before, _state.objects_off = _state.objects_off, True
    try:
        return fn(*args, **(kwargs or {}))
    finally:
        _state.objects_off = before


def default(cls: type, fn: Callable, types: Any, args: tuple, kwargs: dict | None) -> Any:
    """What classes do that say nothing: the function runs, and tensors that it gives are of the class."""
    if not all(issubclass(cls, t) for t in types):
        return NotImplemented
    out = run_plain(fn, args, kwargs)
    return out if fn in get_default_nowrap_functions() else _converted(out, cls)


def as_class(t: Any, cls: type) -> Any:
    """A tensor that nobody else has, as one of a class."""
    if "__torch_dispatch__" in {n for c in cls.__mro__ for n in vars(c)}:
        refuse_dispatch(cls.__name__)
    t.__class__ = cls
    return t


def refuse_dispatch(name: str) -> Any:
    """The error of what stands beneath autograd in PyTorch."""
    raise KilnNotImplementedError(
        "torch_dispatch", "`__torch_dispatch__` is not built: there is no dispatcher beneath autograd that could ask",
        name, "answer for functions by __torch_function__",
    )  # fmt: skip


def _converted(out: Any, cls: type) -> Any:
    if cls is Tensor:
        return out
    if isinstance(out, Tensor):
        return out if isinstance(out, cls) else out.as_subclass(cls)
    if isinstance(out, tuple) and hasattr(out, "_fields"):
        return type(out)(*(_converted(x, cls) for x in out))
    if out.__class__ is tuple or out.__class__ is list:
        return type(out)(_converted(x, cls) for x in out)
    return out


# ---------------------------------------------------------------- where they are asked


def intercept(cls: type) -> None:
    """Have a new class's methods ask it: those of Tensor's that are no ops, which ask by themselves.

    Of a class that does nothing but keep itself, those that give tensors.
    """
    OVERRIDING.append(cls)
    _engage()
    own = _answer_of(cls) is not _answer_of(Tensor)
    between = cls.__mro__[: cls.__mro__.index(Tensor)]
    for name, member in _members():
        gives = name in _GIVE or getattr(member, "__annotations__", {}).get("return") == "Tensor"
        if (own or gives) and not any(name in vars(c) for c in between):
            setattr(cls, name, _asking(member))


def notice(cls: type) -> None:
    """Have functions ask the objects of a class that is no Tensor, but answers for them."""
    if cls not in OVERRIDING:
        OVERRIDING.append(cls)
        _engage()


def _answer_of(cls: Any) -> Any:
    answer = cls.__torch_function__
    return getattr(answer, "__func__", answer)


_GIVE = frozenset("data real imag T H mT mH __setitem__".split())  # noqa: SIM905
_ALONE = frozenset(
    [
        "__new__",
        "__init_subclass__",
        "__torch_function__",
        "__iter__",
        "__hash__",
        "__str__",
        "__array_namespace__",
        "as_subclass",
        "new",
        "ndimension",
        "nelement",
        "_is_view",
        "_host",
        "_make_subclass",
        "_make_wrapper_subclass",
    ]
)
"""Members that nobody is asked about."""
_DUNDERS = frozenset(
    [
        "__repr__",
        "__len__",
        "__bool__",
        "__int__",
        "__float__",
        "__complex__",
        "__index__",
        "__contains__",
        "__format__",
        "__getitem__",
        "__setitem__",
        "__deepcopy__",
        "__reversed__",
    ]
)


def _members() -> Iterator[tuple[str, Any]]:
    """Methods and properties of Tensor that are no ops."""
    for name, member in list(vars(Tensor).items()):
        if name in _ALONE or (name[:1] == "_" and name not in _DUNDERS):
            continue
        if isinstance(member, property) or (
            isinstance(member, FunctionType) and not hasattr(member, "op")
        ):
            yield name, member


def _asking(member: Any) -> Any:
    """A method or property of Tensor that asks its tensor's class first."""
    if isinstance(member, property):
        given: list[Any] = [member.fget, member.fset, member.fdel]
        public = [member.__get__, member.__set__, member.__delete__]
        asking = [f and _asking_of(f, p) for f, p in zip(given, public, strict=True)]
        return property(asking[0], asking[1], asking[2])
    return wraps(member)(_asking_of(member, member))


def _asking_of(run: Callable, public: Callable) -> Callable:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _state.skip and _skipped():
            return run(self, *args, **kwargs)
        found = overriding((self, *args))
        if not found and not _modes():
            return run(self, *args, **kwargs)
        return _ask(public, found, (self, *args), kwargs)

    return method


class _Entry:
    """What stands before a function's code: it asks, and runs the code where nobody answers."""

    def __init__(self, fn: FunctionType, public: Callable):
        self.fn, self.public, self.code = fn, public, fn.__code__
        self.run = FunctionType(
            fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__
        )
        self.run.__kwdefaults__ = fn.__kwdefaults__
        asking = _template(self.code.co_freevars)
        consts = tuple(self if c == "entry" else c for c in asking.co_consts)
        self.objects = fn.__name__ != "tensor"  # which copies any tensor as a plain one
        self.within = not getattr(fn, "unpacks", False)
        self.named = "__wrapped__" not in fn.__dict__
        if self.named:
            fn.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
        fn.__code__ = asking.replace(
            co_consts=consts, co_name=self.code.co_name, co_qualname=self.code.co_qualname,
            co_filename=self.code.co_filename, co_firstlineno=self.code.co_firstlineno,
        )  # fmt: skip

    def call(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        if _state.skip and _skipped():
            return self.run(*args, **kwargs)
        given: Iterable[Any] = (*args, *kwargs.values())
        found = overriding(_flat(given) if self.within else given) if self.objects else []
        if not found and not _modes():
            return self.run(*args, **kwargs) if self.objects else run_plain(self.run, args, kwargs)
        return _ask(self.public, found, args, kwargs)

    def remove(self) -> None:
        """Give the function its own code back."""
        self.fn.__code__ = self.code
        if self.named:
            del self.fn.__signature__  # type: ignore[attr-defined]


@cache
def _template(free: tuple[str, ...]) -> CodeType:
    """The code that asks, of a function with such a closure: who looks at its frame reads the cells that code copies."""
    names = "".join(f"    {n} = None\n" for n in free)
    used = "".join(f"        {n}\n" for n in free)  # which is never reached
    scope: dict[str, Any] = {}
    exec(
        f"def outer():\n{names}    def function(*args, **kwargs):\n"
        f"        return 'entry'.call(args, kwargs)\n{used}    return function\n",
        scope,
    )
    return scope["outer"]().__code__


_UNASKED = _ALONE | {
    "compile",
    "save",
    "load",
    "manual_seed",
    "seed",
    "is_tensor",
    "vmap",
    "cond",
    "scan",
    "while_loop",
}
"""Functions that see no tensors as such, or hand on what they are given."""
_functions: dict[int, _Entry] = {}
_methods: list[_Entry] = []


def _asks(fn: Any) -> bool:
    """Whether a function asks by itself, under its own name: an op's does, and its in-place form."""
    op = getattr(fn, "op", None)
    return op is not None and (op.fn is fn or fn.__name__[-1] == "_")


def _engage() -> None:
    """Have public functions that are no ops ask from now on."""
    if _functions:
        return
    import kiln

    functional = kiln.nn.functional
    rooms = [kiln.autograd.grad, kiln.autograd.backward, vars(kiln)["_assert"]]
    rooms += [fn for m in (kiln, functional) for n, fn in vars(m).items() if n[0] != "_"]
    for fn in (*FUNCTIONS.values(), *METHODS.values(), *rooms):
        if (
            isinstance(fn, FunctionType) and not _asks(fn) and id(fn) not in _functions
            and fn.__module__.startswith("kiln") and fn.__name__ not in _UNASKED
        ):  # fmt: skip
            _functions[id(fn)] = _Entry(fn, fn)


# ---------------------------------------------------------------- modes


class TorchFunctionMode:
    """Answers for every function of tensors called within it, those that are given no tensor included."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """What the function gives; NotImplemented leaves it to the next who is asked."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        if not MODES:
            _engage()
            watch_calls("modes", True)
            done = set(_functions)
            for _, member in _members():
                pairs = (
                    ((member.fget, member.__get__), (member.fset, member.__set__))
                    if isinstance(member, property) else ((member, member),)
                )  # fmt: skip
                for fn, public in pairs:
                    if isinstance(fn, FunctionType) and id(fn) not in done:
                        done.add(id(fn))
                        _methods.append(_Entry(fn, public))
        MODES.append(self)
        _state.modes = (*_state.modes, self)
        return self

    def __exit__(self, *error: object) -> None:
        _state.modes = _state.modes[:-1]
        MODES.remove(self)
        if not MODES:
            watch_calls("modes", False)
            while _methods:
                _methods.pop().remove()
            if not OVERRIDING:
                while _functions:
                    _functions.popitem()[1].remove()


class BaseTorchFunctionMode(TorchFunctionMode):
    """A mode that calls each function as it is."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------- for functions of a program


def has_torch_function(relevant_args: Iterable[Any]) -> bool:
    """Whether any of these, or a mode, answers for functions itself."""
    if _state.skip and _skipped():
        return False
    return _modes() or bool(overriding(relevant_args))


def has_torch_function_unary(obj: Any) -> bool:
    """Whether an argument, or a mode, answers for functions itself."""
    return has_torch_function((obj,))


def has_torch_function_variadic(*args: Any) -> bool:
    """Whether any argument, or a mode, answers for functions itself."""
    return has_torch_function(args)


def handle_torch_function(
    public_api: Callable, relevant_args: Iterable[Any], *args: Any, **kwargs: Any
) -> Any:
    """What those who answer say of a call of a function. TypeError where none does."""
    return _ask(public_api, overriding(relevant_args), args, kwargs)


def wrap_torch_function(dispatcher: Callable) -> Callable[[Callable], Callable]:
    """Have a function ask those among its arguments that `dispatcher` names, given the same call."""

    def decorate(func: Callable) -> Callable:
        @wraps(func)
        def call(*args: Any, **kwargs: Any) -> Any:
            relevant = tuple(dispatcher(*args, **kwargs))
            if has_torch_function(relevant):
                return handle_torch_function(call, relevant, *args, **kwargs)
            return func(*args, **kwargs)

        return call

    return decorate


def redispatch_function(
    func: Callable, types: Any, args: tuple, kwargs: dict[str, Any] | None
) -> Any:
    """Call a function without asking for this call; for those that it makes, everybody is asked."""
    with _switched(skip=True, objects_off=False):
        return func(*args, **(kwargs or {}))


@contextmanager
def enable_reentrant_dispatch() -> Iterator[None]:
    """Within this, who answers is asked for the functions that it calls as well."""
    with _switched(objects_off=False, all_off=False):
        yield


# ---------------------------------------------------------------- what there is


def is_tensor_like(inp: Any) -> bool:
    """Whether an object is a tensor or says that it acts as one."""
    return isinstance(inp, Tensor) or hasattr(type(inp), "__torch_function__")


def is_tensor_method_or_property(func: Any) -> bool:
    """Whether a function is a method or property of tensors."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__", "__delete__"):
        return isinstance(getattr(func, "__self__", None), property)
    return getattr(Tensor, name, None) is func or isinstance(func, property)


_nowrap: set[Any] = set()


def get_default_nowrap_functions() -> set[Any]:
    """What keeps no subclass: the getters of gradients."""
    if not _nowrap:
        _nowrap.update(vars(Tensor)[n].__get__ for n in ("grad", "_grad", "_base"))
    return _nowrap


def get_ignored_functions() -> set[Any]:
    """The functions that ask nobody."""
    names = ("tensor", "as_tensor", "from_numpy", "is_grad_enabled", "set_grad_enabled")
    ignored = {FUNCTIONS[n] for n in names if n in FUNCTIONS}
    return ignored | {vars(Tensor)[n] for n in _ALONE if callable(vars(Tensor).get(n))}


def get_overridable_functions() -> dict[Any, list[Callable]]:
    """The functions that can be answered for, by the module or class that has them."""
    import kiln

    found: dict[Any, list[Callable]] = {kiln: [], kiln.nn.functional: [], Tensor: []}
    for name, fn in list(FUNCTIONS.items()):  # rooms that are imported now bring theirs along
        room: Any = kiln
        for part in name.split(".")[:-1]:
            room = getattr(room, part, None)
        if room is not None and name.rpartition(".")[2][0] != "_":
            found.setdefault(room, []).append(fn)
    for name, member in vars(Tensor).items():
        if isinstance(member, property):
            found[Tensor].append(member.__get__)
        elif isinstance(member, FunctionType) and name not in _ALONE:
            found[Tensor].append(member)
    return found


def get_testing_overrides() -> dict[Callable, Callable]:
    """For each function that can be answered for, one of its signature that gives -1."""

    def stand_in(fn: Callable) -> Callable:
        def other(*args: Any, **kwargs: Any) -> int:
            return -1

        if isinstance(fn, FunctionType):
            other.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
        return other

    return {fn: stand_in(fn) for fns in get_overridable_functions().values() for fn in fns}


def resolve_name(f: Any) -> str:
    """The public name of a function that can be answered for."""
    root = naming.name
    if isinstance(member := getattr(f, "__self__", None), property):
        name = next((n for n, m in vars(Tensor).items() if m is member), "?")
        return f"{root}.Tensor.{name}.{f.__name__}"
    for name, fn in FUNCTIONS.items():
        if fn is f:
            return f"{root}.{name}"
    import kiln

    for room, names in ((root, vars(kiln)), (f"{root}.Tensor", vars(Tensor))):
        for name, fn in names.items():
            if fn is f:
                return f"{room}.{name}"
    return f"{getattr(f, '__module__', '')}.{getattr(f, '__qualname__', f)}"


__all__ = [
    "BaseTorchFunctionMode", "TorchFunctionMode", "enable_reentrant_dispatch", "get_default_nowrap_functions",
    "get_ignored_functions", "get_overridable_functions", "get_testing_overrides", "handle_torch_function",
    "has_torch_function", "has_torch_function_unary", "has_torch_function_variadic", "is_tensor_like",
    "is_tensor_method_or_property", "redispatch_function", "resolve_name", "wrap_torch_function",
]  # fmt: skip
