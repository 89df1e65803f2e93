"""From a call to a result: eager execution, in-place forms, the switch to capture."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from threading import get_ident
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import DISABLED, mode
from ..autograd.tape import Zeros, edge_of, record, record_view
from ..autograd.views import check_inplace, rebase
from ..errors import KilnError, KilnMemoryError, KilnTypeError, describe
from ..recording import OP, RECORDING, begin_call, end
from ..sharing import admit, watched, written
from ..tensor import ACTIVE, CAPTURING, MODES, PLAIN, Tensor, _fresh, _new, wrap
from .precision import lowered
from .registry import FUNCTIONS, OPERAND, OPTIONAL, TENSOR, TENSORS, Op
from .storing import bump, check_result, keep_apart, open_memory, store

# A tensor's arithmetic is silent on division by zero and overflow, as in PyTorch. NumPy's warnings
# are filtered for Kiln's own modules only; where somebody turns warnings into errors, the op is
# run again under `errstate` (`_explain`).
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"kiln\.")

_F16 = dt.float16.np
LARGE = 1 << 17
"""Elements from where on a backend's routine may be quicker than one call of NumPy's."""
_NUMBERS = (int, float, complex, bool, np.generic)


NOBODY: Any = object()
"""What `asked` gives where an op is to run."""


def asked(op: Op, fn: Callable, args: tuple) -> Any:
    """What an argument or a mode says in an op's place; NOBODY where the op is to run."""
    from ..overrides import asked

    return asked(op, fn, args)


def somebody(op: Op, args: tuple) -> bool:
    """Whether a mode, or one of the arguments, may answer for functions: Note [Who is asked] in `overrides`."""
    if MODES:
        return True
    for i in op.tensor_slots:
        x = args[i]
        c = x.__class__
        if c in PLAIN:
            continue
        for y in x if c is list or c is tuple else (x,):
            if y.__class__ not in PLAIN and hasattr(y.__class__, "__torch_function__"):
                return True
    return False


def coerce(op: Op, args: tuple) -> tuple:
    """Arguments with NumPy arrays wrapped; an error for what is not a tensor where one is due."""
    out: list | None = None
    for i in op.tensor_slots:
        x = args[i]
        if isinstance(x, Tensor) and i not in op.list_slots:
            continue
        kind = op.params[i].kind
        if kind == TENSORS:
            if isinstance(x, Tensor) or not isinstance(x, list | tuple):
                _refuse(op, args, i, x, "a sequence of tensors")
            for y in x:
                if not isinstance(y, Tensor):
                    _refuse(op, args, i, y, "a sequence of tensors")
            continue
        if x is None and kind in (OPTIONAL, "operand?"):
            continue
        if kind in (OPERAND, "operand?"):
            if isinstance(x, _NUMBERS):
                if isinstance(x, np.generic):
                    out = out or list(args)
                    out[i] = x.item()
                continue
            if isinstance(x, np.ndarray):
                out = out or list(args)
                admit(x)
                out[i] = wrap(dt.known(x))
                continue
        due = "a Tensor" if kind in (TENSOR, OPTIONAL) else "a Tensor or a number"
        _refuse(op, args, i, x, due)
    if not op.numbers and op.tensor_slots and all(
        op.params[i].kind == OPERAND and isinstance(args[i], _NUMBERS) for i in op.tensor_slots
    ):  # fmt: skip
        _refuse(
            op,
            args,
            op.tensor_slots[0],
            args[op.tensor_slots[0]],
            "a Tensor where the others are numbers",
        )
    return args if out is None else tuple(out)


def _refuse(op: Op, args: tuple, i: int, x: Any, due: str) -> None:
    raise KilnTypeError(
        op.name, f"argument '{op.params[i].name}' must be {due}, not {type(x).__name__}",
        describe(x), "make one with kiln.tensor(…)",
    )  # fmt: skip


def expect_tensor(name: str, x: Any) -> None:
    """An error where a composition was given something else than a tensor."""
    if not isinstance(x, Tensor):
        raise KilnTypeError(
            name,
            f"expected a Tensor, not {type(x).__name__}",
            describe(x),
            "make one with kiln.tensor(…)",
        )


def unwrap(op: Op, args: tuple) -> list:
    """The arguments with payloads in place of tensors."""
    raw = list(args)
    for i in op.tensor_slots:
        x = raw[i]
        if isinstance(x, Tensor):
            raw[i] = x._a
        elif isinstance(x, list | tuple):
            raw[i] = [y._a for y in x]
    return raw


