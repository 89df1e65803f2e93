"""LLVM IR as text: a small builder with fresh names, blocks, loops with phis, and vector ops.

Text is written directly: building the same module through ``llvmlite.ir`` was measured 19 times slower.
No IR pass runs on the result, so allocas would stay in memory: values carried round loops are phis, and
index arithmetic on constants is folded here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

_FLOATS = {"float": 4, "double": 8, "half": 2, "bfloat": 2}


def vec(elem: str, lanes: int) -> str:
    """The LLVM type of ``lanes`` values of type ``elem``; one lane is the plain scalar type."""
    return elem if lanes == 1 else f"<{lanes} x {elem}>"


def elem_of(ty: str) -> str:
    """Element type of a vector type, or the scalar type itself."""
    return ty[ty.index(" x ") + 3 : -1] if ty[0] == "<" else ty


def lanes_of(ty: str) -> int:
    """Number of lanes of a type; 1 for scalars."""
    return int(ty[1 : ty.index(" x ")]) if ty[0] == "<" else 1


def bits_of(elem: str) -> int:
    """Width of a scalar type in bits."""
    return _FLOATS[elem] * 8 if elem in _FLOATS else 64 if elem == "ptr" else int(elem[1:])


def is_float(ty: str) -> bool:
    """Whether the element type is a floating-point type."""
    return elem_of(ty) in _FLOATS


class Val:
    """An SSA value or constant: ``ref`` is its text, ``ty`` its type, ``const`` its int if known."""

    __slots__ = ("const", "ref", "ty")

    def __init__(self, ref: str, ty: str, const: int | None = None) -> None:
        self.ref = ref
        self.ty = ty
        self.const = const

    def __repr__(self) -> str:
        return f"{self.ty} {self.ref}"

    @property
    def lanes(self) -> int:
        """Number of lanes."""
        return lanes_of(self.ty)

    @property
    def elem(self) -> str:
        """Element type."""
        return elem_of(self.ty)


class Module:
    """Functions, declarations and constants that make up one LLVM module."""

    def __init__(self) -> None:
        self._declares: dict[str, str] = {}
        self._globals: dict[str, str] = {}
        self._functions: list[Builder] = []
        self._helpers: set[str] = set()
        self._metadata: dict[str, str] = {}

    def function(
        self,
        name: str,
        params: Sequence[tuple[str, str]],
        ret: str = "void",
        internal: bool = False,
    ) -> Builder:
        """Start a function; ``params`` are (type, name) pairs. Its body is written on the Builder."""
        builder = Builder(self, name, params, ret, internal)
        self._functions.append(builder)
        return builder

    def helper(self, name: str, make: Callable[[Module], None]) -> str:
        """Add an internal function once; ``make`` writes it. Returns ``name``."""
        if name not in self._helpers:
            self._helpers.add(name)
            make(self)
        return name

    def declare(self, name: str, ret: str, params: Sequence[str]) -> None:
        """Declare an external function or intrinsic once."""
        if name not in self._declares:
            self._declares[name] = f"declare {ret} @{name}({', '.join(params)})"

    def constant_array(self, name: str, elem: str, values: Sequence[int | str]) -> Val:
        """A private constant table; returns its address."""
        items = ", ".join(f"{elem} {v}" for v in values)
        self._globals[name] = (
            f"@{name} = private constant [{len(values)} x {elem}] [{items}], align 16"
        )
        return Val(f"@{name}", "ptr")

    def metadata(self, node: str) -> str:
        """The name of a metadata node."""
        return self._metadata.setdefault(node, f"!{len(self._metadata)}")

    def text(self) -> str:
        """The whole module."""
        parts = [
            *self._globals.values(),
            *(f.text() for f in self._functions),
            *self._declares.values(),
            *(f"{name} = !{node}" for node, name in self._metadata.items()),
        ]
        return "\n".join(parts) + "\n"


class Loop:
    """A counted loop being written: ``i`` its counter, ``carried`` the phis, ``results`` after it."""

    def __init__(self, i: Val, carried: list[Val]) -> None:
        self.i = i
        self.carried = carried
        self.results: list[Val] = carried
        self.nexts: list[Val] | None = None

    def next(self, *values: Val) -> None:
        """Say what the carried values are in the next iteration."""
        self.nexts = list(values)


class Repeat(Loop):
    """A loop being written that goes round for as long as the scalar ``again`` holds at its end."""

    again: Val


class Branch:
    """A one-armed conditional being written: ``set`` its values, read ``results`` after it."""

    def __init__(self) -> None:
        self.values: list[Val] = []
        self.results: list[Val] = []

    def set(self, *values: Val) -> None:
        """The values that replace the defaults where the condition held."""
        self.values = list(values)


class Builder:
    """Writes the body of one function."""

    def __init__(
        self, module: Module, name: str, params: Sequence[tuple[str, str]], ret: str, internal: bool
    ) -> None:
        self.module = module
        args = ", ".join(f"{t} %{n}" for t, n in params)
        self._head = f"define {'internal ' if internal else ''}{ret} @{name}({args}) "
        self._head += ("noinline " if internal else "") + "nounwind {\nentry:"
        self.params = [Val(f"%{n}", t) for t, n in params]
        self._lines: list[str] = []
        self._n = 0
        self.block = "entry"

    # -- plumbing ---------------------------------------------------------------------------------

    def text(self) -> str:
        """The function's text."""
        return "\n".join([self._head, *self._lines, "}"])

    def fresh(self, ty: str) -> Val:
        """A new SSA name of a type."""
        self._n += 1
        return Val(f"%v{self._n}", ty)

    def emit(self, ty: str, rhs: str) -> Val:
        """Write ``%new = rhs`` and return the new value."""
        self._n += 1
        ref = f"%v{self._n}"
        self._lines.append(f"  {ref} = {rhs}")
        return Val(ref, ty)

    def line(self, text: str) -> None:
        """Write one instruction that has no result."""
        self._lines.append("  " + text)

    def label(self, stem: str) -> str:
        """A new block name."""
        self._n += 1
        return f"{stem}{self._n}"

    def start(self, label: str) -> None:
        """Begin a block; the block before must have been ended by a branch."""
        self._lines.append(f"{label}:")
        self.block = label

    def ret(self, value: Val | None = None) -> None:
        """Return from the function."""
        self.line("ret void" if value is None else f"ret {value.ty} {value.ref}")

    # -- constants --------------------------------------------------------------------------------

    def const(self, ty: str, value: float | bool) -> Val:
        """A constant of a scalar or vector type (the same value in every lane)."""
        elem, lanes = elem_of(ty), lanes_of(ty)
        known = None
        if elem in ("float", "double"):
            text = float_text(elem, value)
        elif elem == "i1":
            text = "true" if value else "false"
            known = int(bool(value))
        else:
            known = int(value)
            text = str(known)
        if lanes == 1:
            return Val(text, ty, known)
        return Val(f"splat ({elem} {text})", ty)

    def i64(self, value: int) -> Val:
        """A 64-bit integer constant."""
        return Val(str(value), "i64", value)

    def iota(self, elem: str, lanes: int, step: int = 1) -> Val:
        """The constant vector 0, step, 2*step, …"""
        if lanes == 1:
            return self.const(elem, 0)
        items = ", ".join(f"{elem} {i * step}" for i in range(lanes))
        return Val(f"<{items}>", vec(elem, lanes))

    def constants(self, elem: str, values: Sequence[float]) -> Val:
        """The constant vector of these values; floats are rounded to ``elem``."""
        items = ", ".join(f"{elem} {self.const(elem, v).ref}" for v in values)
        return Val(f"<{items}>", vec(elem, len(values)))

    # -- arithmetic -------------------------------------------------------------------------------

    def bin(self, op: str, x: Val, y: Val) -> Val:
        """A binary instruction; operands have one type."""
        return self.emit(x.ty, f"{op} {x.ty} {x.ref}, {y.ref}")

    def add(self, x: Val, y: Val) -> Val:
        """Integer sum, folded where constants allow."""
        if x.const is not None and y.const is not None and x.ty[0] != "<":
            return self.const(x.ty, x.const + y.const)
        if x.const == 0:
            return y
        return x if y.const == 0 else self.bin("add", x, y)

    def sub(self, x: Val, y: Val) -> Val:
        """Integer difference, folded where constants allow."""
        if x.const is not None and y.const is not None and x.ty[0] != "<":
            return self.const(x.ty, x.const - y.const)
        return x if y.const == 0 else self.bin("sub", x, y)

    def mul(self, x: Val, y: Val) -> Val:
        """Integer product, folded where constants allow."""
        if x.const is not None and y.const is not None and x.ty[0] != "<":
            return self.const(x.ty, x.const * y.const)
        if x.const == 1 or y.const == 0:
            return y
        return x if y.const == 1 or x.const == 0 else self.bin("mul", x, y)

    def fneg(self, x: Val) -> Val:
        """Sign flipped, NaN included."""
        return self.emit(x.ty, f"fneg {x.ty} {x.ref}")

    def icmp(self, pred: str, x: Val, y: Val) -> Val:
        """Integer comparison to i1 lanes; predicates as in LLVM (eq, slt, ult, …)."""
        return self.emit(vec("i1", x.lanes), f"icmp {pred} {x.ty} {x.ref}, {y.ref}")

    def fcmp(self, pred: str, x: Val, y: Val) -> Val:
        """Float comparison to i1 lanes; predicates as in LLVM (oeq, olt, uno, …)."""
        return self.emit(vec("i1", x.lanes), f"fcmp {pred} {x.ty} {x.ref}, {y.ref}")

    def select(self, cond: Val, x: Val, y: Val) -> Val:
        """``x`` where ``cond`` holds, else ``y``."""
        return self.emit(x.ty, f"select {cond.ty} {cond.ref}, {x.ty} {x.ref}, {y.ty} {y.ref}")

    def conv(self, op: str, x: Val, elem: str) -> Val:
        """A conversion instruction (sext, trunc, fptosi, bitcast, …) to another element type."""
        ty = vec(elem, x.lanes)
        return self.emit(ty, f"{op} {x.ty} {x.ref} to {ty}")

    def bitcast(self, x: Val, ty: str) -> Val:
        """The same bits as another type."""
        return self.emit(ty, f"bitcast {x.ty} {x.ref} to {ty}")

    def call(self, name: str, ret: str, args: Sequence[Val]) -> Val:
        """Call a function or intrinsic, declaring it when it is not a function of this module."""
        if name not in self.module._helpers:
            self.module.declare(name, ret, [a.ty for a in args])
        text = f"call {ret} @{name}({', '.join(f'{a.ty} {a.ref}' for a in args)})"
        if ret == "void":
            self.line(text)
            return Val("", "void")
        return self.emit(ret, text)

    def intrinsic(self, name: str, *args: Val) -> Val:
        """Call ``llvm.name`` overloaded on its first argument's type, which is also its result's."""
        return self.call(f"llvm.{name}.{mangle(args[0].ty)}", args[0].ty, args)

    # -- vectors ----------------------------------------------------------------------------------

    def prefetch(self, address: Val, write: bool = False, near: bool = True) -> None:
        """Have a cache line brought to L1, or L2 unless ``near``; the address may lie outside all buffers."""
        self.module.declare("llvm.prefetch.p0", "void", ["ptr", "i32", "i32", "i32"])
        hints = f"i32 {int(write)}, i32 {3 if near else 2}, i32 1"
        self.line(f"call void @llvm.prefetch.p0(ptr {address.ref}, {hints})")

    def splat(self, x: Val, lanes: int) -> Val:
        """A scalar in every lane; values that already are vectors pass unchanged."""
        if lanes == 1 or x.ty[0] == "<":
            return x
        if x.ref[0] != "%" and x.ref[0] != "@":
            return Val(f"splat ({x.ty} {x.ref})", vec(x.ty, lanes))
        ty = vec(x.ty, lanes)
        one = self.emit(ty, f"insertelement {ty} poison, {x.ty} {x.ref}, i64 0")
        return self.emit(
            ty, f"shufflevector {ty} {one.ref}, {ty} poison, <{lanes} x i32> zeroinitializer"
        )

    def extract(self, x: Val, lane: int | Val) -> Val:
        """One lane as a scalar."""
        if x.ty[0] != "<":
            return x
        ref = lane.ref if isinstance(lane, Val) else lane
        return self.emit(x.elem, f"extractelement {x.ty} {x.ref}, i64 {ref}")

    def insert(self, x: Val, s: Val, lane: int) -> Val:
        """``x`` with one lane replaced."""
        if x.ty[0] != "<":
            return s
        return self.emit(x.ty, f"insertelement {x.ty} {x.ref}, {s.ty} {s.ref}, i64 {lane}")

    def shuffle(self, x: Val, y: Val | None, lanes: Sequence[int]) -> Val:
        """Lanes picked from ``x`` then ``y``; -1 is don't care."""
        other = y.ref if y else "poison"
        picks = ", ".join(f"i32 {'poison' if i < 0 else i}" for i in lanes)
        return self.emit(
            vec(x.elem, len(lanes)),
            f"shufflevector {x.ty} {x.ref}, {x.ty} {other}, <{len(lanes)} x i32> <{picks}>",
        )

    # -- memory -----------------------------------------------------------------------------------

    def gep(self, base: Val, elem: str, index: Val) -> Val:
        """Address of element ``index``; vectors of indices give vectors of addresses."""
        if index.const == 0:
            return base
        ty = vec("ptr", index.lanes)
        return self.emit(ty, f"getelementptr {elem}, ptr {base.ref}, {index.ty} {index.ref}")

    def load(self, ty: str, ptr: Val, align: int) -> Val:
        """Load; ``align`` is in bytes and must hold."""
        return self.emit(ty, f"load {ty}, ptr {ptr.ref}, align {align}")

    def store(self, value: Val, ptr: Val, align: int, past_cache: bool = False) -> None:
        """Store; ``align`` is in bytes and must hold. Past the cache it must be what the vector has."""
        hint = f", !nontemporal {self.module.metadata('{i32 1}')}" if past_cache else ""
        self.line(f"store {value.ty} {value.ref}, ptr {ptr.ref}, align {align}{hint}")

    def masked_load(self, ty: str, ptr: Val, mask: Val, align: int, fill: Val | None = None) -> Val:
        """Contiguous load of the lanes in ``mask``; the others take ``fill`` (zero) and touch nothing."""
        passthru = fill.ref if fill else "zeroinitializer"
        name = f"llvm.masked.load.{mangle(ty)}.p0"
        self.module.declare(name, ty, ["ptr", mask.ty, ty])
        return self.emit(
            ty,
            f"call {ty} @{name}(ptr align {align} {ptr.ref}, {mask.ty} {mask.ref}, {ty} {passthru})",
        )

    def masked_store(self, value: Val, ptr: Val, mask: Val, align: int) -> None:
        """Contiguous store of the lanes in ``mask``."""
        name = f"llvm.masked.store.{mangle(value.ty)}.p0"
        self.module.declare(name, "void", [value.ty, "ptr", mask.ty])
        self.line(
            f"call void @{name}({value.ty} {value.ref}, ptr align {align} {ptr.ref}, "
            f"{mask.ty} {mask.ref})"
        )

    def masked_gather(self, ty: str, ptrs: Val, mask: Val, align: int) -> Val:
        """Loads from a vector of addresses; lanes not in ``mask`` give zero and touch nothing."""
        name = f"llvm.masked.gather.{mangle(ty)}.v{ptrs.lanes}p0"
        self.module.declare(name, ty, [ptrs.ty, mask.ty, ty])
        return self.emit(
            ty,
            f"call {ty} @{name}({ptrs.ty} align {align} {ptrs.ref}, {mask.ty} {mask.ref}, "
            f"{ty} zeroinitializer)",
        )

    def masked_scatter(self, value: Val, ptrs: Val, mask: Val, align: int) -> None:
        """Stores of the lanes in ``mask`` to a vector of addresses, in lane order."""
        name = f"llvm.masked.scatter.{mangle(value.ty)}.v{ptrs.lanes}p0"
        self.module.declare(name, "void", [value.ty, ptrs.ty, mask.ty])
        self.line(
            f"call void @{name}({value.ty} {value.ref}, {ptrs.ty} align {align} {ptrs.ref}, "
            f"{mask.ty} {mask.ref})"
        )

    def active_lanes(self, count: Val, lanes: int) -> Val:
        """The mask of lanes whose number is below ``count`` (i64)."""
        if count.const is not None:
            bits = ", ".join(f"i1 {'true' if i < count.const else 'false'}" for i in range(lanes))
            return Val(f"<{bits}>", vec("i1", lanes))
        limit = self.splat(self.emit("i32", f"trunc i64 {count.ref} to i32"), lanes)
        return self.icmp("ult", self.iota("i32", lanes), limit)

    # -- control ----------------------------------------------------------------------------------

    @contextmanager
    def loop(
        self, start: Val, stop: Val, step: int = 1, carry: Sequence[Val] = ()
    ) -> Iterator[Loop]:
        """Write a loop over ``range(start, stop, step)`` with values carried round it.

        Call ``next`` inside with the values for the next iteration; after the ``with`` they are in
        ``results``. The test is at the bottom, with a guard in front only where the bounds don't show
        that there is a first iteration. Known single iterations become straight-line code. Known
        empty ranges must not be written (ValueError).
        """
        known = start.const is not None and stop.const is not None
        if known:
            trips = -(-(stop.const - start.const) // step)
            if trips <= 0:
                raise ValueError(f"empty loop {start.const}..{stop.const}")
            if trips == 1:
                body = Loop(start, list(carry))
                yield body
                body.results = _nexts(body, carry)
                return
        head, done = self.label("loop"), self.label("done")
        before = self.block
        if not known:
            some = self.icmp("slt", start, stop)
            self.line(f"br i1 {some.ref}, label %{head}, label %{done}")
        else:
            self.line(f"br label %{head}")
        self.start(head)
        slot = len(self._lines)
        body = Loop(self.fresh("i64"), [self.fresh(c.ty) for c in carry])
        yield body
        nexts = _nexts(body, carry)
        latch = self.block
        following = self.emit("i64", f"add nsw i64 {body.i.ref}, {step}")
        again = self.icmp("slt", following, stop)
        self.line(f"br i1 {again.ref}, label %{head}, label %{done}")
        phis = [_phi(body.i, (start, before), (following, latch))]
        phis += [
            _phi(p, (c, before), (n, latch))
            for p, c, n in zip(body.carried, carry, nexts, strict=True)
        ]
        self._lines[slot:slot] = phis
        self.start(done)
        body.results = nexts
        if not known:
            body.results = [self.fresh(c.ty) for c in carry]
            for p, c, n in zip(body.results, carry, nexts, strict=True):
                self._lines.append(_phi(p, (c, before), (n, latch)))

    @contextmanager
    def repeat(self, carry: Sequence[Val]) -> Iterator[Repeat]:
        """Write a loop with values carried round it, which runs once at least.

        Set ``again`` and call ``next`` inside; after the ``with`` the last values are in ``results``.
        """
        head, done, before = self.label("loop"), self.label("done"), self.block
        self.line(f"br label %{head}")
        self.start(head)
        slot = len(self._lines)
        body = Repeat(self.i64(0), [self.fresh(c.ty) for c in carry])
        yield body
        body.results = _nexts(body, carry)
        self.line(f"br i1 {body.again.ref}, label %{head}, label %{done}")
        self._lines[slot:slot] = [
            _phi(p, (c, before), (n, self.block))
            for p, c, n in zip(body.carried, carry, body.results, strict=True)
        ]
        self.start(done)

    @contextmanager
    def if_then(self, cond: Val, defaults: Sequence[Val] = ()) -> Iterator[Branch]:
        """Write code run only where scalar ``cond`` holds; ``set`` replaces the ``defaults``."""
        then, done = self.label("then"), self.label("endif")
        before = self.block
        self.line(f"br i1 {cond.ref}, label %{then}, label %{done}")
        self.start(then)
        branch = Branch()
        yield branch
        last = self.block
        self.line(f"br label %{done}")
        self.start(done)
        for d, v in zip(defaults, branch.values, strict=True):
            merged = self.fresh(d.ty)
            self._lines.append(_phi(merged, (d, before), (v, last)))
            branch.results.append(merged)


def _nexts(body: Loop, carry: Sequence[Val]) -> list[Val]:
    if body.nexts is None and carry:
        raise ValueError("a loop that carries values must call next()")
    return body.nexts or []


def _phi(target: Val, a: tuple[Val, str], b: tuple[Val, str]) -> str:
    return f"  {target.ref} = phi {target.ty} [ {a[0].ref}, %{a[1]} ], [ {b[0].ref}, %{b[1]} ]"


def mangle(ty: str) -> str:
    """The suffix that intrinsics overloaded on a type carry: ``v16f32``, ``i64``."""
    elem, lanes = elem_of(ty), lanes_of(ty)
    short = {"float": "f32", "double": "f64", "half": "f16", "ptr": "p0"}.get(elem, elem)
    return short if lanes == 1 else f"v{lanes}{short}"


def float_text(elem: str, value: float) -> str:
    """A float constant as LLVM wants it: the hex image of the double that equals it exactly."""
    if elem == "float":
        value = _to_f32(value)
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def _to_f32(value: float) -> float:
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
