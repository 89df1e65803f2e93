"""Scalar expressions to LLVM IR on vectors of any width: the one emitter for nests and epilogues.

Values in registers: f16 and bf16 as float, bool as i1, everything else as itself. In memory bool is a byte
and bf16 an i16. Scalars and vectors mix: an operation is as wide as its widest operand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from kiln.backends.cpu import philox
from kiln.backends.cpu.ir import Builder, Module, Val, bits_of, lanes_of, mangle, vec
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.vmath import VMath
from kiln.compile.loopnest import COMPARE, FLOATS, UNSIGNED, Expr
from kiln.errors import KilnError

REGISTER = {
    "f32": "float", "f64": "double", "f16": "float", "bf16": "float", "bool": "i1",
    "i8": "i8", "u8": "i8", "i16": "i16", "u16": "i16", "i32": "i32", "u32": "i32",
    "i64": "i64", "u64": "i64",
}  # fmt: skip
MEMORY = REGISTER | {"f16": "half", "bf16": "i16", "bool": "i8"}

_MATH = frozenset(
    [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "erf",
        "erfc",
        "sigmoid",
        "sqrt",
        "rsqrt",
        "floor",
        "ceil",
        "trunc",
        "atan2",
        "pow",
    ]
)
_INT = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_FCMP = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}


def emit_expr(b: Builder, isa: Isa, expr: Expr, leaves: Callable[[Expr], Val]) -> Val:
    """Emit one expression; ``leaves`` gives the register value of each leaf that is not a constant."""
    return ExprEmitter(b, isa, leaves).emit(expr)


class ExprEmitter:
    """Emits expressions through one builder, each shared node once.

    ``leaves`` is asked for load, gather, scalar, index, ref and leaf nodes. ``values`` maps what has been
    emitted; callers seed it with values computed outside and drop entries that stop being valid. ``run``
    tells of an index leaf that counts up by one over the lanes: its first value and whether that is known
    to be a multiple of 4. ``kept`` are expressions that are stored: a sum with one of them is taken as it is
    written, for another kernel that reads it must come to the same bits (amax's gradient asks for equality).
    """

    def __init__(
        self,
        b: Builder,
        isa: Isa,
        leaves: Callable[[Expr], Val],
        run: Callable[[Expr], tuple[Val, bool] | None] = lambda e: None,
        kept: Collection[Expr] = (),
    ) -> None:
        self.b = b
        self.isa = isa
        self.leaves = leaves
        self.run = run
        self.kept = frozenset(kept)
        self.values: dict[Expr, Val] = {}
        self.math = VMath(b, isa)

    def emit(self, e: Expr) -> Val:
        """The register value of ``e``."""
        found = self.values.get(e)
        if found is None:
            found = self.values[e] = self._node(e)
        return found

    def _node(self, e: Expr) -> Val:
        if e.op == "const":
            return self.b.const(REGISTER[e.dtype], e.attr)
        if e.op in ("load", "gather", "scalar", "index", "ref", "leaf"):
            return self.leaves(e)
        if e.op == "add":
            for one, other in (e.args, e.args[::-1]):
                near = other.op in ("erf", "tanh") and other not in self.kept
                if near and one.op == "const" and abs(one.attr) == 1:
                    whole = getattr(self.math, other.op + "_plus")
                    return whole(self.emit(other.args[0]), one.attr)
        args = [self.emit(a) for a in e.args]
        if e.op == "random_bits":
            return self._random_bits(e, args)
        lanes = max(a.lanes for a in args)
        args = [self.b.splat(a, lanes) for a in args]
        if e.op == "unrounded":
            return args[0]
        if e.op == "cast":
            return self.cast(args[0], e.args[0].dtype, e.dtype)
        if e.op == "bitcast":
            bits = self.to_memory(args[0], e.args[0].dtype)
            bits = self.b.bitcast(bits, vec(MEMORY[e.dtype], lanes))
            return self.from_memory(bits, e.dtype)
        if e.op == "where":
            return self.b.select(*args)
        if e.op in _MATH:
            return getattr(self.math, e.op)(*args)
        dtype = e.args[0].dtype
        if dtype in FLOATS:
            return self._float_op(e, args)
        return self._int_op(e.op, dtype, args)

    def _random_bits(self, e: Expr, args: list[Val]) -> Val:
        key, counter, position = args
        found = self.run(e.args[2]) if position.lanes >= 4 else None
        if found is None or key.lanes > 1 or counter.lanes > 1:
            lanes = max(a.lanes for a in args)
            return philox.anywhere(self.b, *(self.b.splat(a, lanes) for a in args))
        return philox.run(self.b, key, counter, found[0], position.lanes, found[1])

    # -- floats -----------------------------------------------------------------------------------

    def _float_op(self, e: Expr, args: list[Val]) -> Val:
        b, m, op = self.b, self.math, e.op
        x = args[0]
        y = args[-1]
        if op in _FLOAT:
            return b.bin(_FLOAT[op], x, y)
        if op in COMPARE:
            x, y = (self._rounded(a, v) for a, v in zip(e.args, (x, y), strict=True))
            return b.fcmp(_FCMP[op], x, y)
        if op in ("maximum", "minimum"):
            return self.extremum(op == "maximum", x, y, *(_not_nan(a) for a in e.args))
        if op in ("fmax", "fmin"):
            r = b.select(b.fcmp("olt" if op == "fmax" else "ogt", x, y), y, x)
            return b.select(b.fcmp("uno", x, x), y, r)
        if op == "neg":
            return b.fneg(x)
        if op == "abs":
            return m.abs(x)
        if op == "sign":
            up = b.conv("uitofp", b.fcmp("ogt", x, m.c(x, 0.0)), x.elem)
            return b.bin("fsub", up, b.conv("uitofp", b.fcmp("olt", x, m.c(x, 0.0)), x.elem))
        if op == "reciprocal":
            return m.div(m.c(x, 1.0), x)
        if op == "round":
            return m.roundeven(x)
        if op == "isnan":
            return b.fcmp("uno", x, x)
        if op == "isinf":
            return b.fcmp("oeq", m.abs(x), m.c(x, float("inf")))
        if op == "isfinite":
            return b.fcmp("olt", m.abs(x), m.c(x, float("inf")))
        if op == "fmod":
            return self.fmod(x, y)
        if op == "rem":
            return self._python_sign(self.fmod(x, y), y)
        if op == "copysign":
            return m.copysign(x, y)
        if op == "nextafter":
            return self._nextafter(x, y)
        if op in ("igamma", "igammac", "gamma_slope", "beta_slope"):
            from kiln.backends.cpu import vgamma  # which few programs need

            return vgamma.call(b, m, self.isa, op, args)
        if op == "floor_div":
            return self._float_floor_div(x, y)
        raise _unknown(op, e.dtype)

    def extremum(
        self, largest: bool, x: Val, y: Val, x_is_number: bool = False, y_is_number: bool = False
    ) -> Val:
        """The larger (smaller) of two floats; NaN if either is, unless known not to be."""
        b = self.b
        if x_is_number and not y_is_number:
            x, y = y, x
            y_is_number = True
        # select(bound beats x, bound, x) gives x when x is NaN, bound being a number.
        beats = b.fcmp("ogt" if largest else "olt", y, x)
        r = b.select(beats, y, x)
        return r if y_is_number else b.select(b.fcmp("uno", y, y), y, r)

    def fmod(self, x: Val, y: Val) -> Val:
        """The exact remainder with the sign of x, as C's fmod.

        Quotients up to 2**20 are exact in vector arithmetic; where a lane has a larger one (or is not
        finite) that vector is done by LLVM's ``frem``.
        """
        b, m = self.b, self.math
        if x.elem == "float" and not m.has_fma:
            return b.conv(
                "fptrunc",
                self.fmod(b.conv("fpext", x, "double"), b.conv("fpext", y, "double")),
                "float",
            )
        quotient = m.div(x, y)
        q = m.trunc(quotient)
        p = m.mul(q, y)
        r = m.sub(m.sub(x, p), m.mul_error(q, y, p))
        # The division may have rounded up to the next integer: then r has the wrong sign.
        wrong = b.fcmp("olt", m.flip_sign(r, x), m.c(x, 0.0))
        r = b.select(wrong, b.bin("fadd", r, m.copysign(y, x)), r)
        r = b.select(b.fcmp("oeq", q, m.c(x, 0.0)), x, m.copysign(r, x))
        easy = b.fcmp("olt", m.abs(quotient), m.c(x, 2.0**20))
        hard = b.bin("xor", easy, b.const(easy.ty, True))
        with b.if_then(m.any_true(hard), (r,)) as branch:
            name = f"kiln_frem_{mangle(x.ty)}"
            b.module.helper(name, lambda module: _frem(module, name, x.ty))
            branch.set(b.select(hard, b.call(name, x.ty, [x, y]), r))
        return branch.results[0]

    def _nextafter(self, x: Val, y: Val) -> Val:
        """The neighbour of x in the direction of y: floats are ordered as their bits are, away from zero."""
        b, m = self.b, self.math
        i, one = m.bits(x), m.ic(x, 1)
        outward = b.bin("xor", b.fcmp("olt", x, y), b.icmp("slt", i, m.ic(x, 0)))
        r = m.from_bits(x, b.select(outward, b.bin("add", i, one), b.bin("sub", i, one)))
        smallest = m.copysign(m.from_bits(x, one), y)
        r = b.select(b.fcmp("oeq", x, m.c(x, 0.0)), smallest, r)
        r = b.select(b.fcmp("oeq", x, y), y, r)
        return b.select(b.fcmp("uno", x, y), m.add(x, y), r)

    def _python_sign(self, r: Val, y: Val) -> Val:
        b, zero = self.b, self.math.c(r, 0.0)
        differ = b.bin("xor", b.fcmp("olt", r, zero), b.fcmp("olt", y, zero))
        wrong = b.bin("and", b.fcmp("one", r, zero), differ)
        r = b.select(wrong, b.bin("fadd", r, y), r)
        return b.select(b.fcmp("oeq", r, zero), self.math.copysign(zero, y), r)

    def _float_floor_div(self, x: Val, y: Val) -> Val:
        """floor(x / y) from the exact remainder, as Python and PyTorch define it."""
        b, m = self.b, self.math
        zero, one = m.c(x, 0.0), m.c(x, 1.0)
        r = self.fmod(x, y)
        q = m.div(m.sub(x, r), y)
        differ = b.bin("xor", b.fcmp("olt", r, zero), b.fcmp("olt", y, zero))
        q = b.select(b.bin("and", b.fcmp("one", r, zero), differ), m.sub(q, one), q)
        f = m.floor(q)
        f = b.select(b.fcmp("ogt", m.sub(q, f), m.c(x, 0.5)), m.add(f, one), f)
        plain = m.div(x, y)
        f = b.select(b.fcmp("oeq", q, zero), m.copysign(zero, plain), f)
        return b.select(b.fcmp("oeq", y, zero), plain, f)

    # -- integers and bools -----------------------------------------------------------------------

    def _int_op(self, op: str, dtype: str, args: list[Val]) -> Val:
        b, x, y = self.b, args[0], args[-1]
        unsigned = dtype in UNSIGNED or dtype == "bool"
        kind = "u" if unsigned else "s"
        if op in _INT:
            return b.bin(_INT[op], x, y)
        if op in COMPARE:
            return b.icmp(op if op in ("eq", "ne") else kind + op, x, y)
        if op in ("maximum", "fmax", "minimum", "fmin"):
            return b.select(
                b.icmp(kind + ("gt" if op.endswith("max") or op == "maximum" else "lt"), x, y), x, y
            )
        zero = b.const(x.ty, 0)
        if op == "not":
            return b.bin("xor", x, b.const(x.ty, True if dtype == "bool" else -1))
        if op == "neg":
            return b.bin("sub", zero, x)
        if op == "abs":
            return x if unsigned else b.select(b.icmp("slt", x, zero), b.bin("sub", zero, x), x)
        if op == "sign":
            if dtype == "bool":
                return x
            up = b.conv("zext", b.icmp("ugt" if unsigned else "sgt", x, zero), x.elem)
            return (
                up
                if unsigned
                else b.bin("or", up, b.bin("ashr", x, b.const(x.ty, bits_of(x.elem) - 1)))
            )
        if op in ("isnan", "isinf", "isfinite"):
            return b.const(vec("i1", x.lanes), op == "isfinite")
        if op in ("shl", "shr"):
            return self._shift(op, unsigned, x, y)
        if op in ("floor_div", "trunc_div", "rem", "fmod"):
            return self._int_div(op, unsigned, x, y)
        if op in ("gcd", "lcm"):
            if not unsigned:
                x, y = (b.select(b.icmp("slt", v, zero), b.bin("sub", zero, v), v) for v in (x, y))
            r = self._gcd(x, y)
            if op == "gcd":
                return r
            one = b.const(x.ty, 1)
            r = b.bin("mul", b.bin("udiv", x, b.select(b.icmp("eq", r, zero), one, r)), y)
            if unsigned or bits_of(x.elem) < 32:
                return r
            return b.select(b.icmp("slt", r, zero), b.bin("sub", zero, r), r)
        raise _unknown(op, dtype)

    def _shift(self, op: str, unsigned: bool, x: Val, y: Val) -> Val:
        """Shifts by the width or more give 0 (-1 for negative numbers going right)."""
        b, width = self.b, bits_of(x.elem)
        over = b.icmp("ugt", y, b.const(x.ty, width - 1))
        if op == "shr" and not unsigned:
            return b.bin("ashr", x, b.select(over, b.const(x.ty, width - 1), y))
        r = b.bin("shl" if op == "shl" else "lshr", x, b.select(over, b.const(x.ty, 0), y))
        return b.select(over, b.const(x.ty, 0), r)

    def _int_div(self, op: str, unsigned: bool, x: Val, y: Val) -> Val:
        """Division that never traps: x / 0 and x % 0 are 0, the most negative / -1 wraps."""
        b = self.b
        zero, one = b.const(x.ty, 0), b.const(x.ty, 1)
        by_zero = b.icmp("eq", y, zero)
        safe = b.select(by_zero, one, y)
        if unsigned:
            r = b.bin("udiv" if op.endswith("div") else "urem", x, safe)
            return b.select(by_zero, zero, r)
        minus = b.icmp("eq", y, b.const(x.ty, -1))
        safe = b.select(minus, one, safe)
        q = b.bin("sdiv", x, safe)
        r = b.bin("sub", x, b.bin("mul", q, safe))
        if op in ("floor_div", "rem"):
            differ = b.icmp("slt", b.bin("xor", r, safe), zero)
            adjust = b.bin("and", b.icmp("ne", r, zero), differ)
            q = b.select(adjust, b.bin("sub", q, one), q)
            r = b.select(adjust, b.bin("add", r, safe), r)
        if op in ("rem", "fmod"):
            return b.select(by_zero, zero, r)  # modulo -1 came out as modulo 1: 0 as well
        return b.select(by_zero, zero, b.select(minus, b.bin("sub", zero, q), q))

    def _gcd(self, x: Val, y: Val) -> Val:
        """The greatest common divisor of sizes: of odd numbers the difference, halved until it is odd (Stein, 1967)."""
        b, zero = self.b, self.b.const(x.ty, 0)

        def halvings(v: Val) -> Val:  # for 0 as many as make no difference
            name = f"llvm.cttz.{mangle(v.ty)}"
            n = b.call(name, v.ty, [v, Val("false", "i1")])
            return b.select(b.icmp("eq", v, zero), zero, n)

        both = halvings(b.bin("or", x, y))
        x, y = (b.bin("lshr", v, halvings(v)) for v in (x, y))
        with b.repeat((x, y)) as steps:
            u, v = steps.carried
            larger = b.icmp("ugt", u, v)
            u, v = b.select(larger, v, u), b.select(larger, u, v)
            done = b.icmp("eq", u, zero)
            rest = b.bin("sub", v, u)
            rest = b.bin("lshr", rest, halvings(rest))
            steps.next(b.select(done, zero, rest), b.select(done, v, u))
            steps.again = self.math.any_true(b.icmp("ne", steps.nexts[0], zero))
        return b.bin("shl", steps.results[1], both)

    # -- conversions ------------------------------------------------------------------------------

    def cast(self, x: Val, source: str, target: str) -> Val:
        """From one dtype's register value to another's."""
        b = self.b
        ty = REGISTER[target]
        if source == target:
            return x
        if target == "bool":
            if source in FLOATS:
                return b.fcmp("une", x, b.const(x.ty, 0.0))
            return b.icmp("ne", x, b.const(x.ty, 0))
        if source in FLOATS and target in FLOATS:
            if x.elem != ty:
                x = b.conv("fpext" if ty == "double" else "fptrunc", x, ty)
                if target == "f16":
                    # LLVM narrows a copysign before this to half, and the double of its sign by a
                    # library call that is not there
                    x = b.intrinsic("arithmetic.fence", x)
            if target in ("f16", "bf16"):
                x = self.from_memory(self.to_memory(x, target), target)
            return x
        if source in FLOATS:
            return self._float_to_int(x, target)
        if target in FLOATS:
            x = b.conv("uitofp" if source in UNSIGNED or source == "bool" else "sitofp", x, ty)
            if target in ("f16", "bf16"):
                x = self.from_memory(self.to_memory(x, target), target)
            return x
        have, want = bits_of(x.elem), bits_of(ty)
        if have == want:
            return x
        if have > want:
            return b.conv("trunc", x, ty)
        return b.conv("zext" if source in UNSIGNED or source == "bool" else "sext", x, ty)

    def _float_to_int(self, x: Val, target: str) -> Val:
        """Truncation; narrow targets keep the low bits of the 32-bit result, as C compilers do."""
        b = self.b
        if target == "u64":
            # Negative numbers wrap as they do through i64; the rest need the unsigned conversion.
            negative = b.fcmp("olt", x, b.const(x.ty, 0.0))
            return b.select(negative, b.conv("fptosi", x, "i64"), b.conv("fptoui", x, "i64"))
        if target in ("i64", "u32"):
            return self.cast(b.conv("fptosi", x, "i64"), "i64", target)
        return self.cast(b.conv("fptosi", x, "i32"), "i32", target)

    def _rounded(self, e: Expr, x: Val) -> Val:
        """A half float as it would lie in memory: whether two are equal must not depend on where they are computed."""
        if e.dtype not in ("f16", "bf16") or e.op in ("load", "gather", "const", "cast", "ref"):
            return x
        return self.from_memory(self.to_memory(x, e.dtype), e.dtype)

    def to_memory(self, x: Val, dtype: str) -> Val:
        """The register value as it is stored, f16 and bf16 rounded to nearest even."""
        b = self.b
        if dtype == "bool":
            return b.conv("zext", x, "i8")
        if dtype == "f16":
            if self.isa.has_fma:
                return b.conv("fptrunc", x, "half")
            return b.bitcast(self._float_to_half(x), vec("half", x.lanes))
        if dtype != "bf16":
            return x
        i = self.math.bits(x)
        lsb = b.bin("and", b.bin("lshr", i, self.math.ic(x, 16)), self.math.ic(x, 1))
        up = b.bin("add", i, b.bin("add", lsb, self.math.ic(x, 0x7FFF)))
        quiet = b.bin("or", i, self.math.ic(x, 0x00400000))
        i = b.select(b.fcmp("uno", x, x), quiet, up)
        return b.conv("trunc", b.bin("lshr", i, self.math.ic(x, 16)), "i16")

    def from_memory(self, x: Val, dtype: str) -> Val:
        """A stored value as a register value."""
        b = self.b
        if dtype == "bool":
            return b.icmp("ne", x, b.const(x.ty, 0))
        if dtype == "f16":
            if self.isa.has_fma:
                return b.conv("fpext", x, "float")
            return self._half_to_float(b.bitcast(x, vec("i16", x.lanes)))
        if dtype != "bf16":
            return x
        wide = b.conv("zext", x, "i32")
        return b.bitcast(b.bin("shl", wide, b.const(wide.ty, 16)), vec("float", x.lanes))

    def _half_to_float(self, h: Val) -> Val:
        """f16 bits to float without the conversion instruction: rescale what the shift left denormal."""
        b = self.b
        i = b.conv("zext", h, "i32")
        size = b.bin("shl", b.bin("and", i, b.const(i.ty, 0x7FFF)), b.const(i.ty, 13))
        like = b.bitcast(size, vec("float", h.lanes))
        value = b.bin("fmul", like, b.const(like.ty, 2.0**112))
        special = b.icmp("ugt", size, b.const(i.ty, 0x0F7FFFFF))
        bits = b.select(
            special, b.bin("or", size, b.const(i.ty, 0x7F800000)), self.math.bits(value)
        )
        sign = b.bin("shl", b.bin("and", i, b.const(i.ty, 0x8000)), b.const(i.ty, 16))
        return b.bitcast(b.bin("or", bits, sign), like.ty)

    def _float_to_half(self, x: Val) -> Val:
        """Float to f16 bits, to nearest even, by integer arithmetic and one rounding addition."""
        b, m = self.b, self.math
        i = m.bits(x)
        size = b.bin("and", i, m.ic(x, 0x7FFFFFFF))
        sign = b.bin("and", b.bin("lshr", i, m.ic(x, 16)), m.ic(x, 0x8000))
        # Normal halves: rebias, round half to even by adding 0xfff and the lowest kept bit.
        lsb = b.bin("and", b.bin("lshr", size, m.ic(x, 13)), m.ic(x, 1))
        normal = b.bin("add", size, b.bin("add", lsb, m.ic(x, 0xFFF - (112 << 23))))
        normal = b.bin("lshr", normal, m.ic(x, 13))
        # Denormal halves: adding 0.5 aligns the last kept bit with float's last bit.
        low = b.bin("fadd", b.bitcast(size, x.ty), m.c(x, 0.5))
        low = b.bin("sub", m.bits(low), m.ic(x, 0x3F000000))
        r = b.select(b.icmp("ult", size, m.ic(x, 113 << 23)), low, normal)
        r = b.select(b.icmp("ugt", size, m.ic(x, 0x477FEFFF)), m.ic(x, 0x7C00), r)
        nan = b.bin("or", b.bin("lshr", size, m.ic(x, 13)), m.ic(x, 0x7E00))
        nan = b.bin("and", nan, m.ic(x, 0x7FFF))
        r = b.select(b.icmp("ugt", size, m.ic(x, 0x7F800000)), nan, r)
        return b.conv("trunc", b.bin("or", r, sign), "i16")


def _not_nan(e: Expr) -> bool:
    return e.op == "const" and e.attr == e.attr


def _unknown(op: str, dtype: str) -> KilnError:
    return KilnError(
        "loops", f"no way to emit {op} on {dtype}", op, "this is a bug in Kiln; report it"
    )


def _frem(module: Module, name: str, ty: str) -> None:
    """Write ``ty @name(ty x, ty y)``: fmod lane after lane, out of line because it is rare."""
    f = module.function(name, [(ty, "x"), (ty, "y")], ty, internal=True)
    x, y = f.params
    elem, lanes = x.elem, lanes_of(ty)
    slots = [f.emit("ptr", f"alloca [{lanes} x {elem}], align 64") for _ in range(3)]
    f.store(x, slots[0], 64)
    f.store(y, slots[1], 64)
    with f.loop(f.i64(0), f.i64(lanes)) as lane:
        a, c = (f.load(elem, f.gep(s, elem, lane.i), 4) for s in slots[:2])
        f.store(f.bin("frem", a, c), f.gep(slots[2], elem, lane.i), 4)
    f.ret(f.load(ty, slots[2], 64))
