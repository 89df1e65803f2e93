"""What the registry derives from an op: its eager runner, its functions, methods and in-place forms."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import record_binary, record_unary
from ..shape import broadcast_shapes
from ..tensor import CAPTURING, Tensor, _new
from . import dispatch
from .registry import FUNCTIONS, METHODS, Op

_HALF = (dt.float16.np, dt.bfloat16.np)
_F32, _F64 = dt.float32.np, dt.float64.np

# ---------------------------------------------------------------- eager runners


def runner(op: Op) -> Callable:
    """The reference as it runs in eager mode: promotion for elementwise ops, half floats in float32."""
    if op.family == "elementwise":
        return _elementwise_runner(op)
    return op.reference if op.exact else _half_runner(op)


def compute_dtype(op: Op, operands: Any) -> dt.dtype:
    """The common dtype in which an elementwise op computes."""
    d = dt.result_type(*operands)
    if op.promote == "float" and d.category < dt.FLOAT:
        return dt.get_default_dtype()
    return d


def _elementwise_runner(op: Op) -> Callable:
    ref, slots = op.reference, op.tensor_slots
    keep = op.promote in ("same", "float")
    first = slots[0]
    second = slots[1] if len(slots) == 2 else None

    def run(*args: Any) -> Any:
        a = args[first]
        if a.__class__ is np.ndarray and (a.dtype is _F32 or a.dtype is _F64) and len(slots) <= 2:
            b = a if second is None else args[second]
            if b.__class__ is np.ndarray and b.dtype is a.dtype:  # nothing to promote
                r = ref(*args)
                return r.astype(a.dtype) if keep and r.dtype is not a.dtype else r
        present = [i for i in slots if args[i] is not None]
        want = compute_dtype(op, [args[i] for i in present])
        half = want.np in _HALF
        np_type = _F32 if half else want.np
        values = list(args)
        for i in present:
            x = values[i]
            if x.__class__ is np.ndarray:
                if x.dtype is not np_type:
                    values[i] = x.astype(np_type)
            else:
                try:
                    values[i] = np_type.type(x)
                except OverflowError:  # integers wrap, as in PyTorch
                    values[i] = np.int64(x).astype(np_type)
        r = ref(*values)
        if (keep and r.dtype != want.np) or (half and r.dtype == _F32):
            r = r.astype(want.np)
        return r

    return run


def _half_runner(op: Op) -> Callable:
    ref = op.reference
    dtype_slot = op.index.get("dtype")

    def up(x: Any) -> Any:
        if x.__class__ is np.ndarray and x.dtype in _HALF:
            return x.astype(_F32)
        return [up(y) for y in x] if x.__class__ is list else x

    def run(*args: Any) -> Any:
        half = None
        for i in op.tensor_slots:
            for x in args[i] if args[i].__class__ is list else (args[i],):
                if half is None and x.__class__ is np.ndarray and x.dtype in _HALF:
                    half = x.dtype
        if half is None:
            return ref(*args)
        r = ref(*(up(a) for a in args))
        if dtype_slot is not None and args[dtype_slot] is not None:
            return r

        def down(y: Any) -> Any:
            y = np.asarray(y)
            return y.astype(half) if y.dtype == _F32 else y

        return tuple(map(down, r)) if isinstance(r, tuple | list) else down(r)

    return run


def elementwise_infer(op: Op) -> Callable:
    """The shape rule of an elementwise op: broadcast shapes, promoted dtype."""

    def infer(*args: Any) -> tuple:
        xs = [args[i] for i in op.tensor_slots if args[i] is not None]
        shape = broadcast_shapes(*[getattr(x, "shape", ()) for x in xs], op=op.name)
        d = compute_dtype(op, xs)
        if op.promote == "bool":
            return shape, dt.bool_
        if op.promote == "real":
            return shape, d.to_real()
        return shape, d

    return infer


# ---------------------------------------------------------------- functions

_UNSET = object()
_BINARY = """
def {name}(input, other{extra_sig}):
    {doc!r}
    if (input.__class__ is Tensor or isinstance(input, Tensor)) and not _capturing{extra_test}:
        a = input._a
        if other.__class__ is Tensor or isinstance(other, Tensor):
            b = other._a
            d = a.dtype
            ok = d is b.dtype and (d is _F32 or d.kind in {native!r})
        else:
            b = other
            c = b.__class__
            ok = (c is float or c is int) and a.dtype.kind == "f"
        if ok:
            try:
                r = _ufunc(a, b)
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
                if input._rg or input._base is not None:
                    _record2(_op, input, other, t)
                elif b is not other and (other._rg or other._base is not None):
                    _record2(_op, input, other, t)
                return t
    {tail}
