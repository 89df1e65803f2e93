"""Ground floor of the vector math: constants, polynomials, bit tricks and rounding on any width.

All methods take and return ``float`` or ``double`` values of any number of lanes, scalars included. No
libm call is ever made: without FMA or SSE4.1 the forms below use only plain adds and multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kiln.backends.cpu.ir import Builder, Val, vec
from kiln.backends.cpu.isa import Isa

# (float, double): facts of the formats.
INT = {"float": "i32", "double": "i64"}
MANTISSA = {"float": 23, "double": 52}
BIAS = {"float": 127, "double": 1023}
# 1.5 * 2**mantissa: adding it rounds to an integer and leaves that integer in the low bits.
MAGIC = {"float": 12582912.0, "double": 6755399441055744.0}
INF = float("inf")
NAN = float("nan")


class VBase:
    """Emits primitive vector float operations through ``b`` for one instruction set."""

    def __init__(self, b: Builder, isa: Isa) -> None:
        self.b = b
        self.has_fma = isa.has_fma
        self.has_round = isa.has_fma  # SSE4.1 and NEON have roundps; baseline x86-64 calls libm
        self.has_scalef = isa.name == "avx512"

    # -- constants and arithmetic -----------------------------------------------------------------

    def c(self, like: Val, value: float) -> Val:
        """The constant ``value`` of ``like``'s type."""
        return self.b.const(like.ty, value)

    def ic(self, like: Val, value: int) -> Val:
        """An integer constant as wide as ``like``'s lanes."""
        return self.b.const(vec(INT.get(like.elem, like.elem), like.lanes), value)

    def add(self, x: Val, y: Val) -> Val:
        """x + y."""
        return self.b.bin("fadd", x, y)

    def sub(self, x: Val, y: Val) -> Val:
        """x - y."""
        return self.b.bin("fsub", x, y)

    def mul(self, x: Val, y: Val) -> Val:
        """x * y."""
        return self.b.bin("fmul", x, y)

    def div(self, x: Val, y: Val) -> Val:
        """x / y."""
        return self.b.bin("fdiv", x, y)

    def zmm(self, write: Callable[..., Val], *values: Val) -> Val:
        """What a function makes of whole registers: wider vectors in parts, narrower ones with lanes to spare."""
        b, lanes = self.b, values[0].lanes
        full = 16 if values[0].elem == "float" else 8
        if lanes == full:
            return write(*values)
        if lanes > full:
            half = lanes // 2
            low, high = (
                self.zmm(write, *(b.shuffle(v, None, range(k, k + half)) for v in values))
                for k in (0, half)
            )
            return b.shuffle(low, high, range(lanes))
        if lanes == 1:
            return b.extract(write(*(b.splat(v, full) for v in values)), 0)
        picks = [k % lanes for k in range(full)]
        return b.shuffle(write(*(b.shuffle(v, None, picks) for v in values)), None, range(lanes))

    def fma(self, x: Val, y: Val, z: Val) -> Val:
        """x * y + z, fused where the target can, else two roundings."""
        return self.b.intrinsic("fma" if self.has_fma else "fmuladd", x, y, z)

    def horner(self, x: Val, coefs: Sequence[float]) -> Val:
        """The polynomial with ``coefs`` from the constant term up."""
        acc = self.c(x, coefs[-1])
        for c in reversed(coefs[:-1]):
            acc = self.fma(acc, x, self.c(x, c))
        return acc

    def mul_error(self, x: Val, y: Val, p: Val) -> Val:
        """x * y - p exactly, where p is the rounded product (Dekker's splitting without FMA)."""
        if self.has_fma:
            return self.fma(x, y, self.b.fneg(p))
        keep = -(1 << 12) if x.elem == "float" else -(1 << 27)
        xh, yh = (
            self.from_bits(v, self.b.bin("and", self.bits(v), self.ic(v, keep))) for v in (x, y)
        )
        xl, yl = self.sub(x, xh), self.sub(y, yh)
        err = self.sub(self.mul(xh, yh), p)
        err = self.add(self.add(err, self.mul(xh, yl)), self.mul(xl, yh))
        return self.add(err, self.mul(xl, yl))

    def sqrt(self, x: Val) -> Val:
        """Correctly rounded square root."""
        return self.b.intrinsic("sqrt", x)

    def rsqrt(self, x: Val) -> Val:
        """1 / sqrt(x), two roundings."""
        return self.div(self.c(x, 1.0), self.sqrt(x))

    # -- bits -------------------------------------------------------------------------------------

    def bits(self, x: Val) -> Val:
        """The lanes as integers."""
        return self.b.bitcast(x, vec(INT[x.elem], x.lanes))

    def from_bits(self, like: Val, i: Val) -> Val:
        """Integers as lanes of ``like``'s type."""
        return self.b.bitcast(i, like.ty)

    def abs(self, x: Val) -> Val:
        """|x|."""
        return self.b.intrinsic("fabs", x)

    def copysign(self, x: Val, sign: Val) -> Val:
        """|x| with the sign bit of ``sign``."""
        return self.b.intrinsic("copysign", x, sign)

    def flip_sign(self, x: Val, sign: Val) -> Val:
        """``x`` negated where ``sign``'s sign bit is set."""
        top = self.ic(x, -(1 << (31 if x.elem == "float" else 63)))
        bit = self.b.bin("and", self.bits(sign), top)
        return self.from_bits(x, self.b.bin("xor", self.bits(x), bit))

    def lt(self, x: Val, y: Val) -> Val:
        """x < y, false on NaN."""
        return self.b.fcmp("olt", x, y)

    def is_negative(self, x: Val) -> Val:
        """Whether the sign bit is set."""
        i = self.bits(x)
        return self.b.icmp("slt", i, self.ic(x, 0))

    def pick(self, cond: Val, x: Val, y: Val) -> Val:
        """x where cond else y."""
        return self.b.select(cond, x, y)

    def clamp(self, x: Val, lo: float | None, hi: float | None) -> Val:
        """x kept within bounds; NaN stays NaN."""
        if hi is not None:
            x = self.pick(self.lt(self.c(x, hi), x), self.c(x, hi), x)
        if lo is not None:
            x = self.pick(self.lt(x, self.c(x, lo)), self.c(x, lo), x)
        return x

    def any_true(self, mask: Val) -> Val:
        """Whether some lane of an i1 vector holds, as a scalar i1."""
        if mask.lanes == 1:
            return mask
        whole = self.b.bitcast(mask, f"i{mask.lanes}")
        return self.b.icmp("ne", whole, self.b.const(whole.ty, 0))

    # -- rounding ---------------------------------------------------------------------------------

    def nearest(self, x: Val, scale: float = 1.0) -> tuple[Val, Val]:
        """round(x * scale) as a float and as an integer; |x * scale| must be below 2**22 (2**51)."""
        magic = self.c(x, MAGIC[x.elem])
        t = self.add(x, magic) if scale == 1.0 else self.fma(x, self.c(x, scale), magic)
        return self.sub(t, magic), self.b.sub(self.bits(t), self.bits(magic))

    def int_to_float(self, i: Val, like: Val) -> Val:
        """A small integer (|i| < 2**22 or 2**51) as ``like``'s type, without a 64-bit conversion."""
        magic = self.c(like, MAGIC[like.elem])
        return self.sub(self.from_bits(like, self.b.bin("add", i, self.bits(magic))), magic)

    def roundeven(self, x: Val) -> Val:
        """Nearest integer, ties to even."""
        if self.has_round:
            return self.b.intrinsic("roundeven", x)
        limit = self.c(x, float(1 << MANTISSA[x.elem]))
        a = self.abs(x)
        r = self.copysign(self.sub(self.add(a, limit), limit), x)
        return self.pick(self.lt(a, limit), r, x)

    def floor(self, x: Val) -> Val:
        """Largest integer not above x."""
        if self.has_round:
            return self.b.intrinsic("floor", x)
        r = self.roundeven(x)
        down = self.copysign(self.sub(r, self.c(x, 1.0)), x)
        return self.pick(self.lt(x, r), down, r)

    def ceil(self, x: Val) -> Val:
        """Smallest integer not below x."""
        return (
            self.b.intrinsic("ceil", x)
            if self.has_round
            else self.b.fneg(self.floor(self.b.fneg(x)))
        )

    def trunc(self, x: Val) -> Val:
        """The integer part."""
        return (
            self.b.intrinsic("trunc", x)
            if self.has_round
            else self.copysign(self.floor(self.abs(x)), x)
        )
