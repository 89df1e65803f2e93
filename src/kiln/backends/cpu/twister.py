"""MT19937 in kernels (Matsumoto and Nishimura, 1998): words of the stream, and what is made of them as they come.

A state is what NumPy's generator of that name keeps: 624 words of 32 bits, and which of them comes next; `draws` has the
same of PyTorch's states. Renewing them is a chain only over 227 words, so it goes in vectors. A kernel is
`void (ptr state, ptr out, i64 n, ptr numbers)` and gives n elements.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from . import jit
from .ir import Builder, Module, Val, vec
from .isa import Isa

WORDS, _SHIFT, _LANES = 624, 397, 16
PIECE = 2 * WORDS
"""Words that are made at a time before something is made of them: a page or so on the stack."""
_HIGH, _LOW, _MATRIX = 0x80000000, 0x7FFFFFFF, 0x9908B0DF
_PARAMS = [("ptr", "state"), ("ptr", "out"), ("i64", "n"), ("ptr", "numbers")]
_MASKS = (7, 0x9D2C5680), (15, 0xEFC60000)


def spans(b: Builder, start: Val, stop: Val, write: Callable[[Val, int], None]) -> None:
    """Have `write(index, lanes)` do a range in whole vectors, then what is left one by one."""
    size = b.sub(stop, start)
    known = size.const is not None
    whole = b.i64(size.const & -_LANES) if known else b.bin("and", size, b.i64(-_LANES))
    middle = b.add(start, whole)
    for begin, end, lanes in ((start, middle, _LANES), (middle, stop, 1)):
        with b.loop(begin, end, lanes) as body:
            write(body.i, lanes)


def _xor(b: Builder, x: Val, y: Val) -> Val:
    return b.bin("xor", x, y)


def _mask(b: Builder, x: Val, bits: int) -> Val:
    signed = bits - (1 << 32) if x.elem == "i32" and bits >> 31 else bits
    return b.bin("and", x, b.const(x.ty, signed))


def _moved(b: Builder, x: Val, by: int) -> Val:
    """A word shifted to the left, or by a negative number to the right."""
    return b.bin("shl" if by > 0 else "lshr", x, b.const(x.ty, abs(by)))


def tempered(b: Builder, y: Val) -> Val:
    """What words of the state are given out as."""
    y = _xor(b, y, _moved(b, y, -11))
    for by, bits in _MASKS:
        y = _xor(b, y, _mask(b, _moved(b, y, by), bits))
    return _xor(b, y, _moved(b, y, -18))


def renew(module: Module) -> None:
    """`void renew(ptr state)`: the next 624 words."""
    b = module.function("renew", _PARAMS[:1], internal=True)
    (state,) = b.params

    def word(i: Val, lanes: int) -> Val:
        return b.load(vec("i32", lanes), b.gep(state, "i32", i), 4)

    def turn(i: Val, following: Val, other: Val, lanes: int) -> None:
        y = b.bin("or", _mask(b, word(i, lanes), _HIGH), _mask(b, following, _LOW))
        odd = b.sub(b.const(y.ty, 0), _mask(b, y, 1))
        new = _xor(b, _xor(b, other, _moved(b, y, -1)), _mask(b, odd, _MATRIX))
        b.store(new, b.gep(state, "i32", i), 4)

    def part(ahead: int) -> Callable[[Val, int], None]:
        def write(i: Val, lanes: int) -> None:
            turn(i, word(b.add(i, b.i64(1)), lanes), word(b.add(i, b.i64(ahead)), lanes), lanes)

        return write

    split = WORDS - _SHIFT
    spans(b, b.i64(0), b.i64(split), part(_SHIFT))
    spans(b, b.i64(split), b.i64(WORDS - 1), part(-split))
    turn(b.i64(WORDS - 1), word(b.i64(0), 1), word(b.i64(_SHIFT - 1), 1), 1)
    b.ret()


def _fill(module: Module) -> None:
    """`void fill(ptr state, ptr out, i64 n)`: the next n words."""
    b = module.function("fill", _PARAMS[:3], internal=True)
    state, out, n = b.params
    place = b.gep(state, "i32", b.i64(WORDS))
    with b.if_then(b.icmp("sgt", n, b.i64(0))), b.repeat([b.i64(0)]) as chunk:
        done = chunk.carried[0]
        at = b.conv("zext", b.load("i32", place, 4), "i64")
        with b.if_then(b.icmp("uge", at, b.i64(WORDS)), [at]) as renewed:
            b.call("renew", "void", [state])
            renewed.set(b.i64(0))
        at = renewed.results[0]
        here, left = b.sub(b.i64(WORDS), at), b.sub(n, done)
        count = b.select(b.icmp("slt", here, left), here, left)
        source, target = b.gep(state, "i32", at), b.gep(out, "i32", done)

        def write(i: Val, lanes: int) -> None:
            y = b.load(vec("i32", lanes), b.gep(source, "i32", i), 4)
            b.store(tempered(b, y), b.gep(target, "i32", i), 4)

        spans(b, b.i64(0), count, write)
        b.store(b.conv("trunc", b.add(at, count), "i32"), place, 4)
        total = b.add(done, count)
        chunk.again = b.icmp("slt", total, n)
        chunk.next(total)
    b.ret()


def pair(b: Builder, w: Val) -> Val:
    """The low 53 bits of two words as one integer, the first of them the high one."""
    half = b.const(w.ty, 32)
    return _mask(b, b.bin("or", b.bin("shl", w, half), b.bin("lshr", w, half)), 2**53 - 1)


_Make = Callable[[Val], Val]


def _below(bits: str) -> Callable[[Builder, Val], _Make]:
    """A value, so many bits, where an integer of 53 bits is less than a bound, else 0."""

    def begin(b: Builder, numbers: Val) -> _Make:
        bound = b.load("i64", numbers, 8)
        value = b.load(bits, b.gep(numbers, "i64", b.i64(1)), 8)

        def make(w: Val) -> Val:
            less = b.icmp("ult", pair(b, w), b.splat(bound, w.lanes))
            return b.select(less, b.splat(value, w.lanes), b.const(vec(bits, w.lanes), 0))

        return make

    return begin


def _fraction(bits: int, float_type: str) -> Callable[[Builder, Val], _Make]:
    """The low bits of a word, or of two, as a number in [0, 1)."""

    def begin(b: Builder, numbers: Val) -> _Make:
        def make(w: Val) -> Val:
            low = pair(b, w) if w.elem == "i64" else _mask(b, w, 2**bits - 1)
            x = b.conv("sitofp", low, float_type)
            return b.bin("fmul", x, b.const(x.ty, 2.0**-bits))

        return make

    return begin


def _range(float_type: str, fraction: Callable[[Builder, Val], _Make]) -> Callable[[Builder, Val], _Make]:  # fmt: skip
    """Such numbers times how far a range goes, plus where it begins: rounded once, and no further than where it ends."""

    def begin(b: Builder, numbers: Val) -> _Make:
        unit = fraction(b, numbers)
        span, low, high = (
            b.load("double", b.gep(numbers, "double", b.i64(i)), 8) for i in range(3)
        )

        def make(w: Val) -> Val:
            x = unit(w)
            first, last, scale = (b.splat(v, w.lanes) for v in (low, high, span))
            if float_type == "double":
                x = b.intrinsic("fma", x, scale, first)
            else:
                wide = b.bin("fadd", b.bin("fmul", b.conv("fpext", x, "double"), scale), first)
                x, first, last = (b.conv("fptrunc", v, float_type) for v in (wide, first, last))
            return b.select(b.fcmp("oeq", x, last), first, x)

        return make

    return begin


KINDS: dict[str, tuple[str, int, Callable[[Builder, Val], _Make]]] = {
    "float32": ("i32", 4, _fraction(24, "float")), "float64": ("i64", 8, _fraction(53, "double")),
    "range_float32": ("i32", 4, _range("float", _fraction(24, "float"))),
    "range_float64": ("i64", 8, _range("double", _fraction(53, "double"))),
    "below_bool": ("i64", 1, _below("i8")), "below_float32": ("i64", 4, _below("i32")),
    "below_float64": ("i64", 8, _below("i64")),
}  # fmt: skip
"""By kernel: the integer of one or two words that an element is made of, bytes of an element, and how it is made."""


def kernel(
    module: Module, symbol: str, kind: str, fill: str = "fill", params: Any = _PARAMS
) -> None:
    """The kernel of that kind, of words that a function of the state, a place and a number of them gives."""
    take, size, begin = KINDS[kind]
    b = module.function(symbol, params)
    state, out, n, numbers = b.params[:4]
    words = 1 if take == "i32" else 2
    scratch = b.emit("ptr", f"alloca [{PIECE} x i32], align 64")
    make = begin(b, numbers)
    most, element = b.i64(PIECE // words), f"i{8 * size}"
    with b.loop(b.i64(0), n, PIECE // words) as piece:
        left = b.sub(n, piece.i)
        count = b.select(b.icmp("slt", most, left), most, left)
        b.call(fill, "void", [state, scratch, b.mul(count, b.i64(words))])
        target = b.gep(out, element, piece.i)

        def write(i: Val, lanes: int) -> None:
            w = b.load(vec(take, lanes), b.gep(scratch, take, i), 4)
            b.store(make(w), b.gep(target, element, i), 1)

        spans(b, b.i64(0), count, write)
    b.ret()


@functools.cache
def kernels(isa: Isa) -> dict[str, Any]:
    """The kernels by name, as foreign functions: "words", and those of floats, doubles and trials."""
    module = Module()
    module.helper("renew", renew)
    module.helper("fill", _fill)
    symbols = {kind: f"twister_{kind}_{isa.name}" for kind in ("words", *KINDS)}
    b = module.function(symbols["words"], _PARAMS)
    b.call("fill", "void", b.params[:3])
    b.ret()
    for kind in KINDS:
        kernel(module, symbols[kind], kind)
    lookup = jit.build([module.text()], isa)
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    function = ctypes.CFUNCTYPE(None, pointer, pointer, word, pointer)
    return {kind: function(lookup(symbol)) for kind, symbol in symbols.items()}