"""
_UNARY = """
def {name}(input{extra_sig}):
    {doc!r}
    if (input.__class__ is Tensor or isinstance(input, Tensor)) and not _capturing{extra_test}:
        a = input._a
        d = a.dtype
        if d is _F32 or d.kind in {native!r}:
            try:
                r = _ufunc(a)
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
                if input._rg or input._base is not None:
                    _record1(_op, input, t)
                return t
    {tail}
"""


def _globals(op: Op) -> dict[str, Any]:
    return {
        "__name__": "kiln.ops.generated", "Tensor": Tensor, "_new": _new, "_capturing": CAPTURING,
        "_ndarray": np.ndarray, "_asarray": np.asarray, "_record1": record_unary, "_record2": record_binary, "_op": op,
        "_ufunc": op.ufunc, "_F32": _F32 if "f" in op.native else None, "_apply": dispatch.apply, "_inplace": dispatch.inplace,
        "_store_out": dispatch.store_out, "_UNSET": _UNSET, "_flat": _flat, "_alias": _alias,
        "_reflect": _reflect, "_expect": dispatch.expect_tensor,
    }  # fmt: skip


def _flat(values: tuple, named: Any) -> Any:
    """`f(2, 3)`, `f((2, 3))` and `f(size=(2, 3))` alike."""
    if named is not _UNSET:
        return tuple(named) if isinstance(named, list | tuple) else (named,)
    if len(values) == 1 and isinstance(values[0], list | tuple):
        return tuple(values[0])
    return values


def _alias(value: Any, other: Any) -> Any:
    return value if other is _UNSET else other


def _reflect(op: Op, input: Any, other: Any) -> Any:
    """A binary operator's slow path: NotImplemented lets the other operand try."""
    for x in (input, other):
        if not isinstance(x, (Tensor, np.ndarray, *dispatch._NUMBERS)):
            return NotImplemented
    return dispatch.apply(op, op.bind((input, other), {}))


def _signature(op: Op) -> tuple[str, str, dict[str, Any]]:
    """The parameter list, the argument tuple and the defaults of the public function.

    Beside PyTorch's `dim` and `keepdim`, NumPy's `axis` and `keepdims` are taken by keyword.
    """
    empty = inspect.Parameter.empty
    parts, call, extra = [], [], []
    defaults: dict[str, Any] = {}
    star = False
    for i, p in enumerate(op.params):
        if p.variadic:
            parts += [f"*_{p.name}", f"{p.name}=_UNSET"]
            call.append(f"_flat(_{p.name}, {p.name})")
            star = True
            continue
        if p.keyword_only and not star:
            parts.append("*")
            star = True
        later = [q for q in op.params[i + 1 :] if not q.keyword_only]
        alias = {"dim": "axis", "keepdim": "keepdims"}.get(p.name)
        if alias and any(q.default is empty for q in later):
            alias = None
        if p.default is not empty:
            defaults[f"_d{i}"] = p.default
            parts.append(f"{p.name}=_d{i}")
        else:
            parts.append(p.name + ("=_UNSET" if alias else ""))
        if alias:
            extra.append(f"{alias}=_UNSET")
        call.append(f"_alias({p.name}, {alias})" if alias else p.name)
    if op.out:
        extra.append("out=None")
    if extra and not star:
        parts.append("*")
    tail = "," if len(call) == 1 else ""
    return ", ".join(parts + extra), f"({', '.join(call)}{tail})", defaults


def _compile(source: str, name: str, scope: dict[str, Any], op: Op) -> Callable:
    exec(compile(source, f"<kiln {op.name}>", "exec"), scope)
    fn = scope[name]
    fn.__doc__ = op.doc
    fn.__module__ = "kiln"
    fn.op = op
    return fn