def apply(op: Op, args: tuple) -> Any:
    """Call an op: arguments bound in the order of its parameters."""
    if CAPTURING:
        if RECORDING and (event := begin_call(op.name, OP, args)) is not None:
            out = None
            try:
                out = apply(op, args)
                return out
            finally:
                end(event, args, out)
        if ACTIVE:
            args = lowered(op, args)
        if MODES and (said := asked(op, op.fn, args)) is not NOBODY:
            return said
        if ctx := CAPTURING.get(get_ident()):
            if somebody(op, args) and (said := asked(op, op.fn, args)) is not NOBODY:
                return said
            args = coerce(op, args)
            return (
                ctx.call(op, args)
                if (calls := _composed(op, args)) is None
                else calls.call(op, args)
            )
    raw = list(args)
    tracked = seen = False
    for i in op.tensor_slots:
        x = args[i]
        if x.__class__ is Tensor or x.__class__ in PLAIN:
            raw[i] = x._a
            seen = True
            if x._rg or x._base is not None:
                tracked = True
        elif (x is None and i in op.absent) or (
            (x.__class__ is float or x.__class__ is int) and i in op.plain
        ):
            continue
        elif (x.__class__ is list or x.__class__ is tuple) and i in op.list_slots and x:
            raw[i] = several = []
            for y in x:
                if y.__class__ not in PLAIN:
                    break
                several.append(y._a)
                if y._rg or y._base is not None:
                    tracked = True
            seen = len(several) == len(x)
            if not seen:
                break
        else:
            seen = False
            break
    if op.list_slots and seen:  # a tensor is no sequence of tensors
        seen = all(raw[i].__class__ is list for i in op.list_slots)
    if not seen:
        if somebody(op, args) and (said := asked(op, op.fn, args)) is not NOBODY:
            return said
        args = coerce(op, args)
        raw = unwrap(op, args)
        tracked = True
    if op.check and op.infer is not None:
        _agree(op, args, raw)
    try:
        r = op.eager(*raw)
    except Exception as e:
        if (calls := _composed(op, args)) is not None:
            return calls.call(op, args)
        r = _explain(op, args, raw, e)
    c = r.__class__
    if c is tuple or c is list:
        outs = tuple(wrap(np.asarray(a)) for a in r)
        if tracked:
            record(op, args, outs)
        return op.result(*outs) if op.result is not None else outs
    out = _new(Tensor)
    if c is np.ndarray:
        out._a = r
    elif (calls := getattr(c, "calls", None)) is not None:  # the op gave its argument back
        return calls.call(op, args)
    else:
        out._a = np.asarray(r)
    out._fn = out._grad = out._ver = out._base = out._hooks = None
    out._idx = 0
    out._rg = False
    if op.view:
        _mark_view(op, args, out)
    if tracked:
        record(op, args, (out,))
    return out


def _agree(op: Op, args: tuple, raw: list) -> None:
    """Ask the shape rule, which sees shapes, dtypes and attributes alone: what it let pass once it lets pass."""
    key: list[Any] = []
    for x in raw:
        c = x.__class__
        if c is np.ndarray:
            key.append(x.shape)
            key.append(x.dtype.num)
        elif c is int or c is str or x is None or c is bool:
            key.append(c)
            key.append(x)
        elif c is tuple and all(y.__class__ is int for y in x):
            key.append(x)
        elif c is float:
            key.append(repr(x))
        else:
            op.infer(*args)  # type: ignore[misc]
            return
    known, passed = tuple(key), op.passed
    if known not in passed:
        op.infer(*args)  # type: ignore[misc]
        if len(passed) >= _PASSED:
            passed.clear()
        passed.add(known)


_PASSED = 256  # calls of an op that are kept in mind


def view(op: Op, args: tuple, r: Any = None) -> Any:
    """`apply` for a view of its first argument, all of whose others are plain: the common case, kept short.

    `r` is the result's array, where somebody has it.
    """
    x = args[0]
    if CAPTURING or x.__class__ not in PLAIN:
        return apply(op, args)
    a = x._a
    if a.__class__ is not np.ndarray:
        return apply(op, args)
    if r is None:
        try:
            r = op.eager(a, *args[1:])
        except Exception:
            return apply(op, args)  # which tells what is wrong
    out = _new(Tensor)
    out._a = r
    out._fn = out._grad = out._ver = out._base = out._hooks = None
    out._idx = 0
    out._rg = False
    base = r.base
    if base is a or r is a or (base is not None and base is a.base):
        _tie(op, x, args, out)
    if x._rg or x._base is not None:
        record_view(op, x, args, out)
    return out


def _composed(op: Op, args: tuple) -> Any:
    """What calls ops on composed tensors, where one is among these: see Note [Composed tensors]."""
    for x in op.flat_tensors(args):
        calls = getattr(x, "_calls", None) or getattr(type(x._a), "calls", None)
        if calls is not None:
            return calls
    return None


