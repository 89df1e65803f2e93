"""The functions, operators and in-place forms that are derived from an op, written from templates."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import DISABLED
from ..autograd.recorders import recorder
from ..autograd.tape import record, record_binary, record_reflected, record_unary
from ..sharing import watched, written
from ..tensor import CAPTURING, PLAIN, Tensor, _new, wrap
from . import dispatch, storing
from .numpy_names import NAMES, UNSET
from .registry import TENSOR, TENSORS, Op, code_of
from .runners import follow

_F16, _F32, _F64, _I64 = dt.float16.np, dt.float32.np, dt.float64.np, dt.int64.np

# Functions of one shape (so many parameters, these by keyword, …) run one code object, compiled once, with
# their own names, defaults and globals: compiling one for each function would be a third of `import kiln`.
# In sources parameters are p0, p1, …
_BINARY = """
def f(p0, p1{extra_sig}):
    if (p0.__class__ is Tensor or p0.__class__ in _PLAIN) and not _capturing{extra_test}:
        a = p0._a
        if p1.__class__ is Tensor or p1.__class__ in _PLAIN:
            b = p1._a
            n = b.size
            d = a.dtype
            ok = d is b.dtype and (d is _F32 or d.kind in {native!r})
        else:
            b, n = p1, 0
            c = b.__class__
            d = a.dtype
            ok = (
                (c is float or c is int) and d is not _F16
                if d.kind == "f"
                else c is int and d is _I64 and {whole!r} and -_FAR < b < _FAR
            )
        if ok:
            try:
                r = _ufunc(a, b) if a.size < _LARGE > n else _op.eager(a, b{rest})
            except Exception:
                pass
            else:
                if r.__class__ is not _ndarray:
                    r = _asarray(r)
                elif b is not p1 and a.ndim > 1 and not a.flags.c_contiguous:
                    r = _follow(r, (a, b))
                t = _new(Tensor)
                t._a = r
                t._fn = t._grad = t._ver = t._base = t._hooks = None
                t._idx = 0
                t._rg = False
                if p0._rg or p0._base is not None:
                    _record2(_op, p0, p1, t)
                elif b is not p1 and (p1._rg or p1._base is not None):
                    _record2(_op, p0, p1, t)
                return t
    {tail}
"""
_UNARY = """
def f(p0{extra_sig}):
    if (p0.__class__ is Tensor or p0.__class__ in _PLAIN) and not _capturing{extra_test}:
        a = p0._a
        d = a.dtype
        if d is _F32 or d.kind in {native!r}:
            try:
                r = _ufunc(a) if a.size < _LARGE else _op.eager(a{rest})
            except Exception:
                pass
            else:
                if r.__class__ is not _ndarray:
                    r = _asarray(r)
                t = _new(Tensor)
                t._a = r
                t._fn = t._grad = t._ver = t._base = t._hooks = None
                t._idx = 0
                t._rg = False
                if p0._rg or p0._base is not None:
                    _record1(_op, p0, t)
                return t
    {tail}
"""


_REFLECTED = """
def f(p0, p1):
    if (p0.__class__ is Tensor or p0.__class__ in _PLAIN) and not _capturing:
        a = p0._a
        c = p1.__class__
        if (c is float or c is int) and a.dtype.kind == "f" and a.dtype is not _F16 and a.size < _LARGE:
            try:
                r = _ufunc(p1, a)
            except Exception:
                pass
            else:
                if r.__class__ is not _ndarray:
                    r = _asarray(r)
                t = _new(Tensor)
                t._a = r
                t._fn = t._grad = t._ver = t._base = t._hooks = None
                t._idx = 0
                t._rg = False
                if p0._rg or p0._base is not None:
                    _record3(_op, p1, p0, t)
                return t
    _expect(_op.name, p0)
    return _reflect(_op, p1, p0)
