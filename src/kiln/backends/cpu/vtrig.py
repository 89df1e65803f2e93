"""Trigonometry on vectors: sin, cos, tan and their inverses.

Arguments are reduced modulo pi/2 by Cody-Waite up to a limit; lanes beyond it, where any, go through an
exact Payne-Hanek reduction, so every finite argument is correct.
"""

from __future__ import annotations

from kiln.backends.cpu.ir import Module, Val, elem_of, lanes_of, mangle, vec
from kiln.backends.cpu.vbase import INF, VBase

TWO_OVER_PI = 0.6366197723675814
# pi/2 in parts: three full floats (FMA makes the products exact), and 33 + 33 + 53 bits for doubles.
PIO2_F32 = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)
PIO2_F64 = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)
LIMIT = {"float": 1.0e5, "double": 1.6e6}

# Minimax fits (Remez-like weighted least squares in 45 digits, rounded one coefficient after another):
# sin x = x + x z S(z), cos x = 1 - z/2 + z^2 C(z), asin and atan x = x + x z A(z), z = x^2.
SIN = {
    "float": (-0.166666538, 0.00833211001, -0.000195085624),
    "double": (
        -0.16666666666666627, 0.008333333333321138, -0.0001984126982877605,
        2.755731332875334e-06, -2.5050700366047023e-08, 1.5893396789282686e-10,
    ),
}  # fmt: skip
COS = {
    "float": (0.0416666456, -0.00138873025, 2.44308812e-05),
    "double": (
        0.04166666666666659, -0.0013888888888872156, 2.4801587288252198e-05,
        -2.7557313995273634e-07, 2.087567440138076e-09, -1.1357097349050783e-11,
    ),
}  # fmt: skip
ASIN = {
    "float": (0.166667536, 0.0749525353, 0.0454757772, 0.0241535846, 0.0422090963),
    "double": (
        0.16666666666666763, 0.07499999999970183, 0.044642857175172204, 0.030381942681863935,
        0.022372215695970834, 0.017351599629342795, 0.013980965392230692, 0.011397753870896043,
        0.010786608238473423, 0.0036828787107442197, 0.021763626941587986, -0.02107715809769398,
        0.032676641345783144,
    ),
}  # fmt: skip
ATAN = {
    "float": (
        -0.333333015, 0.199986294, -0.142651498, 0.109570853, -0.0841804519,
        0.0582106262, -0.0314320996, 0.0110518783, -0.00182442542,
    ),
    "double": (
        -0.333333333333332, 0.19999999999953796, -0.14285714280216918, 0.11111110784448432,
        -0.0909089778527277, 0.07692060687495725, -0.06663109199519227, 0.05847925010263105,
        -0.050394571630667385, 0.03806821538260997, -0.017910971210292195,
    ),
}  # fmt: skip
PIO2_SPLIT = {"float": PIO2_F32[:2], "double": (1.5707963267948966, 6.123233995736766e-17)}

# 64 zero bits, then the first 1344 bits of 2/pi.
_TWO_OVER_PI_BITS = (
    0x0, 0xA2F9836E4E441529, 0xFC2757D1F534DDC0, 0xDB6295993C439041, 0xFE5163ABDEBBC561,
    0xB7246E3A424DD2E0, 0x06492EEA09D1921C, 0xFE1DEB1CB129A73E, 0xE88235F52EBB4484,
    0xE99C7026B45F7E41, 0x3991D639835339F4, 0x9C845F8BBDF9283B, 0x1FF897FFDE05980F,
    0xEF2F118B5A0A6D1F, 0x6D367ECF27CB09B7, 0x4F463F669E5FEA2D, 0x7527BAC7EBE5F17B,
    0x3D0739F78A5292EA, 0x6BFB5FB11F8D5D08, 0x56033046FC7B6BAB, 0xF0CFBC209AF4361D,
    0xA9E391615EE61000,
)  # fmt: skip