def _explain(op: Op, args: tuple, raw: list, error: Exception) -> Any:
    """A NumPy error as one that helps; runs the op again where only a warning was raised."""
    if isinstance(error, KilnError):
        raise error
    if isinstance(error, RuntimeWarning):
        with np.errstate(all="ignore"):
            return op.run(*raw)
    if op.infer is not None:
        op.infer(*args)  # raises the op's own error
    given = ", ".join(
        f"{p.name}={describe(a)}" for p, a in zip(op.params, args, strict=True) if a is not None
    )
    if isinstance(error, MemoryError):
        raise KilnMemoryError(
            op.name, f"not enough memory: {error}", given, "work on smaller pieces"
        ) from None
    kind = KilnTypeError if isinstance(error, TypeError) else KilnError
    raise kind(
        op.name, str(error) or type(error).__name__, given, "see the op's documentation"
    ) from error


def _mark_view(op: Op, args: tuple, out: Tensor) -> None:
    """Tie a result that shares memory to the tensor it views."""
    x = args[0]
    a, b = x._a, out._a
    if a is not b:
        root = a if a.base is None else a.base
        if b.base is not root and b.base is not a:
            return  # the op had to copy (reshape of a transposed tensor)
    _tie(op, x, args, out)


def _tie(op: Op, x: Tensor, args: tuple, out: Tensor) -> None:
    if x._ver is None:
        x._ver = [0, 0]
    out._ver = x._ver
    base = x._base
    out._seen = x._ver[1]
    if base is None:
        out._base = x
        out._view = ((op.name, args[1:]),) if not DISABLED or mode.grad else None
    else:
        _fresh(x)
        out._base = base
        chain = x._view
        out._view = (*chain, (op.name, args[1:])) if chain is not None and mode.grad else None


def inplace(op: Op, args: tuple) -> Tensor:
    """Call an op and store the result in its first argument."""
    if RECORDING and (event := begin_call(op.name + "_", OP, args)) is not None:
        try:
            return inplace(op, args)
        finally:
            end(event)
    x = args[0]
    if not CAPTURING and ((op.ufunc is not None and _at_once(op, args)) or _plainly(op, args)):
        return x
    if somebody(op, args):
        fn = getattr(Tensor, op.name + "_", None) or FUNCTIONS[f"nn.functional.{op.name}_"]
        if (said := asked(op, fn, args)) is not NOBODY:
            return said
    args = coerce(op, args)
    if (CAPTURING or x._a.__class__ is not np.ndarray) and (
        calls := _composed(op, args)
    ) is not None:
        return calls.inplace(op, args)
    if CAPTURING and (ctx := CAPTURING.get(get_ident())):
        lifted = ctx.lift(op, args)
        if lifted is None:  # a level of vmap that has none of these tensors
            with ctx.below():
                return inplace(op, args)
        args, x = lifted, lifted[0]
    edge = None
    if mode.grad:
        tensors = op.flat_tensors(args)
        check_inplace(x, op.name + "_", any(_fresh(t)._rg for t in tensors[1:]))
        edge = edge_of(x)
        before = _snapshot(op, args)
    if CAPTURING and (ctx := CAPTURING.get(get_ident())):
        value = ctx.compute(op, args)
        check_result(op.name, x, value)
        ctx.write(x, value)
    else:
        if op.check and op.infer is not None:
            op.infer(*args)
        if x._ver is not None:
            for i in op.tensor_slots[1:]:
                if getattr(args[i], "_ver", None) is x._ver and args[i] is not x:
                    keep_apart(op, x, args[i])
        raw = unwrap(op, args)
        a = x._a
        if not a.flags.writeable:
            open_memory(op.name, x, a)
        if watched:
            written(a)
        uf = op.ufunc
        if a.size >= LARGE and op.into is not None and op.into(*raw):
            pass
        elif uf is not None and _fits(op, a, raw):
            try:
                uf(a, *raw[1 : len(op.tensor_slots)], a)
            except Exception as e:
                store(op, x, np.asarray(_explain(op, args, raw, e)))
        else:
            try:
                r = op.eager(*raw)
            except Exception as e:
                if (calls := _composed(op, args)) is not None:
                    return calls.inplace(op, args)
                r = _explain(op, args, raw, e)
            store(op, x, r if r.__class__ is np.ndarray else np.asarray(r))
    bump(x)
    if mode.grad:
        node = record(op, (before, *args[1:]), (x,), inplace=True)
        if node is not None:
            if (
                edge is not None
            ):  # the edge object recorded for x is the one that a view's base takes over
                for j, e in enumerate(node.edges):
                    if e is not None and node.plan.slots[j] == (op.tensor_slots[0], None):
                        edge = e
            rebase(x, node, edge)
        elif op.inplace == "zero":
            edge = edge_of(before)
            edges = [edge, *map(edge_of, tensors[1:])]
            if any(edges) and (x.is_floating_point() or x.is_complex()):
                rebase(x, Zeros([e for e in edges if e], 1), edge)
    return x


