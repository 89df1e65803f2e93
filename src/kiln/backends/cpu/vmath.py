"""Vector math as polynomials, on ``float`` and ``double`` of any width: exp, log, pow, tanh, erf, …

Errors are at most 3 ulp (float) and 4 ulp (double); inf, NaN, -0 and denormals behave as in NumPy. The
coefficients are our own weighted minimax fits (45 digits, rounded one coefficient after another).
"""

from __future__ import annotations

from kiln.backends.cpu.ir import Val
from kiln.backends.cpu.vbase import BIAS, INF, MAGIC, MANTISSA, NAN
from kiln.backends.cpu.vtrig import Trig

LOG2_E = 1.4426950408889634
LOG10_E = 0.4342944819032518
# ln 2 and log10 2 as a part short enough for exact products with exponents, and the rest.
LN2 = {
    "float": (0.693115234375, 3.194618329871446e-05),
    "double": (0.6931471804855391, 7.440617110012397e-11),
}
LOG10_2 = {
    "float": (0.301025390625, 4.605039066518657e-06),
    "double": (0.30102999560767785, 5.630334806675098e-11),
}
# Beyond these exp is inf or 0.
EXP_RANGE = {"float": (-104.0, 89.0), "double": (-746.0, 710.0)}
EXP2_RANGE = {"float": (-151.0, 129.0), "double": (-1076.0, 1025.0)}

# exp r = 1 + r + r^2 q(r) for |r| <= ln(2)/2.
EXP = {
    "float": (0.5, 0.166665375, 0.0416664407, 0.00836729258, 0.00139373599),
    "double": (
        0.5, 0.16666666666666677, 0.041666666666666685, 0.00833333333332117, 0.0013888888888872715,
        0.00019841269887769389, 2.4801587351299804e-05, 2.755724216641017e-06,
        2.755724936692778e-07, 2.51098637865358e-08, 2.0922689236277515e-09,
    ),
}  # fmt: skip
EXP_SHORT = (0.500016153, 0.166667178)  # the same for |r| <= ln(2)/32
# float: log(1+f) = f - f^2/2 + f^3 P(f). double: log m = 2s + s z R(z), s = f/(2+f), z = s^2.
LOG_F32 = (
    0.333333313, -0.250008404, 0.200012758, -0.16622676,
    0.142000541, -0.131653637, 0.127770096, -0.0764041394,
)  # fmt: skip
LOG_F64 = (
    0.6666666666666737, 0.39999999999393443, 0.2857142874748881, 0.22222198012596034,
    0.1818359529932802, 0.15313213202157536, 0.14804758053737768,
)  # fmt: skip
# The same R with its constant term 2/3 taken off and divided by z, for pow's doubled precision.
LOG_TAIL_F64 = (
    0.40000000000002356, 0.2857142857005023, 0.2222222252900094, 0.1818178354995806,
    0.15386795975096224, 0.1325589584767895, 0.13205078045316965,
)  # fmt: skip
SINH = {
    "float": (0.166666672, 0.00833331607, 0.000198413909, 2.79189339e-06),
    "double": (
        0.16666666666666666, 0.008333333333333517, 0.00019841269841136108, 2.7557319272234215e-06,
        2.5052098810026736e-08, 1.6060108812260275e-10, 7.584818977900011e-13, 4.317821280759229e-15,
    ),
}  # fmt: skip
# erf x = x + x E(x^2) for |x| <= 1.
ERF = {
    "float": (
        0.128379166, -0.376126289, 0.11283619, -0.0268551745, 0.00519084465, -0.00080318359,
        7.92413048e-05,
    ),
    "double": (
        0.1283791670955126, -0.3761263890318388, 0.11283791670959031, -0.026866170645673895,
        0.005223977629616721, -0.0008548327218978171, 0.00012055338826907925,
        -1.4925763181930855e-05, 1.6463474599082145e-06, -1.6374660220025085e-07,
        1.481303884127154e-08, -1.1930884299634433e-09, 6.851050785146028e-11,
    ),
}  # fmt: skip
# log(erfc x) for 1 <= x <= 4: enough for erf in float, where erfc only matters to 2^-25.
LOG_ERFC_F32 = (
    0.000199497343, -1.12963653, -0.633093297, -0.108573273, 0.0253241453, -0.00425903639,
    0.000457020447, -2.42149054e-05, 1.74626877e-07,
)  # fmt: skip
# erf x = x P(z) / Q(z) to 4e-7 absolute for |x| <= 3.85.
ERF_P = (1.12837911, 0.187864929, 0.0524752885, 0.00367247756, 0.000285634975, 2.10845519e-06)
ERF_Q = (1.0, 0.499823838, 0.113115333, 0.0147820208, 0.00114513328, 3.87316104e-05)
# erfc x = exp(-x^2) R(t) / (1 + 2x), t = (x - k) / (x + k), from x = 0.49 to where it underflows.
ERFC_K = {"float": 2.0, "double": 4.0}
ERFC_MAX = {"float": 10.2, "double": 27.4}
ERFC = {
    "float": (
        1.27697837, -0.0927637517, -0.166030452, 0.164048299, -0.054214593, -0.00800145045,
        0.00867026299, 0.00113167346, -0.00127790158, -0.000208349025,
    ),
    "double": (
        1.2329951186255526, -0.13962111684056253, 0.015379652102613066, 0.06809705425469334,
        -0.10103906603601356, 0.09373283499834992, -0.0663303658180855, 0.037167515537042416,
        -0.016197733991808058, 0.00503196998689761, -0.0007577737432709473, -0.0001992567794073801,
        0.00015062369445251425, -2.439874369207279e-05, -1.1227929352335608e-05,
        5.708092832230097e-06, 3.051042617586143e-07, -8.217889246364923e-07, 6.099916299370064e-08,
        1.0507672320933502e-07, -8.506356207678137e-09, -1.0274337957026141e-08,
        -9.926804749424372e-10,
    ),
}  # fmt: skip


