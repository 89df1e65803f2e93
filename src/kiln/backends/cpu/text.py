"""Writing LLVM IR as text: fresh names, structured loops, and the element types of kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from kiln.backends.cpu import ir

ITEMSIZE = {"f32": 4, "f64": 8, "bf16": 2, "i8": 1, "i32": 4}
"""Bytes of one stored element."""

COMPUTE = {"f32": "float", "f64": "double", "bf16": "float", "i8": "i32", "i32": "i32"}
"""LLVM type that arithmetic on a stored dtype is done in."""

_STORED = {"bf16": "i16", "i8": "i8"}  # what memory holds where that is not the arithmetic's type


@dataclass
class Loop:
    """A loop being written: its index, the values it carries, and their next values."""

    index: str
    carried: list[str]
    next: list[str] = field(default_factory=list)
    final: list[str] = field(default_factory=list)


class Text:
    """One module being written, by instruction text and SSA names rather than ``ir.Val`` objects.

    A face of ``ir.Module``: ``ir`` is the Builder of the function being written, which code
    emitters (epilogues) may use on the same block.
    """

    def __init__(self) -> None:
        self._module = ir.Module()
        self.ir: ir.Builder = None  # type: ignore[assignment]  # set by function()

    def fresh(self, hint: str = "t") -> str:
        """A new SSA name such as ``%v12``."""
        return self.ir.fresh(hint).ref

    def emit(self, line: str) -> None:
        """Append one instruction line."""
        self.ir.line(line)

    def op(self, instruction: str) -> str:
        """Append ``name = instruction`` and return the name."""
        return self.ir.emit("", instruction).ref

    def call(self, name: str, result: str, *arguments: tuple[str, str]) -> str:
        """Call an external function or intrinsic with (type, value) arguments; its result."""
        self._module.declare(name, result, [kind for kind, _ in arguments])
        line = f"call {result} @{name}({', '.join(f'{k} {v}' for k, v in arguments)})"
        if result != "void":
            return self.op(line)
        self.emit(line)
        return ""

    @property
    def block(self) -> str:
        """Name of the basic block being written."""
        return self.ir.block

    def label(self, name: str) -> None:
        """Start a basic block."""
        self.ir.start(name)

    def new_label(self, hint: str = "b") -> str:
        """A new block name (without the %)."""
        return self.ir.label(hint)

    @contextmanager
    def function(
        self, name: str, params: Sequence[tuple[str, str]], internal: bool = False
    ) -> Iterator[None]:
        """A void function with (type, name) parameters; internal ones are never inlined."""
        self.ir = self._module.function(name, params, internal=internal)
        yield
        self.emit("ret void")

    @contextmanager
    def loop(
        self,
        start: str | int,
        stop: str | int,
        step: int = 1,
        carried: Sequence[tuple[str, str]] = (),
    ) -> Iterator[Loop]:
        """``for index in range(start, stop, step)`` over i64, carrying (type, initial) values.

        The body sets ``next`` to the carried values' next names; ``final`` is what they end as.
        """
        low, high = _int(start), _int(stop)
        if low.const is not None and high.const is not None and high.const <= low.const:
            low = ir.Val(low.ref, "i64")  # leaves the test to run time
        carry = [ir.Val(value, kind) for kind, value in carried]
        with self.ir.loop(low, high, step, carry) as inner:
            loop = Loop(inner.i.ref, [value.ref for value in inner.carried])
            yield loop
            names = zip(loop.next, carry, strict=True)
            inner.next(*(ir.Val(name, value.ty) for name, value in names))
        loop.final = [value.ref for value in inner.results]

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Run the body only where the i1 ``condition`` holds."""
        yes, after = self.new_label("then"), self.new_label("after")
        self.emit(f"br i1 {condition}, label %{yes}, label %{after}")
        self.label(yes)
        yield
        self.emit(f"br label %{after}")
        self.label(after)

    def add(self, a: str | int, b: str | int) -> str:
        """i64 sum, folded where both are known."""
        if isinstance(a, int) and isinstance(b, int):
            return str(a + b)
        if str(a) == "0":
            return str(b)
        return str(a) if str(b) == "0" else self.op(f"add nsw i64 {a}, {b}")

    def mul(self, a: str | int, b: str | int) -> str:
        """i64 product, folded where both are known and for the factors 0 and 1."""
        if isinstance(a, int) and isinstance(b, int):
            return str(a * b)
        if "0" in (str(a), str(b)):
            return "0"
        if str(a) == "1":
            return str(b)
        return str(a) if str(b) == "1" else self.op(f"mul nsw i64 {a}, {b}")

    def least(self, a: str | int, b: str | int) -> str:
        """Signed i64 minimum."""
        return self.call("llvm.smin.i64", "i64", ("i64", str(a)), ("i64", str(b)))

    def most(self, a: str | int, b: str | int) -> str:
        """Signed i64 maximum."""
        return self.call("llvm.smax.i64", "i64", ("i64", str(a)), ("i64", str(b)))

    def at(self, pointer: str, offset: str | int, itemsize: int = 1) -> str:
        """``pointer`` moved by ``offset`` items; ``itemsize`` must be 1, 2, 4 or 8."""
        if str(offset) == "0":
            return pointer
        unit = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}[itemsize]
        return self.op(f"getelementptr {unit}, ptr {pointer}, i64 {offset}")

    def prefetch(self, pointer: str, write: bool = False, near: bool = True) -> None:
        """Have a cache line brought to L1, or L2 unless ``near``; the address may lie outside all buffers."""
        self.ir.prefetch(ir.Val(pointer, "ptr"), write, near)

    def argument(self, args: str, index: int) -> str:
        """The ``index``-th pointer of the argument block ``args``."""
        return self.op(f"load ptr, ptr {self.at(args, index, 8)}")

    def module(self) -> str:
        """The whole module's text."""
        return self._module.text()


