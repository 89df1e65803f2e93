"""Checks that run before a program: are all indices in an integer buffer in range?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from kiln.backends.cpu.exprs import REGISTER
from kiln.backends.cpu.ir import Module, Val, vec
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.vmath import VMath
from kiln.compile.loopnest import INTS, ITEMSIZE, SIGNED
from kiln.errors import KilnError


@dataclass(frozen=True)
class Check:
    """``low <= x < high`` for the ``n`` elements of a buffer from ``offset`` on.

    The flag is two i64: where the first is 0 and an element is out of range, the first becomes ``code``
    (not 0) and the second that element, of several the first. So checks that run one after another may
    share a flag, which then tells of the first that failed.
    """

    n: int
    dtype: str
    low: int
    high: int
    code: int = 1
    offset: int = 0


def emit(spec: Check, isa: Isa, symbol: str | None = None) -> Kernel:
    """The kernel of a check, one task; its table is (buffer, flag).

    Without ``symbol`` it is named after its content.
    """
    if spec.dtype not in INTS or not spec.code:
        raise KilnError("check", "indices are integers, codes not 0", str(spec), "see Check")
    if symbol is None:
        symbol = "check_" + hashlib.sha256(f"{spec}|{isa.key}".encode()).hexdigest()[:20]
    module, elem, size = Module(), REGISTER[spec.dtype], ITEMSIZE[spec.dtype]
    b = module.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "ntasks")])
    bits = 8 * size
    least = -(1 << bits - 1) if spec.dtype in SIGNED else 0
    low, high = max(spec.low, least), min(spec.high, least + (1 << bits))
    if spec.n and high - low < 1 << bits:
        source, flag = (b.load("ptr", b.gep(b.params[0], "ptr", b.i64(k)), 8) for k in (0, 1))
        source = b.gep(source, elem, b.i64(spec.offset))

        def outside(i: Val, lanes: int) -> tuple[Val, Val]:
            x = b.load(vec(elem, lanes), b.gep(source, elem, i), size)
            # One unsigned comparison does both sides.
            beyond = b.bin("sub", x, b.const(x.ty, low))
            return x, b.icmp("uge", beyond, b.const(x.ty, max(0, high - low)))

        lanes = isa.lanes(size)
        whole = spec.n // lanes * lanes
        found = b.const("i1", False)
        if whole:
            none = b.const(vec("i1", lanes), False)
            with b.loop(b.i64(0), b.i64(whole), lanes, [none]) as loop:
                loop.next(b.bin("or", loop.carried[0], outside(loop.i, lanes)[1]))
            found = VMath(b, isa).any_true(loop.results[0])
        if whole < spec.n:
            with b.loop(b.i64(whole), b.i64(spec.n), 1, [found]) as loop:
                loop.next(b.bin("or", loop.carried[0], outside(loop.i, 1)[1]))
            found = loop.results[0]
        fresh = b.icmp("eq", b.load("i64", flag, 8), b.i64(0))
        with b.if_then(b.bin("and", found, fresh)):
            with b.loop(b.i64(0), b.i64(spec.n), 1, [b.const(elem, 0)]) as loop:
                x, out = outside(b.sub(b.i64(spec.n - 1), loop.i), 1)  # backwards: the first stays
                loop.next(b.select(out, x, loop.carried[0]))
            value = loop.results[0]
            if size < 8:
                value = b.conv("sext" if spec.dtype in SIGNED else "zext", value, "i64")
            b.store(b.i64(spec.code), flag, 8)
            b.store(value, b.gep(flag, "i64", b.i64(1)), 8)
    b.ret()
    return Kernel(module.text(), symbol)