class Trig(VBase):
    """Circular functions and their inverses."""

    def sin(self, x: Val) -> Val:
        """Sine, x in radians."""
        s, c, q = self._sin_cos(*self._reduce(x))
        r = self._by_quadrant(s, c, q, 0)
        return self.pick(self.b.fcmp("oeq", x, self.c(x, 0.0)), x, r)

    def cos(self, x: Val) -> Val:
        """Cosine, x in radians."""
        s, c, q = self._sin_cos(*self._reduce(x))
        return self._by_quadrant(s, c, q, 1)

    def tan(self, x: Val) -> Val:
        """Tangent, x in radians."""
        s, c, q = self._sin_cos(*self._reduce(x))
        odd = self._odd(q)
        r = self.div(self.pick(odd, c, s), self.pick(odd, self.b.fneg(s), c))
        return self.pick(self.b.fcmp("oeq", x, self.c(x, 0.0)), x, r)

    def sin_cos(self, x: Val) -> tuple[Val, Val]:
        """Sine and cosine of finite x of few turns."""
        s, c, q = self._sin_cos(*self._near(x))
        return self._by_quadrant(s, c, q, 0), self._by_quadrant(s, c, q, 1)

    def _odd(self, q: Val) -> Val:
        one = self.b.const(q.ty, 1)
        return self.b.icmp("ne", self.b.bin("and", q, one), self.b.const(q.ty, 0))

    def _by_quadrant(self, s: Val, c: Val, q: Val, shift: int) -> Val:
        q = self.b.bin("add", q, self.b.const(q.ty, shift)) if shift else q
        r = self.pick(self._odd(q), c, s)
        width = 30 if r.elem == "float" else 62
        sign = self.b.bin("shl", q, self.b.const(q.ty, width))  # bit 1 of q to the sign bit
        return self.flip_sign(r, self.from_bits(r, sign))

    def _sin_cos(self, r: Val, q: Val) -> tuple[Val, Val, Val]:
        z = self.mul(r, r)
        s = self.fma(self.mul(r, z), self.horner(z, SIN[r.elem]), r)
        c = self.fma(z, self.c(z, -0.5), self.c(z, 1.0))
        # 1 - z/2 loses bits as z grows; what was rounded off is put back with the tail.
        lost = self.fma(z, self.c(z, -0.5), self.sub(self.c(z, 1.0), c))
        tail = self.fma(self.mul(z, z), self.horner(z, COS[r.elem]), lost)
        return s, self.add(c, tail), q

    def _reduce(self, x: Val) -> tuple[Val, Val]:
        """x minus the nearest multiple of pi/2, and that multiple (its low bits)."""
        b = self.b
        r, q = self._near(x)
        a = self.abs(x)
        big = b.bin("and", self.lt(self.c(x, LIMIT[x.elem]), a), self.lt(a, self.c(x, INF)))
        with b.if_then(self.any_true(big), (r, q)) as branch:
            name = f"kiln_reduce_pio2_{mangle(x.ty)}"
            b.module.helper(name, lambda m: _vector_payne_hanek(m, name, x.ty))
            pair = b.call(name, f"{{ {r.ty}, {q.ty} }}", [self.pick(big, x, self.c(x, 1.0e6))])
            far_r = b.emit(r.ty, f"extractvalue {pair.ty} {pair.ref}, 0")
            far_q = b.emit(q.ty, f"extractvalue {pair.ty} {pair.ref}, 1")
            branch.set(self.pick(big, far_r, r), self.pick(big, far_q, q))
        r, q = branch.results
        return r, q

    def _near(self, x: Val) -> tuple[Val, Val]:
        """`_reduce` of what is not large."""
        b = self.b
        if x.elem == "double" or self.has_fma:
            return self._cody_waite(x)
        r, q = self._cody_waite(b.conv("fpext", x, "double"))
        return b.conv("fptrunc", r, "float"), b.conv("trunc", q, "i32")

    def _cody_waite(self, x: Val) -> tuple[Val, Val]:
        n, q = self.nearest(x, TWO_OVER_PI)
        minus = self.b.fneg(n)
        for part in PIO2_F32 if x.elem == "float" else PIO2_F64:
            x = self.fma(minus, self.c(x, part), x)
        return x, q

    # -- inverses ---------------------------------------------------------------------------------

    def asin(self, x: Val) -> Val:
        """Arc sine; NaN outside [-1, 1]."""
        small, p = self._asin_core(x)
        hi, lo = PIO2_SPLIT[x.elem]
        big = self.sub(self.c(x, hi), self.sub(self.add(p, p), self.c(x, lo)))
        return self.copysign(self.pick(small, p, big), x)

    def acos(self, x: Val) -> Val:
        """Arc cosine; NaN outside [-1, 1]."""
        small, p = self._asin_core(x)
        hi, lo = PIO2_SPLIT[x.elem]
        signed = self.copysign(p, x)
        near = self.sub(self.c(x, hi), self.sub(signed, self.c(x, lo)))
        twice = self.add(p, p)
        other = self.sub(self.c(x, 2 * hi), self.sub(twice, self.c(x, 2 * lo)))
        far = self.pick(self.is_negative(x), other, twice)
        return self.pick(small, near, far)

    def _asin_core(self, x: Val) -> tuple[Val, Val]:
        """Whether |x| < 1/2, and asin(|x|) there, asin(sqrt((1 - |x|) / 2)) elsewhere."""
        a = self.abs(x)
        small = self.lt(a, self.c(x, 0.5))
        half = self.mul(self.sub(self.c(x, 1.0), a), self.c(x, 0.5))
        z = self.pick(small, self.mul(a, a), half)
        s = self.pick(small, a, self.sqrt(z))
        return small, self.fma(self.mul(s, z), self.horner(z, ASIN[x.elem]), s)

    def atan(self, x: Val) -> Val:
        """Arc tangent."""
        one = self.c(x, 1.0)
        return self.copysign(self._atan_ratio(self.abs(x), one), x)

    def atan2(self, y: Val, x: Val) -> Val:
        """Angle of the point (x, y), as C's atan2 with its signed zeros and infinities."""
        hi, lo = PIO2_SPLIT[x.elem]
        r = self._atan_ratio(self.abs(y), self.abs(x))
        back = self.sub(self.c(x, 2 * hi), self.sub(r, self.c(x, 2 * lo)))
        r = self.copysign(self.pick(self.is_negative(x), back, r), y)
        nan = self.b.fcmp("uno", x, y)
        return self.pick(nan, self.add(x, y), r)

    def _atan_ratio(self, y: Val, x: Val) -> Val:
        """atan(y / x) for y, x >= 0; 0/0 counts as 0, inf/inf as 1."""
        hi, lo = PIO2_SPLIT[x.elem]
        zero = self.c(x, 0.0)
        swap = self.lt(x, y)
        top, low = self.pick(swap, y, x), self.pick(swap, x, y)
        base, base_lo = zero, zero
        num, den = low, top
        if x.elem == "double":
            # One more halving keeps the polynomial short: atan t = pi/4 + atan((t - 1) / (t + 1)).
            huge = self.lt(self.c(x, 2.0**1000), top)
            scale = self.pick(huge, self.c(x, 0.25), self.c(x, 1.0))
            top, low = self.mul(top, scale), self.mul(low, scale)
            upper = self.lt(self.mul(top, self.c(x, 0.41421356237309503)), low)
            num = self.pick(upper, self.sub(low, top), low)
            den = self.pick(upper, self.add(low, top), top)
            base = self.pick(upper, self.c(x, hi / 2), zero)
            base_lo = self.pick(upper, self.c(x, lo / 2), zero)
        t = self.div(num, den)
        both_inf = self.b.fcmp("oeq", low, self.c(x, INF))
        t = self.pick(both_inf, self.c(x, 0.0 if x.elem == "double" else 1.0), t)
        if x.elem == "double":
            base = self.pick(both_inf, self.c(x, hi / 2), base)
        t = self.pick(self.b.fcmp("oeq", top, zero), zero, t)
        z = self.mul(t, t)
        p = self.fma(self.mul(t, z), self.horner(z, ATAN[x.elem]), t)
        p = self.add(base, self.add(p, base_lo))
        other = self.sub(self.c(x, hi), self.sub(p, self.c(x, lo)))
        return self.pick(swap, other, p)