def _int(value: str | int) -> ir.Val:
    known = str(value).lstrip("-").isdigit()
    return ir.Val(str(value), "i64", int(value) if known else None)


def lane_mask(lanes: int, live: int) -> str:
    """A constant mask whose first ``live`` of ``lanes`` lanes are on."""
    return "<" + ", ".join(f"i1 {'true' if i < live else 'false'}" for i in range(lanes)) + ">"


def ramp_mask(b: Text, lanes: int, live: str) -> str:
    """A mask whose first ``live`` lanes are on, for an i64 known at run time (any value)."""
    clipped = b.most(b.least(live, lanes), 0)
    count = b.op(f"trunc i64 {clipped} to i32")
    one = b.op(f"insertelement <{lanes} x i32> poison, i32 {count}, i64 0")
    wide = b.op(f"shufflevector <{lanes} x i32> {one}, <{lanes} x i32> poison, {splat0(lanes)}")
    steps = "<" + ", ".join(f"i32 {i}" for i in range(lanes)) + ">"
    return b.op(f"icmp ugt <{lanes} x i32> {wide}, {steps}")


def splat0(lanes: int) -> str:
    """The shuffle mask that repeats lane 0."""
    return f"<{lanes} x i32> zeroinitializer"


def all_lanes(value: int, lanes: int) -> str:
    """A constant of i32 lanes that are all ``value``."""
    return "<" + ", ".join([f"i32 {value}"] * lanes) + ">"


def splat(b: Text, value: str, element: str, lanes: int) -> str:
    """``value`` in every lane."""
    vector = f"<{lanes} x {element}>"
    one = b.op(f"insertelement {vector} poison, {element} {value}, i64 0")
    return b.op(f"shufflevector {vector} {one}, {vector} poison, {splat0(lanes)}")


