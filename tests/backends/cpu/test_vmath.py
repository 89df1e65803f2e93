"""Vector math against NumPy in extended precision, at every instruction set that this host runs."""

import ctypes
import math

import numpy as np
import pytest
from harness import levels

from kiln.backends.cpu import jit
from kiln.backends.cpu.ir import Module, vec
from kiln.backends.cpu.vmath import VMath

mpmath = pytest.importorskip("mpmath")

N = 1 << 13


def compile_functions(isa, elem, names, lanes):
    """One module with ``void name(ptr out, ptr x, ptr y)`` for each name, over N elements."""
    m = Module()
    tag = f"{isa.name}_{elem}_{lanes}"
    for name in names:
        f = m.function(f"t_{name}_{tag}", [("ptr", "out"), ("ptr", "x"), ("ptr", "y")])
        math_ = VMath(f, isa)
        out, x, y = f.params
        with f.loop(f.i64(0), f.i64(N), lanes) as loop:
            ty = vec(elem, lanes)
            args = [f.load(ty, f.gep(p, elem, loop.i), 4) for p in (x, y)]
            args = args if name in ("pow", "atan2") else args[:1]
            f.store(getattr(math_, name)(*args), f.gep(out, elem, loop.i), 4)
        f.ret()
    address = jit.build([m.text()], isa)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return {name: kind(address(f"t_{name}_{tag}")) for name in names}


def run(fn, x, y=None):
    n = len(x)
    y = x if y is None else y
    out = np.empty_like(x)
    for start in range(0, n, N):
        a, b = np.zeros(N, x.dtype), np.zeros(N, x.dtype)
        m = min(N, n - start)
        a[:m], b[:m] = x[start : start + m], y[start : start + m]
        o = np.empty(N, x.dtype)
        fn(o.ctypes.data, a.ctypes.data, b.ctypes.data)
        out[start : start + m] = o[:m]
    return out