def _vector_payne_hanek(m: Module, name: str, ty: str) -> None:
    """Write ``{ty, ints} @name(ty x)``: the exact reduction, lane after lane, for |x| >= 1 finite."""
    m.helper("kiln_reduce_pio2", _scalar_payne_hanek)
    elem, lanes = elem_of(ty), lanes_of(ty)
    ints = "i32" if elem == "float" else "i64"
    ret = f"{{ {ty}, {vec(ints, lanes)} }}"
    f = m.function(name, [(ty, "x")], ret, internal=True)
    x = f.params[0]
    slots = [f.emit("ptr", f"alloca [{lanes} x {t}], align 64") for t in (elem, elem, ints)]
    f.store(x, slots[0], 64)
    with f.loop(f.i64(0), f.i64(lanes)) as lane:
        v = f.load(elem, f.gep(slots[0], elem, lane.i), 4)
        wide = v if elem == "double" else f.conv("fpext", v, "double")
        pair = f.call("kiln_reduce_pio2", "{ double, i64 }", [wide])
        r = f.emit("double", f"extractvalue {pair.ty} {pair.ref}, 0")
        q = f.emit("i64", f"extractvalue {pair.ty} {pair.ref}, 1")
        r = r if elem == "double" else f.conv("fptrunc", r, "float")
        q = q if ints == "i64" else f.conv("trunc", q, "i32")
        f.store(r, f.gep(slots[1], elem, lane.i), 4)
        f.store(q, f.gep(slots[2], ints, lane.i), 4)
    r, q = f.load(ty, slots[1], 64), f.load(vec(ints, lanes), slots[2], 64)
    one = f.emit(ret, f"insertvalue {ret} poison, {r.ty} {r.ref}, 0")
    f.ret(f.emit(ret, f"insertvalue {ret} {one.ref}, {q.ty} {q.ref}, 1"))