class VMath(Trig):
    """Every elementary function the expression vocabulary has, emitted through one builder."""

    # -- exponentials -----------------------------------------------------------------------------

    def exp(self, x: Val) -> Val:
        """e**x."""
        x = self.clamp(x, *EXP_RANGE[x.elem])
        if self.has_scalef and x.elem == "float":
            return self.zmm(self._exp_by_sixteenths, x)
        n, ni = self.nearest(x, LOG2_E)
        return self._scale(self._exp_poly(self._minus_n_ln2(x, n)), n, ni)

    def _exp_by_sixteenths(self, x: Val) -> Val:
        """e**x of a whole register: 2**(k/16) from a table in another leaves a short polynomial."""
        b = self.b
        magic = self.c(x, MAGIC[x.elem] / 16)  # adding it rounds to sixteenths
        t = self.fma(x, self.c(x, LOG2_E), magic)
        n = self.sub(t, magic)
        powers = b.constants("float", [2.0 ** (k / 16) for k in range(16)])
        power = b.call("llvm.x86.avx512.permvar.sf.512", x.ty, [powers, self.bits(t)])
        r = self._minus_n_ln2(x, n)
        tail = self.fma(self.mul(r, r), self.horner(r, EXP_SHORT), r)
        return self._scalef(self.fma(power, tail, power), n)  # by 2**floor(n)

    def exp2(self, x: Val) -> Val:
        """2**x."""
        x = self.clamp(x, *EXP2_RANGE[x.elem])
        n, ni = self.nearest(x)
        r = self.mul(self.sub(x, n), self.c(x, 0.6931471805599453))
        return self._scale(self._exp_poly(r), n, ni)

    def expm1(self, x: Val) -> Val:
        """e**x - 1, exact near 0."""
        tiny = self.lt(self.abs(x), self.c(x, 2.0**-60))
        y = self.clamp(x, -18.0 if x.elem == "float" else -40.0, EXP_RANGE[x.elem][1])
        n, ni = self.nearest(y, LOG2_E)
        r = self._minus_n_ln2(y, n)
        p = self.fma(self.mul(r, r), self.horner(r, EXP[x.elem]), r)
        # Half of the result first: 2**(n-1) does not overflow where 2**n would.
        half = self._power_of_two(self.b.sub(ni, self.ic(x, 1)), x)
        h = self.fma(half, p, self.sub(half, self.c(x, 0.5)))
        return self.pick(tiny, x, self.add(h, h))

    def sigmoid(self, x: Val) -> Val:
        """1 / (1 + e**-x), accurate down to its denormals."""
        e = self.exp(self.b.fneg(self.abs(x)))
        one = self.c(x, 1.0)
        return self.div(self.pick(self.lt(x, self.c(x, 0.0)), e, one), self.add(e, one))

    def _minus_n_ln2(self, x: Val, n: Val) -> Val:
        hi, lo = LN2[x.elem]
        minus = self.b.fneg(n)
        return self.fma(minus, self.c(x, lo), self.fma(minus, self.c(x, hi), x))

    def _exp_poly(self, r: Val) -> Val:
        """e**r for |r| <= ln(2)/2."""
        tail = self.fma(self.mul(r, r), self.horner(r, EXP[r.elem]), r)
        return self.add(tail, self.c(r, 1.0))

    def _power_of_two(self, n: Val, like: Val) -> Val:
        """2**n for exponents of normal numbers."""
        biased = self.b.bin("add", n, self.ic(like, BIAS[like.elem]))
        return self.from_bits(like, self.b.bin("shl", biased, self.ic(like, MANTISSA[like.elem])))

    def _scale(self, p: Val, n: Val, ni: Val) -> Val:
        """p * 2**n rounded once, over- and underflow included."""
        if self.has_scalef:
            return self.zmm(self._scalef, p, n)
        # In two halves, each a normal number; the second product rounds.
        first = self.b.bin("ashr", ni, self.ic(p, 1))
        p = self.mul(p, self._power_of_two(first, p))
        return self.mul(p, self._power_of_two(self.b.sub(ni, first), p))

    def _scalef(self, p: Val, n: Val) -> Val:
        name = f"llvm.x86.avx512.mask.scalef.{'ps' if p.elem == 'float' else 'pd'}.512"
        mask = self.b.const(f"i{p.lanes}", -1)
        return self.b.call(name, p.ty, [p, n, p, mask, self.b.const("i32", 4)])

    # -- logarithms -------------------------------------------------------------------------------

    def log(self, x: Val) -> Val:
        """Natural logarithm."""
        e, f, tail = self._log_parts(x)
        hi, lo = LN2[x.elem]
        r = self.add(f, self.fma(e, self.c(x, lo), tail))
        return self._log_special(x, self.fma(e, self.c(x, hi), r))

    def log2(self, x: Val) -> Val:
        """Logarithm to base 2."""
        e, f, tail = self._log_parts(x)
        return self._log_special(x, self.fma(self.add(f, tail), self.c(x, LOG2_E), e))

    def log10(self, x: Val) -> Val:
        """Logarithm to base 10."""
        e, f, tail = self._log_parts(x)
        hi, lo = LOG10_2[x.elem]
        r = self.fma(self.add(f, tail), self.c(x, LOG10_E), self.mul(e, self.c(x, lo)))
        return self._log_special(x, self.fma(e, self.c(x, hi), r))

    def log1p(self, x: Val) -> Val:
        """log(1 + x), exact near 0."""
        one = self.c(x, 1.0)
        u = self.add(x, one)
        lost = self.pick(
            self.lt(x, one), self.sub(x, self.sub(u, one)), self.sub(one, self.sub(u, x))
        )
        r = self.add(self.log(u), self.div(lost, u))
        # log(u) alone is right at -1 (-inf) and at inf; x itself is at the zeros.
        edge = self.b.bin(
            "or",
            self.b.fcmp("oeq", x, self.c(x, -1.0)),
            self.b.fcmp("oeq", x, self.c(x, INF)),
        )
        r = self.pick(edge, self.log_edge(x), r)
        return self.pick(self.b.fcmp("oeq", x, self.c(x, 0.0)), x, r)

    def log_edge(self, x: Val) -> Val:
        """-inf for negative x, else inf: log1p at its two poles."""
        return self.pick(self.lt(x, self.c(x, 0.0)), self.c(x, -INF), self.c(x, INF))

    def _log_special(self, x: Val, r: Val) -> Val:
        zero, inf = self.c(x, 0.0), self.c(x, INF)
        r = self.pick(self.lt(x, inf), r, x)
        r = self.pick(self.b.fcmp("oeq", x, zero), self.c(x, -INF), r)
        return self.pick(self.lt(x, zero), self.c(x, NAN), r)

    def _split(self, x: Val) -> tuple[Val, Val]:
        """x = 2**e * (1 + f) with 1 + f between sqrt(1/2) and sqrt(2); returns e (as float), f."""
        b, elem = self.b, x.elem
        shift = MANTISSA[elem]
        small = self.lt(x, self.c(x, 2.0 ** (1 - BIAS[elem])))
        x = self.pick(small, self.mul(x, self.c(x, 2.0**shift)), x)
        i = self.bits(x)
        root = 0x3F3504F3 if elem == "float" else 0x3FE6A09E667F3BCD  # sqrt(1/2)
        if elem == "double":
            ni = b.bin("lshr", b.bin("add", i, self.ic(x, (1023 << 52) - root)), self.ic(x, 52))
            ni = b.sub(ni, self.ic(x, 1023))  # logical shift: AVX2 has no arithmetic one on i64
        else:
            ni = b.bin("ashr", b.sub(i, self.ic(x, root)), self.ic(x, 23))
        m = self.from_bits(x, b.sub(i, b.bin("shl", ni, self.ic(x, shift))))
        n = self.int_to_float(ni, x)
        n = self.pick(small, self.sub(n, self.c(x, float(shift))), n)
        return n, self.sub(m, self.c(x, 1.0))

    def _log_parts(self, x: Val) -> tuple[Val, Val, Val]:
        """e, f and log(1 + f) - f of x = 2**e (1 + f)."""
        e, f = self._split(x)
        z = self.mul(f, f)
        half = self.mul(z, self.c(x, 0.5))
        if x.elem == "float":
            tail = self.mul(self.mul(f, z), self.horner(f, LOG_F32))
            return e, f, self.sub(tail, half)
        s = self.div(f, self.add(f, self.c(x, 2.0)))
        w = self.mul(s, s)
        r = self.mul(w, self.horner(w, LOG_F64))
        return e, f, self.sub(self.mul(s, self.add(half, r)), half)

    # -- hyperbolics ------------------------------------------------------------------------------

    def tanh(self, x: Val) -> Val:
        """Hyperbolic tangent."""
        a = self.clamp(self.abs(x), None, 9.5 if x.elem == "float" else 22.0)
        # t = e**2a - 1 = 2**n (e**r - 1) + (2**n - 1), of which nothing cancels for a >= 0
        a = self.add(a, a)
        n, ni = self.nearest(a, LOG2_E)
        r = self._minus_n_ln2(a, n)
        scale = self._power_of_two(ni, a)
        p = self.fma(self.mul(r, r), self.horner(r, EXP[x.elem]), r)
        t = self.fma(scale, p, self.sub(scale, self.c(x, 1.0)))
        return self.copysign(self.div(t, self.add(t, self.c(x, 2.0))), x)

    def tanh_plus(self, x: Val, c: float) -> Val:
        """tanh(x) + c for c = 1 or -1, without the cancellation: a scaled sigmoid."""
        e = self.exp(self.mul(x, self.c(x, -2.0 * c)))
        return self.div(self.c(x, 2.0 * c), self.add(e, self.c(x, 1.0)))

    def sinh(self, x: Val) -> Val:
        """Hyperbolic sine."""
        a = self.abs(x)
        z = self.mul(a, a)
        near = self.fma(self.mul(a, z), self.horner(z, SINH[x.elem]), a)
        h = self._half_exp(a)
        far = self.sub(h, self.div(self.c(x, 0.25), h))
        return self.copysign(self.pick(self.lt(a, self.c(x, 1.0)), near, far), x)

    def cosh(self, x: Val) -> Val:
        """Hyperbolic cosine."""
        h = self._half_exp(self.abs(x))
        return self.add(h, self.div(self.c(x, 0.25), h))

    def _half_exp(self, a: Val) -> Val:
        """e**a / 2 for a >= 0, finite as far as the result is."""
        a = self.clamp(a, None, EXP_RANGE[a.elem][1] + 1.0)
        n, ni = self.nearest(a, LOG2_E)
        p = self._exp_poly(self._minus_n_ln2(a, n))
        return self._scale(p, self.sub(n, self.c(a, 1.0)), self.b.sub(ni, self.ic(a, 1)))

    # -- error function ---------------------------------------------------------------------------

    def erf(self, x: Val) -> Val:
        """The error function."""
        a = self.abs(x)
        z = self.mul(a, a)
        near = self.fma(a, self.horner(z, ERF[x.elem]), a)
        one = self.c(x, 1.0)
        if x.elem == "float":
            q = self.horner(self.clamp(a, None, 4.0), LOG_ERFC_F32)
            n, ni = self.nearest(q, LOG2_E)
            far = self.mul(self._exp_poly(self._minus_n_ln2(q, n)), self._power_of_two(ni, q))
        else:
            far = self._erfc_tail(self.clamp(a, None, 6.5))
        r = self.pick(self.lt(a, one), near, self.sub(one, far))
        return self.copysign(r, x)

    def erf_plus(self, x: Val, c: float) -> Val:
        """erf(x) + c for c = 1 or -1, as accurate as the sum: what gelu needs, at half erf's price."""
        if x.elem == "double":
            return self.add(self.erf(x), self.c(x, c))
        z = self.mul(x, x)
        r = self.div(self.mul(x, self.horner(z, ERF_P)), self.horner(z, ERF_Q))
        flat = self.lt(self.c(x, 3.85), self.abs(x))  # exactly 1, so that gelu(-large) is exactly 0
        return self.add(self.pick(flat, self.copysign(self.c(x, 1.0), x), r), self.c(x, c))

    def erfc(self, x: Val) -> Val:
        """1 - erf(x), with full relative accuracy where it is small."""
        a = self.abs(x)
        one = self.c(x, 1.0)
        near = self.fma(x, self.horner(self.mul(a, a), ERF[x.elem]), x)
        far = self._erfc_tail(self.clamp(a, None, ERFC_MAX[x.elem]))
        far = self.pick(self.lt(x, self.c(x, 0.0)), self.sub(self.c(x, 2.0), far), far)
        return self.pick(self.lt(a, self.c(x, 0.5)), self.sub(one, near), far)

    def _erfc_tail(self, a: Val) -> Val:
        k = self.c(a, ERFC_K[a.elem])
        t = self.div(self.sub(a, k), self.add(a, k))
        r = self.horner(t, ERFC[a.elem])
        # e**-(a*a) needs a*a to twice the precision: its relative error is a*a's absolute error.
        s = self.mul(a, a)
        e = self.exp(self.b.fneg(s))
        e = self.sub(e, self.mul(e, self.mul_error(a, a, s)))
        return self.mul(e, self.div(r, self.fma(a, self.c(a, 2.0), self.c(a, 1.0))))

    # -- power ------------------------------------------------------------------------------------

    def pow(self, x: Val, y: Val) -> Val:
        """x**y with C's special cases: 1 for y = 0 or x = 1, NaN for fractional powers of x < 0."""
        b = self.b
        zero, one, inf = self.c(x, 0.0), self.c(x, 1.0), self.c(x, INF)
        a = self.abs(x)
        r = self._pow_via_f64(a, y) if x.elem == "float" else self._pow_f64(a, y)
        whole = b.fcmp("oeq", self.trunc(y), y)
        half = self.mul(y, self.c(x, 0.5))
        odd = b.bin("and", whole, b.fcmp("one", self.trunc(half), half))
        flip = b.bin("and", odd, self.is_negative(x))
        r = self.pick(flip, b.fneg(r), r)
        invalid = b.bin("and", self.lt(x, zero), self.lt(a, inf))
        invalid = b.bin("and", invalid, b.fcmp("one", self.trunc(y), y))
        r = self.pick(invalid, self.c(x, NAN), r)
        r = self.pick(b.fcmp("uno", x, y), self.c(x, NAN), r)
        unit = b.bin("or", b.fcmp("oeq", y, zero), b.fcmp("oeq", x, one))
        poles = b.bin("and", b.fcmp("oeq", a, one), b.fcmp("oeq", self.abs(y), inf))
        return self.pick(b.bin("or", unit, poles), one, r)

    def _pow_via_f64(self, a: Val, y: Val) -> Val:
        wide = self.b.conv("fpext", a, "double")
        power = self.mul(self.log(wide), self.b.conv("fpext", y, "double"))
        return self.b.conv("fptrunc", self.exp(power), "float")

    def _pow_f64(self, a: Val, y: Val) -> Val:
        """exp(y log a) for a >= 0, the logarithm as a sum of two doubles good to about 2**-64."""
        e, f = self._split(a)
        two = self.c(a, 2.0)
        # s = f / (2 + f)
        d = self.add(f, two)
        d_lo = self.sub(f, self.sub(d, two))
        s = self.div(f, d)
        q = self.mul(s, d)
        rest = self.sub(self.sub(f, q), self.mul_error(s, d, q))
        s_lo = self.div(self.sub(rest, self.mul(s, d_lo)), d)
        # z = s^2, c = 2/3 + z T(z), w = z c
        z = self.mul(s, s)
        z_lo = self.fma(self.add(s, s), s_lo, self.mul_error(s, s, z))
        p = self.mul(z, self.horner(z, LOG_TAIL_F64))
        third = self.c(a, 0.6666666666666666)
        c = self.add(third, p)
        c_lo = self.add(self.sub(p, self.sub(c, third)), self.c(a, 3.700743415417188e-17))
        w = self.mul(z, c)
        w_lo = self.add(self.mul_error(z, c, w), self.fma(z, c_lo, self.mul(z_lo, c)))
        # log(1 + f) = s (2 + w)
        u = self.add(two, w)
        u_lo = self.add(self.sub(w, self.sub(u, two)), w_lo)
        m = self.mul(s, u)
        m_lo = self.add(self.mul_error(s, u, m), self.fma(s, u_lo, self.mul(s_lo, u)))
        # + e ln 2, whose high part is exact
        hi, lo = LN2["double"]
        base = self.mul(e, self.c(a, hi))
        h = self.add(base, m)
        t = self.add(self.sub(m, self.sub(h, base)), self.fma(e, self.c(a, lo), m_lo))
        log = self.add(h, t)
        log_lo = self.sub(t, self.sub(log, h))
        zero, inf = self.c(a, 0.0), self.c(a, INF)
        ends = self.b.bin("or", self.b.fcmp("oeq", a, zero), self.b.fcmp("oeq", a, inf))
        log = self.pick(ends, self.pick(self.lt(a, inf), self.c(a, -INF), inf), log)
        power = self.mul(log, y)
        power_lo = self.fma(log_lo, y, self.mul_error(log, y, power))
        sane = self.lt(self.abs(power), self.c(a, 1000.0))
        power_lo = self.pick(sane, power_lo, zero)
        power = self.clamp(power, *EXP_RANGE["double"])
        n, ni = self.nearest(power, LOG2_E)
        r = self.add(self._minus_n_ln2(power, n), power_lo)
        return self._scale(self._exp_poly(r), n, ni)