"""


_INPLACE = """
def f(p0, p1{extra_sig}):
    if (p0.__class__ is Tensor or p0.__class__ in _PLAIN) and not _capturing{extra_test}:
        a = p0._a
        d = a.dtype
        if (d is _F32 or d is _F64) and a.size < _LARGE:
            tracked = p0._rg or p0._base is not None
            if p1.__class__ is Tensor or p1.__class__ in _PLAIN:
                b = p1._a
                ok = b.dtype is d and b.shape == a.shape and (p1._ver is None or p1._ver is not p0._ver)
                tracked = tracked or p1._rg or p1._base is not None
            else:
                b = p1
                ok = (b.__class__ is float or b.__class__ is int){once}
            if ok and (not tracked or (_DISABLED and _ident() in _DISABLED)):
                if _watched:
                    _written(a)
                try:
                    _ufunc(a, {operand}, a)
                except Exception:
                    pass
                else:
                    _bump(p0)
                    return p0
    return _inplace(_op, {call})
"""


# Of what is no ufunc. Only what `apply` would do with plain tensors is done; what fails is told by it.
_SHORT = """
def f({sig}):
    if not _capturing{test}:
        try:
            {unpack}
            {agree}
            r = {run}
            c = r.__class__
            if c is not _ndarray and c is not tuple and c is not list:
                r = _asarray(r)
        except Exception:
            pass
        else:
            if c is tuple or c is list:
                return _several(_op, {call}, r, {tracked})
            t = _new(Tensor)
            t._a = {result} if c is _ndarray else r
            t._fn = t._grad = t._ver = t._base = t._hooks = None
            t._idx = 0
            t._rg = False
            if {tracked}:
                _put({params}, t)
            return t
    {tail}
"""


# The calls that the shape rule let pass are kept by shapes, dtypes and attributes, the classes of these included.
_AGREE = """key = {key},
            if key not in _seen:
                _pass(_op, {call}, [{raw}], _seen, key)"""


def _pass(op: Op, args: tuple, raw: list, seen: set, key: tuple) -> None:
    """Ask the shape rule, and keep what it let pass in mind where equal attributes are the same."""
    dispatch._agree(op, args, raw)
    for p, x in zip(op.params, args, strict=True):
        if (
            not p.is_tensor
            and x.__class__ not in _SIMPLE
            and not (x.__class__ is tuple and op.private)
        ):
            return
    if len(seen) >= dispatch._PASSED:
        seen.clear()
    seen.add(key)


def _arrays(tensors: Any) -> tuple[list, bool]:
    """The payloads of a sequence of plain tensors, and whether any may have a history; TypeError for any other."""
    if (tensors.__class__ is not list and tensors.__class__ is not tuple) or not tensors:
        raise TypeError
    found = [t._a for t in tensors if t.__class__ in PLAIN]
    if len(found) != len(tensors):
        raise TypeError
    for t in tensors:
        if t._rg or t._base is not None:
            return found, True
    return found, False


_SIMPLE = {int, float, str, bool, type(None)}
_OWN = np.dtype(np.clongdouble).num + 1
"""Numbers of dtypes from where on they are none that NumPy computes in."""


def _several(op: Op, args: tuple, found: Sequence[Any], tracked: bool) -> tuple:
    """The results of an op that has several."""
    arrays = map(np.asarray, found)
    if op.lies == "rows":
        arrays = [a if a.flags.c_contiguous else a.copy() for a in arrays]
    outs = tuple([wrap(a) for a in arrays])
    if tracked:
        record(op, args, outs)
    return outs if op.result is None else op.result(*outs)


def _globals(op: Op) -> dict[str, Any]:
    return {
        "__name__": "kiln.ops.generated", "Tensor": Tensor, "_PLAIN": PLAIN, "_new": _new, "_capturing": CAPTURING,
        "_ndarray": np.ndarray, "_asarray": np.asarray, "_record1": record_unary, "_record2": record_binary, "_record3": record_reflected, "_op": op,
        "_ufunc": op.short, "_LARGE": dispatch.LARGE, "_F32": _F32 if "f" in op.native else None, "_I64": _I64, "_F16": _F16, "_FAR": 2**63, "_apply": dispatch.apply, "_view": dispatch.view, "_inplace": dispatch.inplace,
        "_store_out": storing.store_out, "_flat": _flat, "_follow": follow, "_alias": _alias,
        "_reflect": _reflect, "_expect": dispatch.expect_tensor, "_seen": set(), "_pass": _pass,
        "_several": _several, "_arrays": _arrays, "_begin": _begin, "_UNSET": UNSET,
        "_F64": _F64 if "f" in op.native else None, "_DISABLED": DISABLED, "_ident": get_ident,
        "_watched": watched, "_written": written, "_bump": storing.bump,
    }  # fmt: skip


def _flat(values: tuple, named: Any) -> Any:
    """`f(2, 3)`, `f((2, 3))` and `f(size=(2, 3))` alike."""
    if named is not UNSET:
        return tuple(named) if isinstance(named, list | tuple) else (named,)
    if len(values) == 1 and isinstance(values[0], list | tuple):
        return tuple(values[0])
    return values


def _alias(value: Any, other: Any) -> Any:
    return value if other is UNSET else other


def _reflect(op: Op, input: Any, other: Any) -> Any:
    """A binary operator's slow path: NotImplemented lets the other operand try."""
    for x in (input, other):
        if not isinstance(x, OPERANDS) and not hasattr(type(x), "__torch_function__"):
            return NotImplemented
    return dispatch.apply(op, (input, other, *op.defaults))