def load_vector(
    b: Text, pointer: str, dtype: str, lanes: int, mask: str | None = None, align: int = 0
) -> str:
    """Load ``lanes`` stored elements and widen bf16 and i8; lanes that are off read as zero."""
    element = _STORED.get(dtype, COMPUTE[dtype])
    vector = f"<{lanes} x {element}>"
    if mask is None:
        value = b.op(f"load {vector}, ptr {pointer}, align {align or ITEMSIZE[dtype]}")
    else:
        value = masked_load(b, pointer, element, lanes, mask, "zeroinitializer")
    if dtype == "i8":
        return b.op(f"sext {vector} {value} to <{lanes} x i32>")
    return widen_bf16(b, value, lanes) if dtype == "bf16" else value


def load_bits(b: Text, pointer: str, dtype: str, lanes: int, mask: str | None) -> str:
    """Load the bit patterns of ``lanes`` bf16 or i8 elements as i32; lanes that are off read as zero."""
    element = _STORED[dtype]
    if mask is None:
        raw = b.op(f"load <{lanes} x {element}>, ptr {pointer}, align {ITEMSIZE[dtype]}")
    else:
        raw = masked_load(b, pointer, element, lanes, mask, "zeroinitializer")
    return b.op(f"zext <{lanes} x {element}> {raw} to <{lanes} x i32>")


def masked_load(b: Text, pointer: str, element: str, lanes: int, mask: str, other: str) -> str:
    """Load the lanes that are on; the rest are ``other``."""
    vector, bits = f"<{lanes} x {element}>", f"<{lanes} x i1>"
    fill = ir.Val(other, vector)
    return b.ir.masked_load(
        vector, ir.Val(pointer, "ptr"), ir.Val(mask, bits), _bytes(element), fill
    ).ref


def load_scalar(b: Text, pointer: str, dtype: str) -> str:
    """Load one stored element in its arithmetic type."""
    if dtype == "i8":
        return b.op(f"sext i8 {b.op(f'load i8, ptr {pointer}')} to i32")
    if dtype != "bf16":
        return b.op(f"load {COMPUTE[dtype]}, ptr {pointer}, align {ITEMSIZE[dtype]}")
    raw = b.op(f"load i16, ptr {pointer}, align 2")
    wide = b.op(f"shl i32 {b.op(f'zext i16 {raw} to i32')}, 16")
    return b.op(f"bitcast i32 {wide} to float")


def store_vector(
    b: Text, value: str, pointer: str, dtype: str, lanes: int, mask: str | None = None
) -> None:
    """Store a vector in its arithmetic type, rounding to bf16 where the memory is bf16."""
    element = COMPUTE[dtype]
    if dtype == "bf16":
        value, element = narrow_bf16(b, value, lanes), "i16"
    vector, bits = f"<{lanes} x {element}>", f"<{lanes} x i1>"
    if mask is None:
        b.emit(f"store {vector} {value}, ptr {pointer}, align {ITEMSIZE[dtype]}")
        return
    b.ir.masked_store(
        ir.Val(value, vector), ir.Val(pointer, "ptr"), ir.Val(mask, bits), ITEMSIZE[dtype]
    )


def store_live(
    b: Text, value: str, pointer: str, dtype: str, lanes: int, live: str, stride: int
) -> None:
    """Store the lanes that the i1 vector ``live`` has on, ``stride`` elements apart."""
    if stride == 1:
        store_vector(b, value, pointer, dtype, lanes, live)
        return
    element, size = COMPUTE[dtype], ITEMSIZE[dtype]
    for lane in range(lanes):
        with b.when(b.op(f"extractelement <{lanes} x i1> {live}, i64 {lane}")):
            scalar = b.op(f"extractelement <{lanes} x {element}> {value}, i64 {lane}")
            b.emit(f"store {element} {scalar}, ptr {b.at(pointer, lane * stride * size)}")