def _scalar_payne_hanek(m: Module) -> None:
    """Write ``{double, i64} @kiln_reduce_pio2(double x)`` for 1 <= |x| < inf.

    With x = M 2^e, 192 bits of 2/pi from bit e-1 on times M, modulo 2^192, hold x 2/pi modulo 4: two bits
    of quadrant, then 190 of fraction, of which at most 62 cancel (Payne and Hanek, 1983).
    """
    table = m.constant_array("kiln_two_over_pi", "i64", _TWO_OVER_PI_BITS)
    f = m.function("kiln_reduce_pio2", [("double", "x")], "{ double, i64 }", internal=True)
    x, c = f.params[0], f.i64
    i = f.bitcast(x, "i64")
    exponent = f.bin("and", f.bin("lshr", i, c(52)), c(2047))
    mantissa = f.bin("or", f.bin("and", i, c((1 << 52) - 1)), c(1 << 52))
    offset = f.add(exponent, c(-1075 - 2 + 64))
    word, shift = f.bin("lshr", offset, c(6)), f.bin("and", offset, c(63))
    raw = [f.load("i64", f.gep(table, "i64", f.add(word, c(k))), 8) for k in range(4)]
    w0, w1, w2 = (f.intrinsic("fshl", raw[k], raw[k + 1], shift) for k in range(3))

    def wide(v: Val) -> Val:
        return f.conv("zext", v, "i128")

    n64 = f.const("i128", 64)
    low = f.bin("lshr", f.bin("mul", wide(mantissa), wide(w2)), n64)
    mid = f.bin("add", f.bin("mul", wide(mantissa), wide(w1)), low)
    high = f.bin("add", f.bin("mul", mantissa, w0), f.conv("trunc", f.bin("lshr", mid, n64), "i64"))
    p = f.bin("or", f.bin("shl", wide(high), n64), wide(f.conv("trunc", mid, "i64")))
    fraction = f.bin("shl", p, f.const("i128", 2))
    above = f.icmp(
        "slt", fraction, f.const("i128", 0)
    )  # half or more: count from the next multiple
    q = f.add(f.bin("lshr", high, c(62)), f.conv("zext", above, "i64"))
    size = f.select(above, f.bin("sub", f.const("i128", 0), fraction), fraction)
    zeros = f.emit("i128", f"call i128 @llvm.ctlz.i128(i128 {size.ref}, i1 false)")
    m.declare("llvm.ctlz.i128", "i128", ["i128", "i1"])
    digits = f.conv("trunc", f.bin("lshr", f.bin("shl", size, zeros), n64), "i64")
    # Two halves, so that no target needs an unsigned 64-bit conversion.
    upper = f.conv("sitofp", f.bin("lshr", digits, c(32)), "double")
    lower = f.conv("sitofp", f.bin("and", digits, c(0xFFFFFFFF)), "double")
    value = f.bin("fadd", f.bin("fmul", upper, f.const("double", 2.0**32)), lower)
    scale = f.bin("shl", f.sub(c(1023 - 64), f.conv("trunc", zeros, "i64")), c(52))
    r = f.bin("fmul", value, f.bitcast(scale, "double"))
    r = f.bin("fmul", r, f.const("double", 1.5707963267948966))
    negative = f.icmp("slt", i, c(0))
    flip = f.bin("xor", negative, above)
    r = f.select(flip, f.fneg(r), r)
    q = f.select(negative, f.sub(c(0), q), q)
    ret = "{ double, i64 }"
    one = f.emit(ret, f"insertvalue {ret} poison, double {r.ref}, 0")
    f.ret(f.emit(ret, f"insertvalue {ret} {one.ref}, i64 {q.ref}, 1"))