def function(op: Op) -> Callable:
    """The public function of an op, with its signature; elementwise ufuncs get a short path."""
    op.native = op.native or "fiub"
    scope = _globals(op)
    name = op.name.rsplit(".", 1)[-1]
    if not name.isidentifier():
        name = "fn"
    sig, call, defaults = _signature(op)
    scope.update(defaults)
    if op.ufunc is not None:
        rest = op.params[1 + (len(op.tensor_slots) == 2) :]
        extra = "".join(f", {p.name}={p.default!r}" for p in rest)
        test = "".join(f" and {p.name} is {p.default!r}" if p.default is None
                       else f" and {p.name} == {p.default!r}" for p in rest)  # fmt: skip
        names = [p.name for p in op.params]
        call = "(" + ", ".join(names) + ",)"
        tail = f"return _apply(_op, {call})"
        if op.out:
            extra += ", out=None"
            test += " and out is None"
            tail = (
                f"r = _apply(_op, {call})\n    return r if out is None else _store_out(_op, r, out)"
            )
        if extra:
            extra = ", *" + extra
        template = _BINARY if len(op.tensor_slots) == 2 else _UNARY
        source = template.format(name=name, doc=op.doc, extra_sig=extra, extra_test=test,
                                 native=op.native, call=call, tail=tail)  # fmt: skip
        return _compile(source, name, scope, op)
    body = f"return _apply(_op, {call})"
    if op.out:
        body = f"r = _apply(_op, {call})\n    return r if out is None else _store_out(_op, r, out)"
    return _compile(f"def {name}({sig}):\n    {body}\n", name, scope, op)


def _dunder(op: Op, reflected: bool) -> Callable:
    scope = _globals(op)
    if reflected:
        source = "def f(input, other):\n    _expect(_op.name, input)\n    return _reflect(_op, other, input)\n"
        return _compile(source, "f", scope, op)
    rest = op.params[2:]
    call = "(input, other" + "".join(f", {p.default!r}" for p in rest) + ",)"
    tail = "return _reflect(_op, input, other)"
    if op.ufunc is None:
        return _compile(f"def f(input, other):\n    {tail}\n", "f", scope, op)
    source = _BINARY.format(name="f", doc=op.doc, extra_sig="", extra_test="", native=op.native,
                            call=call, tail=tail)  # fmt: skip
    return _compile(source, "f", scope, op)


def bind_names(op: Op) -> None:
    """Put the op's function under its public names and its forms on Tensor."""
    if op.result_names:
        op.result = namedtuple(op.name, op.result_names)  # noqa: PYI024
        op.result.__module__ = "kiln.return_types"
    if op.private:
        return
    for n in (op.name, *op.aliases):
        if op.namespace == "F":
            FUNCTIONS[f"nn.functional.{n}"] = op.fn
        else:
            FUNCTIONS[f"{op.namespace}.{n}".lstrip(".")] = op.fn
        if op.method and op.namespace == "":
            METHODS[n] = op.fn
            setattr(Tensor, n, op.fn)
        if op.inplace:
            fn = inplace_function(op)
            if op.namespace == "":
                METHODS[n + "_"] = fn
                setattr(Tensor, n + "_", fn)
                FUNCTIONS[n + "_"] = fn
            else:
                FUNCTIONS[f"nn.functional.{n}_"] = fn
    for n in op.dunders:
        if n.startswith("__r") and n not in ("__rshift__",):
            setattr(Tensor, n, _dunder(op, True))
        elif n.startswith("__i") and n not in ("__invert__",):
            setattr(Tensor, n, inplace_function(op))
        elif len(op.tensor_slots) == 1:
            setattr(Tensor, n, op.fn)
        else:
            setattr(Tensor, n, _dunder(op, False))


def inplace_function(op: Op) -> Callable:
    """The form that stores its result in the first argument and returns it."""
    scope = _globals(op)
    sig, call, defaults = _signature(op)
    scope.update(defaults)
    sig = sig.replace(", out=None", "")
    if sig.endswith(", *"):
        sig = sig[:-3]
    fn = _compile(f"def f({sig}):\n    return _inplace(_op, {call})\n", "f", scope, op)
    fn.__name__ = op.name + "_"
    fn.__doc__ = f"In-place form of `{op.name}`.\n\n{op.doc}"
    return fn
