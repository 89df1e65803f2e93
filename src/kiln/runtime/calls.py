"""The call from Python into a plan: a builtin function made at run time, so that a step costs one cheap call.

Note [Call block]: a function made here has one Python int, the address of its block, and takes
arrays. The block is 64-bit words: pool, plan, number of entries, whether to keep the GIL, number of
arrays; then for each array how many slots hold its address, and for each slot where it is and how
many bytes to add. The function stores the addresses and runs the plan (`threads.run_plan`).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import threads

_IR = r"""
declare i64 @kiln_run(ptr, ptr, i64, i64)
declare ptr @PyLong_AsVoidPtr(ptr)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)

; A METH_FASTCALL function: %self is a Python int, the address of a Note [Call block]; the arguments are arrays.
define ptr @kiln_call(ptr %self, ptr %arrays, i64 %count) {
entry:
  %block = call ptr @PyLong_AsVoidPtr(ptr %self)
  %plan.p = getelementptr i64, ptr %block, i64 1
  %n.p = getelementptr i64, ptr %block, i64 2
  %hold.p = getelementptr i64, ptr %block, i64 3
  %count.p = getelementptr i64, ptr %block, i64 4
  %moves = getelementptr i64, ptr %block, i64 5
  %pool = load ptr, ptr %block
  %plan = load ptr, ptr %plan.p
  %n = load i64, ptr %n.p
  %hold = load i64, ptr %hold.p
  %expected = load i64, ptr %count.p
  %right = icmp eq i64 %count, %expected
  br i1 %right, label %arrays.head, label %wrong
wrong:
  ret ptr null
arrays.head:
  %i = phi i64 [ 0, %entry ], [ %i.next, %slots.head ]
  %at = phi ptr [ %moves, %entry ], [ %slot, %slots.head ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %array, label %run
array:
  %array.p = getelementptr ptr, ptr %arrays, i64 %i
  %object = load ptr, ptr %array.p
  %data.p = getelementptr i8, ptr %object, i64 DATA
  %data = load i64, ptr %data.p
  %slots = load i64, ptr %at
  %i.next = add i64 %i, 1
  %first = getelementptr i64, ptr %at, i64 1
  br label %slots.head
slots.head:
  %j = phi i64 [ 0, %array ], [ %j.next, %move ]
  %slot = phi ptr [ %first, %array ], [ %slot.next, %move ]
  %moving = icmp slt i64 %j, %slots
  br i1 %moving, label %move, label %arrays.head
move:
  %target = load ptr, ptr %slot
  %extra.p = getelementptr i64, ptr %slot, i64 1
  %extra = load i64, ptr %extra.p
  %address = add i64 %data, %extra
  store i64 %address, ptr %target
  %j.next = add i64 %j, 1
  %slot.next = getelementptr i64, ptr %slot, i64 2
  br label %slots.head
run:
  %holds = icmp ne i64 %hold, 0
  br i1 %holds, label %held, label %released
held:
  %held.at = call i64 @kiln_run(ptr %pool, ptr %plan, i64 0, i64 %n)
  br label %exit
released:
  %state = call ptr @PyEval_SaveThread()
  %released.at = call i64 @kiln_run(ptr %pool, ptr %plan, i64 0, i64 %n)
  call void @PyEval_RestoreThread(ptr %state)
  br label %exit
exit:
  %stopped = phi i64 [ %held.at, %held ], [ %released.at, %released ]
  %result = call ptr @PyLong_FromLongLong(i64 %stopped)
  ret ptr %result
}
"""

_METH_FASTCALL = 0x0080
DATA = object.__basicsize__
"""Where an ndarray keeps the address of its elements: right after what every Python object begins with,
by NumPy's ABI (`PyArrayObject_fields`), on which every extension module compiled for NumPy relies."""


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)
_API = (
    "PyLong_AsVoidPtr", "PyLong_AsLongLong", "PyLong_FromLongLong", "Py_IncRef", "PyEval_SaveThread",
    "PyEval_RestoreThread",
)  # fmt: skip


