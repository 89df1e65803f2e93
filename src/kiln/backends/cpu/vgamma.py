"""The incomplete gamma functions and how gamma and beta numbers move with their shapes, on vectors of doubles.

The formulas are those of `ops/_special/gamma` and `ops/implicit`, whose docstrings say where each holds. A
vector takes every way that one of its lanes takes; lanes that don't are given numbers for which it is short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from kiln.backends.cpu.ir import Builder, Module, Val, float_text, mangle, vec
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.vmath import VMath
from kiln.ops._special.gamma import LGAMMA1P, STIRLING, gauss_legendre

_LANES = 8
_TYPE = vec("double", _LANES)
_EPS = 2.0**-54
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)


class Gamma:
    """Writes one function: its values are all vectors of doubles, of which float32 needs fewer digits (`single`)."""

    def __init__(self, f: Builder, isa: Isa, single: bool) -> None:
        self.b, self.m = f, VMath(f, isa)
        # what lies below exp(-cut) of an integrand's peak is left out, and the points for what does not
        self.cut, self.nodes = (18.0, 20) if single else (38.0, 64)
        self.terms = (12, 28) if single else (24, 64)

    # -- short names ------------------------------------------------------------------------------

    def c(self, x: float) -> Val:
        return self.b.const(_TYPE, x)

    def add(self, *xs: Val | float) -> Val:
        return self._fold("fadd", xs)

    def sub(self, *xs: Val | float) -> Val:
        return self._fold("fsub", xs)

    def mul(self, *xs: Val | float) -> Val:
        return self._fold("fmul", xs)

    def div(self, *xs: Val | float) -> Val:
        return self._fold("fdiv", xs)

    def _fold(self, op: str, xs: Sequence[Val | float]) -> Val:
        out, *rest = (x if isinstance(x, Val) else self.c(x) for x in xs)
        for x in rest:
            out = self.b.bin(op, out, x)
        return out

    def neg(self, x: Val) -> Val:
        return self.b.fneg(x)

    def lt(self, x: Val | float, y: Val | float) -> Val:
        return self.b.fcmp("olt", *(v if isinstance(v, Val) else self.c(v) for v in (x, y)))

    def both(self, *masks: Val) -> Val:
        out, *rest = masks
        for m in rest:
            out = self.b.bin("and", out, m)
        return out

    def no(self, mask: Val) -> Val:
        return self.b.bin("xor", mask, self.b.const(mask.ty, True))

    def pick(self, mask: Val, x: Val | float, y: Val | float) -> Val:
        return self.b.select(mask, *(v if isinstance(v, Val) else self.c(v) for v in (x, y)))

    def any(self, mask: Val) -> Val:
        return self.m.any_true(mask)

    def number(self, i: Val) -> Val:
        """A loop's counter in all lanes."""
        return self.b.splat(self.b.emit("double", f"uitofp i64 {i.ref} to double"), _LANES)

    def where(self, mask: Val, args: Sequence[Val], easy: Sequence[float], out: Val, way: Callable[..., Val]) -> Val:  # fmt: skip
        """`out` with way(*args) where the mask is set, run if it is somewhere; other lanes are given `easy`."""
        with self.b.if_then(self.any(mask), (out,)) as branch:
            given = [self.pick(mask, a, e) for a, e in zip(args, easy, strict=True)]
            branch.set(self.pick(mask, way(*given), out))
        return branch.results[0]

    # -- pieces -----------------------------------------------------------------------------------

    def stirling(self, z: Val) -> Val:
        """What log gamma(z) is more than Stirling's formula, from 8 or so on."""
        r = self.div(1.0, z)
        return self.mul(r, self.m.horner(self.mul(r, r), STIRLING))

    def digamma(self, x: Val) -> Val:
        """The logarithmic derivative of gamma, for x > 0."""
        out = self.c(0.0)
        for k in range(8):
            out = self.sub(out, self.div(1.0, self.add(x, float(k))))
        z = self.add(x, 8.0)
        r = self.div(1.0, z)
        q = self.mul(r, r)
        tail = self.add(self.mul(r, 0.5), self.mul(q, self.m.horner(q, _DIGAMMA)))
        return self.add(out, self.sub(self.m.log(z), tail))

    def log1p_minus(self, x: Val) -> Val:
        """log(1 + x) - x."""
        m = self.m
        r = self.div(x, self.add(x, 2.0))
        odd = m.horner(self.mul(r, r), [1 / (2 * k + 3) for k in range(17)])
        near = self.sub(self.mul(r, r, r, odd, 2.0), self.mul(x, r))
        return self.pick(
            self.both(self.lt(-0.5, x), self.lt(x, 1.0)), near, self.sub(m.log1p(x), x)
        )

    def density(self, a: Val, x: Val) -> Val:
        """x**a exp(-x) / gamma(a)."""
        m = self.m
        large = self.lt(9.99, a)
        b = self.pick(large, a, 10.0)
        far = self.sub(self.mul(b, self.log1p_minus(self.div(self.sub(x, b), b))), self.stirling(b))
        far = self.mul(m.sqrt(self.div(b, math.tau)), m.exp(far))
        s = self.pick(large, 1.0, a)
        z = self.add(s, 10.0)
        product = s
        for k in range(1, 10):
            product = self.mul(product, self.add(s, float(k)))
        # gamma(z), z from 10 to 20, in powers of z / e
        gamma = self.mul(m.pow(self.div(z, math.e), z), m.exp(self.stirling(z)), m.sqrt(self.div(math.tau, z)))  # fmt: skip
        half = m.exp(self.mul(x, -0.5))
        near = self.mul(half, self.mul(m.pow(x, s), self.div(product, gamma)), half)
        near = self.pick(self.b.fcmp("uno", near, near), 0.0, near)
        return self.pick(large, far, near)

    def lgamma1p(self, a: Val) -> Val:
        """log gamma(1 + a) for a up to 3.5."""
        whole = self.m.roundeven(a)
        t = self.sub(a, whole)
        product = self.c(1.0)
        for k in range(1, 5):
            product = self.pick(self.lt(k - 0.5, whole), self.mul(product, self.add(t, float(k))), product)  # fmt: skip
        return self.add(self.mul(t, self.m.horner(t, LGAMMA1P)), self.m.log(product))

    def gauss(self, n: int, weight: Callable[[Val], Val]) -> Val:
        """The integral of weight(t) over [0, 1]."""
        b = self.b
        nodes = gauss_legendre(n)
        table = b.module.constant_array(f"kiln_gauss_{n}", "double", [float_text("double", v) for pair in nodes for v in pair])  # fmt: skip
        with b.loop(b.i64(0), b.i64(2 * n), 2, (self.c(0.0),)) as loop:
            address = b.gep(table, "double", loop.i)
            t = b.splat(b.load("double", address, 8), _LANES)
            w = b.splat(b.load("double", b.gep(address, "double", b.i64(1)), 8), _LANES)
            loop.next(self.add(loop.carried[0], self.mul(w, weight(t))))
        return loop.results[0]

    # -- P and Q ----------------------------------------------------------------------------------

    def series(self, a: Val, x: Val) -> Val:
        """P for x not far above a."""
        one, b = self.c(1.0), self.b
        with b.repeat((a, one, one)) as loop:
            n, term, total = loop.carried
            n = self.add(n, 1.0)
            term = self.mul(term, self.div(x, n))
            total = self.add(total, term)
            loop.next(n, term, total)
            loop.again = self.any(self.lt(self.mul(total, _EPS), term))
        return self.div(self.mul(loop.results[2], self.density(a, x)), a)

    def fraction(self, a: Val, x: Val) -> Val:
        """Q for x above a."""
        b = self.b
        start = self.sub(self.add(x, 1.0), a)
        d = self.div(1.0, start)
        with b.repeat((self.c(1.0), start, self.c(1e300), d, d)) as loop:
            k, even, c, d, h = loop.carried
            an = self.mul(k, self.sub(a, k))
            even = self.add(even, 2.0)
            d, c = self.add(self.mul(an, d), even), self.add(even, self.div(an, c))
            d, c = (self.pick(b.fcmp("oeq", v, self.c(0.0)), 1e-300, v) for v in (d, c))
            d = self.div(1.0, d)
            step = self.mul(d, c)
            loop.next(self.add(k, 1.0), even, c, d, self.mul(h, step))
            off = self.lt(2 * _EPS, self.m.abs(self.sub(step, 1.0)))
            loop.again = self.any(self.both(off, self.lt(k, 2000.0)))
        return self.mul(loop.results[4], self.density(a, x))

    def small_q(self, a: Val, x: Val, u: Val) -> Val:
        """Q of x up to about 1."""
        total, term = self.c(0.0), self.c(1.0)
        for n in range(1, 30):
            term = self.mul(term, self.mul(x, -1.0 / n))
            total = self.add(total, self.div(term, self.add(a, float(n))))
        m = self.m
        return self.neg(self.add(m.expm1(u), self.mul(m.exp(u), a, total)))

    def peak(self, a: Val, x: Val, up: Val) -> Val:
        """Q (`up`) or P where a is large and x near it."""
        m = self.m
        slope = self.pick(up, self.add(self.sub(x, a), 1.0), self.sub(self.sub(a, 1.0), x))
        a1 = self.sub(a, 1.0)
        root = m.sqrt(self.add(self.mul(slope, slope), self.mul(a1, 80.0)))
        y = self.div(self.sub(root, slope), a1)
        y = self.pick(up, self.mul(y, 1.3), self.pick(self.lt(1.0, y), 1.0, y))
        side = self.pick(up, 1.0, -1.0)

        def at(t: Val) -> Val:
            v = self.mul(y, t)
            bend = self.mul(a1, self.log1p_minus(self.mul(v, side)))
            return m.exp(self.sub(bend, self.mul(slope, v)))

        return self.mul(self.gauss(48, at), y, self.density(a, x))

    def incomplete(self, a: Val, x: Val, q: bool) -> Val:
        """P or Q (`q`)."""
        b, m = self.b, self.m
        finite = self.both(self.lt(a, math.inf), self.lt(x, math.inf))
        inside = self.both(self.lt(0.0, a), self.lt(0.0, x), finite)
        near = self.lt(m.abs(self.sub(x, a)), self.mul(a, 0.3))
        peak = self.both(inside, self.no(self.lt(a, 60.0)), near)
        low = self.both(inside, self.no(peak), self.lt(a, 3.5), self.no(self.lt(1.1, x)))
        u = self.c(0.0)
        with b.if_then(self.any(low), (u,)) as branch:
            a_, x_ = self.pick(low, a, 1.0), self.pick(low, x, 1.0)
            branch.set(self.sub(self.mul(a_, m.log(x_)), self.lgamma1p(a_)))
        u = branch.results[0]
        small = self.both(low, self.lt(-0.7, u))
        rest = self.both(inside, self.no(peak), self.no(small))
        below = self.both(rest, self.lt(x, self.add(a, 1.0)))
        above = self.both(rest, self.no(below))
        up = self.no(self.lt(x, a))

        def given(r: Val, is_q: bool) -> Val:
            return r if is_q is q else self.sub(1.0, r)

        out = self.c(math.nan)
        out = self.where(below, (a, x), (1.0, 1.0), out, lambda a, x: given(self.series(a, x), False))  # fmt: skip
        out = self.where(above, (a, x), (1.0, 9.0), out, lambda a, x: given(self.fraction(a, x), True))  # fmt: skip
        out = self.where(small, (a, x, u), (1.0, 1.0, 0.0), out, lambda a, x, u: given(self.small_q(a, x, u), True))  # fmt: skip

        def around(a: Val, x: Val) -> Val:
            r = self.peak(a, x, up)
            wanted = up if q else self.no(up)
            return self.pick(wanted, r, self.sub(1.0, r))

        out = self.where(peak, (a, x), (100.0, 100.0), out, around)
        none, whole = (1.0, 0.0) if q else (0.0, 1.0)
        zero, inf = self.c(0.0), self.c(math.inf)
        a0, x0 = b.fcmp("oeq", a, zero), b.fcmp("oeq", x, zero)
        ai, xi = b.fcmp("oeq", a, inf), b.fcmp("oeq", x, inf)
        out = self.pick(x0, none, out)
        out = self.pick(self.both(a0, self.lt(0.0, x)), whole, out)
        out = self.pick(self.both(xi, self.no(self.lt(a, 0.0))), whole, out)
        out = self.pick(self.both(ai, self.no(self.lt(x, 0.0))), none, out)
        wrong = b.bin("or", self.lt(a, 0.0), self.lt(x, 0.0))
        for also in (self.both(a0, x0), self.both(ai, xi), b.fcmp("uno", a, x)):
            wrong = b.bin("or", wrong, also)
        return self.pick(wrong, math.nan, out)

    # -- how gamma and beta numbers move ----------------------------------------------------------

    def tail(self, far: Val, fall: Callable[[Val], tuple[Val, Val]], weight: Callable[[Val], Val]) -> Val:  # fmt: skip
        """The integral of exp(-fall(v)) weight(v) over v > 0, whose end Newton's steps find from `far`."""
        with self.b.repeat((self.c(0.0), far)) as loop:
            k, end = loop.carried
            value, slope = fall(end)
            over = self.sub(value, self.cut)
            loop.next(self.add(k, 1.0), self.sub(end, self.div(over, slope)))
            # convex, so every step stays beyond: a little further than needed does no harm
            loop.again = self.any(self.both(self.lt(0.5, over), self.lt(k, 24.0)))
        end = loop.results[1]

        def at(t: Val) -> Val:
            v = self.mul(end, t)
            return self.mul(self.m.exp(self.neg(fall(v)[0])), weight(v))

        return self.mul(self.gauss(self.nodes, at), end)

    def sums(self, n: int, step: Callable[[Val], tuple[Val, Val]]) -> tuple[Val, Val]:
        """1 + r(1) + r(1) r(2) + … to n terms, and its derivative: step(k) is r(k) and how log r(k) changes."""
        b, zero = self.b, self.c(0.0)
        start = (self.c(1.0), zero, self.c(1.0), zero)
        with b.loop(b.i64(1), b.i64(n), 1, start) as loop:
            term, moved, total, derivative = loop.carried
            ratio, change = step(self.number(loop.i))
            term, moved = self.mul(term, ratio), self.add(moved, change)
            loop.next(term, moved, self.add(total, term), self.add(derivative, self.mul(term, moved)))  # fmt: skip
        return loop.results[2], loop.results[3]

    def gamma_small(self, a: Val, z: Val) -> Val:
        """Where z is below 1."""

        def step(k: Val) -> tuple[Val, Val]:
            r = self.div(1.0, self.add(a, k))
            return self.mul(z, r), self.neg(r)

        total, change = self.sums(self.terms[0], step)
        level = self.sub(self.m.log(z), self.digamma(self.add(a, 1.0)))
        return self.neg(self.mul(self.div(z, a), self.add(self.mul(total, level), change)))

    def gamma_tail(self, a: Val, z: Val) -> Val:
        """By the tail on z's side of the mode, where t is z exp(v) above it and z exp(-v) below."""
        m = self.m
        below = self.lt(z, a)
        gap = self.sub(a, z)
        root = m.sqrt(self.add(self.mul(gap, gap), self.mul(z, 2 * self.cut)))
        far = self.pick(below, self.div(self.add(z, self.cut), a), self.div(self.add(gap, root), z))
        side = self.pick(below, -1.0, 1.0)
        level = self.sub(m.log(z), self.digamma(a))

        def fall(v: Val) -> tuple[Val, Val]:
            w = self.mul(side, v)
            grown = self.mul(z, m.expm1(w))
            return self.sub(grown, self.mul(a, w)), self.mul(side, self.sub(grown, gap))

        area = self.tail(far, fall, lambda v: self.add(level, self.mul(side, v)))
        return self.mul(side, z, area)

    def gamma_slope(self, a: Val, z: Val) -> Val:
        """The derivative of gamma numbers z with respect to their shape a."""
        finite = self.both(self.lt(a, math.inf), self.lt(z, math.inf))
        usual = self.both(self.lt(0.0, a), self.lt(0.0, z), finite)
        small = self.lt(z, 1.0)
        out = self.c(math.nan)
        out = self.where(self.both(usual, small), (a, z), (1.0, 0.5), out, self.gamma_small)
        return self.where(
            self.both(usual, self.no(small)), (a, z), (1.0, 2.0), out, self.gamma_tail
        )

    def beta_terms(self, a: Val, b: Val, x: Val, s: Val, own: Val) -> Val:
        """For a < 1 and x <= 1/2, by a series; s is a + b."""
        m = self.m
        level = self.pick(
            own,
            self.sub(m.log(x), self.digamma(self.add(a, 1.0))),
            self.sub(m.log1p(self.neg(x)), self.digamma(b)),
        )
        level = self.add(level, self.digamma(s))

        def step(k: Val) -> tuple[Val, Val]:
            above, down = self.sub(self.add(s, k), 1.0), self.div(1.0, self.add(a, k))
            return self.mul(x, above, down), self.sub(
                self.div(1.0, above), self.pick(own, down, 0.0)
            )

        total, moved = self.sums(self.terms[1], step)
        return self.div(self.add(self.mul(total, level), moved), a)

    def beta_below(self, a: Val, b: Val, x: Val, s: Val, own: Val) -> Val:
        """For a >= 1, by the tail below x."""
        m = self.m
        back = m.log1p(self.neg(x))
        level = self.add(self.digamma(s), self.pick(own, self.sub(m.log(x), self.digamma(a)), self.sub(back, self.digamma(b))))  # fmt: skip

        def rest(v: Val) -> Val:  # what is left of 1 - x + t
            return self.mul(x, m.expm1(self.neg(v)))

        def fall(v: Val) -> tuple[Val, Val]:
            e = rest(v)
            slope = self.sub(a, self.div(self.mul(s, self.add(e, x)), self.add(e, 1.0)))
            return self.add(self.mul(a, v), self.mul(s, m.log1p(e))), slope

        def weight(v: Val) -> Val:
            return self.sub(self.sub(level, m.log1p(rest(v))), self.pick(own, v, 0.0))

        return self.tail(self.div(self.sub(self.cut, self.mul(s, back)), a), fall, weight)

    def beta_slope(self, given: Val, a: Val, s: Val) -> Val:
        """The derivative of beta numbers with respect to their first shape a, where both together are s."""
        b, x = self.sub(s, a), given
        inside = self.both(self.lt(0.0, x), self.lt(x, 1.0), self.lt(s, math.inf))
        usual = self.both(self.lt(0.0, a), self.lt(0.0, b), inside)
        own = self.no(self.lt(a, self.mul(x, s)))  # else 1 - x is below its mode
        few = self.lt(self.pick(own, a, b), 1.0)
        wide = self.lt(0.5, self.pick(own, x, self.sub(1.0, x)))
        own = self.b.bin("xor", own, self.both(few, wide))
        x = self.pick(own, x, self.sub(1.0, x))
        a, b = self.pick(own, a, b), self.pick(own, b, a)
        out, args = self.c(math.nan), (a, b, x, s)
        out = self.where(self.both(usual, few), args, (0.5, 0.5, 0.5, 1.0), out, lambda *v: self.beta_terms(*v, own))  # fmt: skip
        out = self.where(self.both(usual, self.no(few)), args, (2.0, 2.0, 0.5, 4.0), out, lambda *v: self.beta_below(*v, own))  # fmt: skip
        return self.mul(given, self.pick(own, self.neg(out), out))


WRITE: dict[str, Callable[..., Val]] = {
    "igamma": lambda g, a, x: g.incomplete(a, x, False),
    "igammac": lambda g, a, x: g.incomplete(a, x, True),
    "gamma_slope": lambda g, a, z: g.gamma_slope(a, z),
    "beta_slope": lambda g, x, a, s: g.beta_slope(x, a, s),
}
"""What writes each function."""


def call(b: Builder, m: VMath, isa: Isa, op: str, args: Sequence[Val]) -> Val:
    """A function of floats or doubles of any width, in doubles."""
    single = args[0].elem == "float"
    name = f"kiln_{op}_{mangle(args[0].elem)}"

    def make(module: Module) -> None:
        f = module.function(name, [(_TYPE, f"x{i}") for i in range(len(args))], _TYPE, internal=True)  # fmt: skip
        f.ret(WRITE[op](Gamma(f, isa, single), *f.params))

    b.module.helper(name, make)
    wide = [b.conv("fpext", a, "double") for a in args] if single else list(args)
    r = m.zmm(lambda *vs: b.call(name, _TYPE, vs), *wide)
    return b.conv("fptrunc", r, "float") if single else r