def widen_bf16(b: Text, raw: str, lanes: int) -> str:
    """bf16 bit patterns (i16) as float."""
    wide = b.op(f"zext <{lanes} x i16> {raw} to <{lanes} x i32>")
    sixteen = "<" + ", ".join(["i32 16"] * lanes) + ">"
    shifted = b.op(f"shl <{lanes} x i32> {wide}, {sixteen}")
    return b.op(f"bitcast <{lanes} x i32> {shifted} to <{lanes} x float>")


def narrow_bf16(b: Text, value: str, lanes: int) -> str:
    """float rounded to nearest even as bf16 bit patterns (i16); NaN stays NaN."""
    ints = f"<{lanes} x i32>"

    def constant(n: int) -> str:
        return "<" + ", ".join([f"i32 {n}"] * lanes) + ">"

    bits = b.op(f"bitcast <{lanes} x float> {value} to {ints}")
    high = b.op(f"lshr {ints} {bits}, {constant(16)}")
    odd = b.op(f"and {ints} {high}, {constant(1)}")
    bias = b.op(f"add {ints} {odd}, {constant(0x7FFF)}")
    rounded = b.op(f"lshr {ints} {b.op(f'add {ints} {bits}, {bias}')}, {constant(16)}")
    quiet = b.op(f"or {ints} {high}, {constant(0x40)}")
    nan = b.op(f"fcmp uno <{lanes} x float> {value}, {value}")
    chosen = b.op(f"select <{lanes} x i1> {nan}, {ints} {quiet}, {ints} {rounded}")
    return b.op(f"trunc {ints} {chosen} to <{lanes} x i16>")


def fma(b: Text, x: str, y: str, z: str, element: str, lanes: int, fused: bool) -> str:
    """``x * y + z``; fused only where the ISA has it, as LLVM would otherwise call libm."""
    if element == "i32":
        ints = f"<{lanes} x i32>"
        return b.op(f"add {ints} {z}, {b.op(f'mul {ints} {x}, {y}')}")
    vector, short = f"<{lanes} x {element}>", f"v{lanes}{_suffix(element)}"
    name = f"llvm.{'fma' if fused else 'fmuladd'}.{short}"
    return b.call(name, vector, (vector, x), (vector, y), (vector, z))


def dot(b: Text, x: str, y: str, z: str, dtype: str, lanes: int) -> str:
    """``z`` plus, in each 32-bit lane, the dot product of the bf16 pairs, or the i8 groups of four, of x and y.

    Of i8, x is unsigned. Needs AVX512-BF16 or AVX512-VNNI.
    """
    if dtype == "i8":
        ints, short = f"<{lanes} x i32>", f"<{4 * lanes} x i8>"
        x, y = (b.op(f"bitcast {ints} {value} to {short}") for value in (x, y))
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        return b.call(name, ints, (ints, z), (short, x), (short, y))
    wide, short = f"<{lanes} x float>", f"<{2 * lanes} x bfloat>"
    x, y = (b.op(f"bitcast {wide} {value} to {short}") for value in (x, y))
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
    return b.call(name, wide, (wide, z), (short, x), (short, y))


def reduce_add(b: Text, value: str, element: str, lanes: int) -> str:
    """Sum of the lanes, in an order fixed by halving."""
    while lanes > 1:
        lanes //= 2
        low, high = (
            "<" + ", ".join(f"i32 {i + at}" for i in range(lanes)) + ">" for at in (0, lanes)
        )
        wide, kind = f"<{2 * lanes} x {element}>", f"<{lanes} x i32>"
        x = b.op(f"shufflevector {wide} {value}, {wide} poison, {kind} {low}")
        y = b.op(f"shufflevector {wide} {value}, {wide} poison, {kind} {high}")
        value = b.op(f"fadd <{lanes} x {element}> {x}, {y}")
    return b.op(f"extractelement <1 x {element}> {value}, i64 0")


def _suffix(element: str) -> str:
    return {"float": "f32", "double": "f64"}.get(element, element)


def _bytes(element: str) -> int:
    return {"float": 4, "double": 8, "i16": 2, "i8": 1, "i32": 4}[element]