OPERANDS = (Tensor, np.ndarray, *dispatch._NUMBERS)


@dataclass(frozen=True)
class Form:
    """A public function's parameter list and argument tuple in source, and what makes them its own."""

    sig: str
    call: str
    names: dict[str, str]
    defaults: tuple = ()
    kwdefaults: dict[str, Any] = field(default_factory=dict)


def form(op: Op, out: bool = False, **flags: Any) -> Form:
    """The form of an op's function, with an `out` argument or flags with their defaults at the end.

    Beside PyTorch's `dim` and `keepdim`, NumPy's `axis` and `keepdims` are taken by keyword.
    """
    empty = inspect.Parameter.empty
    parts: list[str] = []
    call: list[str] = []
    names: dict[str, str] = {}
    defaults: list[Any] = []
    extra: dict[str, Any] = {}
    star, late = "", False
    for i, p in enumerate(op.params):
        n = f"p{i}"
        names[n] = p.name
        if p.variadic:
            names["rest"], extra[n] = "_" + p.name, UNSET
            names[n] = {"sizes": "size"}.get(p.name, p.name)
            call.append(f"_flat(rest, {n})")
            star = "*rest"
            continue
        alias = NAMES.get(p.name)
        late = alias is not None or (late and not p.keyword_only)
        default = UNSET if late and p.default is empty else p.default
        if p.keyword_only or star:
            extra[n] = default
        else:
            parts.append(n)
            if default is not empty:
                defaults.append(default)
        if alias:
            names[a := f"a{i}"] = alias
            extra[a] = UNSET
        call.append(f"_alias({n}, {a})" if alias else n)
    if out:
        extra["out"] = None
    for n, default in flags.items():
        parts.append(n)
        defaults.append(default)
    if extra:
        parts += [star or "*", *extra]
    tail = "," if len(call) == 1 else ""
    kwdefaults = {names.get(n, n): d for n, d in extra.items() if d is not empty}
    return Form(", ".join(parts), f"({', '.join(call)}{tail})", names, tuple(defaults), kwdefaults)


def _own_code(op: Op, source: str, form: Form, name: str) -> types.CodeType:
    """The code of a source with the names of a form."""
    code = code_of(source, "<kiln>")
    return code.replace(
        co_name=name, co_qualname=name, co_filename=f"<kiln {op.name}>",
        co_varnames=tuple([form.names.get(n, n) for n in code.co_varnames]),
    )  # fmt: skip