def ulp_error(got, want):
    """Largest error in units in the last place of ``got``'s type; want is longdouble."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        both_nan = np.isnan(got) & np.isnan(rounded)
        same = both_nan | (got == rounded)
        assert not (np.isnan(got) & ~both_nan).any(), "unexpected NaN"
        assert not (np.isnan(rounded) & ~both_nan).any(), "missing NaN"
        inf = np.isinf(got) != np.isinf(rounded)
        # an overflow one step early or late counts as one ulp
        biggest = np.finfo(got.dtype).max
        edge = inf & (np.minimum(np.abs(got), np.abs(rounded)) >= biggest)
        unit = np.spacing(np.abs(rounded)).astype(np.longdouble)
        err = np.abs(got.astype(np.longdouble) - want) / unit
        err[same & ~np.isfinite(err)] = 0
        err[both_nan | np.isinf(rounded)] = 0
        err[edge] = 1
        err[inf & ~edge] = np.inf
    return err


L = np.longdouble


def big_trig(fn, x):
    """Reference for trigonometry: mpmath, whose reduction is exact."""
    mpmath.mp.prec = 200 if x.dtype == np.float32 else 1200
    res = []
    for v in x:
        v = float(v)
        res.append(L(mpmath.nstr(fn(mpmath.mpf(v)), 25)) if math.isfinite(v) else L("nan"))
    mpmath.mp.prec = 53
    return np.array(res, dtype=L)


def mp_reference(fn):
    def apply(x):
        with mpmath.workprec(120):
            rows = []
            for v in np.clip(x, -100, 100):  # both are flat beyond
                r = None if math.isnan(v) else fn(mpmath.mpf(float(v)))
                rows.append(L("nan") if r is None else L(mpmath.nstr(r, 25)))
        return np.array(rows, dtype=L)

    return apply


def sigmoid_reference(x):
    x = x.astype(L)
    return np.where(x < 0, np.exp(x) / (1 + np.exp(x)), 1 / (1 + np.exp(-x)))


REFERENCE = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2,
    "log10": np.log10, "log1p": np.log1p, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sigmoid": sigmoid_reference,
    "sqrt": np.sqrt,
    "sin": lambda x: big_trig(mpmath.sin, x), "cos": lambda x: big_trig(mpmath.cos, x),
    "tan": lambda x: big_trig(mpmath.tan, x),
    "erf": mp_reference(mpmath.erf), "erfc": mp_reference(mpmath.erfc),
}  # fmt: skip
SLOW = {"sin", "cos", "tan", "erf", "erfc"}
ROUNDING = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "roundeven": np.rint}


def specials(dtype):
    info = np.finfo(dtype)
    s = [0.0, 0.5, 1.0, 2.0, 3.0, 1e-20, 0.1, 1.5, 2.5, 88.0, 709.0, info.max, info.tiny, np.inf]
    s += [info.smallest_subnormal, info.tiny / 3, np.pi, np.pi / 2, np.sqrt(0.5), 1 + info.eps]
    s += [1 - info.eps, 1e5, 1.0001e5, 1e10, 1e22]
    s = np.array(s, dtype)
    return np.concatenate([s, -s, np.array([np.nan], dtype)])


def arguments(name, dtype, n):
    rng = np.random.default_rng(7)
    wide = rng.standard_normal(n) * 10.0 ** rng.uniform(-12, 6, n)
    near = rng.uniform(-10, 10, n)
    unit = rng.uniform(-1.2, 1.2, n)
    deep = rng.uniform(-120, 120, n) if dtype == np.float32 else rng.uniform(-760, 760, n)
    top = 38 if dtype == np.float32 else 300
    huge = rng.standard_normal(n // 4) * 10.0 ** rng.uniform(-top - 6, top, n // 4)
    with np.errstate(all="ignore"):
        return np.concatenate([wide, near, unit, deep, huge]).astype(dtype)


CASES = [(i, e) for i in levels() for e in ("float", "double")]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0].name}-{c[1]}")
def functions(request):
    isa, elem = request.param
    lanes = isa.vector_bytes // (4 if elem == "float" else 8)
    names = [*REFERENCE, *ROUNDING, "pow", "atan2", "rsqrt"]
    return compile_functions(isa, elem, names, lanes), np.float32 if elem == "float" else np.float64


_memo = {}


def reference(name, x):
    key = (name, x.dtype.str)
    if key not in _memo:
        with np.errstate(all="ignore"):
            wide = x if name in SLOW else x.astype(L)
            _memo[key] = REFERENCE[name](wide)
    return _memo[key]


@pytest.mark.parametrize("name", REFERENCE)
def test_error_is_a_few_ulp(functions, name):
    table, dtype = functions
    n = 150 if name in SLOW else 20000
    x = np.concatenate([specials(dtype), arguments(name, dtype, n)])
    got = run(table[name], x)
    want = reference(name, x)
    err = ulp_error(got, want)
    worst = int(np.argmax(err))
    limit = 3.0 if dtype == np.float32 else 4.0
    assert err[worst] <= limit, f"{name}({x[worst]!r}) = {got[worst]!r}, want {want[worst]!r}"


@pytest.mark.parametrize(
    "name", ["sin", "tan", "tanh", "erf", "expm1", "log1p", "asin", "atan", "sinh"]
)
def test_odd_functions_keep_the_sign_of_zero(functions, name):
    table, dtype = functions
    got = run(table[name], np.array([-0.0, 0.0], dtype))
    assert (got == 0).all()
    assert np.signbit(got).tolist() == [True, False]


@pytest.mark.parametrize("name", ROUNDING)
def test_rounding_is_exact(functions, name):
    table, dtype = functions
    x = np.concatenate([specials(dtype), arguments(name, dtype, 2000)])
    x = np.concatenate([x, np.arange(-9, 9, 0.25).astype(dtype)])
    got, want = run(table[name], x), ROUNDING[name](x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got)[want == 0], np.signbit(want)[want == 0])


def test_pow(functions):
    table, dtype = functions
    rng = np.random.default_rng(3)
    s = specials(dtype)
    x, y = (v.ravel() for v in np.meshgrid(s, s))
    n = 20000
    xs = np.concatenate(
        [x, np.exp(rng.uniform(-20, 20, n)), rng.uniform(0.9, 1.1, n), -np.arange(1, 50)]
    )
    limit = 1000 if dtype == np.float64 else 100
    top = 700 if dtype == np.float64 else 88
    ly = rng.uniform(-top, top, n) / np.log(xs[len(x) : len(x) + n])
    ys = np.concatenate([y, ly, rng.uniform(-limit, limit, n), np.arange(-24, 25)])
    xs, ys = xs.astype(dtype), ys.astype(dtype)
    with np.errstate(all="ignore"):
        want = np.power(xs.astype(L), ys.astype(L))
    got = run(table["pow"], xs, ys)
    err = ulp_error(got, want)
    w = int(np.argmax(err))
    assert err[w] <= (3 if dtype == np.float32 else 4), (
        f"pow({xs[w]!r}, {ys[w]!r}) = {got[w]!r}, want {want[w]!r}"
    )


def test_atan2(functions):
    table, dtype = functions
    rng = np.random.default_rng(3)
    s = specials(dtype)
    y, x = (v.ravel() for v in np.meshgrid(s, s))
    n = 20000
    scale = 10.0 ** rng.uniform(-10, 10, n)
    y = np.concatenate([y, rng.standard_normal(n) * scale]).astype(dtype)
    x = np.concatenate([x, rng.standard_normal(n) * scale[::-1]]).astype(dtype)
    with np.errstate(all="ignore"):
        want = np.arctan2(y.astype(L), x.astype(L))
    got = run(table["atan2"], y, x)
    err = ulp_error(got, want)
    w = int(np.argmax(err))
    assert err[w] <= (3 if dtype == np.float32 else 4), (
        f"atan2({y[w]!r}, {x[w]!r}) = {got[w]!r}, want {want[w]!r}"
    )
    np.testing.assert_array_equal(np.signbit(got)[want == 0], np.signbit(want)[want == 0])


def test_scalars_and_odd_widths_agree_with_vectors():
    isa = levels()[-1]
    x = arguments("sin", np.float32, 500)
    wide = compile_functions(
        isa, "float", ["sin", "exp", "tanh", "log"], 16 if isa.vector_bytes == 64 else 4
    )
    for lanes in (1, 2, 64):
        table = compile_functions(isa, "float", ["sin", "exp", "tanh", "log"], lanes)
        for name, fn in table.items():
            np.testing.assert_array_equal(run(fn, x), run(wide[name], x))
