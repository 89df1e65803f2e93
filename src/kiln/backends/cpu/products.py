"""Products of arrays on the spot, by the kernels of `generic`: what eager mode multiplies with."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from math import prod
from typing import Any

import numpy as np

from ... import dtypes as dt
from ...config import config
from ...runtime import claiming, threads
from ...runtime.blocks import allocator
from ...runtime.calls import Call
from ...runtime.forks import own_lock
from ...shape import contiguous_strides
from . import few_rows, generic, jit, tasks
from .gemm import Gemm
from .isa import Isa, host_isa

_STORED = {
    dt.float32.np: ("f32", "f32"), dt.float64.np: ("f64", "f64"), dt.bfloat16.np: ("bf16", "bf16"),
    dt.int32.np: ("i32", "i32"), dt.int8.np: ("i8", "i32"),
}  # fmt: skip
"""What the kernels call the operands' and the result's dtypes. int8 is added up, and stays, in int32."""

_BYTES = np.dtype(np.uint8)
_BRIEF = 1 << 20  # operations that take less time than letting go of the GIL may cost
_LIGHT = 1 << 23
"""Operations of which a second core would save less than twice what waking it takes."""
_KEPT = 4096  # shapes whose plans are kept


class Product:
    """One shape's product: its plan in memory, and the call that runs it."""

    def __init__(self, a: np.ndarray, b: np.ndarray, accumulate: bool, isa: Isa):
        gemm = _gemm(a, b)
        plan = generic.Plan(gemm, isa)
        self.shape = (*gemm.batch, gemm.m, gemm.n)
        self.dtype = dt.int32.np if gemm.c_dtype == "i32" else a.dtype
        self.make = allocator(prod(self.shape) * self.dtype.itemsize)
        self.scratch = (plan.workspace_bytes,)
        self.needs_scratch = plan.workspace_bytes > 0
        self.make_scratch = allocator(plan.workspace_bytes)
        self.words = np.array([0] * 4 + plan.words(accumulate), np.int64)
        self.parallel = plan.grid.ntasks > 1
        address = self.words.ctypes.data
        flops = 2 * prod(self.shape) * gemm.k
        self.light = flops < _LIGHT
        self.row = _entry(_kernel(plan.kind, isa), address, plan.grid.ntasks, self.light)
        brief = flops < _BRIEF
        slots = [[(address + 8 * i, 0)] for i in range(4)]
        self.call = Call(self.row.ctypes.data, 1, slots, hold=brief)
        self.lock = own_lock(self)

    def empty(self) -> np.ndarray:
        """An array for the result."""
        return self.make(self.shape, self.dtype)

    def __call__(self, a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """a @ b into ``out``, which is C-contiguous, or a new array."""
        if out is None:
            out = self.make(self.shape, self.dtype)
        scratch = self.make_scratch(self.scratch, _BYTES) if self.needs_scratch else out
        if self.parallel:
            threads.ready(self.light)
        with self.lock:  # the addresses are stored in one place
            self.call.function(out, a, b, scratch)
        return out


class FewRows:
    """x @ w.T + bias for C-contiguous x of few rows, w and bias: a plan in memory, and the call that runs it."""

    def __init__(self, x: np.ndarray, w: np.ndarray, biased: bool, isa: Isa):
        n, k = w.shape
        rows = x.size // k
        self.shape, self.dtype = (*x.shape[:-1], n), x.dtype
        flops = 2 * rows * n * k
        parts = tasks.task_count(flops)
        self.parallel, self.light = parts > 1, flops < _LIGHT
        self.words = np.array([0] * 4 + [rows, n, k, parts, int(biased)], np.int64)
        address = self.words.ctypes.data
        self.row = _entry(_few_kernel(_STORED[x.dtype][0], isa), address, parts, self.light)
        slots = [[(address + 8 * i, 0)] for i in range(4)]
        brief = flops < _BRIEF
        self.call = Call(self.row.ctypes.data, 1, slots, hold=brief)
        self.lock = own_lock(self)
        # without a lock where the GIL is kept all through the call
        self.run = self.call.function if brief and parts == 1 else self._shared

    def _shared(self, *arrays: np.ndarray) -> None:
        if self.parallel:
            threads.ready(self.light)
        with self.lock:  # the addresses are stored in one place
            self.call.function(*arrays)

    def __call__(self, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        """The product in a new array."""
        out = np.empty(self.shape, self.dtype)
        self.run(out, x, w, w if bias is None else bias)
        return out


_few: dict[Any, FewRows | None] = {}


def few(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray | None:
    """x @ w.T + bias, all of float32 or of float64, w of two dimensions and the bias of as many elements as it has rows.

    None where x has many rows, or the form for few has no kernel.
    """
    key = (x.shape, w.shape, x.dtype.num, bias is None, config.cpu_isa)
    try:
        found = _few[key]
    except KeyError:
        if len(_few) >= _KEPT:
            _few.clear()
        (n, k), isa = w.shape, host_isa()
        fits = (
            x.size
            and x.shape[-1] == k
            and few_rows.fits(x.size // k, n, k, _STORED[x.dtype][0], isa)
        )
        found = _few[key] = FewRows(x, w, bias is not None, isa) if fits else None
    if found is None or not (
        x.flags.c_contiguous and w.flags.c_contiguous and (bias is None or bias.flags.c_contiguous)
    ):
        return None
    return found(x, w, bias)


_products: OrderedDict[Any, Product | None] = OrderedDict()


def find(a: np.ndarray, b: np.ndarray, accumulate: bool = False) -> Product | None:
    """What computes a @ b for arrays that lie like these two, of one dtype and two or more dimensions.

    Batches broadcast; int8 gives int32. With ``accumulate`` it is added to what ``out`` holds. None
    where there is no kernel.
    """
    key = (a.shape, a.strides, b.shape, b.strides, a.dtype.num, accumulate, config.cpu_isa)
    try:
        return _products[key]
    except KeyError:
        pass
    found = _products[key] = Product(a, b, accumulate, host_isa()) if _takes(a, b) else None
    while len(_products) > _KEPT:
        _products.popitem(last=False)
    return found


def _takes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether there is a kernel for these operands."""
    size = a.dtype.itemsize
    return (
        a.dtype in _STORED
        and 0 not in (*a.shape, *b.shape)
        and not any(s % size for s in (*a.strides, *b.strides))
    )


def _gemm(a: np.ndarray, b: np.ndarray) -> Gemm:
    """The product of two arrays into a new one."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    m, n = a.shape[-2], b.shape[-1]
    operand, result = _STORED[a.dtype]

    def strides(x: np.ndarray) -> tuple[int, ...]:
        return tuple(s // x.itemsize for s in x.strides)

    def lead(x: np.ndarray) -> tuple[int, ...]:
        own = zip(x.shape[:-2], strides(x), strict=False)
        steps = tuple(0 if size == 1 else stride for size, stride in own)
        return (0,) * (len(batch) - len(steps)) + steps

    return Gemm(
        m, n, a.shape[-1], strides(a)[-2:], strides(b)[-2:], (n, 1), operand, operand, result,  # type: ignore[arg-type]
        batch, lead(a), lead(b), contiguous_strides((*batch, m * n))[:-1],
    )  # fmt: skip


def _entry(kernel: int, args: int, ntasks: int, light: bool) -> np.ndarray:
    """A plan of one entry."""
    return np.array([kernel, args, ntasks + claiming.LIGHT * (light and ntasks > 1)], np.int64)


@cache
def _kernel(kind: generic.Kind, isa: Isa) -> int:
    """The address of a kind's kernel."""
    kernel = generic.emit(kind, isa)
    return jit.build([kernel.text], isa)(kernel.symbol)


@cache
def _few_kernel(dtype: str, isa: Isa) -> int:
    """The address of the kernel for few rows."""
    kernel = few_rows.emit(dtype, isa)
    return jit.build([kernel.text], isa)(kernel.symbol)