def generated(op: Op, source: str, form: Form, name: str = "") -> Callable:
    """The function of a source with the names and defaults of its form."""
    name = name or op.name.rsplit(".", 1)[-1]
    fn: Any = types.FunctionType(
        _own_code(op, source, form, name), _globals(op), name, form.defaults
    )
    fn.__kwdefaults__ = form.kwdefaults or None
    fn.__doc__ = op.reference.__doc__
    fn.__module__ = "kiln"
    fn.op = op
    return fn


def _may_be_short(op: Op) -> bool:
    """Whether an op has a short path, which a call that fails leaves to run again."""
    if op.view or op.ufunc is not None or not op.params or any(p.variadic for p in op.params):
        return False
    if op.params[0].kind not in (TENSOR, TENSORS) or (op.list_slots and op.check):
        return False
    return not op.family.startswith("random")


def _begin(op: Op, args: tuple) -> Any:
    """The first call of an op that has a short path, which is written now: few ops of many are ever called."""
    f, fn = form(op, bool(op.out)), op.fn
    fn.__globals__.update(_put=recorder(op), _ref=op.reference)
    fn.__code__ = _own_code(op, _short_source(op, f), f, fn.__name__)
    return dispatch.apply(op, args)


def _short_source(op: Op, f: Form) -> str:
    """The function of an op with a short path for plain tensors: see `_SHORT`."""
    tests, raw, key, unpack, tracked = [], [], [], [], []
    for i, p in enumerate(op.params):
        n, x = f"p{i}", f"x{i}"
        if not p.is_tensor:
            raw.append(n)
            key.append(f"{n}.__class__, {n}")
            continue
        raw.append(x)
        if p.kind == TENSORS:
            unpack.append(f"{x}, h{i} = _arrays({n})")
            tracked.append(f"h{i}")
            continue
        plain, others = f"{n}.__class__ in _PLAIN", []
        if i in op.absent:
            others.append(f"{n} is None")
        if i in op.plain:
            others += [f"{n}.__class__ is float", f"{n}.__class__ is int"]
        tests.append(f"({' or '.join([plain, *others])})" if others else plain)
        unpack.append(f"{x} = {n}._a if {plain} else {n}" if others else f"{x} = {n}._a")
        size = f"{x}.shape, {x}.dtype.num"
        if i in op.plain:
            size = f"({size}) if {x}.__class__ is _ndarray else ({x}.__class__, {x})"
        elif others:
            size = f"{x} is not None and ({size})"
        key.append(size)
        history = f"{n}._rg or {n}._base is not None"
        tracked.append(f"({plain} and ({history}))" if others else history)
    tests += [f"{n} is _UNSET" for n in f.names if n[0] == "a"]
    if op.out:
        tests.append("out is None")
    params, given = ", ".join([f"p{i}" for i in range(len(op.params))]), ", ".join(raw)
    call, run = f"({params},)", f"_op.eager({given})"
    if few := _few(op):
        # neither routines, promotion nor half floats are asked about
        run = f"_ref({given}) if {' and '.join([few.format(x=f'x{i}') for i in op.tensor_slots])} else {run}"
    agree = _AGREE.format(key=", ".join(key), call=call, raw=given) if op.check and op.infer else ""
    return _SHORT.format(
        sig=f.sig, test="".join([f" and {t}" for t in tests]), unpack="\n            ".join(unpack), agree=agree, call=call, run=run,
        result="(r if r.flags.c_contiguous else r.copy())" if few and op.lies else "r",
        params=params, tracked=" or ".join(tracked) if op.rules else "False", tail=_tail(op, f, "_apply"),
    )  # fmt: skip


def _few(op: Op) -> str:
    """What of an operand `x` tells that the reference itself is what eager mode calls; "" where nothing does."""
    least = getattr(op.eager, "least_of_any", 0)
    if not least or op.list_slots or op.lies not in ("", "rows") or op.family == "factorization":
        return ""
    test = f"{{x}}.size < {least} and {{x}}.dtype.num < {_OWN}"
    return f"({{x}}.__class__ is not _ndarray or {test})" if op.absent or op.plain else test