@functools.cache
def builtin(symbol: str, text: str) -> Callable[[int], Callable[..., Any]]:
    """A METH_FASTCALL function that a module of LLVM IR defines, as a function of what builtin functions have as `self`."""
    import llvmlite.binding as llvm

    from kiln.backends.cpu import jit
    from kiln.backends.cpu.isa import make_isa

    for name in _API:
        address = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
        llvm.add_symbol(name, address)
    lookup = jit.build([text], make_isa())
    method = _MethodDef(symbol.encode(), lookup(symbol), _METH_FASTCALL, None)
    return lambda known: _make(ctypes.addressof(method), known, None)


_DIRECT = r"""
declare ptr @PyLong_AsVoidPtr(ptr)
declare i64 @PyLong_AsLongLong(ptr)
declare void @Py_IncRef(ptr)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)

; A METH_FASTCALL function: %self is a Python int, the address of a kernel; the arguments are arrays and ints.
define ptr @NAME(ptr %self, ptr %arguments, i64 %count) {
entry:
  %right = icmp eq i64 %count, KINDS
  br i1 %right, label %read, label %wrong
wrong:
  ret ptr null
read:
  %kernel = call ptr @PyLong_AsVoidPtr(ptr %self)
READ
  %long = icmp sge i64 %x_COUNT, LONG
  br i1 %long, label %released, label %held
held:
  call void %kernel(GIVEN)
  br label %exit
released:
  %thread = call ptr @PyEval_SaveThread()
  call void %kernel(GIVEN)
  call void @PyEval_RestoreThread(ptr %thread)
  br label %exit
exit:
  call void @Py_IncRef(ptr %object_RESULT)
  ret ptr %object_RESULT
}
"""
_LONG = 1 << 15
"""Elements from where on other Python threads may run meanwhile."""


@functools.cache
def direct(kinds: tuple[str, ...], result: int, count: int) -> Callable[[int], Callable[..., Any]]:
    """Kernels by address as builtin functions of C-contiguous arrays ("ptr") and ints ("i64"), of which nobody checks anything.

    A function gives its argument `result`; `count` is the one that says how many elements there are.
    """
    lines = []
    for i, kind in enumerate(kinds):
        lines.append(f"%place_{i} = getelementptr ptr, ptr %arguments, i64 {i}")
        lines.append(f"%object_{i} = load ptr, ptr %place_{i}")
        if kind == "ptr":
            lines.append(f"%data_{i} = getelementptr i8, ptr %object_{i}, i64 {DATA}")
            lines.append(f"%x_{i} = load ptr, ptr %data_{i}")
        else:
            lines.append(f"%x_{i} = call i64 @PyLong_AsLongLong(ptr %object_{i})")
    name = f"kiln_direct_{''.join(k[0] for k in kinds)}_{result}_{count}"
    words = {
        "NAME": name, "KINDS": str(len(kinds)), "READ": "\n".join(f"  {x}" for x in lines), "COUNT": str(count),
        "LONG": str(_LONG), "GIVEN": ", ".join(f"{k} %x_{i}" for i, k in enumerate(kinds)), "RESULT": str(result),
    }  # fmt: skip
    text = _DIRECT
    for word, value in words.items():
        text = text.replace(word, value)
    return builtin(name, text)


@functools.cache
def _calling() -> Callable[[int], Callable[..., int]]:
    threads.pool_address()  # which `kiln_run` comes with
    return builtin("kiln_call", _IR.replace("DATA", str(DATA)))


class Call:
    """A plan as a function of arrays, all C-contiguous ndarrays of which nobody checks anything.

    `slots` has for each array the (address of a slot, bytes to add) pairs. With `hold`, for plans of a
    few microseconds, the GIL is kept: another Python thread could keep it for milliseconds. The
    function returns what `threads.run_plan` returns.
    """

    def __init__(
        self, plan: int, n: int, slots: Sequence[Sequence[tuple[int, int]]], hold: bool = False
    ):
        words = [threads.pool_address(), plan, n, int(hold), len(slots)]
        for pairs in slots:
            words.append(len(pairs))
            for pair in pairs:
                words += pair
        self._block = np.array(words, np.int64)
        self.function: Callable[..., int] = _calling()(self._block.ctypes.data)