def _at_once(op: Op, args: tuple[Any, ...]) -> bool:
    """Let the op's ufunc write where there is nothing to record, promote or check: the common case, kept short."""
    x, y = args[0], args[1] if len(args) > 1 else None
    a = x._a
    if a.__class__ is not np.ndarray or a.size >= LARGE or x.__class__ not in PLAIN:
        return False
    kind = a.dtype.kind
    recorded = not DISABLED or get_ident() not in DISABLED
    if (
        len(op.tensor_slots) != 2
        or kind not in op.native
        or kind == "b"
        or (recorded and (x._rg or x._base is not None))
    ):
        return False
    if y.__class__ in PLAIN:
        b = y._a
        if b.__class__ is not np.ndarray or b.dtype is not a.dtype or b.shape != a.shape:
            return False
        if (recorded and (y._rg or y._base is not None)) or (
            y._ver is not None and y._ver is x._ver
        ):
            return False
    elif y.__class__ is int or (y.__class__ is float and kind == "f"):
        if a.dtype is _F16:  # Note [Numbers beside half floats]
            return False
        b = y
    else:
        return False
    rest = args[2:]
    if rest != op.defaults:
        if op.factor != 2 or len(rest) != 1 or b is y or a.dtype is _F16:
            return False
        if rest[0].__class__ is not int and (rest[0].__class__ is not float or kind != "f"):
            return False
    if watched:
        written(a)
    try:
        op.ufunc(a, b if rest == op.defaults else b * a.dtype.type(rest[0]), a)
    except Exception:
        return False
    bump(x)
    return True


def _plainly(op: Op, args: tuple[Any, ...]) -> bool:
    """Compute and store a result of few elements where there is nothing to record, promote or refuse: else do nothing."""
    x = args[0]
    if x.__class__ not in PLAIN or op.list_slots:
        return False
    a = x._a
    if a.__class__ is not np.ndarray or a.size >= LARGE or not a.flags.writeable:
        return False
    recorded = not DISABLED or get_ident() not in DISABLED
    raw = list(args)
    for i in op.tensor_slots:
        y = args[i]
        c = y.__class__
        if c in PLAIN:
            if recorded and (y._rg or y._base is not None):
                return False
            if y is not x and y._ver is not None and y._ver is x._ver:
                return False
            raw[i] = y._a
        elif not ((c is float or c is int) and i in op.plain) and not (
            y is None and i in op.absent
        ):
            return False
    try:
        if op.check and op.infer is not None:
            _agree(op, args, raw)
        at_once = op.ufunc is not None and _fits(op, a, raw)
        r = op.ufunc(*raw[: len(op.tensor_slots)]) if at_once else op.eager(*raw)
        if r.dtype is not a.dtype or r.shape != a.shape:
            return False
    except Exception:
        return False
    if watched:
        written(a)
    a[...] = r
    bump(x)
    return True


def _fits(op: Op, a: np.ndarray, raw: list) -> bool:
    """Whether an ufunc's result on these arguments can be written into the first as it is computed."""
    n = len(op.tensor_slots)
    kind = a.dtype.kind
    if kind not in op.native or (n < len(raw) and tuple(raw[n:]) != op.defaults):
        return False
    if n == 1:
        return kind == "f" and op.promote in ("same", "float") and a.size < LARGE
    b = raw[1]
    if b.__class__ is np.ndarray:
        return b.dtype is a.dtype and (b.shape == a.shape or _spreads(b.shape, a.shape))
    return kind == "f" and b.__class__ in (int, float) and a.dtype is not _F16


def _spreads(shape: tuple, over: tuple) -> bool:
    """Whether an array of one shape broadcasts to just another one."""
    return len(shape) <= len(over) and all(
        s == 1 or s == t for s, t in zip(shape[::-1], over[::-1], strict=False)
    )


def _snapshot(op: Op, args: tuple) -> Tensor:
    """The first argument as it is before the change, with its history; its values where backward needs them."""
    x = args[0]
    needed = tuple(
        i for i in op.tensor_slots
        if any(_fresh(t)._rg for t in (args[i] if isinstance(args[i], list | tuple) else (args[i],))
               if isinstance(t, Tensor))
    )  # fmt: skip
    a = x._a
    if needed and op.tensor_slots[0] in op.plan(needed).keep:
        if CAPTURING and (ctx := CAPTURING.get(get_ident())):
            a = ctx.payload(x)
        a = a.copy()
    out = wrap(a)
    out._fn, out._idx, out._rg = x._fn, x._idx, x._rg
    return out