def _tail(op: Op, f: Form, run: str) -> str:
    """What a function ends with: the call of what runs the op."""
    if op.out:
        return f"r = {run}(_op, {f.call})\n    return r if out is None else _store_out(_op, r, out, {f.call})"
    return f"return {run}(_op, {f.call})"


def function(op: Op) -> Callable:
    """The public function of an op, with its signature, and a short path for plain tensors where there can be one."""
    op.native = op.native or "fiub"
    f = form(op, op.out)
    if op.short is None:
        short = "_begin" if _may_be_short(op) else "_apply"
        tail = _tail(op, f, "_view" if op.view and not op.layout else short)
        return generated(op, f"def f({f.sig}):\n    {tail}\n", f)
    tail = _tail(op, f, "_apply")
    f, sig, test = _short_form(op, f, op.out)
    template = _BINARY if len(op.tensor_slots) == 2 else _UNARY
    source = template.format(
        extra_sig=sig,
        extra_test=test,
        native=op.native,
        whole=_whole(op),
        tail=tail,
        rest=_rest(op),
    )
    return generated(op, source, f)


def _short_form(op: Op, f: Form, out: Any = False) -> tuple[Form, str, str]:
    """A form whose attributes are keyword-only, whatever they are in the reference; their part of the
    signature, and a test that they have their defaults."""
    n = len(op.tensor_slots)
    rest = {f"p{i}": p.default for i, p in enumerate(op.params) if i >= n}
    if out:
        rest["out"] = None
    test = "".join(f" and {n} {'is' if d is None else '=='} {d!r}" for n, d in rest.items())
    sig = f", *, {', '.join(rest)}" if rest else ""
    named = {f.names.get(n, n): d for n, d in rest.items()}
    return Form("", f.call, f.names, (), named), sig, test


def _whole(op: Op) -> bool:
    """Whether the second operand may be a Python integer beside integers."""
    return len(op.tensor_slots) == 2 and op.params[1].kind != TENSOR and "i" in op.native


def _rest(op: Op) -> str:
    """The defaults of an ufunc's attributes, as arguments of its routine."""
    return "".join(f", {d!r}" for d in op.defaults)


_OPERATOR = Form("", "", {"p0": "input", "p1": "other"})


def dunder(op: Op, name: str, reflected: bool) -> Callable:
    if reflected and op.ufunc is not None:
        return generated(op, _REFLECTED, _OPERATOR, name)
    if reflected:
        source = "def f(p0, p1):\n    _expect(_op.name, p0)\n    return _reflect(_op, p1, p0)\n"
        return generated(op, source, _OPERATOR, name)
    tail = "return _reflect(_op, p0, p1)"
    if op.short is None:
        return generated(op, f"def f(p0, p1):\n    {tail}\n", _OPERATOR, name)
    source = _BINARY.format(
        extra_sig="",
        extra_test="",
        native=op.native,
        whole=_whole(op),
        tail=tail,
        rest=_rest(op),
    )
    return generated(op, source, _OPERATOR, name)


def inplace_function(op: Op) -> Callable:
    """The form that stores its result in the first argument and returns it."""
    f = form(op)
    name = op.name.rsplit(".", 1)[-1] + "_"
    if op.ufunc is not None and len(op.tensor_slots) == 2:
        f, sig, test = _short_form(op, f)
        once, operand = "", "b"
        if op.factor == 2:
            test = " and (p2.__class__ is float or p2.__class__ is int)"
            once, operand = " and p2 == 1", "b if p2 == 1 else b * d.type(p2)"
        source = _INPLACE.format(
            extra_sig=sig, extra_test=test, once=once, operand=operand, call=f.call
        )
    else:
        source = f"def f({f.sig}):\n    return _inplace(_op, {f.call})\n"
    fn = generated(op, source, f, name)
    fn.__doc__ = f"In-place form of `{op.name}`: {op.reference.__doc__}"
    return fn
